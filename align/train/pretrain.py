"""Pretraining: documents to packed blocks in which no document sees another, and bits per byte on held-out text.

B blocks, T tokens per block.
"""

from __future__ import annotations

import inspect
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments

from align.data import arrow, chat, prepare, splits
from align.data.large import cached, stream
from align.models import adapters, checkpoints, layout
from align.run import errors
from align.run.arguments import CodeArguments, DataArguments
from align.run.errors import ConfigError, fail, recipe
from align.train import measuring

BLOCK = ("input_ids", "position_ids")
AT_ONCE = 64  # blocks that are cut at once
DOCUMENTS = 2_000  # documents whose blocks are simply held in memory


@dataclass
class PretrainConfig(CodeArguments, TrainingArguments):
    """transformers' training arguments, and what a model from scratch needs beside them."""

    max_length: int = field(default=1024, metadata={"help": "Tokens per block."})
    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "Tokenizer of a model made from scratch."}
    )
    model_config: dict | str | None = field(
        default=None,
        metadata={"help": "A new model: {model_type: llama, hidden_size: 128, …}. Without it, model_name_or_path is "
                  "continued."},
    )  # fmt: skip

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "model_config"]


def check(model_args: Any, args: PretrainConfig) -> None:
    """Stop at combinations that cannot work."""
    problems = []
    if args.model_config is None and model_args.model_name_or_path is None:
        problems.append(
            "model_name_or_path is needed (a model to continue), or model_config and tokenizer_name_or_path"
        )
    room = args.model_config.get("max_position_embeddings") if isinstance(args.model_config, dict) else None
    if room and args.max_length > room:
        problems.append(f"max_length={args.max_length}: the new model has positions for {room}; use that, or less")
    if args.model_config is not None and args.tokenizer_name_or_path is None:
        problems.append(f"tokenizer_name_or_path is needed beside model_config; make one with {recipe('tokenizer')}")
    if model_args.use_peft:
        problems.append("use_peft: pretraining trains all weights; LoRA is for sft, reward, dpo and ppo")
    if "flash" in str(model_args.attn_implementation) and args.per_device_train_batch_size > 1:
        problems.append(
            "flash attention sees document borders at --per_device_train_batch_size 1 only; use that, or sdpa"
        )
    if problems:
        fail(problems)


def size(values: dict[str, Any]) -> int | None:
    """Parameters of the model that a run continues or makes; None where its settings cannot tell (`check` says why)."""
    settings, tokenizer = values.get("model_config"), values.get("tokenizer_name_or_path")
    if settings is None or tokenizer is None:
        return adapters.of_settings(values)
    try:
        with torch.device("meta"):
            model = new_model(json.loads(settings) if isinstance(settings, str) else settings,
                              checkpoints.load_tokenizer(str(tokenizer)))  # fmt: skip
    except (ConfigError, json.JSONDecodeError):
        return None
    return sum(weight.numel() for weight in model.parameters())


