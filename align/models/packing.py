"""Batches without padding: all sequences in one row, each attending to itself alone.

A linear layer does not care where sequences begin, so its work on padding is pure loss: a third of it in a batch of
short answers. Here the whole model runs on the N real tokens of a batch, and only the attention itself, which must keep
sequences apart, spreads them out to [B, W]. With FlashAttention nothing is spread: it takes the boundaries as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from align.run.errors import FOREIGN

NAME = "packed_sdpa"
SHORT = 256  # tokens of a row


class Packing:
    """Where the sequences of a packed batch lie: B sequences, W tokens of the longest, N tokens in all."""

    def __init__(self, widths: list[int], device: Any):
        self.count, self.width = len(widths), max(widths)
        sizes = torch.tensor(widths)  # all is worked out on the CPU, so that no device is waited for
        starts, rows = sizes.cumsum(0) - sizes, torch.repeat_interleave(torch.arange(len(widths)), sizes)
        positions = torch.arange(len(rows)) - starts[rows]
        self.starts = starts.to(device)  # [B]
        self.rows = rows.to(device)  # [N]
        self.positions = positions.to(device)  # [N], within its own
        self.places = self.rows * self.width + self.positions  # [N], in [B * W]
        self.ends = torch.nn.functional.pad(sizes.cumsum(0), (1, 0)).to(device=device, dtype=torch.int32)
        self.groups = self._groups(widths, rows, positions, device)

    @classmethod
    def of(cls, positions: Tensor) -> Packing:
        """Of `position_ids` [1, N] that begin again with each sequence."""
        starts = (positions[0] == 0).nonzero().view(-1)
        return cls(starts.diff(append=starts.new_tensor([positions.shape[1]])).tolist(), positions.device)

    def _groups(self, widths: list[int], rows: Tensor, positions: Tensor, device: Any) -> list[Group]:
        """Sequences that are spread together: all, unless that were more padding than tokens; then those of a like
        length, the shortest of a group at least half as long as its longest. `rows` and `positions` are [N]."""
        if self.count * self.width <= 2 * len(rows):
            return [Group(self.count, self.width, None, self.places)]
        levels = torch.tensor([width.bit_length() for width in widths])  # [B]
        found = []
        for level in levels.unique().tolist():
            mine = levels == level  # [B]
            tokens = mine[rows].nonzero().view(-1)  # [n]
            ranks = (mine.cumsum(0) - 1)[rows[tokens]]  # [n], of a token's sequence in its group
            width = max(width for width in widths if width.bit_length() == level)
            places = ranks * width + positions[tokens]
            found.append(Group(int(mine.sum()), width, tokens.to(device), places.to(device)))
        return found

    def attend(self, query: Tensor, key: Tensor, value: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        """[1, heads, N, D] three times to [1, N, heads, D], by an attention over [B, heads, W, D] for each group."""
        parts = [group.gather(attend(*(group.spread(x) for x in (query, key, value)))) for group in self.groups]
        if len(parts) == 1:
            return parts[0][None]
        order = torch.cat([group.tokens for group in self.groups if group.tokens is not None]).argsort()
        return torch.cat(parts)[order][None]

    def arguments(self, implementation: str) -> dict[str, Any]:
        """What a model's forward pass needs beside the ids."""
        shared: dict[str, Any] = {"position_ids": self.positions[None], "use_cache": False}
        if implementation == NAME:
            # any mask of four dimensions is passed on as it is; `_attend` does not look at it
            return shared | {"attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool), "packing": self}
        return shared | dict(
            cu_seq_lens_q=self.ends, cu_seq_lens_k=self.ends, max_length_q=self.width, max_length_k=self.width
        )


@dataclass
class Group:
    """Sequences of a packed batch that are spread out together: B of them, W tokens of the longest, n in all."""

    count: int
    width: int
    tokens: Tensor | None  # [n], which of the batch's; None for all
    places: Tensor  # [n], in [B * W]

    @functools.cached_property
    def rows(self) -> Tensor:
        """[B * W], which of the n lies there; the first one on padding."""
        order = torch.arange(len(self.places), device=self.places.device)
        return order.new_zeros(self.count * self.width).index_copy_(0, self.places, order)

    @property
    def full(self) -> bool:
        """Are all of one length, so that nothing has to be moved?"""
        return self.tokens is None and len(self.places) == self.count * self.width

    def spread(self, x: Tensor) -> Tensor:
        """[1, heads, N, D] to [B, heads, W, D]; on padding some token, which no other sees."""
        _, heads, _, size = x.shape
        mine = x[0].transpose(0, 1) if self.tokens is None else x[0].transpose(0, 1)[self.tokens]
        wide = mine if self.full else _Spread.apply(mine, self.places, self.rows)
        return wide.reshape(self.count, self.width, heads, size).transpose(1, 2)

    def gather(self, x: Tensor) -> Tensor:
        """[B, W, heads, D] back to [n, heads, D]."""
        return x.flatten(0, 1) if self.full else gather(x.flatten(0, 1), self.places)


class _Spread(torch.autograd.Function):
    """Rows [n, ...] to places in [m, ...]. What lies between is a copy of the first row, which costs less than zeros;
    it gets no gradient from an attention whose real tokens do not see it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class _Gather(torch.autograd.Function):
    """Rows at some places of [m, ...], each at most once, as [n, ...]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.shape = x.shape
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.new_zeros(ctx.shape).index_copy_(0, ctx.saved_tensors[0], grad), None


def gather(x: Tensor, places: Tensor) -> Tensor:
    """x[places] for places that are all different: without the sum that indexing's own gradient is prepared for."""
    found: Tensor = _Gather.apply(x, places)
    return found


class _Reached(Exception):
    """The attention learnt where sequences lie."""


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | type[_Reached] | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """PyTorch's attention, sequence by sequence where the batch is packed."""
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
    if not isinstance(packing, Packing):
        raise packing

    def attend(*spread: Tensor) -> Tensor:
        if not _wider(spread[0]):
            return sdpa_attention_forward(module, *spread, None, **rest | {"is_causal": True})[0]
        with torch.autocast("cpu", enabled=False):  # which would make it bf16 again
            wide = [x.float() for x in spread]
            return sdpa_attention_forward(module, *wide, None, **rest | {"is_causal": True})[0].to(query.dtype)

    return packing.attend(query, key, value, attend), None


def _wider(query: Tensor) -> bool:
    """Is the attention over [B, heads, W, D] faster in fp32 than in bf16? torch 2.13's gradient is, on a CPU: three
    times at 40 tokens, twice at 128, and slower at 512."""
    return query.dtype == torch.bfloat16 and query.device.type == "cpu" and query.shape[2] <= SHORT


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def windowless(config: Any, longest: int) -> bool:
    """Do all layers see every token of sequences up to `longest`?"""
    window = getattr(config, "sliding_window", None)
    types = set(getattr(config, "layer_types", None) or ())  # none named: a window is every layer's (Phi-3, Mistral)
    if types - {"full_attention", "sliding_attention"}:
        return False
    return window is None or longest <= window or types == {"full_attention"}


def passes_masks(config: Any, longest: int) -> bool:
    """Does the model take a mask of four dimensions as it is, for every layer?"""
    return windowless(config.get_text_config(), longest) and config._attn_implementation in ("sdpa", NAME)


def use(language_model: Any, longest: int) -> bool:
    """Make a model ready for packed batches where it can be. Otherwise it gets padded ones.

    Models whose attention is neither PyTorch's nor FlashAttention, sees a window shorter than `longest`, or does not
    learn where sequences lie, stay as they are. PEFT's adapters may be on it.
    """
    if hasattr(language_model, "get_base_model"):
        language_model = language_model.get_base_model()
    config = language_model.config.get_text_config()
    if not windowless(config, longest):
        return False
    if "flash" in (config._attn_implementation or ""):
        return True
    if config._attn_implementation != "sdpa" or not language_model.is_backend_compatible():
        return config._attn_implementation == NAME
    language_model.set_attn_implementation(NAME)
    if _passes_on(language_model):
        return True
    language_model.set_attn_implementation("sdpa")
    return False


def _passes_on(language_model: Any) -> bool:
    """Does the model's forward pass hand on to its layers what it is given? (Nemotron's does not.)"""
    one = torch.zeros(1, 1, dtype=torch.long, device="meta")
    given = {"position_ids": one, "attention_mask": one.bool()[None, None], "use_cache": False, "packing": _Reached}
    try:
        with torch.device("meta"):
            type(language_model)(language_model.config)(one, **given)
    except _Reached:
        return True
    except FOREIGN:  # a forward pass that is called in a way of its own
        return False
    return False


def read_packed(language_model: Any) -> None:
    """From here on a batch of one row without a mask is read as its `position_ids` say: sequences begin at each 0.

    That is how transformers passes packed rows to FlashAttention, and TRL's collator makes them so.
    """

    def told(_trunk: Any, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        positions = given.get("position_ids")
        if positions is None or given.get("attention_mask") is not None or given.get("use_cache") is not False:
            return args, given
        return args, given | Packing.of(positions).arguments(NAME)

    if language_model.config.get_text_config()._attn_implementation == NAME:
        language_model.base_model.register_forward_pre_hook(told, with_kwargs=True)
