"""One raw row while it is read: what its columns say, and which of them have been read for what."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from align.data.forms import beside, turns
from align.data.forms.turns import Messages
from align.run.errors import DataError

MAY_BE_MESSAGES = ("prompt", "completion", "answer", "output", "response", "assistant", "chosen", "rejected")


@dataclass
class Reading:
    """One raw row, and where in it each part was found (`origin`): what is read is noted as it is read."""

    row: dict[str, Any]
    where: str  # of the row, for messages: file and number
    prompt_format: str = "auto"
    origin: dict[str, list[str]] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)  # of messages, that nothing reads
    texts: set[str] = field(default_factory=set)  # that were read, without the blanks around them
    said: Messages = field(default_factory=list)  # the conversation that its prompt was taken from

    def __post_init__(self) -> None:
        """Messages that stand as JSON in a text, as in CSV, are messages."""
        texts = {name: self.row[name] for name in MAY_BE_MESSAGES if isinstance(self.row.get(name), str)}
        self.row = self.row | {name: turns.written(value, self.at(name)) for name, value in texts.items()}

    def has(self, name: str) -> bool:
        """Does the row say anything in this column? Files give every row every column, so null is no word."""
        return self.row.get(name) is not None

    def first(self, names: Iterable[str]) -> str | None:
        """The first of some columns in which the row says something; of empty ones, where there are no others."""
        there = [name for name in names if self.has(name)]
        return next((name for name in there if self.row[name] not in ("", [], {})), next(iter(there), None))

    def at(self, name: str) -> str:
        """A column of this row, for messages."""
        return f"{self.where}.{name}"

    def note(self, part: str, name: str) -> None:
        """A part of the row was read from this column."""
        found = self.origin.setdefault(part, [])
        if name not in found:
            found.append(name)

    def text(self, part: str, name: str) -> str:
        """A column that holds words."""
        self.note(part, name)
        value = turns.words(self.row.get(name), self.at(name))
        self.texts.add(value.strip())
        return value

    def messages(self, part: str, name: str) -> Messages:
        """A column that holds messages, or one."""
        self.note(part, name)
        value, keys = self.row.get(name), set[str]()
        if isinstance(value, str) and value.lstrip()[:1] == "[":  # as JSON, as `tools` often are
            value = turns.decoded(value, self.at(name))
        said = turns.messages([value] if isinstance(value, dict) else value, self.at(name), keys)
        self.keys |= {f"{name}[].{key}" for key in keys}
        self.texts |= {turn["content"].strip() for turn in said}
        return said

    def side(self, part: str, name: str) -> str | Messages:
        """A column that holds words or messages. Empty is "", whatever it is empty of."""
        value = self.row.get(name)
        if value is None or isinstance(value, (bool, int, float)):
            raise DataError(f"{self.at(name)}: expected text or messages, got {turns.told(value)}")
        if value == []:
            value = ""
        if not isinstance(value, str):
            return turns.without_switches(self.messages(part, name))
        text = self.text(part, name) if value else ""
        self.note(part, name)
        return turns.transcript(text) if turns.is_transcript(text) and self.prompt_format != "text" else text

    def number(self, name: str) -> float:
        """A column that holds a number."""
        self.note(name, name)
        value = self.row[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise DataError(f"{self.at(name)}: expected a number, got {value!r}")
        return float(value)

    def unread(self) -> set[str]:
        """The columns that say something and were read for nothing, and keys of messages likewise."""
        read = {name for names in self.origin.values() for name in names}
        said = {name for name, value in self.row.items() if value is not None and value not in ("", [], {})}
        return said - read | self.keys

    def matter(self) -> list[str]:
        """Those of the unread that are often part of what is learnt, and say what nothing else said."""
        unread = (name for name in self.unread() if beside.matters(name, self.row.get(name)))
        return sorted(
            n for n in unread if not isinstance(self.row.get(n), str) or self.row[n].strip() not in self.texts
        )
