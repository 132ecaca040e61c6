"""What a rule says of one document: a ruling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Ruling:
    """One rule on one document. Spans are character ranges of the text that the rule saw: what a reviewer is shown."""

    action: Literal["keep", "drop", "review"]
    reason: str = ""  # a key: `gopher_too_many_hashes`
    detail: str = ""  # the reason with its numbers, in words: "a # for every 5 words; at most one for 10"
    spans: tuple[tuple[int, int], ...] = ()
    score: float | None = None  # where the rule has one


KEEP = Ruling("keep")
