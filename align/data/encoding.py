"""Rows in one schema to token ids, a batch of them at once, with an account of what was dropped and why."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from typing import Any

from align.data import chat, pairs, text
from align.data.chat import Steps, reasoning
from align.data.splits import Report

KEPT = ("margin", "category", "weight")  # what is kept of a pair beside its words
EMPTY = "empty"


def _sft(tokenizer: Any, row: dict) -> Steps[list[dict]]:
    if row.get("messages") is not None:
        found = yield from chat.messages_steps(tokenizer, row["messages"], **chat.beside(row))
        return [{"input_ids": one.input_ids, "labels": one.labels} for one in found]
    prompt, (said,) = yield from chat.pair_steps(tokenizer, row["prompt"], [row["completion"]], **chat.beside(row))
    return [{"input_ids": prompt + said, "labels": [-100] * len(prompt) + said}]


def _preference(tokenizer: Any, row: dict) -> Steps[list[dict]]:
    sides = [row["chosen"], row["rejected"]]
    prompt, (chosen, rejected) = yield from chat.pair_steps(tokenizer, row["prompt"], sides, **chat.beside(row))
    return [{"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}]


def answers_only(tokenizer: Any, row: dict) -> Steps[list[dict]]:
    """A pair without the reasoning of its answers, for who scores answers."""
    return (yield from _preference(tokenizer, row | {s: reasoning.answer_of(row[s]) for s in ("chosen", "rejected")}))


def _prompt(tokenizer: Any, row: dict) -> Steps[list[dict]]:
    return [{"input_ids": (yield from chat.prompt_steps(tokenizer, row["prompt"], **chat.beside(row)))}]


def _text(tokenizer: Any, row: dict) -> Steps[list[dict]]:
    """A document between BOS (where there is one) and EOS; without a tokenizer, its text."""
    if tokenizer is None:
        return [{"text": row["text"]}]
    (tokens,) = yield [row["text"]]
    head = [tokenizer.bos_token_id] if tokenizer.bos_token_id not in (None, tokenizer.eos_token_id) else []
    return [{"input_ids": [*head, *tokens.ids, tokenizer.eos_token_id]}] if tokens.ids else []


Encoder = Callable[[Any, dict], Steps[list[dict]]]
# A row to what is trained on: one example, or several where a template renders a conversation's earlier turns otherwise
# than it asked for them (see `chat.encode_messages`)
ENCODERS: dict[str, Encoder] = {"sft": _sft, "preference": _preference, "prompt": _prompt, "text": _text}


def encode(
    rows: list[dict], schema: str, tokenizer: Any, *, max_length: int | None, first: int = 1, step: int = 1,
    encoder: Encoder | None = None,
) -> tuple[list[dict], Report]:  # fmt: skip
    """Encode some rows in one schema, as `align.data.forms` makes them; drop what cannot be used, and count it.

    Nothing is truncated.

    Args:
        first: the number of the first of the rows in its source, and `step` how many numbers further the next one is.
        encoder: by default that of the schema.

    Returns:
        The examples, in the order of the rows, and the account of these rows alone (`Report.add` takes it in).
    """
    account = Report("")
    steps = [(encoder or ENCODERS[schema])(tokenizer, row) for row in rows if not row["drop"]]
    encoded = iter(chat.together(tokenizer, steps))
    examples: list[dict] = []
    for number, row in zip(itertools.count(first, step), rows, strict=False):
        made = [] if row["drop"] else next(encoded)
        reason = f"unusable ({made})" if isinstance(made, chat.TemplateError) else row["drop"]
        examples += _counted(account, number, row, schema, made if isinstance(made, list) else [], reason, max_length)
    return examples, account


def _counted(
    account: Report, number: int, row: dict, schema: str, made: list[dict], reason: str, limit: int | None
) -> list[dict]:
    """What is used of one row, noted in the account."""
    account.rows_in += 1
    if schema == "text":
        reason = "" if row["text"].strip() else EMPTY
    else:
        account.settings |= {*row.get("chat_template_kwargs", ())}
        if not row["drop"]:
            account.forms["text" if isinstance(row.get("prompt"), str) else "chat"] += 1
    length = max((_length(schema, one) for one in made), default=0)
    account.longest = max(account.longest, length)
    if too_long := limit is not None and length > limit:
        account.too_long += 1
    elif reason:
        account.dropped[reason] += 1
    if too_long or reason:
        told = {key: value for key, value in row.items() if key not in ("drop", "origin")}
        account.first.setdefault(reason or "too long", f"row {number}, {text.short(str(told), 160)}")
        return []
    account.rows_out += 1
    if schema == "text":
        return made
    account.examples += len(made)
    rest = {key: value for key, value in row.items() if key in _kept(schema, row) and value is not None}
    if schema == "preference":
        rest["group"] = pairs.prompt_key(row["prompt"], row.get("chat_template_kwargs"))
    return [{**rest, **one} for one in made]


def _length(schema: str, encoded: dict) -> int:
    if schema == "preference":
        return len(encoded["prompt_ids"]) + max(len(encoded["chosen_ids"]), len(encoded["rejected_ids"]))
    return len(encoded.get("input_ids", ()))


def _kept(schema: str, row: dict) -> Collection[str]:
    """What a tokenised row keeps beside its ids: a prompt all its columns, which rewards and files of samples use."""
    return row.keys() - {"drop", "origin"} if schema == "prompt" else KEPT
