"""One rollout: episodes with everything the update needs, and how they are cut into minibatches and pieces."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from align.data import text
from align.models.generate import Completion
from align.ppo import maths
from align.ppo.roles import Batch


@dataclass
class Rollout:
    """The episodes of one process. B episodes, T tokens of the longest completion; tensors are filled step by step."""

    number: int
    rows: list[dict]  # the prompt's row of each episode: `prompt`, `input_ids` and the data set's other columns
    completions: list[Completion]
    scores: Tensor  # [B], as the reward gives them
    each: dict[str, list[float]]  # [B] a source
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
        """Prompt and completion tokens of all episodes."""
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
        """The opposite of `flat`."""
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


def judge(
    rollout: Rollout,
    *,
    reward: Any,
    args: Any,
    kl_coef: float,
    total: Any,
) -> None:
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