def new_model(settings: dict[str, Any], tokenizer: Any, attention: str | None = None) -> Any:
    """A model with random weights. The tokenizer decides the vocabulary and the special tokens; seed before this."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = dict(settings)
    kind = settings.pop("model_type", None)
    try:
        config = AutoConfig.for_model(
            kind, **settings, vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
    except (ValueError, KeyError) as error:
        raise ConfigError(f"model_config: model_type {kind!r} is not one that transformers knows ({error})") from error
    unknown = [name for name in settings if name not in type(config)().to_dict()]
    if unknown:
        raise ConfigError(f"model_config: {config.model_type} has no {', '.join(unknown)}")
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    layout.check_causal("model_config", model)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id]
    return model


def pack(documents: Iterable[Any], length: int) -> Iterator[dict[str, list[int]]]:
    """Token ids of documents, one after the other, cut into blocks of `length`; the unfilled last block is left out.

    Yields:
        `input_ids` and `position_ids` (from 0 in every document), each of length T. Positions that start again are what
        transformers' attention masks read document borders from (`find_packed_sequence_indices`).
    """
    waiting: list[tuple[np.ndarray, np.ndarray]] = []  # ids, and each one's position in its document
    count = 0
    for document in itertools.chain(documents, [None]):  # None: no more is to come
        if document is not None:
            waiting.append((np.asarray(document, np.int32), np.arange(len(document), dtype=np.int32)))
            count += len(document)
        if count < length or (document is not None and count < AT_ONCE * length):
            continue
        ids, positions = (np.concatenate(parts) for parts in zip(*waiting, strict=True))
        whole = count // length * length
        for at in range(0, whole, length):
            where = positions[at : at + length]
            opening = int(np.argmax(where == 0)) if (where == 0).any() else length
            # a document cut by the border begins again: rotary positions are relative
            where = np.concatenate([where[:opening] - where[0], where[opening:]])
            yield {"input_ids": ids[at : at + length].tolist(), "position_ids": where.tolist()}
        waiting, count = [(ids[whole:], positions[whole:])], count - whole


def collate(blocks: list[dict[str, list[int]]]) -> dict[str, Any]:
    """Blocks to tensors [B, T]. Without a mask and a cache: only then does attention ask the positions for borders.

    `labels` are -100 at each document's first token, which nothing inside the document predicts.
    """
    ids, positions = (torch.tensor([block[name] for block in blocks]) for name in ("input_ids", "position_ids"))
    labels = ids.masked_fill(positions == 0, -100)
    return {"input_ids": ids, "position_ids": positions, "labels": labels, "use_cache": False}


@dataclass
class Corpus(splits.Splits):
    """Blocks to train on, blocks of held-out text, and the number of bytes that text has."""

    test_bytes: int = 0


def corpus(args: DataArguments, tokenizer: Any, *, length: int, seed: int, how: stream.How | None = None) -> Corpus:
    """Load text, tokenise and pack it; where `how` says how to stream it, the train split as it arrives."""
    args.template_date = chat.pinned(tokenizer)  # for the record
    documents = prepare.texts(args, seed=seed, tokenizer=tokenizer, ids=True, how=how)
    test, arriving = _blocks(documents.test, length), documents.stream
    train = arriving.dataset(partial(_arriving, length=length)) if arriving else _blocks(documents.train, length)
    if train is None:
        raise errors.DataError(f"{args.dataset_name}: fewer than max_length={length} tokens in all; lower --max_length")
    return Corpus(train, test, documents.reports, stream=arriving, test_bytes=_packed_bytes(test or [], tokenizer))


def _blocks(documents: Any, length: int) -> Any:
    """Blocks of a column of token ids, in memory where they are few, or kept as files; None where there are none."""
    if documents is None:
        return None
    rows = documents.source.with_format("arrow")
    ids = (one for table in rows.iter(DOCUMENTS) for one in table.column("input_ids").combine_chunks())
    blocks = pack((one.values.to_numpy() for one in ids), length)
    if len(documents) <= DOCUMENTS:
        made = arrow.of_ids(blocks, BLOCK)
    else:
        parts = ["blocks", cached.contents(documents.source), length, inspect.getsource(pack)]
        made = arrow.opened(cached.kept(parts, lambda folder: arrow.of_ids(blocks, BLOCK, folder)))
    return made if len(made) else None


def _arriving(documents: Iterable[dict], length: int) -> Iterator[dict[str, list[int]]]:
    """The blocks of what one reader of a stream has in one pass."""
    made = False
    for block in pack((one["input_ids"] for one in documents), length):
        made = True
        yield block
    if not made:
        raise errors.DataError(
            f"the stream has fewer than max_length={length} tokens in all, or in what one process or worker reads of "
            "it; lower --max_length"
        )


def _packed_bytes(blocks: Iterable[dict[str, list[int]]], tokenizer: Any) -> int:
    """UTF-8 bytes of the tokens that are predicted in the held-out blocks."""
    learnt = ([token for token, place in _predicted(block)] for block in blocks)
    return sum(len(tokenizer.decode(ids, skip_special_tokens=True).encode()) for ids in learnt)


def _predicted(block: dict[str, list[int]]) -> list[tuple[int, int]]:
    """Those of a block's tokens that something before them predicts, each with its position in its document."""
    return [(t, place) for t, place in zip(block["input_ids"][1:], block["position_ids"][1:], strict=True) if place]


def held_out(trainer: Any, corpus: Corpus) -> dict[str, float]:
    """`text_metrics` of a trainer's model; nothing where there is no held-out text."""
    found = measuring.held_out(trainer)
    return text_metrics(found["eval_loss"], corpus.test, corpus.test_bytes) if found else {}


def text_metrics(loss: float, rows: Any, text_bytes: int) -> dict[str, float]:
    """Held-out loss in three units.

    Args:
        loss: mean negative log-likelihood in nats per predicted token.
        rows: the blocks it was measured on.
        text_bytes: UTF-8 bytes of their text.

    Returns:
        `loss` (nats per token), `perplexity` = exp(loss), `bits_per_byte` = loss · tokens / (ln 2 · bytes).
    """
    predicted = sum(len(_predicted(row)) for row in rows)
    bits = loss * predicted / math.log(2)
    return {"loss": loss, "perplexity": math.exp(min(loss, 50.0)), "bits_per_byte": bits / max(text_bytes, 1)}
