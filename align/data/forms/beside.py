"""Columns beside those that are read: which of them decide a pair, which are often part of what is learnt, and hints.

By their names, and where these say nothing by what they hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from align.run.errors import DataError

ASIDE = "other"  # the name that `--columns theirs=other` gives to what is not meant
# Which of two answers is the better one, row by row
DECIDES = re.compile(
    r"labels?|.*preference.*|.*winner.*|choice|better|preferred|(better|safer|best|preferred|chosen)_(\w+_)?id"
    r"|(score|rating)s?_[012ab]",
    re.IGNORECASE,
)
SCORES = re.compile(r"scor|rating|reward|grade", re.IGNORECASE)
MATTERS = re.compile(
    r"labels?(_.*)?|.*preference.*|.*winner.*|chat_template_kwargs(\..*)?|(.*_)?(reasoning|thinking|thoughts?)(_content|_trajectories)?|(.*_)?cot"
    r"|(.*_)?tools?|tool_calls|functions?|function_calls?|contexts?|documents?|passages?|solutions?|rationales?|prefix"
    r"|instruction|question|query|input|completion|answer|output|response|is_(safe|correct|good|bad)",
    re.IGNORECASE,
)
# One message a row, as OpenAssistant publishes its trees
TREE = {"message_id", "parent_id", "text", "role"}
MARKS = re.compile(r"#{2,3} ?(Human|User|Instruction|Input)\b|\b(USER|Human|User):|<\|im_start\|>|\[INST\]|<\|user\|>")


def holds_turns(value: Any) -> bool:
    """Is a value a list of messages?"""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and bool({*first} & {"role", "from"}) and bool({*first} & {"content", "value"})


def matters(name: str, value: Any) -> bool:
    """Is a column (or a key of messages, `messages[].key`) that was not read often part of what is learnt?"""
    return name != ASIDE and (holds_turns(value) or bool(MATTERS.fullmatch(name.rpartition("[].")[2])))


def not_read(names: Iterable[str], matter: Iterable[str]) -> list[str]:
    """Lines about what was not read: what may matter apart from the rest."""
    loud = sorted({*matter})
    rest = [name for name in names if name not in loud]
    lines = [f"look: not read, and often part of what is learnt: {', '.join(loud)}"] if loud else []
    return lines + ([f"not read: {', '.join(rest)}"] if rest else [])


def refuse_undecided(columns: list[str], names: Iterable[str]) -> None:
    """Refuse sides that are named by hand where another column says, row by row, which of them is the better one.

    Args:
        columns: the mapping, `theirs=ours`.
        names: all columns after it.
    """
    mapped = [(pair, *pair.split("=", 1)) for pair in columns]
    if scores := next((pair for pair, theirs, ours in mapped if ours == "ranking" and SCORES.search(theirs)), None):
        raise DataError(
            f"--columns {scores}: in a ranking 1 is the best, and of scores the highest: every pair would be the wrong "
            "way round. Write ranks instead"
        )
    sides = [pair for pair, theirs, ours in mapped if ours in ("chosen", "rejected") and theirs != ours]
    deciding = [name for name in names if DECIDES.fullmatch(name)]
    if sides and deciding:
        raise DataError(
            f"--columns {' '.join(sides)}: {' and '.join(deciding)} may say which side is the better one, row by row, "
            "and a mapping cannot swap them; write rows whose chosen is the better answer (docs/data.md shows how), "
            f"or, where the sides are as you named them in every row, add {' '.join(f'{n}={ASIDE}' for n in deciding)}"
        )


def way_on(row: dict[str, Any], schema: str) -> str:
    """What to do about a row whose columns fit no form, as the end of a message."""
    said = {name: value for name, value in row.items() if value is not None} or row
    if set(row) >= TREE:
        kinds = {
            "preference": "two answers to one message as its chosen (the lower rank) and rejected, the path as prompt"
        }
        return (
            "These are single messages of trees, and parent_id says which message each answers: follow it from an "
            f"answer up to the root, and write {kinds.get(schema, 'the path as messages (role, content)')} "
            "(docs/data.md shows how)"
        )
    deciding = [name for name in said if DECIDES.fullmatch(name)]
    if schema == "preference" and deciding:
        return (
            f"Which of two answers is the better one may stand in {', '.join(deciding)}: write rows whose chosen is "
            "the better one (docs/data.md shows how), for --columns cannot swap sides row by row"
        )
    if found := [name for name in said if holds_turns(said[name])]:
        return f"--columns {found[0]}=messages reads the turns in {found[0]}; others are mapped likewise, theirs=ours"
    marked = [name for name, value in said.items() if isinstance(value, str) and MARKS.search(value)]
    if marked and schema in ("sft", "prompt"):
        return f"{marked[0]} is a conversation with marks of its own: write its turns as messages (role, content)"
    if nested := [name for name, value in said.items() if _is_nested(value)]:
        return (
            "Map yours with --columns theirs=ours, which takes whole columns: what is needed of "
            f"{', '.join(nested)} has to be written into columns of its own first"
        )
    return "Map yours with --columns theirs=ours"


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))
