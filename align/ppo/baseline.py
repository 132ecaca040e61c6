"""TRL 1.12's own `PPOTrainer`, what the engine is measured against. Later releases of TRL have none."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

from align.models import checkpoints
from align.ppo.arithmetic import Plan
from align.ppo.config import PPOArguments, trained_whole
from align.run.errors import fail


def make_trainer(
    parent: str, args: PPOArguments, plan: Plan, model_args: Any, tokenizer: Any, rows: Any, callbacks: list
) -> Any:
    """TRL's trainer, unchanged but for `train`, `log` and `save_model`; arguments as of `assemble.make_trainer`."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from peft import get_peft_model
    from transformers.trainer_utils import TrainOutput
    from trl.experimental.ppo import PPOTrainer

    if tokenizer.get_vocab() != checkpoints.load_tokenizer(str(args.reward_model_path)).get_vocab():
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

    theirs = _settings(args, plan)
    lora = checkpoints.lora_config(model_args)
    policy = checkpoints.load_policy(parent, model_args, tokenizer)
    whole = checkpoints.resolve_parent(str(args.reward_model_path), args.output_dir, role="reward")
    scorers = [checkpoints.load_reward_model(whole, trained_whole(model_args), tokenizer) for _ in range(2)]
    trainer = Baseline(
        args=theirs, processing_class=tokenizer,
        model=checkpoints.trained_in_fp32(get_peft_model(policy, lora)) if lora else policy,
        ref_model=None if lora else checkpoints.load_policy(parent, model_args, tokenizer),
        reward_model=scorers[0].requires_grad_(False), value_model=scorers[1],
        train_dataset=rows.train.select_columns(["input_ids"]), callbacks=callbacks,
    )  # fmt: skip
    # an optimizer step each minibatch, as its options say; its loop would step once a rollout
    theirs.gradient_accumulation_steps = trainer.accelerator.gradient_accumulation_steps = plan.micro_batches
    return trainer


def _settings(args: PPOArguments, plan: Plan) -> Any:
    """The same settings in TRL's own class, which reads a rollout's size off `gradient_accumulation_steps`."""
    from trl.experimental.ppo import PPOConfig

    shared = {one.name for one in fields(PPOConfig) if one.init} & {one.name for one in fields(args) if one.init}
    given = {name: getattr(args, name) for name in shared} | dict(
        stop_token="eos",  # chat.set_up_tokenizer made it the one token that ends an answer
        gradient_accumulation_steps=plan.share // plan.micro_batch,
    )
    return PPOConfig(**given)
