"""Prompts and completions as plain text. Each is a string or a list of messages, `[{"role", "content"}, …]`.

There are several texts of one conversation, and each has its use: to compare by, to read, to put to a judge.
"""

from __future__ import annotations

import json
from typing import Any


def canonical(value: Any) -> Any:
    """A prompt or completion such that equal ones compare equal: messages as (role, content), text as it is."""
    if isinstance(value, list):
        return [[str(turn.get("role")), str(turn.get("content"))] for turn in value if isinstance(turn, dict)]
    return str(value)


def completion(value: Any) -> str:
    """A completion as one string to compare by; one assistant message is the same as its text."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        return str(value[0].get("content"))
    return value if isinstance(value, str) else json.dumps(canonical(value), ensure_ascii=False)


def contents(value: str | list[dict[str, Any]], between: str = "\n") -> str:
    """What was said, without who said it: the text as it is, or its messages' contents one after the other."""
    return value if isinstance(value, str) else between.join(turn["content"] for turn in value)


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
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def transcript(prompt: str | list[dict[str, Any]]) -> str:
    """A prompt to put to a model: plain text as it is, messages one after the other, each with its role."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in prompt)


def short(text: str, most: int = 100) -> str:
    """A text on one line of at most `most` characters, for a message."""
    plain = " ".join(text.split())
    return plain if len(plain) <= most else plain[: most - 1] + "…"
