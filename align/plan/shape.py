"""A checkpoint's layout from its config.json: how many weights it has, and of which kind its layers are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from align.models import adapters, checkpoints, heads
from align.models.fast.layers import PARTS
from align.run.errors import ConfigError, one_sentence

LLAMA = {"q_proj", "k_proj", "v_proj", "o_proj"}
GATED = {"gate_proj", "up_proj", "down_proj"}
# Widths of the MLP that a layer keeps for the backward pass, by its activation function: what goes in and comes out
# of each operation that needs it (gelu_new is written as five of them)
KEPT = {"gelu_new": 5, "gelu_fast": 5, "gelu_pytorch_tanh": 2, "gelu": 2, "relu": 2, "silu": 2}


@dataclass(frozen=True)
class Layout:
    """What memory depends on. Widths are in numbers, not in bytes."""

    family: str
    layers: int
    hidden: int  # H
    heads: int
    query: int  # heads x D: what the attention gives
    keys: int  # key and value heads x D, of one of the two
    inner: int  # I, of the MLP
    vocabulary: int  # V
    parameters: int  # all of them
    in_layers: int  # those in the layers
    tied: bool = True  # is the matrix to the vocabulary that of the embeddings?
    gated: bool = True  # SwiGLU and its like: three matrices in the MLP
    norms: int = 2  # of a layer
    centred: bool = False  # LayerNorm and not RMSNorm
    head_norms: bool = False  # of query and key (Qwen3)
    mlp_kept: int = 2  # see KEPT
    dropout: float = 0.0
    fusable: bool = False  # do the fused layers of `align.models.fast` run it, on a CPU?
    unknown: str = ""  # why nothing can be said of its activations

    @property
    def embeddings(self) -> int:
        """The matrix from or to the vocabulary: V H."""
        return self.vocabulary * self.hidden


def of_checkpoint(path: str, revision: str = "main", *, reward_model: bool = False) -> Layout:
    """The layout of a checkpoint, or of what an adapter changes; only its config.json is read.

    Raises:
        ConfigError: where it has none, or names an architecture that transformers does not know.
    """
    try:
        whole, revision = adapters.whole_below(path, revision)
        return of_model(heads.skeleton(whole, revision, reward_model=reward_model))
    except ConfigError as error:
        raise ConfigError(
            f"a plan cannot know how many weights {path} has, nor anything that follows from them: {error}"
        ) from error


def of_model(model: Any) -> Layout:
    """The layout of a model's modules, with or without weights."""
    config = model.config.get_text_config()
    layers = _layers(model, config.num_hidden_layers)
    count = getattr(config, "num_attention_heads", None) or 1
    size = getattr(config, "head_dim", None) or config.hidden_size // count
    shared = getattr(config, "num_key_value_heads", None) or count
    head = model.get_output_embeddings()
    tied = head is None or head.weight is model.get_input_embeddings().weight or bool(config.tie_word_embeddings)
    total = sum(weight.numel() for weight in model.parameters())
    inside = sum(weight.numel() for layer in layers for weight in layer.parameters())
    common: dict[str, Any] = dict(
        family=config.model_type, layers=config.num_hidden_layers, hidden=config.hidden_size, heads=count,
        query=count * size, keys=shared * size, vocabulary=model.get_input_embeddings().num_embeddings,
        parameters=total, in_layers=inside, tied=tied,
    )  # fmt: skip
    return Layout(**common, **_block(layers[0], config)) if layers else Layout(**common, **_unknown(config))


def _layers(model: Any, count: int) -> list[Any]:
    """The layers of the trunk."""
    from torch import nn

    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part) == count]
    sizes = [sum(weight.numel() for weight in part.parameters()) for part in lists]
    return list(lists[sizes.index(max(sizes))]) if lists else []


def _block(layer: Any, config: Any) -> dict[str, Any]:
    """What a layer is made of, where it is a Llama's or a GPT-2's, or near to one."""
    parts = {name: {n for n, _ in part.named_children()} for name, part in layer.named_children()}
    norms = [part for name, part in layer.named_children() if "norm" in name or name.startswith("ln_")]
    act = next(filter(None, (getattr(config, n, None) for n in ("hidden_act", "activation_function"))), "silu")
    drops = [getattr(config, name, None) or 0.0 for name in ("attention_dropout", "attn_pdrop", "resid_pdrop")]
    common: dict[str, Any] = dict(norms=len(norms), dropout=max(drops), mlp_kept=KEPT.get(act, 2))
    attention, mlp = parts.get("self_attn", set()), parts.get("mlp", set())
    if attention >= LLAMA and mlp >= GATED:
        plain = {name: parts[name] for name in PARTS if name} | {"": set(parts)} == PARTS
        return common | dict(
            inner=layer.mlp.gate_proj.out_features, head_norms="q_norm" in attention, fusable=plain and not max(drops)
        )
    if {"c_attn", "c_proj"} <= parts.get("attn", set()) and {"c_fc", "c_proj"} <= mlp:
        return common | dict(inner=layer.mlp.c_fc.nf, gated=False, centred=True)
    return _unknown(config)


def _unknown(config: Any) -> dict[str, Any]:
    why = (
        f"what a layer of {config.model_type} keeps for its gradients; weights, gradients and optimizer are counted, "
        "its activations are left out, so the run will need more than this plan says"
    )
    return dict(inner=getattr(config, "intermediate_size", None) or 4 * config.hidden_size, unknown=why)


def lora(path: str, model_args: Any, *, reward_model: bool = False) -> tuple[int, float]:
    """Numbers that LoRA trains, and the sum of the ranks in one layer: what its inner products are wide.

    Raises:
        ConfigError: for settings that PEFT refuses.
    """
    import torch
    from peft import get_peft_model

    whole, revision = adapters.whole_below(path, model_args.model_revision)
    model = heads.skeleton(whole, revision, reward_model=reward_model)
    layers = model.config.get_text_config().num_hidden_layers
    with one_sentence("PEFT refuses these settings", kind=ConfigError), torch.device("meta"):
        made = get_peft_model(model, checkpoints.lora_config(model_args, reward_model=reward_model))
    trained = sum(weight.numel() for weight in made.parameters() if weight.requires_grad)
    downs = sum(len(weight) for name, weight in made.named_parameters() if ".lora_A." in name)
    return trained, downs / layers
