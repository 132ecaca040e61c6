"""The subclass of TRL 1.12's `PPOTrainer` that the recipe uses, and the arithmetic of a rollout."""

from __future__ import annotations

import os
from typing import Any

import torch
from peft import get_peft_model
from transformers.trainer_utils import TrainOutput
from trl.experimental.ppo import PPOTrainer

from align import model
from align.config import BatchArguments, fail


def derive_rollout(run: BatchArguments, args: Any, world_size: int) -> None:
    """Set TRL's batch arithmetic from `global_batch_size` episodes per rollout and `num_mini_batches`.

    Every process samples `global_batch_size / world_size` episodes, takes one optimizer step per minibatch, and runs
    the minibatch through the model in pieces of at most `per_device_train_batch_size`. `max_steps` counts rollouts.
    """
    share, rest = divmod(run.global_batch_size, world_size)
    if rest or not share or share % args.num_mini_batches:
        fail([
            f"global_batch_size={run.global_batch_size} episodes cannot be shared by {world_size} processes and "
            f"num_mini_batches={args.num_mini_batches}: use a multiple of {world_size * args.num_mini_batches}"
        ])  # fmt: skip
    minibatch = share // args.num_mini_batches
    most = args.per_device_train_batch_size
    micro = max(size for size in range(1, min(most, minibatch) + 1) if minibatch % size == 0)
    args.per_device_train_batch_size = micro
    args.gradient_accumulation_steps = share // micro
    args.local_rollout_forward_batch_size = min(args.local_rollout_forward_batch_size, share)
    if args.max_steps > 0:
        args.total_episodes = args.max_steps * run.global_batch_size


def check_prompts(rows: int, episodes: int) -> None:
    """TRL leaves out a last, smaller rollout; with fewer prompts than one rollout it would wait for ever."""
    if rows < episodes:
        fail([f"{rows} prompts are fewer than global_batch_size={episodes} episodes of one rollout: lower it"])


class PolicyTrainer(PPOTrainer):
    """`PPOTrainer` with minibatches that mean what they say, and weights that are saved under every launcher."""

    @classmethod
    def from_checkpoints(
        cls, policy: str, reward_model: str, model_args: Any, args: Any, tokenizer: Any, rows: Any, callbacks: list
    ) -> PolicyTrainer:
        """Load policy, reference, reward model and value model, and build the trainer.

        The reference is a second copy of the policy's parent; with LoRA it is the policy with its adapter off, which is
        the same weights. The value model starts as the reward model (Huang et al. 2024).
        """
        args.stop_token = "eos"  # set_up_tokenizer made it the one token that ends an answer
        if model_args.load_in_4bit or model_args.load_in_8bit:
            fail(["load_in_4bit, load_in_8bit: PPO trains a whole value model, which cannot be quantised"])
        whole = model.load_policy(policy, model_args, tokenizer)
        lora = model.lora_config(model_args)

        def score_model() -> Any:
            return model.load_reward_model(
                model.resolve_parent(reward_model, args.output_dir, role="reward"), model_args, tokenizer
            )

        return cls(
            args=args, processing_class=tokenizer,
            # in the base's dtype: with fp32 adapters on bf16 weights ZeRO-3 stops in DeepSpeed's defragment
            model=get_peft_model(whole, lora, autocast_adapter_dtype=False) if lora else whole,
            ref_model=None if lora else model.load_policy(policy, model_args, tokenizer),
            reward_model=score_model().requires_grad_(False), value_model=score_model(),
            train_dataset=rows.select_columns(["input_ids"]), callbacks=callbacks,
        )  # fmt: skip

    def __init__(self, args: Any, **kwargs: Any):
        # accelerate reads these before the arguments: int("auto") stops, and a number would override args unseen
        os.environ["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] = str(args.gradient_accumulation_steps)
        os.environ["ACCELERATE_GRADIENT_CLIPPING"] = str(args.max_grad_norm or 1e9)
        os.environ["ACCELERATE_MIXED_PRECISION"] = args.mixed_precision  # TRL's PPO never looks at args.bf16
        super().__init__(args=args, **kwargs)
        self._end_steps_at_minibatches()
        if not self.is_deepspeed_enabled:
            self._clip_gradients()
        if not hasattr(self.model, "policy"):  # wrapped by DDP: TRL reads both names off the wrapper
            inner = self.accelerator.unwrap_model(self.model)
            for name in ("policy", "config"):
                object.__setattr__(self.model, name, getattr(inner, name))
        self.last_metrics: dict[str, float] = {}

    def _end_steps_at_minibatches(self) -> None:
        """TRL steps the optimizer every `gradient_accumulation_steps` pieces, whatever `num_mini_batches` says; here an
        optimizer step ends each minibatch. Done after the constructor, which needs the larger number for its sizes."""
        pieces = self.args.local_mini_batch_size // self.args.per_device_train_batch_size
        self.args.gradient_accumulation_steps = pieces
        self.accelerator.gradient_accumulation_steps = pieces

    def _clip_gradients(self) -> None:
        """TRL's PPO loop forgets `max_grad_norm`; DeepSpeed clips by itself. Ours clips right before each step."""
        optimizer = self.optimizer.optimizer
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]

        def clip(*_: Any) -> None:
            if self.args.max_grad_norm:
                torch.nn.utils.clip_grad_norm_(weights, self.args.max_grad_norm)

        optimizer.register_step_pre_hook(clip)

    def train(self, resume_from_checkpoint: Any = None) -> TrainOutput:
        """TRL's loop; its `train` takes no checkpoint and returns nothing."""
        assert resume_from_checkpoint is None, resume_from_checkpoint
        super().train()
        return TrainOutput(self.state.global_step, 0.0, {"episodes": self.state.episode})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Keep the last rollout's numbers for the record."""
        super().log(logs, start_time)
        self.last_metrics = {k: float(v) for k, v in logs.items() if isinstance(v, (int, float))}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the policy alone, whole under every launcher. TRL's version fails under ZeRO after training worked."""
        weights = self.accelerator.get_state_dict(self.model)  # every rank takes part
        if self.args.should_save:
            policy = self.accelerator.unwrap_model(self.model).policy
            weights = {name.removeprefix("policy."): w for name, w in weights.items() if name.startswith("policy.")}
            policy.save_pretrained(output_dir or self.args.output_dir, state_dict=weights)
