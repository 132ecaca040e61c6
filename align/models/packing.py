"""Batches without padding: all sequences in one row, each attending to itself alone.

A linear layer does not care where sequences begin, so its work on padding is pure loss: a third of it in a batch of
short answers. Here the whole model runs on the N real tokens of a batch, and only the attention itself, which must keep
sequences apart, spreads them out to [B, W]. With FlashAttention nothing is spread: it takes the boundaries as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "packed_sdpa"


class Packing:
    """Where the sequences of a packed batch lie: B sequences, W tokens of the longest, N tokens in all."""

    def __init__(self, widths: list[int], device: Any):
        self.count, self.width = len(widths), max(widths)
        sizes = torch.tensor(widths)
        self.starts = (sizes.cumsum(0) - sizes).to(device)  # [B]
        self.rows = torch.repeat_interleave(torch.arange(len(widths)), sizes).to(device)  # [N]
        self.positions = torch.arange(int(sizes.sum()), device=device) - self.starts[self.rows]  # [N], within its own
        self.places = self.rows * self.width + self.positions  # [N], in [B * W]
        self.ends = torch.nn.functional.pad(sizes.cumsum(0), (1, 0)).to(device=device, dtype=torch.int32)

    def spread(self, x: Tensor) -> Tensor:
        """[1, heads, N, D] to [B, heads, W, D], zeros on padding."""
        _, heads, _, size = x.shape
        wide = x.new_zeros(self.count * self.width, heads, size).index_copy(0, self.places, x[0].transpose(0, 1))
        return wide.view(self.count, self.width, heads, size).transpose(1, 2)

    def gather(self, x: Tensor) -> Tensor:
        """[B, W, heads, D] back to [1, N, heads, D]."""
        return x.flatten(0, 1)[self.places][None]

    def arguments(self, implementation: str) -> dict[str, Any]:
        """What a model's forward pass needs beside the ids."""
        shared: dict[str, Any] = {"position_ids": self.positions[None], "use_cache": False}
        if implementation == NAME:
            # any mask of four dimensions is passed on as it is; `_attend` does not look at it
            return shared | {"attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool), "packing": self}
        return shared | dict(
            cu_seq_lens_q=self.ends, cu_seq_lens_k=self.ends, max_length_q=self.width, max_length_k=self.width
        )


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    packing: Packing | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """PyTorch's attention, sequence by sequence where the batch is packed."""
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, mask, **rest)
    query, key, value = (packing.spread(x) for x in (query, key, value))
    out, _ = sdpa_attention_forward(module, query, key, value, None, **rest | {"is_causal": True})
    return packing.gather(out), None


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

    Models whose attention is neither PyTorch's nor FlashAttention, or sees a window shorter than `longest`, stay as
    they are.
    """
    config = language_model.config.get_text_config()
    if not windowless(config, longest):
        return False
    if "flash" in (config._attn_implementation or ""):
        return True
    if config._attn_implementation != "sdpa" or not language_model.is_backend_compatible():
        return config._attn_implementation == NAME
    language_model.set_attn_implementation(NAME)
    return True
