"""Sampling token by token: one matrix for projections that read the same input, and room for keys and values."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers.cache_utils import DynamicCache, DynamicLayer

from align.models import packing
from align.models.fast.formulas import Projection


class Joint(NamedTuple):
    """Projections of one input, below each other, with LoRA's second matrices to the right of each one's rows.

    [y_1; y_2] = [[W_1, s B_1, 0], [W_2, 0, s B_2]] [x; A_1 x; A_2 x] + [b_1; b_2]
    """

    weight: Tensor  # [sum out, in + sum r]
    bias: Tensor | None  # [sum out]
    down: Tensor | None  # [sum r, in]

    @classmethod
    def of(cls, projections: list[Projection]) -> Joint:
        """A copy of their weights, in the precision of the first."""
        dtype = projections[0].weight.dtype
        ups = [(p.up * p.scale).to(dtype) for p in projections if p.up is not None]
        beside = iter(torch.block_diag(*ups).split([len(up) for up in ups])) if ups else iter(())
        width = sum(up.shape[1] for up in ups)
        rows = []
        for p in projections:
            more = next(beside) if p.up is not None else p.weight.new_zeros(len(p.weight), width)
            rows.append(torch.cat([p.weight, more], 1) if width else p.weight)
        biases = [p.weight.new_zeros(len(p.weight)) if p.bias is None else p.bias for p in projections]
        bias = torch.cat(biases) if any(p.bias is not None for p in projections) else None
        downs = [p.down.to(dtype) for p in projections if p.down is not None]
        return cls(torch.cat(rows), bias, torch.cat(downs) if downs else None)

    def __call__(self, x: Tensor) -> Tensor:
        """x [N, in] to [N, sum out]."""
        if self.down is not None:
            x = torch.cat([x, linear(x, self.down)], 1)
        return linear(x, self.weight, self.bias)


class Roomy(DynamicLayer):
    """Keys and values [B, heads, T, D] of one layer, written into place instead of copied at every token."""

    keys: Any
    values: Any

    def __init__(self, room: int):
        super().__init__()
        self.room = room
        self.held: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """As transformers' own: [B, heads, T, D] each, to all keys and values up to here."""
        seen, new = self.get_seq_length(), (key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = seen + key_states.shape[-2]
        stale = not self.held or self.held[0].data_ptr() != self.keys.data_ptr()  # rows have left, or were repeated
        if stale or end > self.held[0].shape[2]:
            before = (self.keys, self.values)
            self.held = [x.new_empty(*x.shape[:2], max(self.room, end), x.shape[-1]) for x in new]
            for held, old in zip(self.held, before, strict=True):
                if seen:
                    held[:, :, :seen] = old
        for held, x in zip(self.held, new, strict=True):
            held[:, :, seen:end] = x
        self.keys, self.values = (held[:, :, :end] for held in self.held)
        return self.keys, self.values


def cache(config: Any, room: int) -> DynamicCache:
    """A cache for sampling with room for so many tokens in the layers that see all of them."""
    made = DynamicCache(config=config)
    made.layers = [Roomy(room) if type(layer) is DynamicLayer else layer for layer in made.layers]
    return made


def mask(model: Any, seen: Tensor) -> Tensor:
    """`seen` [B, T] as a model takes it for one new token: as it is, or [B, 1, 1, T] where that is passed on to the
    layers, on a CPU as the numbers that are added to attention's scores, which each layer would make anew."""
    if not packing.passes_masks(model.config, seen.shape[1]):
        return seen
    if seen.device.type != "cpu":
        return seen[:, None, None].bool()
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else model.dtype
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(seen == 0, -torch.inf)[:, None, None]
