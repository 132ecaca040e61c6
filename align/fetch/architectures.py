"""Models as llama.cpp lays them out: which can be written, what the file says of them, and what becomes of each weight.

Llama's q and k are stored with the halves of each head interleaved, since llama.cpp turns neighbours where transformers
turns halves; Gemma's norms with the 1 that transformers adds to them. What llama.cpp takes for granted of an
architecture and no key says has to hold of the checkpoint, or it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from align.models import adapters
from align.run.errors import ConfigError
from align.run.received import permission

# model_type of config.json: the architecture of the file
ARCHITECTURES = {
    "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma2": "gemma2",
    "gemma3_text": "gemma3",
}  # fmt: skip
# What no key of the file says: the only values with which the model is the one that llama.cpp computes
TAKEN_FOR_GRANTED: dict[str, dict[str, Any]] = {
    "llama": {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "sliding_window": None},
    "qwen2": {"hidden_act": "silu", "use_sliding_window": False},
    "qwen3": {"hidden_act": "silu", "use_sliding_window": False, "attention_bias": False},
    "gemma2": {"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, "tie_word_embeddings": True},
    "gemma3": {"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, "tie_word_embeddings": True,
               "attn_logit_softcapping": None, "final_logit_softcapping": None},
}  # fmt: skip
PATTERN = {"gemma2": 2, "gemma3": 6}  # every so many layers one sees all of the text, the others a window
LARGEST = {"gemma2": 46, "gemma3": 62}  # layers of the 27B, whose attention is scaled by hidden size over heads
LOCAL_BASE = 10_000.0  # of Gemma 3's layers with a window
SCALINGS = ("default", "linear", "llama3")
OTHERS = "for others, llama.cpp's own convert_hf_to_gguf.py reads the checkpoint (of an adapter: align merge-adapter)"
F16_MOST = 65504.0


def settings_of(path: str) -> dict[str, Any]:
    """The settings of a checkpoint, or of the one that an adapter changes, as transformers completes them.

    Raises:
        ConfigError: for a model that cannot be written; nothing of it has been loaded.
    """
    from transformers import AutoConfig

    folder = adapters.located(path)
    if folder is not None and adapters.settings(folder).get("task_type") == "SEQ_CLS":
        raise ConfigError(f"{path} is a reward model, and llama.cpp has no use for its scores; give a language model")
    whole, revision = adapters.whole_below(path)
    with permission.loading(path):
        found = AutoConfig.from_pretrained(whole, revision=revision, **permission.code(whole)).to_dict()
    check(path, found)
    return found


def check(path: str, settings: dict[str, Any]) -> str:
    """The architecture of the file for a model with these settings.

    Raises:
        ConfigError: if it would be another model there, or none.
    """
    kind = settings.get("model_type")
    heads = [str(name) for name in settings.get("architectures") or []]
    if any(name.endswith("ForSequenceClassification") for name in heads):
        raise ConfigError(f"{path} is a reward model, and llama.cpp has no use for its scores; give a language model")
    if kind not in ARCHITECTURES:
        raise ConfigError(
            f"{path} is a model of the kind {kind}; GGUF is written of {', '.join(ARCHITECTURES)}; {OTHERS}"
        )
    if settings.get("quantization_config"):
        raise ConfigError(
            f"{path} holds packed weights (quantization_config); give the checkpoint that they were made of"
        )
    architecture = ARCHITECTURES[kind]
    wrong = [f"{name}={settings[name]}" for name, wanted in TAKEN_FOR_GRANTED[architecture].items()
             if name in settings and settings[name] != wanted]  # fmt: skip
    wrong += [*_scaling(settings, architecture), *(_gemma(settings, architecture) if architecture in PATTERN else ())]
    if wrong:
        raise ConfigError(f"{path} has {', '.join(wrong)}, which a {architecture} file cannot say; {OTHERS}")
    return architecture


def rope(settings: dict[str, Any]) -> dict[str, Any]:
    """How positions turn, of the layers that see all of the text."""
    found = settings.get("rope_parameters") or {}
    return found.get("full_attention", found)


def _scaling(settings: dict[str, Any], architecture: str) -> list[str]:
    found = rope(settings)
    kind, part = found.get("rope_type", "default"), found.get("partial_rotary_factor", 1.0)
    known = kind in SCALINGS and (kind != "llama3" or architecture == "llama")
    return [f"rope_type={kind}"] * (not known) + [f"partial_rotary_factor={part}"] * (part not in (None, 1.0))


def _gemma(settings: dict[str, Any], architecture: str) -> list[str]:
    """What is wrong with a Gemma's layers and attention for llama.cpp, which knows them by the architecture's name."""
    layers, every = settings["num_hidden_layers"], PATTERN[architecture]
    wanted = ["sliding_attention" if (layer + 1) % every else "full_attention" for layer in range(layers)]
    wrong = [f"layer_types other than each {every}th full"] if settings.get("layer_types", wanted) != wanted else []
    scale = settings["head_dim"]
    if layers == LARGEST[architecture]:
        scale = settings["hidden_size"] // settings["num_attention_heads"]
    if settings["query_pre_attn_scalar"] != scale:
        wrong.append(f"query_pre_attn_scalar={settings['query_pre_attn_scalar']}, where {scale} is taken")
    local = (settings.get("rope_parameters") or {}).get("sliding_attention", {}).get("rope_theta", LOCAL_BASE)
    if architecture == "gemma3" and local != LOCAL_BASE:
        wrong.append(f"rope_theta={local} of its windows, where {LOCAL_BASE:g} is taken")
    caps = ("attn_logit_softcapping", "final_logit_softcapping") if architecture == "gemma2" else ()
    return wrong + [f"no {name}" for name in caps if not settings.get(name)]


def describe(writer: Any, settings: dict[str, Any], rows: int) -> None:
    """Write what the file says of the model. `rows`: of its embedding."""
    architecture = ARCHITECTURES[settings["model_type"]]
    heads = settings["num_attention_heads"]
    head = settings.get("head_dim") or settings["hidden_size"] // heads
    writer.add_context_length(settings["max_position_embeddings"])
    writer.add_embedding_length(settings["hidden_size"])
    writer.add_block_count(settings["num_hidden_layers"])
    writer.add_feed_forward_length(settings["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(settings.get("num_key_value_heads") or heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(settings["rms_norm_eps"])
    writer.add_vocab_size(rows)
    turned = rope(settings)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(turned.get("rope_theta") or 10_000.0)
    if turned.get("rope_type") == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(turned["factor"])
    if architecture in PATTERN:
        writer.add_sliding_window(settings["sliding_window"])
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(settings["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(settings["final_logit_softcapping"])


def tensors(path: str, model: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The file's names and values, fp32: matrices [out, in], norms and biases [H].

    Raises:
        ConfigError: for a weight that the architecture has no name for.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    settings = model.config.to_dict()
    architecture = ARCHITECTURES[settings["model_type"]]
    number = next(key for key, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(number, settings["num_hidden_layers"])
    heads = settings["num_attention_heads"]
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and settings["tie_word_embeddings"]:
            continue
        stem, _, kind = name.rpartition(".")
        mapped = names.get_name(stem)
        if mapped is None:
            raise ConfigError(f"{path} has a weight {name}, for which a {architecture} file has no place; {OTHERS}")
        values = weight.detach().float().cpu().numpy()
        if architecture == "llama" and stem.endswith(("q_proj", "k_proj")):
            values = interleaved(values, heads if stem.endswith("q_proj") else settings["num_key_value_heads"])
        if architecture in PATTERN and name.endswith("norm.weight"):
            values = values + 1
        yield f"{mapped}.{kind}", values
    if rope(settings).get("rope_type") == "llama3":
        yield "rope_freqs.weight", slower(model, settings)


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """A projection [R, D] whose rows are heads: the two halves of each are laid one by one beside each other."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def slower(model: Any, settings: dict[str, Any]) -> np.ndarray:
    """By how much each frequency of Llama 3's scaling is slower than without it: [D/2]."""
    scaled = model.model.rotary_emb.inv_freq.detach().double().cpu().numpy()
    plain = float(rope(settings)["rope_theta"]) ** (-np.arange(len(scaled)) / len(scaled))
    return (plain / scaled).astype(np.float32)


def packed(path: str, name: str, values: np.ndarray, kind: str) -> tuple[np.ndarray, Any]:
    """A weight as it is stored, and its type: matrices [out, in] as f16 or q8_0, all else [H] in fp32.

    Raises:
        ConfigError: for values that f16 does not hold.
    """
    from gguf import GGMLQuantizationType, quantize

    if values.ndim == 1:
        return values.astype(np.float32), None
    most = float(np.abs(values).max(initial=0))
    if not most <= F16_MOST:
        raise ConfigError(f"{path}: {name} holds {most:.4g}, and f16 ends at {F16_MOST:.0f}; it cannot be written")
    if kind == "q8_0" and values.shape[-1] % 32 == 0:
        return quantize(np.ascontiguousarray(values), GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0
    return values.astype(np.float16), None
