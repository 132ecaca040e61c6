"""The PPO engine: TRL 1.12's `PPOTrainer` by name, configuration and logs, with a loop and maths of its own.

    for each rollout:
        sample     completions of the next prompts, from the policy, at the sampling temperature
        score      the reward of each, from a reward model, from functions, or from both
        log-probs  of policy and reference, and values, by forward passes over prompt and completion
        judge      KL penalty, rewards, advantages, returns
        learn      epochs x minibatches: clipped policy and value losses, one optimizer step a minibatch
        report     TRL's metrics, episodes on disk, guards, checkpoint

transformers' `Trainer` wraps the model for DDP, ZeRO or FSDP2, makes the optimizer, and writes checkpoints.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer
from transformers.trainer_utils import TrainOutput
from trl.experimental.ppo import PPOTrainer
from trl.experimental.ppo.ppo_trainer import OnlineTrainerState

from align.data.chat import stop_ids
from align.models import generate
from align.models.scorers import Reward
from align.ppo import guards, maths, metrics, roles, sharding
from align.ppo.config import Plan, PPOArguments
from align.ppo.report import PARTS, Clock, matrix_rate, sample_table
from align.ppo.rollout import Rollout, judge, prompts_of
from align.run.errors import RunError

STATE = "ppo_state.json"  # what a checkpoint holds beside transformers' own files


class PolicyTrainer(PPOTrainer):
    """PPO with one backbone, carried masks, resumable and shardable. See the module's docstring for the loop."""

    args: PPOArguments
    state: OnlineTrainerState
    control: Any

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
        # not PPOTrainer's constructor, which wraps four models its own way
        Trainer.__init__(
            self, model=both, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset,
            processing_class=processing_class, callbacks=callbacks,
        )  # fmt: skip
        self.plan, self.both, self.reward, self.eval_reward = plan, both, reward, eval_reward
        self.reference = sharding.place_frozen(reference, self.accelerator, args.reference_device)
        self.stops = stop_ids(processing_class, getattr(both.policy, "generation_config", None))
        self.kl_coef = args.kl_coef
        self.before: guards.Vitals | None = None
        self.guard = guards.Guard(args.collapse_patience)
        self.best: dict[str, float] = {}
        self.last_metrics: dict[str, float] = {}
        self.stopped_by: str | None = None
        self.kept: tuple[Tensor, Tensor] | None = None  # the first minibatch's pass, where it need not be repeated
        self.clock, self.flops = Clock(), metrics.Flops(both.policy)
        self.train_rows: list[dict] = list(train_dataset)
        if args.gradient_checkpointing:
            both.policy.gradient_checkpointing_enable({"use_reentrant": False})
            if hasattr(both.policy, "peft_config"):
                both.policy.enable_input_require_grads()

    # ---- the loop ----

    def train(self, resume_from_checkpoint: str | None = None) -> TrainOutput:
        """Train for `plan.rollouts` rollouts, or what is left of them after a checkpoint."""
        self._begin(resume_from_checkpoint)
        while self.state.global_step < self.plan.rollouts and not self.control.should_training_stop:
            number = self.state.global_step
            self.both.only_values = number < self.args.value_warmup_rollouts
            with sharding.whole_weights(self):
                rollout = self._sample_and_score(number)
                self._compare_with_reference(rollout)
            judge(rollout, reward=self.reward, args=self.args, kl_coef=self.kl_coef, total=self._total)
            guards.check_finite(number + 1, logps=rollout.logps, values=rollout.values, advantages=rollout.advantages)
            with self.clock.part("update", self.args.device):
                learnt = self._learn(rollout)
            self._end_rollout(rollout, learnt)
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        return TrainOutput(self.state.global_step, 0.0, self._summary())

    def _begin(self, checkpoint: str | None) -> None:
        """Wrap the model, make or restore optimizer, schedule, random states, coefficient and scale."""
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        if checkpoint is not None and not sharded:
            roles.restore(self.both, Path(checkpoint))
        self._train_batch_size = self.args.per_device_train_batch_size
        self._prepare_for_training(self.plan.rollouts, None, checkpoint)
        self.state = OnlineTrainerState(
            is_local_process_zero=self.is_local_process_zero(), is_world_process_zero=self.is_world_process_zero(),
            stateful_callbacks=self.state.stateful_callbacks,
        )  # fmt: skip
        self.both.eval()
        self.speed = matrix_rate(self.args.device, self.both.policy.dtype)
        if checkpoint is not None:
            self._restore_state(Path(checkpoint))
        self.state.max_steps, self.state.num_train_epochs = self.plan.rollouts, 1
        self.state.compute_steps(self.args, self.plan.rollouts)
        if checkpoint is None:
            with sharding.whole_weights(self):
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

    # ---- sampling ----

    def _episodes(self, rows: list[dict], numbers: list[int], seed: int) -> list[generate.Completion]:
        """One completion for each of `num_generations` copies of each row; `numbers` are the episodes' own."""
        copies, size = len(numbers) // len(rows), max(1, self.args.local_rollout_forward_batch_size)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
        found: list[list[int]] = [[] for _ in numbers]
        at_once = max(1, size // copies)
        for start in range(0, len(order), at_once):
            some = order[start : start + at_once]
            places = [i * copies + k for i in some for k in range(copies)]
            noise = generate.uniform(seed, [numbers[place] for place in places], self.args.response_length)
            settings = dict(
                stops=self.stops, pad_id=self.processing_class.pad_token_id, max_new_tokens=self.args.response_length,
                temperature=self.args.temperature, noise=noise, per_prompt=copies,
            )  # fmt: skip
            with torch.no_grad(), self.accelerator.autocast():
                out = self.model("sample", [rows[i]["input_ids"] for i in some], settings)
            for place, ids in zip(places, out, strict=True):
                found[place] = ids
        self.clock.flops["rollout"] += self.flops(
            sum(len(row["input_ids"]) for row in rows) + sum(map(len, found)), sum(map(len, found))
        )
        return [generate.as_completion(ids, self.stops, self.processing_class) for ids in found]

    def _sample_and_score(self, number: int) -> Rollout:
        """The next rollout's episodes with their scores."""
        copies, rank, world = self.args.num_generations, self.accelerator.process_index, self.plan.processes
        chosen = prompts_of(number, self.plan.prompts, len(self.train_rows), self.args.seed)
        places = range(rank, len(chosen), world)
        numbers = [number * self.plan.episodes + place * copies + k for place in places for k in range(copies)]
        rows = [self.train_rows[chosen[place]] for place in places]
        return self._rollout(number, rows, numbers, self.reward, seed=self.args.seed)

    def _rollout(self, number: int, rows: list[dict], numbers: list[int], reward: Reward, *, seed: int) -> Rollout:
        device = self.args.device
        with self.clock.part("rollout", device):
            completions = self._episodes(rows, numbers, seed)
        rows = [row for row in rows for _ in range(len(numbers) // len(rows))]
        with self.clock.part("scoring", device):
            scores, each = reward.raw(rows, completions)
        return Rollout(number + 1, rows, completions, torch.tensor(scores, device=device), each, device)

    def score_sequences(
        self, sequences: list[list[int]], scorer: Callable[[roles.Batch], Tensor], packed: bool
    ) -> list[float]:
        """A reward model's scores of whole sequences, by length, in pieces: the `scores` of `rewards.from_model`."""
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        found = [0.0] * len(order)
        size = max(1, self.args.local_rollout_forward_batch_size)
        for start in range(0, len(order), size):
            some = order[start : start + size]
            heads, tails = [sequences[i][:1] for i in some], [sequences[i][1:] for i in some]
            batch = roles.Batch.of(heads, tails, self.args.device, packed=packed)
            with torch.no_grad(), self.accelerator.autocast():
                values = scorer(batch).tolist()
            for place, value in zip(some, values, strict=True):
                found[place] = value
        self.clock.flops["scoring"] += self.flops(sum(map(len, sequences)), 0)
        return found

    # ---- log-probs ----

    def _compare_with_reference(self, rollout: Rollout) -> None:
        """Log-probs, entropies and values of the policy that sampled, and the reference's log-probs. The pieces are
        those of the first epoch, so that its first minibatch repeats the very same arithmetic: ratio exactly 1."""
        args = self.args
        pieces = sum(rollout.plan_of(args.seed, 0, self.plan.minibatches, self.plan.micro_batch), [])
        with self.clock.part("logps", args.device), torch.no_grad():
            for number, piece in enumerate(pieces):
                batch = rollout.batch(piece, self.both.packs)
                with torch.set_grad_enabled(number == 0 and self._keeps_graph(rollout)):
                    logps, entropy, values = self.model("actions", batch, args.temperature, True)
                if logps.requires_grad:
                    self.kept = (logps, values)
                reference = self._reference_logps(batch)
                for name, flat in dict(logps=logps, entropy=entropy, values=values, ref_logps=reference).items():
                    rollout.fill(name, piece, flat.detach().float())
        passes = 2 + (self.both.value_model != "head")
        self.clock.flops["logps"] += self.flops(*rollout.sizes(), passes=passes)
        if rollout.number <= 1 and args.device.type == "cpu":
            self._check_start(rollout)

    def _check_start(self, rollout: Rollout) -> None:
        """Before anything is learnt the policy is its reference, to the bit."""
        kl = ((rollout.logps - rollout.ref_logps) * rollout.mask).abs().max().item()
        assert kl == 0, f"the policy is not its reference at the start: log-probs differ by {kl}"

    def _keeps_graph(self, rollout: Rollout) -> bool:
        """Nothing changes between this pass and the update's first one, so the update can go on from the first piece's
        graph instead of computing it again; no more memory than a piece of the update takes anyway."""
        alone = self.plan.processes == 1 and not self.is_deepspeed_enabled
        return alone and rollout.number > 0 and not self.args.gradient_checkpointing

    def _reference_logps(self, batch: roles.Batch) -> Tensor:
        if self.reference is None:
            return self.model("reference", batch, self.args.temperature)
        if self.args.reference_device:
            batch = batch.to(self.args.reference_device)
        with self.accelerator.autocast():
            return self.reference(batch, self.args.temperature).to(self.args.device)

    # ---- learning ----

    def _learn(self, rollout: Rollout) -> dict[str, float]:
        """Epochs over minibatches. Losses are means over a minibatch's tokens on all processes, however cut."""
        args = self.args
        sums: list[Tensor] = []
        norms: list[float] = []
        policy_on = float(not self.both.only_values)
        self.both.train(args.gradient_checkpointing)  # checkpointing works in training mode only; there is no dropout
        for epoch in range(self.plan.epochs):
            plan = rollout.plan_of(args.seed, epoch, self.plan.minibatches, self.plan.micro_batch)
            for number, minibatch in enumerate(plan):
                tokens = self._total(rollout.lengths[sum(minibatch, [])].sum()).item()
                for at, piece in enumerate(minibatch):
                    last = at == len(minibatch) - 1
                    self.accelerator.gradient_state._set_sync_gradients(last)
                    with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model_wrapped):
                        loss, seen = self._losses(rollout, piece, policy_on)
                        self.accelerator.backward(loss * (self.plan.processes / tokens))
                    sums.append(seen)
                    if epoch == number == 0:
                        self._check_ratio(seen)
                norms.append(self._step())
        self.both.eval()
        backward = 1 if hasattr(self.both.policy, "peft_config") else 2  # LoRA needs no gradient of the frozen weights
        passes = (1 + backward) * self.plan.epochs * (1 + (self.both.value_model != "head"))
        self.clock.flops["update"] += self.flops(*rollout.sizes(), passes=passes)
        return metrics.of_update(torch.stack(sums), norms, self._total)

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
        with torch.no_grad():
            apart = logps - old
            ratio = apart.exp()
            parts = (policy, value, clipped, held, 0.5 * apart.square(), ratio, ratio.square(), torch.ones_like(ratio))
            seen = torch.stack([part.sum(dtype=torch.float32) for part in parts] + [apart.abs().max()])
        return loss, seen

    def _check_ratio(self, seen: Tensor) -> None:
        """Nothing has been learnt yet: the update must see the log-probs that the rollout saw."""
        apart = seen[-1].item()
        allowed = 0.0 if self.args.device.type == "cpu" and not self.is_deepspeed_enabled else 0.1
        assert apart <= allowed, f"before any step the ratio is not 1: log-probs differ by {apart} nats"

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
        if not math.isfinite(norm):
            raise RunError(
                f"the gradient of rollout {self.state.global_step + 1} is not finite: the weights are of no use from "
                "here on. Lower --learning_rate; the last checkpoint is untouched"
            )
        return norm

    # ---- after a rollout ----

    def _end_rollout(self, rollout: Rollout, learnt: dict[str, float]) -> None:
        """Advance the schedules, log, guard, evaluate, save."""
        self.lr_scheduler.step()
        self.state.global_step += 1
        self.state.episode += self.plan.episodes
        self.state.num_input_tokens_seen += int(self._total(rollout.tokens))
        self.state.epoch = self.state.episode / (len(self.train_rows) * self.args.num_generations)
        row = metrics.of_rollout(rollout, self.kl_coef, self._total) | learnt
        row |= {"episode": self.state.episode, "lr": self.lr_scheduler.get_last_lr()[0]}
        if len(rollout.each) > 1:
            row |= {f"rewards/{name}/mean": self._mean(values) for name, values in rollout.each.items()}
        if self.args.kl_target is not None:
            self.kl_coef = maths.next_kl_coef(
                self.kl_coef, row["objective/kl"], target=self.args.kl_target, episodes=self.plan.episodes,
                horizon=self.args.kl_horizon,
            )  # fmt: skip
        self._follow()
        self._keep(rollout)
        self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
        row |= self._speed()
        self.last_metrics = row
        self.log(row)
        found = self._judge_health(rollout)
        if self.args.kl_budget is not None and row["objective/kl"] > self.args.kl_budget:
            self.stopped_by = f"KL of {row['objective/kl']:.3g} nats a sequence is over kl_budget={self.args.kl_budget}"
            self.control.should_training_stop = True
        if self.control.should_evaluate and self.eval_dataset is not None:
            self.evaluate()
        if self.control.should_save and not found:
            self._save_checkpoint(self.model, trial=None)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _speed(self) -> dict[str, float]:
        """Where the time went, and episodes a second since the run began."""
        flops = dict(self.clock.flops)
        row = self.clock.turn()
        for name in PARTS:
            if row[f"time/{name}"] > 0:
                row[f"mfu/{name}"] = flops[name] / row[f"time/{name}"] / self.speed
        done = (self.state.global_step - self.begun_at) * self.plan.episodes
        return row | {"eps": done / (time.perf_counter() - self.begun)}

    def _judge_health(self, rollout: Rollout) -> list[str]:
        """Look for collapse; raise when it lasts. Returns the symptoms: a checkpoint with any is not worth keeping."""
        if self.before is None:
            return []
        now = self._vitals(rollout)
        found = guards.symptoms(now, self.before, self.args.response_length)
        saved = sorted(Path(self.args.output_dir).glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
        kept = f"The last good weights: {saved[-1]}" if saved else "There is no checkpoint yet: lower save_steps"
        self.guard.check(found, f"{kept}; what was said: {self.args.output_dir}/rollouts")
        return found

    def _vitals(self, rollout: Rollout) -> guards.Vitals:
        return metrics.vitals(rollout, self._everyones([c.text for c in rollout.completions]), self._total)

    def _measure_reference(self) -> None:
        """One rollout from the reference, not trained on: the reward's mean and spread, and what is healthy here."""
        if not self.args.normalize_reward and not self.args.collapse_patience:
            return
        rollout = self._sample_and_score(self.plan.rollouts)  # prompts and noise that come last, if at all
        rollout.number = 0
        self._compare_with_reference(rollout)
        self.before = self._vitals(rollout)
        if not self.args.normalize_reward:
            return
        scores = torch.tensor(self._everyones(rollout.scores.tolist()))
        self.reward.mean, self.reward.std = scores.mean().item(), scores.std().item()
        if not self.reward.std > 1e-6:
            raise RunError(
                f"the reward gives every one of the {len(scores)} samples of the reference the same score "
                f"({self.reward.mean:.4g}), so there is nothing to learn from; "
                "check the reward, raise temperature, or give --normalize_reward false"
            )
        if self.both.starts_as_reward_model:  # and so speaks its units
            self.both.values_shift, self.both.values_scale = self.reward.mean, self.reward.std

    def _follow(self) -> None:
        """EMA reference: ref <- alpha policy + (1 - alpha) ref (Xu et al. 2024, section 4.3; TRL's flags)."""
        if not self.args.sync_ref_model or self.state.global_step % self.args.ref_model_sync_steps:
            return
        with torch.no_grad():
            for theirs, ours in zip(self.reference.inner.parameters(), self.both.policy.parameters(), strict=True):
                theirs.lerp_(ours.to(theirs.device, theirs.dtype), self.args.ref_model_mixup_alpha)

    def _keep(self, rollout: Rollout) -> None:
        """Episodes to disk, and now and then a few to the screen."""
        number, folder = rollout.number, Path(self.args.output_dir) / "rollouts"
        every = self.args.rollout_save_steps
        if every and number % every == 0:
            rank = f"-rank{self.accelerator.process_index}" if self.plan.processes > 1 else ""
            rollout.write(folder / f"rollout-{number:06d}{rank}.parquet")
        tables = self.args.num_sample_generations
        if tables and self.is_world_process_zero() and (number - 1) % max(1, self.plan.rollouts // tables) == 0:
            print(f"\n{sample_table(rollout)}", flush=True)

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
            rollout = self._rollout(
                self.state.global_step - 1, rows, list(range(rank, count, world)), self.eval_reward or self.reward,
                seed=self.args.seed + 1,
            )  # fmt: skip
        self.clock = clock
        metrics = {
            "eval_objective/scores": self._mean(rollout.scores.tolist()),
            "eval_rollout/length": self._mean(rollout.lengths.tolist()),
            "eval_rollout/eos_rate": self._mean(rollout.stopped.float().tolist()),
        }
        self.log(metrics)
        if metrics["eval_objective/scores"] > self.best.get("score", -math.inf):
            self.best = {"score": metrics["eval_objective/scores"], "rollout": self.state.global_step}
            self.save_model(str(Path(self.args.output_dir) / "best"))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # ---- saving and resuming ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Policy and critic, whole under every launcher."""
        folder = Path(output_dir or self.args.output_dir)
        weights = self.accelerator.get_state_dict(self.model_wrapped)  # every process takes part
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            roles.save(self.both, weights, folder)
            self.processing_class.save_pretrained(folder)
        self.accelerator.wait_for_everyone()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """transformers' checkpoint and our own state; `trainer_state.json` is its last file, so that one without it is
        known to be half-written. Then older ones go."""
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / STATE).write_text(json.dumps(self._own_state()) + "\n")
        super()._save_checkpoint(model, trial)

    def _own_state(self) -> dict[str, Any]:
        return dict(
            kl_coef=self.kl_coef, mean=self.reward.mean, std=self.reward.std, suspicion=self.guard.seen, best=self.best,
            before=asdict(self.before) if self.before else None, shift=self.both.values_shift,
            scale=self.both.values_scale, episodes=self.plan.episodes, processes=self.plan.processes,
        )  # fmt: skip

    def _restore_state(self, folder: Path) -> None:
        """Counters, coefficient, scale and random states; weights and optimizer have been loaded by now."""
        self.state = OnlineTrainerState.load_from_json(str(folder / "trainer_state.json"))
        own = json.loads((folder / STATE).read_text())
        if own["episodes"] != self.plan.episodes:
            raise RunError(f"{folder} was made with {own['episodes']} episodes a rollout, not {self.plan.episodes}")
        self.kl_coef, self.best, self.guard.seen = own["kl_coef"], own["best"], own["suspicion"]
        self.reward.mean, self.reward.std = own["mean"], own["std"]
        self.both.values_shift, self.both.values_scale = own["shift"], own["scale"]
        self.before = guards.Vitals(**own["before"]) if own["before"] else None
        self._load_rng_state(str(folder))

    # ---- small things ----

    def _total(self, x: Tensor) -> Tensor:
        return self.accelerator.reduce(x, "sum") if self.plan.processes > 1 else x

    def _mean(self, values: list) -> float:
        sums = self._total(torch.tensor([sum(values), len(values)], dtype=torch.float64, device=self.args.device))
        return (sums[0] / sums[1]).item()

    def _everyones(self, values: list) -> list:
        from accelerate.utils import gather_object

        return gather_object(values) if self.plan.processes > 1 else values

    def _summary(self) -> dict[str, Any]:
        """What the record keeps of the whole run: seconds and floating-point rate by part, and the best weights."""
        seconds, flops = self.clock.total["seconds"], self.clock.total["flops"]
        parts = {
            name: dict(seconds=round(took, 3), tflops=flops.get(name, 0) / took / 1e12 if took else 0.0)
            for name, took in seconds.items()
        }
        facts: dict[str, Any] = dict(episodes=self.state.episode, time=parts, matrix_tflops=self.speed / 1e12)
        facts |= dict(reward_mean=self.reward.mean, reward_std=self.reward.std)
        if self.best:
            facts["best"] = self.best
        if self.stopped_by:
            facts["stopped_by"] = self.stopped_by
        return facts
