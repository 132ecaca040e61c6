"""While sampling, one matrix instead of three: W + BA is made once for all tokens."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from align.ppo.shared.switching import Switch


@contextlib.contextmanager
def folded(switch: Switch) -> Iterator[None]:
    """Sample with the policy's changes added to its weights: a third off the time of a token.

    The sums are laid beside the weights and dropped, never subtracted, so that the backbone stays the reference to the
    bit. Layers that cannot be folded exactly keep running as they are. In lower precision none can: the sum would be
    rounded, and another policy than the one that learns would sample.
    """
    layers = [] if torch.is_autocast_enabled(switch.model.device.type) else _foldable(switch)
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


def _foldable(switch: Switch) -> list[Any]:
    """Linear layers in fp32 whose weight is one plain tensor that no other module uses."""
    from peft.tuners.lora import Linear
    from peft.tuners.lora.variants import DoraLinearVariant

    found = [
        layer for layer in switch.layers
        if type(layer) is Linear and "default" in layer.lora_A and not layer.lora_bias["default"]
        and type(layer.lora_variant.get("default")) in (type(None), DoraLinearVariant)
    ]  # fmt: skip
    if not found:
        return []
    uses = Counter(id(weight) for part in switch.model.modules() for weight in part._parameters.values())
    return [layer for layer in found if _plain(layer.base_layer, uses)]


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
