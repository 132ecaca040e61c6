"""From checkpoints and functions to a trainer: ours, or TRL's own as the baseline."""

from __future__ import annotations

from functools import partial
from typing import Any

from align.models import checkpoints, scorers
from align.ppo import roles
from align.ppo.config import Plan, PPOArguments
from align.ppo.sharding import place_frozen
from align.ppo.trainer import PolicyTrainer
from align.run import launch
from align.run.errors import fail


def make_trainer(
    parent: str, args: PPOArguments, plan: Plan, model_args: Any, tokenizer: Any, rows: Any, callbacks: list
) -> Any:
    """Load policy, critic, reference and rewards, and build the trainer.

    Args:
        parent: whole weights that the policy starts from; the reference is the same, without an adapter or as a copy.
        rows: `data.Splits` of prompts; with a test split and `eval_strategy`, held-out prompts are judged as well.
    """
    if args.engine == "trl":
        return trl_trainer(parent, args, plan, model_args, tokenizer, rows, callbacks)
    functions = [scorers.load_function(where) for where in [*args.reward_funcs, *args.eval_reward_funcs]]
    assert all(functions)
    kind = launch.asked_kind()
    longest = max(map(len, rows.train["input_ids"])) + args.response_length
    both = roles.build(
        parent, args.reward_model_path, args.value_model, model_args, tokenizer, longest=longest,
        cast_adapters=kind not in ("zero3", "fsdp2"), output_dir=args.output_dir,
    )  # fmt: skip
    reference = (
        None if model_args.use_peft else roles.Frozen(checkpoints.load_policy(parent, model_args, tokenizer), longest)
    )
    reward = scorers.Reward([], clip=args.reward_clip)
    judges = [scorers.from_function(where) for where in args.eval_reward_funcs]
    trainer = PolicyTrainer(
        args=args, plan=plan, both=both, reference=reference, reward=reward, processing_class=tokenizer,
        train_dataset=rows.train, eval_dataset=rows.test if args.eval_strategy != "no" else None,
        eval_reward=scorers.Reward(judges) if judges else None, callbacks=callbacks,
    )  # fmt: skip
    weights = iter(args.reward_weights or [1.0] * (1 + len(args.reward_funcs)))
    if args.reward_model_path:
        reward.sources.append(_reward_model(trainer, args, model_args, tokenizer, next(weights)))
    reward.sources += [scorers.from_function(where, next(weights)) for where in args.reward_funcs]
    return trainer


def _reward_model(trainer: PolicyTrainer, args: PPOArguments, model_args: Any, tokenizer: Any, weight: float) -> Any:
    """The reward model as an adapter of the policy's backbone where it is one, else as a frozen model of its own."""
    own = checkpoints.load_tokenizer(args.reward_model_path)
    if trainer.both.reward_head is not None:
        print(f"reward model: an adapter on the policy's own backbone ({args.reward_model_path})", flush=True)
        scorer, packs = partial(trainer.model, "score"), trainer.both.packs
    else:
        whole = checkpoints.resolve_parent(args.reward_model_path, args.output_dir, role="reward")
        longest = own.model_max_length if own.model_max_length < 1e9 else 2**30
        frozen = roles.Frozen(checkpoints.load_reward_model(whole, model_args, own), longest)
        scorer, packs = place_frozen(frozen, trainer.accelerator), frozen.packs
    return scorers.from_model(lambda ids: trainer.score_sequences(ids, scorer, packs), tokenizer, own, weight)


def trl_trainer(
    parent: str, args: PPOArguments, plan: Plan, model_args: Any, tokenizer: Any, rows: Any, callbacks: list
) -> Any:
    """TRL 1.12's own `PPOTrainer`, unchanged but for `train` and `save_model`: what the engine is measured against."""
    from peft import get_peft_model
    from transformers.trainer_utils import TrainOutput
    from trl.experimental.ppo import PPOTrainer

    if tokenizer.get_vocab() != checkpoints.load_tokenizer(args.reward_model_path).get_vocab():
        fail(["engine=trl needs a reward model with the policy's tokenizer; engine=align reads it with its own"])

    class Baseline(PPOTrainer):
        def train(self, resume_from_checkpoint: Any = None) -> TrainOutput:
            if resume_from_checkpoint is not None:
                fail(["engine=trl cannot resume: leave --resume_from_checkpoint out, or use engine=align"])
            super().train()
            return TrainOutput(self.state.global_step, 0.0, {"episodes": self.state.episode})

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            super().log(logs, start_time)
            self.last_metrics = {k: float(v) for k, v in logs.items() if isinstance(v, (int, float))}

        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            self.accelerator.unwrap_model(self.model).policy.save_pretrained(output_dir or self.args.output_dir)

    args.stop_token = "eos"  # chat.set_up_tokenizer made it the one token that ends an answer
    pieces = plan.micro_batches
    args.gradient_accumulation_steps = args.local_batch_size // plan.micro_batch  # TRL reads a rollout's size off it
    lora = checkpoints.lora_config(model_args)
    policy = checkpoints.load_policy(parent, model_args, tokenizer)
    whole = checkpoints.resolve_parent(args.reward_model_path, args.output_dir, role="reward")
    scorers = [checkpoints.load_reward_model(whole, model_args, tokenizer) for _ in range(2)]
    trainer = Baseline(
        args=args, processing_class=tokenizer, model=get_peft_model(policy, lora) if lora else policy,
        ref_model=None if lora else checkpoints.load_policy(parent, model_args, tokenizer),
        reward_model=scorers[0].requires_grad_(False), value_model=scorers[1],
        train_dataset=rows.train.select_columns(["input_ids"]), callbacks=callbacks,
    )  # fmt: skip
    # an optimizer step each minibatch, as its options say; its loop would step once a rollout
    args.gradient_accumulation_steps = trainer.accelerator.gradient_accumulation_steps = pieces
    return trainer
