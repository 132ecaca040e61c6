"""Prompts and completions as plain text. Each is a string or a list of messages, `[{"role", "content"}, …]`.

There are several texts of one conversation, and each has its use: to compare by, to read, to put to a judge.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any


def canonical(value: Any) -> Any:
    """A prompt or completion such that equal ones compare equal: messages as (role, content), text as it is.

    Two Unicode forms of a text are one. Calls of tools (without their ids) and reasoning tell turns apart; whether a
    turn is to be learnt does not.
    """
    if isinstance(value, list):
        return [_identity(turn) for turn in value if isinstance(turn, dict)]
    return unicodedata.normalize("NFC", str(value))


def _identity(turn: dict[str, Any]) -> list[Any]:
    content = turn.get("content")
    plain = [str(turn.get("role")), unicodedata.normalize("NFC", "" if content is None else str(content))]
    more: dict[str, Any] = {}
    if turn.get("tool_calls"):
        more["calls"] = [call.get("function", call) for call in turn["tool_calls"]]
    if turn.get("reasoning_content"):
        more["reasoning"] = turn["reasoning_content"]
    return [*plain, json.dumps(more, ensure_ascii=False, sort_keys=True)] if more else plain


def completion(value: Any) -> str:
    """A completion as one string to compare by; one assistant message of nothing but text is the same as its text."""
    told = canonical(value)
    if isinstance(told, list) and len(told) == 1 and len(told[0]) == 2:
        return told[0][1]
    return told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)


def said(turn: dict[str, Any]) -> str:
    """What a turn says to others: its words, and the tools that it calls, a line each. Reasoning is not said."""
    calls = [call.get("function", call) for call in turn.get("tool_calls") or []]
    lines = [f"{call.get('name')}({json.dumps(call.get('arguments'), ensure_ascii=False)})" for call in calls]
    return "\n".join(filter(None, [turn.get("content") or "", *lines]))


def contents(value: str | list[dict[str, Any]], between: str = "\n") -> str:
    """What was said, without who said it: the text as it is, or its messages one after the other."""
    return value if isinstance(value, str) else between.join(map(said, value))


def user_side(prompt: str | list[dict[str, Any]]) -> str:
    """What the user says in a prompt: its text, or its user turns one after the other.

    A system prompt, which many prompts share, and the assistant's turns make no other question of it.
    """
    if isinstance(prompt, str):
        return prompt
    return "\n".join(turn["content"] for turn in prompt if turn["role"] == "user")


def readable(prompt: str | list[dict[str, Any]]) -> str:
    """A prompt for people: plain text or a lone message as it is, a conversation with the role before each turn."""
    if isinstance(prompt, str) or len(prompt) == 1:
        return contents(prompt)
    return "\n".join(f"{turn['role']}: {said(turn)}" for turn in prompt)


def transcript(prompt: str | list[dict[str, Any]]) -> str:
    """A prompt to put to a model: plain text as it is, messages one after the other, each with its role."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{turn['role'].capitalize()}: {said(turn)}" for turn in prompt)


def short(text: str, most: int = 100) -> str:
    """A text on one line of at most `most` characters, for a message."""
    plain = " ".join(text.split())
    return plain if len(plain) <= most else plain[: most - 1] + "…"
