"""A row in each schema, from the many forms that public data sets have: detected, checked, named where it is wrong."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import regex

from align.data.overlap import ngrams
from align.run.errors import DataError

Messages = list[dict[str, Any]]

ROLES = ("system", "user", "assistant", "tool")
SHAREGPT = {"human": "user", "gpt": "assistant", "system": "system"}
NEEDED = {
    "text": "text",
    "sft": "messages, or prompt and completion (also: question/answer, instruction/output, conversations)",
    "preference": "prompt, chosen and rejected (also: chosen/rejected transcripts, or prompt/completions/ranking)",
    "prompt": "prompt (also: messages, question, or a preference row's prompt)",
}


def rename(rows: Any, columns: list[str]) -> Any:
    """Apply a column mapping (`theirs=ours`). The roles `user`, `assistant` and `system` make a conversation."""
    for pair in columns:
        theirs, _, ours = pair.partition("=")
        if not ours:
            raise DataError(f"--columns {pair}: write theirs=ours, for example question=user answer=assistant")
        if rows.column_names and theirs not in rows.column_names:
            raise DataError(f"--columns {pair}: there is no column {theirs}; the columns are {rows.column_names}")
        if theirs != ours:
            if rows.column_names and ours in rows.column_names:
                rows = rows.remove_columns(ours)
            rows = rows.rename_column(theirs, ours)
    return rows


def messages(value: Any, where: str) -> Messages:
    """Check a list of messages (or ShareGPT turns) and bring it into the `role`/`content` form."""
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: expected a list of messages, got {type(value).__name__} {str(value)[:60]!r}")
    out = []
    for number, turn in enumerate(value):
        if not isinstance(turn, dict):
            raise DataError(f"{where}[{number}]: expected {{role, content}}, got {str(turn)[:60]!r}")
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        role = SHAREGPT.get(str(role), role)
        if role not in ROLES:
            raise DataError(f"{where}[{number}]: unknown role {role!r}; allowed: {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise DataError(f"{where}[{number}].content: expected text, got {type(content).__name__}")
        out.append({"role": role, "content": content})
    return out


def _transcript(text: str) -> Messages:
    """`\\n\\nHuman: …\\n\\nAssistant: …` (Anthropic's HH format) to messages."""
    parts = re.split(r"\n\n(Human|Assistant):", text)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": roles[name], "content": content.strip()} for name, content in turns]


def _side(value: Any, where: str) -> str | Messages:
    """One side of a pair, or a prompt: plain text, a transcript, or messages."""
    if isinstance(value, str):
        return _transcript(value) if value.startswith("\n\nHuman:") else value
    return messages(value, where)


def _prompt(value: Any, where: str) -> str | Messages:
    """A prompt; the `\n\nAssistant:` after which a transcript's answer is to come is no turn."""
    told = _side(value, where)
    if isinstance(value, str) and not isinstance(told, str) and told[-1:] == _as_answer(""):
        return told[:-1]
    return told


def _as_user(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def _as_answer(text: str) -> Messages:
    return [{"role": "assistant", "content": text}]


def _text_row(row: dict, where: str) -> dict:
    if not isinstance(row.get("text"), str):
        raise DataError(f"{where}.text: expected text, got {type(row.get('text')).__name__}")
    return {"text": row["text"]}


def _sft_row(row: dict, where: str) -> dict:
    if row.get("messages") is not None:
        return {"messages": messages(row["messages"], f"{where}.messages")}
    if row.get("conversations") is not None:
        return {"messages": messages(row["conversations"], f"{where}.conversations")}
    if "completion" in row:
        prompt, completion = _prompt(row["prompt"], f"{where}.prompt"), _side(row["completion"], f"{where}.completion")
        if isinstance(row["prompt"], str) and isinstance(completion, str) and not isinstance(prompt, str):
            completion = _as_answer(completion.strip())
        if isinstance(prompt, str) != isinstance(completion, str):
            raise DataError(f"{where}: prompt and completion must both be text or both be messages")
        if isinstance(prompt, str):
            return {"prompt": prompt, "completion": completion}
        return {"messages": [*prompt, *completion]}
    for asked, told in (("user", "assistant"), ("question", "answer"), ("instruction", "output")):
        if asked in row and told in row:
            for name in (asked, told):
                if not isinstance(row[name], str):
                    raise DataError(f"{where}.{name}: expected text, got {type(row[name]).__name__}")
            extra = f"\n\n{row['input']}" if asked == "instruction" and row.get("input") else ""
            head = [{"role": "system", "content": row["system"]}] if row.get("system") else []
            return {"messages": [*head, *_as_user(row[asked] + extra), *_as_answer(row[told])]}
    raise KeyError


def preference(row: dict, where: str) -> dict:
    """A preference row in whatever form, as `prompt`, `chosen`, `rejected` and, where it is useless, why (`drop`)."""
    chosen, rejected = _side(row["chosen"], f"{where}.chosen"), _side(row["rejected"], f"{where}.rejected")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise DataError(f"{where}: chosen and rejected must both be text or both be messages")
    if row.get("prompt") is not None:
        prompt = _prompt(row["prompt"], f"{where}.prompt")
        if isinstance(prompt, str) and not isinstance(chosen, str):
            prompt = _as_user(prompt)
        if not isinstance(prompt, str) and isinstance(chosen, str):
            if isinstance(row["prompt"], str):  # a transcript, whose turns begin with a blank
                chosen, rejected = chosen.strip(), str(rejected).strip()
            chosen, rejected = _as_answer(chosen), _as_answer(str(rejected))
        if not isinstance(chosen, str) and len(chosen) > 1 and chosen[: len(prompt)] == prompt:
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]  # UltraFeedback repeats the prompt
    else:  # implicit: what both have in common
        pairs = zip(chosen, rejected, strict=False)
        shared = sum(1 for _ in itertools.takewhile(lambda p: p[0] == p[1], pairs))
        if isinstance(chosen, str):  # to a word's end; the space belongs to the answer, as it does in TRL
            end = regex.search(rf"\s+\S*$|(?<={ngrams.LONE}\p{{M}}*)$", chosen[:shared])
            shared = end.start() if end else 0
        elif len(chosen) == len(rejected) == shared:
            shared -= 1  # identical sides: keep the last turn as the (identical) answer
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    out: dict[str, Any] = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "drop": ""}
    if "margin" in row:
        if isinstance(row["margin"], bool) or not isinstance(row["margin"], (int, float)):
            raise DataError(f"{where}.margin: expected a number, got {row['margin']!r}")
        out["margin"] = float(row["margin"])
    if row.get("category") is not None:
        out["category"] = str(row["category"])
    if row.get("weight") is not None:
        if isinstance(row["weight"], bool) or not isinstance(row["weight"], (int, float)) or row["weight"] < 0:
            raise DataError(f"{where}.weight: expected a number that is not negative, got {row['weight']!r}")
        out["weight"] = float(row["weight"])
    if chosen == rejected:
        out["drop"] = "with identical chosen and rejected"
    elif not isinstance(chosen, str) and (len(chosen) != 1 or len(rejected) != 1):
        out["drop"] = "where chosen and rejected differ before the last turn"
    elif any(side[-1]["role"] != "assistant" for side in (chosen, rejected) if not isinstance(side, str)):
        out["drop"] = "whose last turn is not the assistant's"
    elif not prompt:
        out["drop"] = "without a prompt"
    return out


def prompt(row: dict, where: str) -> dict:
    """A row of whatever schema as its `prompt`, with its other columns."""
    rest = {k: v for k, v in row.items() if k not in ("prompt", "messages", "chosen", "rejected", "question")}
    if row.get("prompt") is not None:
        prompt = _prompt(row["prompt"], f"{where}.prompt")
    elif row.get("messages") is not None:
        prompt = messages(row["messages"], f"{where}.messages")
    elif row.get("user") is not None or row.get("question") is not None:
        prompt = _as_user(row.get("user") or row["question"])
    elif "instruction" in row or row.get("conversations") is not None:
        prompt = _sft_row(row, where)["messages"]
    else:
        prompt = preference(row, where)["prompt"]
    if not isinstance(prompt, str):
        while prompt and prompt[-1]["role"] == "assistant":
            prompt = prompt[:-1]
    return {**rest, "prompt": prompt, "drop": "" if prompt else "without a prompt"}


MAKERS: dict[str, Callable[[dict, str], dict]] = {
    "text": _text_row,
    "sft": _sft_row,
    "preference": preference,
    "prompt": prompt,
}
