"""Which layers can be run by the functions of this package, and running them so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from align.models.fast.decoding import Joint
from align.models.fast.formulas import Projection, normalise, rotate
from align.models.fast.functions import Half, Into, OutOf
from align.run.errors import FOREIGN

PARTS = {
    "": {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"},
    "self_attn": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mlp": {"gate_proj", "up_proj", "down_proj", "act_fn"},
}
TRIAL = 4  # tokens
JOINT_BYTES = 2**30


def use(*models: Any) -> int:
    """Let those layers of models on a CPU that are a Llama's (Mistral's, Qwen2's, SmolLM2's ...) run fused.

    A layer is one if it has a Llama's parts and gives what they give, which is tried on a few random tokens. It goes on
    to run by its own code where more is asked of it: weights in another precision than the hidden states, dropout,
    DoRA, quantised or sharded weights, hooks. What is saved, trained or switched stays as it was.

    Args:
        models: bare or with PEFT's adapters, whole in this process; None for one that is not there.

    Returns:
        how many layers are fused.
    """
    count = 0
    for model in filter(None, models):
        bare = model.get_base_model() if hasattr(model, "get_base_model") else model
        rotary = next((part for name, part in bare.named_modules() if name.rpartition(".")[2] == "rotary_emb"), None)
        for layer in (part for part in bare.modules() if rotary is not None and _has_parts(part)):
            count += _fused(layer) is not None or Layer(layer).replaces(rotary)
    return count


def _fused(part: Any) -> Layer | None:
    """What runs a layer, where that is `Layer`."""
    owner = getattr(vars(part).get("forward"), "__self__", None)
    return owner if isinstance(owner, Layer) else None


@contextmanager
def sampling(model: Any) -> Iterator[None]:
    """Inside the block the fused layers of a model sample with joint matrices: copies of its weights as they are now.

    Large models go without: they spend their time reading weights, and have no room for them twice.
    """
    found = [one for part in model.modules() if (one := _fused(part)) is not None]
    size = sum(weight.numel() * weight.element_size() for one in found for weight in one.layer.parameters())
    found = found if size <= JOINT_BYTES else []
    with torch.no_grad():
        for one in found:
            one.join()
    try:
        yield
    finally:
        for one in found:
            one.joint = None


def _has_parts(layer: Any) -> bool:
    if {name for name, _ in layer.named_children()} != PARTS[""]:
        return False
    inside = all({n for n, _ in getattr(layer, part).named_children()} == PARTS[part] for part in ("self_attn", "mlp"))
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    return inside and all(hasattr(n, "variance_epsilon") for n in norms)


class Layer:
    """One layer, and its forward pass by `Into` and `OutOf`."""

    def __init__(self, layer: Any):
        self.layer, self.own = layer, layer.forward
        self.known: dict[Any, tuple | None] = {}
        self.joint: tuple[Joint, ...] | None = None  # while sampling

    @property
    def norms(self) -> tuple[Any, Any]:
        """Before the attention and before the MLP, as they are now."""
        return self.layer._modules["input_layernorm"], self.layer._modules["post_attention_layernorm"]

    @property
    def projections(self) -> tuple[Any, ...]:
        """The three into the attention and the four after it, as they are now: PEFT puts its own in their place, and
        None stands for one that it has wrapped up with others."""
        attention, mlp = self.layer._modules["self_attn"]._modules, self.layer._modules["mlp"]._modules
        return (*(attention.get(name) for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
                *(mlp.get(name) for name in ("gate_proj", "up_proj", "down_proj")))  # fmt: skip

    def replaces(self, rotary: Any) -> bool:
        """Give the layer this forward pass if both say the same."""
        weight = self.norms[0].weight
        if weight.device.type != "cpu" or self._parts() is None:
            return False
        random = torch.Generator().manual_seed(0)
        x = torch.randn(1, TRIAL, len(weight), generator=random).to(weight.dtype)
        given = {"position_embeddings": rotary(x, torch.arange(TRIAL)[None]), "attention_mask": None}
        try:
            with torch.no_grad():
                own = self.own(x, **given)
                apart = (own - self.forward(x, **given)).float().norm() / (own - x).float().norm()
        except FOREIGN:  # a layer that is called in a way of its own
            return False
        if not apart < (1e-4 if weight.dtype == torch.float32 else 0.03):
            return False
        self.layer.forward = self.forward
        return True

    def forward(
        self, hidden_states: Tensor, attention_mask: Any = None, position_embeddings: Any = None, **given: Any
    ) -> Tensor:
        """As the layer's own, [B, T, H] to [B, T, H]."""
        parts = self._parts()
        if parts is None or not self._takes(hidden_states, parts):
            return self.own(
                hidden_states, attention_mask=attention_mask, position_embeddings=position_embeddings, **given
            )
        (into, before), (out_of, after) = parts
        cos, sin = (x[:, :, None, : into.head // 2] for x in position_embeddings)
        if self.joint is not None and not torch.is_grad_enabled():
            return self._sample(hidden_states, cos, sin, attention_mask, given)
        query, key, value = Into.apply(hidden_states, cos, sin, into, *before)
        attended = self._attend(query, key, value, attention_mask, given)
        return OutOf.apply(hidden_states, attended.flatten(2), out_of, *after)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Any, given: dict[str, Any]) -> Tensor:
        """The model's own attention, with its cache: [B, heads, T, D] three times to [B, T, heads, D]."""
        attention = self.layer.self_attn
        caches = [given.pop(name, None) for name in ("cache", "past_key_values")]
        for cache in (one for one in caches if one is not None):
            key, value = cache.update(key, value, attention.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS[attention.config._attn_implementation]
        if (window := getattr(attention, "sliding_window", None)) is not None:
            given["sliding_window"] = window
        given |= dict(dropout=0.0, scaling=attention.scaling)
        attended: Tensor = attend(attention, query, key, value, mask, **given)[0]
        return attended

    def _sample(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Any, given: dict[str, Any]) -> Tensor:
        """The forward pass with joint matrices, which are there while a model samples."""
        assert self.joint is not None
        into, out, gates, down = self.joint
        first, second = self.norms
        flat, head = x.flatten(0, 1), self.layer.self_attn.head_dim
        both = into(normalise(flat, first.weight, first.variance_epsilon)[0]).view(*x.shape[:2], -1, head)
        keys = self.projections[1].out_features // head
        turned, value = both.split([both.shape[2] - keys, keys], 2)
        turned = rotate(turned, cos, sin).transpose(1, 2)
        query, key = turned[:, :-keys], turned[:, -keys:]
        attended = self._attend(query, key, value.transpose(1, 2), mask, given)
        flat = out(attended.flatten(2).flatten(0, 1)).add_(flat)
        gate, up = gates(normalise(flat, second.weight, second.variance_epsilon)[0]).chunk(2, 1)
        return down(silu(gate).mul_(up)).add_(flat).view(x.shape)

    def join(self) -> None:
        """Lay the weights that are active together for `_sample`."""
        if (parts := self._parts()) is not None:
            (into, before), (out_of, after) = parts
            q, k, v = into.projections(before)
            out, gate, up, down = out_of.projections(after)
            self.joint = tuple(map(Joint.of, ([q, k, v], [out], [gate, up], [down])))

    def _takes(self, x: Tensor, parts: tuple) -> bool:
        """Is nothing asked for that the functions do not do?"""
        weight = parts[0][1][1]
        low = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") != x.dtype
        drops = self.layer.training and getattr(self.layer.self_attn, "attention_dropout", 0.0)
        return x.dtype == weight.dtype == parts[0][1][0].dtype and x.device.type == "cpu" and not low and not drops

    def _parts(self) -> tuple | None:
        """Settings and tensors of both halves, through the adapters that are active; None where they are not plain."""
        key = tuple((part, _turn(part)) for part in self.projections), self.norms, self.layer.training
        if key not in self.known:
            self.known[key] = self._read()
        return self.known[key]

    def _read(self) -> tuple | None:
        halves = []
        whole = self.projections
        for norm, parts in zip(self.norms, (whole[:3], whole[3:]), strict=True):
            projections = [_projection(part) for part in parts]
            plain = [one for one in projections if one is not None]
            if len(plain) < len(parts) or not _bare(norm):
                return None
            half = Half(norm.variance_epsilon, self.layer.self_attn.head_dim, tuple(p.scale for p in plain))
            halves.append((half, (norm.weight, *(tensor for p in plain for tensor in p[:4]))))
        return tuple(halves)


def _turn(part: Any) -> Any:
    """Which adapter's turn it is in a layer, and its own matrix; None for nobody's, and for a layer without any. A hook
    counts."""
    known = vars(part) if part is not None else {}
    if part is None or _hooked(part):
        return "other"
    if "_active_adapter" not in known or known["_disable_adapters"]:
        return None
    active, merged = known["_active_adapter"], known["merged_adapters"]
    names = (active,) if isinstance(active, str) else tuple(active)
    downs = part._modules.get("lora_A")
    return (*names, *merged, *(downs._modules.get(name) for name in names if downs is not None))


def _bare(part: Any) -> bool:
    """Is there nothing but a module with a plain weight?"""
    weight: Any = getattr(part, "weight", None)
    whole = type(weight) is nn.Parameter and not hasattr(weight, "ds_id") and not weight.is_meta
    return whole and not part._modules and not _hooked(part)


def _hooked(part: Any) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks)


def _projection(part: Any) -> Projection | None:
    """A linear layer's weights, with those of its active adapter; None if it is no plain one."""
    from peft.tuners.lora import Linear

    if part is None:
        return None
    base = part.base_layer if type(part) is Linear else part
    if type(base) is not nn.Linear or not _bare(base) or _hooked(part):
        return None
    if type(part) is not Linear or part.disable_adapters:
        return Projection(base.weight, base.bias, None, None, 0.0)
    names = part.active_adapters
    if len(names) != 1 or part.merged or names[0] in part.lora_variant:
        return None
    if (name := names[0]) not in part.lora_A:
        return Projection(base.weight, base.bias, None, None, 0.0)
    down, up, drop = part.lora_A[name], part.lora_B[name], part.lora_dropout[name]
    drops = part.training and getattr(drop, "p", 0.0) > 0
    if drops or not (_bare(down) and _bare(up)) or up.bias is not None:
        return None
    return Projection(base.weight, base.bias, down.weight, up.weight, part.scaling[name])
