"""One rollout: episodes with everything the update needs, and how they are cut into minibatches and pieces."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from align.data import text
from align.models import generate
from align.models.generate import Completion
from align.models.scorers import Reward
from align.ppo import maths
from align.ppo.roles import Batch
from align.ppo.watch import guards


@dataclass
class Rollout:
    """The episodes of one process. B episodes, T tokens of the longest completion; tensors are filled step by step."""

    number: int
    rows: list[dict]  # the prompt's row of each episode: `prompt`, `input_ids` and the data set's other columns
    completions: list[Completion]
    scores: Tensor  # [B], as the reward gives them
    each: dict[str, list[float]]  # [B] a scorer
    device: Any
    logps: Tensor = field(init=False)  # [B, T], of the policy that sampled
    ref_logps: Tensor = field(init=False)  # [B, T]
    values: Tensor = field(init=False)  # [B, T]
    entropy: Tensor = field(init=False)  # [B, T]
    kl: Tensor = field(init=False)  # [B, T]
    rewards: Tensor = field(init=False)  # [B, T]
    advantages: Tensor = field(init=False)  # [B, T]
    returns: Tensor = field(init=False)  # [B, T]

    def __post_init__(self) -> None:
        self.lengths = torch.tensor([len(c.ids) for c in self.completions], device=self.device)
        steps = torch.arange(int(self.lengths.max()), device=self.device)
        self.mask = steps < self.lengths[:, None]
        for name in ("logps", "ref_logps", "values", "entropy"):
            setattr(self, name, torch.zeros(self.mask.shape, device=self.device))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def tokens(self) -> Tensor:
        """Prompt and completion tokens of all episodes, a scalar."""
        return self.lengths.sum() + sum(len(row["input_ids"]) for row in self.rows)

    @property
    def stopped(self) -> Tensor:
        """[B], did the episode end by itself?"""
        return torch.tensor([c.stopped for c in self.completions], device=self.device)

    def batch(self, which: list[int], packed: bool) -> Batch:
        """Prompts and completions of some episodes."""
        prompts, said = [self.rows[i]["input_ids"] for i in which], [self.completions[i].ids for i in which]
        return Batch.of(prompts, said, self.device, packed=packed)

    def flat(self, name: str, which: list[int]) -> Tensor:
        """A [B, T] tensor's real tokens of some episodes, row after row: [N]."""
        return getattr(self, name)[which][self.mask[which]]

    def fill(self, name: str, which: list[int], flat: Tensor) -> None:
        """The opposite of `flat`: lay [N] values into the [B, T] tensor called `name`."""
        width = self.mask.shape[1]
        index = torch.tensor(which, device=self.device)[:, None].expand(-1, width)[self.mask[which]]
        steps = torch.arange(width, device=self.device).expand(len(which), -1)[self.mask[which]]
        getattr(self, name)[index, steps] = flat

    def plan_of(self, seed: int, epoch: int, minibatches: int, micro: int) -> list[list[list[int]]]:
        """Minibatches of pieces of episodes. Episodes come into minibatches at random, anew in each epoch; within one
        they are sorted by length, so that a piece is trimmed to episodes of its own kind."""
        order = np.random.default_rng([seed, self.number, epoch]).permutation(len(self))
        size = len(self) // minibatches
        plan = []
        for start in range(0, len(order), size):
            mine = sorted(order[start : start + size].tolist(), key=lambda i: (self.width(i), i))
            plan.append([mine[at : at + micro] for at in range(0, size, micro)])
        return plan

    def width(self, episode: int) -> int:
        """Tokens of prompt and completion."""
        return len(self.rows[episode]["input_ids"]) + len(self.completions[episode].ids)

    def sizes(self) -> tuple[int, int]:
        """Tokens of prompts and completions together, and of completions alone."""
        said = int(self.lengths.sum())
        return sum(len(row["input_ids"]) for row in self.rows) + said, said

    def write(self, path: Path) -> None:
        """The episodes as parquet: what was asked and said, and what the update saw of it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        count = self.mask.sum(1)
        mean = (self.advantages * self.mask).sum(1) / count
        columns: dict[str, Any] = {
            "rollout": [self.number] * len(self),
            "prompt": [text.readable(row["prompt"]) for row in self.rows],
            "completion": [c.text for c in self.completions],
            "tokens": count.tolist(),
            "stopped": self.stopped.tolist(),
            "score": self.scores.tolist(),
            "kl": (self.kl * self.mask).sum(1).tolist(),
            "logp": self.logps.sum(1).tolist(),
            "ref_logp": self.ref_logps.sum(1).tolist(),
            "value": self.values[:, 0].tolist(),
            "reward": self.rewards.sum(1).tolist(),
            "advantage_mean": mean.tolist(),
            "advantage_min": self.advantages.masked_fill(~self.mask, torch.inf).amin(1).tolist(),
            "advantage_max": self.advantages.masked_fill(~self.mask, -torch.inf).amax(1).tolist(),
        }
        columns |= {f"reward_{name}": values for name, values in self.each.items() if len(self.each) > 1}
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)


def prompts_of(rollout: int, per_rollout: int, rows: int, seed: int) -> list[int]:
    """Which rows a rollout takes: every row once, in an order of its own, before any comes again. A pure function of
    its arguments, so a resumed run goes on where it was without any state."""
    first = rollout * per_rollout
    orders: dict[int, Any] = {}
    chosen = []
    for position in range(first, first + per_rollout):
        epoch, place = divmod(position, rows)
        if epoch not in orders:
            orders[epoch] = np.random.default_rng([seed, 7, epoch]).permutation(rows)
        chosen.append(int(orders[epoch][place]))
    return chosen


def credit(rollout: Rollout, *, reward: Reward, args: Any, kl_coef: float, total: Any) -> None:
    """Per-token rewards, advantages and returns from scores and log-probs: the pure maths, in order."""
    mask = rollout.mask
    scores = torch.tensor([reward.normalised(score) for score in rollout.scores.tolist()], device=mask.device)
    if args.missing_eos_penalty is not None:
        scores = scores - args.missing_eos_penalty * (~rollout.stopped).float()
    scores = scores - args.length_penalty * rollout.lengths
    rollout.kl = maths.kl_per_token(rollout.logps, rollout.ref_logps, args.kl_estimator) * mask
    rollout.rewards = maths.place_rewards(rollout.kl, scores, mask, kl_coef)
    if args.whiten_rewards:
        rollout.rewards = maths.whiten(rollout.rewards, mask, shift_mean=False, total=total)
    rollout.advantages, rollout.returns = maths.gae(
        rollout.rewards, rollout.values, mask, gamma=args.gamma, lam=args.lam
    )
    if args.whiten_advantages:
        rollout.advantages = maths.whiten(rollout.advantages, mask, total=total)


class Sampler:
    """Makes rollouts: completions of prompts from the policy, their scores, log-probs and values."""

    longest = 0  # of a dry run: so many rollouts begin with the longest prompts, and none of their answers ends early

    def __init__(self, trainer: Any):
        self.trainer = trainer  # whose model is wrapped later, and whose clock changes
        self.args, self.plan, self.accelerator = trainer.args, trainer.plan, trainer.accelerator
        self.rows, self.tokenizer, self.flops = trainer.train_rows, trainer.processing_class, trainer.flops

    def next(self, number: int, reward: Reward) -> Rollout:
        """Rollout `number`: this process's share of the next prompts, with their completions and scores."""
        copies, rank, world = self.args.num_generations, self.accelerator.process_index, self.plan.processes
        chosen = prompts_of(number, self.plan.prompts, len(self.rows), self.args.seed)
        if number < self.longest:
            chosen = sorted(range(len(self.rows)), key=lambda i: -len(self.rows[i]["input_ids"]))[: self.plan.prompts]
        places = range(rank, len(chosen), world)
        numbers = [number * self.plan.episodes + place * copies + k for place in places for k in range(copies)]
        rows = [self.rows[chosen[place]] for place in places]
        return self.rollout(number, rows, numbers, reward, seed=self.args.seed)

    def rollout(self, number: int, rows: list[dict], numbers: list[int], reward: Reward, *, seed: int) -> Rollout:
        """Episodes numbered `numbers`, as many of each row as there are numbers for it, and their scores."""
        device = self.args.device
        with self.trainer.clock.part("rollout", device):
            completions = self._episodes(rows, numbers, seed, () if number < self.longest else self.trainer.stops)
        rows = [row for row in rows for _ in range(len(numbers) // len(rows))]
        with self.trainer.clock.part("scoring", device):
            scores, each = reward.raw(rows, completions)
        return Rollout(number + 1, rows, completions, torch.tensor(scores, device=device), each, device)

    def _episodes(
        self, rows: list[dict], numbers: list[int], seed: int, stops: Collection[int]
    ) -> list[generate.Completion]:
        """One completion for each of `num_generations` copies of each row, up to one of `stops`; `numbers` are the
        episodes' own."""
        copies, size = len(numbers) // len(rows), max(1, self.args.local_rollout_forward_batch_size)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
        found: list[list[int]] = [[] for _ in numbers]
        at_once = max(1, size // copies)
        for start in range(0, len(order), at_once):
            some = order[start : start + at_once]
            places = [i * copies + k for i in some for k in range(copies)]
            noise = generate.uniform(seed, [numbers[place] for place in places], self.args.response_length)
            settings = dict(
                stops=stops, pad_id=self.tokenizer.pad_token_id, max_new_tokens=self.args.response_length,
                temperature=self.args.temperature, noise=noise, per_prompt=copies,
            )  # fmt: skip
            with torch.no_grad(), self.accelerator.autocast():
                out = self.trainer.model("sample", [rows[i]["input_ids"] for i in some], settings)
            for place, ids in zip(places, out, strict=True):
                found[place] = ids
        self.trainer.clock.flops["rollout"] += self.flops(
            sum(len(row["input_ids"]) for row in rows) + sum(map(len, found)), sum(map(len, found))
        )
        asked = [rows[place // copies]["input_ids"] for place in range(len(found))]
        return [generate.as_completion(p, ids, stops, self.tokenizer) for p, ids in zip(asked, found, strict=True)]

    def score_sequences(
        self, sequences: list[list[int]], scorer: Callable[[Batch], Tensor], packed: bool
    ) -> list[float]:
        """A reward model's scores of whole sequences, by length, in pieces: the `scores` of `scorers.from_model`.

        `scorer` gives [B] scores for a batch of B sequences.
        """
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        found = [0.0] * len(order)
        size = max(1, self.args.local_rollout_forward_batch_size)
        for start in range(0, len(order), size):
            some = order[start : start + size]
            heads, tails = [sequences[i][:1] for i in some], [sequences[i][1:] for i in some]
            batch = Batch.of(heads, tails, self.args.device, packed=packed)
            with torch.no_grad(), self.accelerator.autocast():
                values = scorer(batch).tolist()
            for place, value in zip(some, values, strict=True):
                found[place] = value
        self.trainer.clock.flops["scoring"] += self.flops(sum(map(len, sequences)), 0)
        return found

    def compare(self, rollout: Rollout) -> tuple[Tensor, Tensor] | None:
        """Log-probs, entropies and values of the policy that sampled, and the reference's log-probs. The pieces are
        those of the first epoch, so that its first minibatch repeats the very same arithmetic: ratio exactly 1.

        Returns:
            The first piece's log-probs and values, [N] each, with their graph, where the update can go on from it.
        """
        kept = None
        args, both = self.args, self.trainer.both
        pieces = sum(rollout.plan_of(args.seed, 0, self.plan.minibatches, self.plan.micro_batch), [])
        with self.trainer.clock.part("logps", args.device), torch.no_grad():
            for number, piece in enumerate(pieces):
                batch = rollout.batch(piece, both.packs)
                with torch.set_grad_enabled(number == 0 and self._keeps_graph(rollout)):
                    logps, entropy, values = self.trainer.model("actions", batch, args.temperature, True)
                if logps.requires_grad:
                    kept = (logps, values)
                reference = self._reference_logps(batch)
                for name, flat in dict(logps=logps, entropy=entropy, values=values, ref_logps=reference).items():
                    rollout.fill(name, piece, flat.detach().float())
        passes = 2 + (both.value_model != "head")
        self.trainer.clock.flops["logps"] += self.flops(*rollout.sizes(), passes=passes)
        if rollout.number <= 1 and args.device.type == "cpu":
            # a trained copy in fp32 of a module in bf16 rounds elsewhere than its original
            rounds = any(weight.dtype != torch.float32 for weight in both.policy.parameters())
            guards.check_start(rollout.logps, rollout.ref_logps, rollout.mask, 0.1 if rounds else 0.0)
        return kept

    def _keeps_graph(self, rollout: Rollout) -> bool:
        """Nothing changes between this pass and the update's first one, so the update can go on from the first piece's
        graph instead of computing it again; no more memory than a piece of the update takes anyway."""
        alone = self.plan.processes == 1 and not self.trainer.is_deepspeed_enabled
        return alone and rollout.number > 0 and not self.args.activation_checkpointing

    def _reference_logps(self, batch: Batch) -> Tensor:
        if self.trainer.reference is None:
            return self.trainer.model("reference", batch, self.args.temperature)
        if self.args.reference_device:
            batch = batch.to(self.args.reference_device)
        with self.accelerator.autocast():
            return self.trainer.reference(batch, self.args.temperature).to(self.args.device)
