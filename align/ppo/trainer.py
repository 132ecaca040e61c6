"""The PPO engine: TRL's names for settings and logs, on transformers' `Trainer`, with a loop and maths of its own.

    for each rollout:
        sample     completions of the next prompts, from the policy, at the sampling temperature
        score      the reward of each, from a reward model, from functions, or from both
        log-probs  of policy and reference, and values, by forward passes over prompt and completion
        credit     KL penalty, rewards, advantages, returns
        learn      epochs x minibatches: clipped policy and value losses, one optimizer step a minibatch
        report     TRL's metrics, episodes on disk, guards, checkpoint

`Trainer` wraps the model for DDP, ZeRO or FSDP2, makes the optimizer, and writes checkpoints.
"""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer
from transformers.trainer_utils import TrainOutput

from align.data.chat import stop_ids
from align.models.scorers import Reward
from align.ppo import maths, roles, saving, sharding
from align.ppo.arithmetic import Plan
from align.ppo.config import PPOArguments
from align.ppo.rollout import Rollout, Sampler, credit
from align.ppo.shared.probing import try_a_step
from align.ppo.watch import guards, metrics, report
from align.ppo.watch.report import Clock


class PolicyTrainer(Trainer):
    """PPO with one backbone, carried masks, resumable and shardable. See the module's docstring for the loop."""

    args: PPOArguments
    state: saving.RolloutState
    control: Any
    before: guards.Vitals | None  # the reference's own

    def __init__(
        self,
        *,
        args: PPOArguments,
        plan: Plan,
        both: roles.ActorCritic,
        reference: Any,
        reward: Reward,
        processing_class: Any,
        train_dataset: Any,
        eval_dataset: Any = None,
        eval_reward: Reward | None = None,
        callbacks: list | None = None,
    ):
        super().__init__(
            model=both, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset,
            processing_class=processing_class, callbacks=callbacks,
        )  # fmt: skip
        self.plan, self.both, self.reward, self.eval_reward = plan, both, reward, eval_reward
        self.reference = sharding.place_frozen(reference, self.accelerator, args.reference_device)
        self.stops = stop_ids(processing_class, getattr(both.policy, "generation_config", None))
        self.kl_coef = args.kl_coef
        self.guard, self.before = guards.Patience(args.collapse_patience), None
        self.best, self.last_metrics = dict[str, float](), dict[str, float]()
        self.stopped_by: str | None = None
        self.kept: tuple[Tensor, Tensor] | None = None  # the first minibatch's pass, where it need not be repeated
        self.clock, self.flops = Clock(), metrics.Flops(both.policy)
        self.train_rows: list[dict] = list(train_dataset)
        self.everyone, self.sampler = sharding.Everyone(self.accelerator), Sampler(self)
        if args.activation_checkpointing:
            both.checkpoint_activations()

    # ---- the loop ----

    def train(self, resume_from_checkpoint: str | None = None) -> TrainOutput:
        """Train for `plan.rollouts` rollouts, or what is left of them after a checkpoint."""
        self._begin(resume_from_checkpoint)
        while self.state.global_step < self.plan.rollouts and not self.control.should_training_stop:
            number = self.state.global_step
            self.both.only_values = number < self.args.value_warmup_rollouts
            with sharding.whole_weights(self):
                rollout = self.sampler.next(number, self.reward)
                self.kept = self.sampler.compare(rollout)
            credit(rollout, reward=self.reward, args=self.args, kl_coef=self.kl_coef, total=self.everyone.total)
            guards.check_finite(number + 1, logps=rollout.logps, values=rollout.values, advantages=rollout.advantages)
            with self.clock.part("update", self.args.device):
                learnt = self._learn(rollout)
            self._end_rollout(rollout, learnt)
        if self.eval_dataset is not None and not self.best:
            self.evaluate()  # shorter than eval_steps
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        return TrainOutput(self.state.global_step, 0.0, report.summary(self))

    def _begin(self, checkpoint: str | None) -> None:
        """Wrap the model, make or restore optimizer, schedule, random states, coefficient and scale."""
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        if checkpoint is not None and not sharded:
            saving.restore(self.both, Path(checkpoint))
        self._train_batch_size = self.args.per_device_train_batch_size
        self._prepare_for_training(self.plan.rollouts, None, checkpoint)
        self.state = saving.RolloutState(
            is_local_process_zero=self.is_local_process_zero(), is_world_process_zero=self.is_world_process_zero(),
            stateful_callbacks=self.state.stateful_callbacks,
        )  # fmt: skip
        self.both.eval()
        self.limit = report.matrix_rate(self.args.device, self.both.policy.dtype)
        if checkpoint is not None:
            saving.restore_state(self, Path(checkpoint))
            self._load_rng_state(checkpoint)
        self.state.max_steps, self.state.num_train_epochs = self.plan.rollouts, 1
        self.state.compute_steps(self.args, self.plan.rollouts)
        with sharding.whole_weights(self):
            try_a_step(self)
            if checkpoint is None:
                self.model("check_head", self.train_rows[0]["input_ids"])
                self._measure_reference()
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
        self.clock, self.begun, self.begun_at = Clock(), time.perf_counter(), self.state.global_step

    def create_optimizer(self, model: Any = None) -> Any:
        """transformers' optimizer, with the critic in a group of its own."""
        optimizer = super().create_optimizer(model)
        rate = self.args.value_learning_rate or self.args.learning_rate * (10 if self.both.value_model == "head" else 1)
        critic = [p for n, p in self.both.named_parameters() if roles.CRITIC.search(n) and p.requires_grad]
        known = {id(weight) for weight in critic}
        for group in optimizer.param_groups:
            group["params"] = [weight for weight in group["params"] if id(weight) not in known]
        optimizer.add_param_group({"params": critic, "lr": rate, "weight_decay": 0.0})
        return optimizer

    # ---- learning ----

    def _learn(self, rollout: Rollout) -> dict[str, float]:
        """Epochs over minibatches. Losses are means over a minibatch's tokens on all processes, however cut."""
        args = self.args
        sums: list[Tensor] = []
        norms: list[float] = []
        policy_on = float(not self.both.only_values)
        self.both.train(args.activation_checkpointing)  # checkpointing works in training mode only; there is no dropout
        for epoch in range(self.plan.epochs):
            plan = rollout.plan_of(args.seed, epoch, self.plan.minibatches, self.plan.micro_batch)
            for number, minibatch in enumerate(plan):
                tokens = self.everyone.total(rollout.lengths[sum(minibatch, [])].sum()).item()
                for at, piece in enumerate(minibatch):
                    last = at == len(minibatch) - 1
                    self.accelerator.gradient_state._set_sync_gradients(last)
                    with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model_wrapped):
                        loss, seen = self._losses(rollout, piece, policy_on)
                        self.accelerator.backward(loss * (self.plan.processes / tokens))
                    sums.append(seen)
                    if epoch == number == 0:
                        exact = args.device.type == "cpu" and not self.is_deepspeed_enabled
                        guards.check_ratio(seen[-1].item(), 0.0 if exact else 0.1)
                norms.append(self._step())
        self.both.eval()
        backward = 1 if hasattr(self.both.policy, "peft_config") else 2  # LoRA needs no gradient of the frozen weights
        passes = (1 + backward) * self.plan.epochs * (1 + (self.both.value_model != "head"))
        self.clock.flops["update"] += self.flops(*rollout.sizes(), passes=passes)
        return metrics.of_update(torch.stack(sums), norms, self.everyone.total)

    def _losses(self, rollout: Rollout, piece: list[int], policy_on: float) -> tuple[Tensor, Tensor]:
        """The summed loss of a piece's tokens, and sums for the log."""
        old, advantages, old_values, returns = (
            rollout.flat(name, piece) for name in ("logps", "advantages", "values", "returns")
        )
        if self.kept is not None:
            (logps, values), self.kept = self.kept, None
        else:
            batch = rollout.batch(piece, self.both.packs)
            logps, _, values = self.model_wrapped("actions", batch, self.args.temperature, False)
        policy, clipped = maths.policy_loss(logps, old, advantages, self.args.cliprange)
        value, held = maths.value_loss(values, old_values, returns, self.args.cliprange_value)
        loss = policy_on * policy.sum() + self.args.vf_coef * value.sum()
        return loss, metrics.seen(logps, old, (policy, value), (clipped, held))

    def _step(self) -> float:
        """Clip, step, and forget the gradients. Returns the norm of the gradient before clipping."""
        limit = self.args.max_grad_norm or math.inf
        if self.is_deepspeed_enabled:  # its engine clipped and stepped in `backward`
            norm = self.model_wrapped.get_global_grad_norm() or 0.0
        else:
            norm = self.accelerator.clip_grad_norm_(self.model_wrapped.parameters(), limit)
            self.optimizer.step()
            self.optimizer.zero_grad()
        norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        guards.check_norm(self.state.global_step + 1, norm)
        return norm

    # ---- after a rollout ----

    def _end_rollout(self, rollout: Rollout, learnt: dict[str, float]) -> None:
        """Advance the schedules, log, guard, evaluate, save."""
        self.lr_scheduler.step()
        self.state.global_step += 1
        self.state.episode += self.plan.episodes
        self.state.num_input_tokens_seen += int(self.everyone.total(rollout.tokens))
        self.state.epoch = self.state.episode / (len(self.train_rows) * self.args.num_generations)
        row = metrics.of_rollout(rollout, self.kl_coef, self.everyone.total) | learnt
        row |= {"episode": self.state.episode, "lr": self.lr_scheduler.get_last_lr()[0]}
        if len(rollout.each) > 1:
            row |= {f"rewards/{name}/mean": self.everyone.mean(values) for name, values in rollout.each.items()}
        if self.args.kl_target is not None:
            self.kl_coef = maths.next_kl_coef(
                self.kl_coef, row["objective/kl"], target=self.args.kl_target, episodes=self.plan.episodes,
                horizon=self.args.kl_horizon,
            )  # fmt: skip
        if self.args.sync_ref_model and self.state.global_step % self.args.ref_model_sync_steps == 0:
            self.reference.follow(self.both.policy, self.args.ref_model_mixup_alpha)
        report.keep(self, rollout)
        self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
        row |= report.speed(self)
        self.last_metrics = row
        self.log(row)
        found = self._check_health(rollout)
        if self.args.kl_budget is not None and row["objective/kl"] > self.args.kl_budget:
            self.stopped_by = f"KL of {row['objective/kl']:.3g} nats a sequence is over kl_budget={self.args.kl_budget}"
            self.control.should_training_stop = True
        if self.control.should_evaluate and self.eval_dataset is not None:
            self.evaluate()
        if self.control.should_save and not found:
            self._save_checkpoint(self.model, trial=None)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _check_health(self, rollout: Rollout) -> list[str]:
        """Look for collapse; raise when it lasts. Returns the symptoms: a checkpoint with any is not worth keeping."""
        if self.before is None or self.sampler.longest:
            return []
        now = metrics.vitals(rollout, self.everyone)
        found = guards.symptoms(now, self.before, self.args.response_length)
        saved = sorted(Path(self.args.output_dir).glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
        kept = f"The last good weights: {saved[-1]}" if saved else "There is no checkpoint yet: lower save_steps"
        self.guard.check(found, f"{kept}; what was said: {self.args.output_dir}/rollouts")
        return found

    def _measure_reference(self) -> None:
        """One rollout from the reference, not trained on: the reward's mean and spread, and what is healthy here."""
        if not self.args.normalize_reward and not self.args.collapse_patience:
            return
        rollout = self.sampler.next(self.plan.rollouts, self.reward)  # prompts and noise that come last, if at all
        rollout.number = 0
        self.sampler.compare(rollout)
        self.before = metrics.vitals(rollout, self.everyone)
        if not self.args.normalize_reward:
            return
        self.reward.fit(self.everyone.gather(rollout.scores.tolist()))
        if self.both.starts_as_reward_model:  # and so speaks its units
            self.both.values_shift, self.both.values_scale = self.reward.mean, self.reward.std

    # ---- held-out prompts ----

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Sample for the held-out prompts with the same noise each time; the best weights go to `best/`."""
        rank, world = self.accelerator.process_index, self.plan.processes
        count = len(self.eval_dataset) - len(self.eval_dataset) % world
        if not count:
            return {}
        rows = [self.eval_dataset[i] for i in range(rank, count, world)]
        clock, self.clock = self.clock, Clock()
        with sharding.whole_weights(self):
            rollout = self.sampler.rollout(
                self.state.global_step - 1, rows, list(range(rank, count, world)), self.eval_reward or self.reward,
                seed=self.args.seed + 1,
            )  # fmt: skip
        self.clock = clock
        found = metrics.of_held_out(rollout, self.everyone)
        self.log(found)
        if found["eval_objective/scores"] > self.best.get("score", -math.inf):
            self.best = {"score": found["eval_objective/scores"], "rollout": self.state.global_step}
            self.save_model(str(Path(self.args.output_dir) / "best"))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    # ---- saving and resuming ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Policy and critic, whole under every launcher."""
        folder = Path(output_dir or self.args.output_dir)
        weights = self.accelerator.get_state_dict(self.model_wrapped)  # every process takes part
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            saving.save(self.both, weights, folder)
            self.processing_class.save_pretrained(folder)
        self.accelerator.wait_for_everyone()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """transformers' checkpoint and our own state; `trainer_state.json` is its last file, so that one without it is
        known to be half-written. Then older ones go."""
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            saving.write_state(self, folder)
        super()._save_checkpoint(model, trial)
