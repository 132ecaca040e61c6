"""What the reward model's and DPO's trainers share: pairs of a prompt next to each other, and weights in the batch.

B pairs in a micro-batch, N pairs in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Sampler

from align.data import arrow


class PromptSampler(Sampler[int]):
    """Row numbers, prompts in random order and the rows of a prompt next to each other (Ouyang et al. 2022, 3.5).

    The order is a function of `seed` and the epoch alone: every process sees the same, and a resumed run goes on in it.
    """

    def __init__(self, groups: pa.Array, seed: int, epoch: Callable[[], int]):
        prompts = arrow.numbered(groups)
        self.members = np.argsort(prompts, kind="stable")  # rows, those of one prompt together
        self.ends = np.cumsum(np.bincount(prompts))
        self.seed, self.epoch = seed, epoch

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch())
        for place in torch.randperm(len(self.ends), generator=generator).tolist():
            members = self.members[self.ends[place - 1] if place else 0 : self.ends[place]].tolist()
            yield from (members[i] for i in torch.randperm(len(members), generator=generator).tolist())


def sampler(trainer: Any, together: bool) -> PromptSampler | None:
    """A pair trainer's sampler; None (leave it to transformers) where every prompt has one pair, or if not wanted."""
    rows = trainer.train_dataset
    if not together or "group" not in (rows.column_names or []) or trainer.args.train_sampling_strategy != "random":
        return None
    groups = arrow.values(rows, "group").combine_chunks()
    if len(groups.unique()) == len(groups):
        return None
    seed = trainer.args.data_seed if trainer.args.data_seed is not None else trainer.args.seed
    return PromptSampler(groups, seed, lambda: int(trainer.state.epoch or 0))


@dataclass
class WeightedCollator:
    """A collator whose batches carry the pairs' weights as `weight`, float [B], first; ones where rows have none."""

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        weight = torch.tensor([example.get("weight", 1.0) for example in examples], dtype=torch.float)
        return {"weight": weight, **self.collate(examples)}
