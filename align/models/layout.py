"""What one family's forward pass takes and holds, read off the model in memory."""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

import torch

from align.run.errors import ConfigError, recipe

LEARNED = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings?)$")  # GPT-2, OPT, BERT: a row for each position


def options(model: Any, **wanted: Any) -> dict[str, Any]:
    """Those of `wanted` that the family's forward pass knows.

    `output_router_logits=False`: a mixture of experts that TRL has trained reduces its routing by the mask at every
    pass, and transformers cannot do that for one new token after a cache.
    """
    known = _parameters(model.__class__)
    return {name: value for name, value in wanted.items() if name in known}


def cached(model: Any, cache: Any) -> dict[str, Any]:
    """What a forward pass is told so that it reads and writes a cache: transformers 5.24 has renamed it, and code that
    comes with a checkpoint may know the old name only."""
    name = "cache" if "cache" in _parameters(model.__class__) else "past_key_values"
    return {name: cache, "use_cache": True}


@functools.cache
def _parameters(model_class: Any) -> frozenset[str]:
    return frozenset(inspect.signature(model_class.forward).parameters)


def check_room(model: Any, longest: int, more: int = 0) -> None:
    """Stop before a sequence leaves the positions that a model has learned; rotary ones have no last one.

    Args:
        longest: tokens of the longest sequence that is read.
        more: tokens that may be sampled after it.

    Raises:
        ConfigError: where both together are too long.
    """
    config = model.config.get_text_config()
    room = getattr(config, "max_position_embeddings", None)
    if room is None or longest + more <= room:
        return
    if not any(LEARNED.search(name) and isinstance(part, torch.nn.Embedding) for name, part in model.named_modules()):
        return
    what = f"a prompt of {longest:,} and an answer of up to {more:,} tokens do" if more else f"{longest:,} tokens do"
    raise ConfigError(
        f"{config.model_type} has learned positions for {room:,} tokens, so {what} not fit: lower --max_prompt_length, "
        "or the longest answer (--max_new_tokens, --response_length)"
    )


def check_causal(path: str, model: Any) -> None:
    """Stop at a language model whose tokens see those after them: it would learn to copy the answer that it is shown.

    Raises:
        ConfigError: for an encoder that predicts masked words (BERT, RoBERTa), and for a decoder turned into one.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    config = model.config.get_text_config()
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING or config.model_type == "bert-generation"
    reads_on = masked and not (getattr(config, "is_decoder", False) or getattr(config, "causal", False))
    turned = getattr(config, "is_causal", True) is False or getattr(config, "use_bidirectional_attention", 0) in (
        1,
        "all",
    )
    if reads_on or turned:
        raise ConfigError(
            f"{path} is an encoder ({config.model_type}): each of its tokens sees those that follow, so it can read an "
            "answer and not write one; take a decoder (Llama, Qwen3, Gemma ...). A reward model can be an encoder: "
            f"{recipe('reward')} trains one"
        )
