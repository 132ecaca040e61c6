"""While sampling, one matrix instead of three: W + BA is made once for all tokens."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from align.models import weights
from align.ppo.shared.switching import Switch


@contextlib.contextmanager
def folded(switch: Switch) -> Iterator[None]:
    """Sample with the policy's changes added to its weights: a third off the time of a token.

    The sums are laid beside the weights and dropped, never subtracted, so that the backbone stays the reference to the
    bit. Layers that cannot be folded exactly keep running as they are. In lower precision none can: the sum would be
    rounded, and another policy than the one that learns would sample. There, the two matrices of a change are put into
    that precision once instead of at every token, and PEFT's own way around them is left out.
    """
    device = switch.model.device.type
    if torch.is_autocast_enabled(device):
        with _cast(switch, torch.get_autocast_dtype(device)):
            yield
        return
    layers = _foldable(switch)
    before = [layer.base_layer.weight.data for layer in layers]
    for layer in layers:
        with torch.no_grad():
            layer.base_layer.weight.data = _sum(layer)
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, data in zip(layers, before, strict=True):
            layer.base_layer.weight.data = data
            layer._disable_adapters = False


@contextlib.contextmanager
def _cast(switch: Switch, dtype: torch.dtype) -> Iterator[None]:
    """Run plain LoRA layers as two products more, with factors that are in `dtype` already."""
    layers = [layer for layer in switch.layers if _is_plain_lora(layer) and not layer.lora_variant.get("default")]
    before = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = _short_forward(layer, dtype)
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            del layer.forward
            if own is not None:
                layer.forward = own


def _short_forward(layer: Any, dtype: torch.dtype) -> Any:
    """x W^T + (x A^T) (s B)^T, as it is computed in training: [..., in] to [..., out]."""
    base, scale = layer.base_layer, layer.scaling["default"]
    down = layer.lora_A["default"].weight.detach().to(dtype)
    up = (layer.lora_B["default"].weight.detach() * scale).to(dtype)

    once = type(base) is nn.Linear and down.device.type == "cpu"  # as `weights.round_once` has it

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        small = nn.functional.linear(nn.functional.linear(hidden, down), up)
        if once:
            return weights.accumulated(base, hidden, small)
        whole = base(hidden)
        return whole + small.to(whole.dtype)

    return forward


def _foldable(switch: Switch) -> list[Any]:
    """Linear layers in fp32 whose weight is one plain tensor that no other module uses."""
    from peft.tuners.lora.variants import DoraLinearVariant

    found = [
        layer for layer in switch.layers
        if _is_plain_lora(layer) and type(layer.lora_variant.get("default")) in (type(None), DoraLinearVariant)
    ]  # fmt: skip
    if not found:
        return []
    uses = Counter(id(weight) for part in switch.model.modules() for weight in part._parameters.values())
    return [layer for layer in found if _plain(layer.base_layer, uses)]


def _is_plain_lora(layer: Any) -> bool:
    """Is it a linear layer with the policy's two matrices, whole ones, and no bias of theirs?"""
    from peft.tuners.lora import Linear

    if type(layer) is not Linear or "default" not in layer.lora_A or layer.lora_bias["default"]:
        return False
    factors = [part["default"].weight for part in (layer.lora_A, layer.lora_B)]
    return not any(hasattr(one, "ds_id") or type(one.data) is not torch.Tensor for one in factors)


def _plain(layer: Any, uses: Counter) -> bool:
    """Can its weight be exchanged for another?"""
    weight: Any = getattr(layer, "weight", None)
    whole = type(weight) is nn.Parameter and not hasattr(weight, "ds_id")
    return whole and weight.dtype == torch.float32 and uses[id(weight)] == 1


def _sum(layer: Any) -> torch.Tensor:
    """The layer's one matrix, [out, in]: W + BA, and with DoRA its rows at their learnt lengths."""
    weight = layer.base_layer.weight.data
    if variant := layer.lora_variant.get("default"):
        return variant.merge_safe(layer, "default", weight)
    return weight + layer.get_delta_weight("default")
