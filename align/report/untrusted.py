"""Untrusted text for a page: escaped, with spans marked, or the difference of two versions word by word.

Only what is returned from here may be put into a page: every character of the text is escaped, control characters are
named by their number, and text that runs right to left or overrides the direction cannot leave its element.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import SequenceMatcher
from html import escape
from itertools import accumulate
from typing import Any

WORD = re.compile(r"\s+|\w+|[^\w\s]")
SENTENCE = re.compile(r"[^.!?\n]+[.!?\n]*\s*|[.!?\n]+\s*")
AROUND = 100  # characters of unchanged text shown on either side of a change
SAMPLE = 300  # characters from which two texts of one length are taken for samples cut there
COMPARED = 4000  # characters: `SequenceMatcher` is quadratic, and a sample is to be read
PRODUCT = 4_000_000  # of the numbers of words of two stretches: more are not compared word by word
# Controls, marks of direction (which outlive a <mark> and reorder what follows), zero-width characters and halves of
# surrogate pairs are named by their number; few fonts have pictures for them.
HALVES = re.compile("[\ud800-\udfff]")
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f\u0080-\u009f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def shown(text: str) -> str:
    """The text as a reader can see it, still unescaped: a NUL becomes <U+0000>, a zero-width space <U+200B>."""
    return UNSEEN.sub(lambda found: f"<U+{ord(found[0]):04X}>", text.replace("\r\n", "\n"))


def safe(text: Any) -> str:
    """Any value as escaped text."""
    return escape(shown(str(text)))


def merge(spans: Iterable[Sequence[int]], length: int) -> list[tuple[int, int]]:
    """Character ranges in order, cut to [0, length), those that touch or cross made one, empty ones left out."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted((max(0, int(s[0])), min(length, int(s[1]))) for s in spans):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def marked(text: str, spans: Iterable[Sequence[int]]) -> str:
    """The text escaped, with `<mark>` round every span (ranges of characters of `text` as it was given)."""
    parts, at = [], 0
    for start, end in merge(spans, len(text)):
        parts += [safe(text[at:start]), f"<mark>{safe(text[start:end])}</mark>"]
        at = end
    return "".join([*parts, safe(text[at:])])


def difference(before: str, after: str) -> tuple[str, str]:
    """Both versions escaped; what left is in `<del>`, what came is in `<ins>`. Words are the units.

    Of long stretches that are the same only the ends are shown, with an ellipsis between. Two samples that were cut at
    the same length end at different words where anything before became longer or shorter: that end is no change.
    """
    old, new = WORD.findall(before[:COMPARED]), WORD.findall(after[:COMPARED])
    left, right = [], []
    changes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    if len(before) == len(after) >= SAMPLE and changes[-1][0] != "equal":
        _, a, b, c, d = changes[-1]
        if max(len("".join(old[a:b])), len("".join(new[c:d]))) < AROUND:
            changes[-1] = ("equal", b, b, d, d)
    for i, (kind, a, b, c, d) in enumerate(changes):
        gone, came = "".join(old[a:b]), "".join(new[c:d])
        if kind == "equal":
            short = safe(_middle_out(gone, first=i == 0, last=i == len(changes) - 1))
            left.append(short)
            right.append(short)
        else:
            left.append(f"<del>{safe(gone)}</del>" if gone else "")
            right.append(f"<ins>{safe(came)}</ins>" if came else "")
    sampled = len(before) == len(after) >= SAMPLE
    cut = [" …" if len(text) > COMPARED or sampled else "" for text in (before, after)]
    return "".join(left) + cut[0], "".join(right) + cut[1]


def apart(one: str, other: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Where two texts that resemble each other differ: character ranges of the one and of the other.

    Sentences are compared first, then the words of those that changed: most of two copies is the same, however long.
    """
    found: tuple[list[tuple[int, int]], list[tuple[int, int]]] = [], []
    for (a, b), (c, d) in _changed(one, other, SENTENCE):
        words = len(WORD.findall(one[a:b])), len(WORD.findall(other[c:d]))
        whole = [((0, b - a), (0, d - c))] if words[0] * words[1] > PRODUCT else _changed(one[a:b], other[c:d], WORD)
        for (e, f), (g, h) in whole:
            found[0].extend([(a + e, a + f)] if f > e else [])
            found[1].extend([(c + g, c + h)] if h > g else [])
    return found


def _changed(one: str, other: str, unit: re.Pattern[str]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The ranges of the one and of the other text in which their units are not the same."""
    units = unit.findall(one), unit.findall(other)
    ends = [[0, *accumulate(map(len, part))] for part in units]
    changes = SequenceMatcher(None, *units, autojunk=max(map(len, units)) > PRODUCT**0.5).get_opcodes()
    return [((ends[0][a], ends[0][b]), (ends[1][c], ends[1][d])) for kind, a, b, c, d in changes if kind != "equal"]


def _middle_out(text: str, *, first: bool, last: bool) -> str:
    """The ends of an unchanged stretch that touch a change, where it is long."""
    if len(text) <= 2 * AROUND + 20:
        return text
    head = "" if first else text[:AROUND]
    return f"{head} … {'' if last else text[-AROUND:]}" if not (first and last) else text


def encodable(value: Any) -> Any:
    """The same value with halves of surrogate pairs replaced by U+FFFD: no file in UTF-8 can hold them."""
    return through(lambda text: HALVES.sub("\ufffd", text), value)


def through(change: Callable[[str], str], value: Any) -> Any:
    """The same value with every string in it, keys too, changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {through(change, key): through(change, inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [through(change, inner) for inner in value]
    return value
