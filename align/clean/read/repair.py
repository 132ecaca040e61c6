"""Encoding repair and normalisation of one text: page breaks, datatrove's `FTFYFormatter`, line ends, normal form."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Any

# What ftfy may change: entities, terminal escapes and other control characters, and all that is beyond ASCII but for
# typographers' marks, which no pattern of ftfy's takes for mojibake when they stand among ASCII only (a test tries all)
_SUSPECT = re.compile("[&\x00-\x08\x0b\x0e-\x1f\x7f]|[^\x00-\x7f‘’“”–—…]")
# Where Python's `splitlines` cuts too, and so do the filters: a page's end, Word's line break, file separators
_BREAKS = re.compile("[\x0b\x0c\x1c-\x1e]")
_LINE_ENDS = re.compile("\r\n?|[\x0c\x85\u2028\u2029]")  # ftfy makes \x0c of an entity


@lru_cache(1)
def _ftfy() -> Callable[[str], str]:
    from datatrove.pipeline.formatters import FTFYFormatter

    return FTFYFormatter().format


def nul(text: str) -> str:
    """Without NUL characters, which no text has and many programs end at."""
    return text.replace("\0", "") if "\0" in text else text


def page_breaks(text: str) -> str:
    """Form feeds and their like as line ends, before ftfy takes most of them out and glues the words beside them."""
    return _BREAKS.sub("\n", text)


def encoding(text: str) -> str:
    """Mojibake ("â€™" for "’"), entities, control characters: ftfy with datatrove's settings.

    ftfy works line by line; lines that it cannot change are not given to it, which leaves English ten times as fast.
    Where entities may be, it sees the whole text: a `<` in one line forbids it to touch entities in later ones.
    """
    if "&" in text:
        return _ftfy()(text)
    if not _SUSPECT.search(text):
        return text
    fix = _ftfy()
    return "\n".join(fix(line) if _SUSPECT.search(line) else line for line in text.split("\n"))


def line_ends(text: str) -> str:
    """One line end for all systems."""
    return _LINE_ENDS.sub("\n", text) if not text.isascii() or "\r" in text or "\x0c" in text else text


def steps(form: str) -> list[tuple[str, Callable[[str], str]]]:
    """The changes in order, each with its name in the card. `form` is Unicode's normal form, or none."""

    def normal(text: str) -> str:
        known: Any = form
        return text if text.isascii() else unicodedata.normalize(known, text)

    found: list[tuple[str, Callable[[str], str]]] = [
        ("nul", nul), ("page_breaks", page_breaks), ("encoding", encoding), ("line_ends", line_ends),
    ]  # fmt: skip
    return found if form == "none" else [*found, ("unicode_form", normal)]
