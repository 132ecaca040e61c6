"""Decontamination: find documents that share n-grams of words with evaluation sets.

13-grams by default (Brown et al. 2020, appendix C; datatrove's `NGramsDecontFilter` is the model, its indexer needs
lighteval). A text shorter than that counts as a whole, down to 8 words (their shortest n): shorter ones, such as "yes"
or "Paris", stand in clean documents by chance and are counted as left out. Words are what datatrove's `simplify_text`
leaves between spaces (lower case, no punctuation or accents, numbers, days and months made one); Chinese and Japanese
characters are words of their own. Departure from Brown et al.: the whole document goes, not 200 characters around.

An n-gram's hash is a polynomial in its words' 64-bit hashes, modulo 2^64, so that a document's n-grams are hashed
together. W words, n words of an n-gram.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from align.clean.rules.ruling import KEEP, Ruling
from align.run.arguments import DataArguments
from align.run.errors import ConfigError, DataError, RunError

N = 13  # words; Brown et al. 2020, appendix C: their largest, and GPT-3's for most sets
SHORTEST = 8  # words that a short evaluation text must have to be looked for as a whole; their smallest n
BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that every word of an n-gram counts in every bit above it
MOSTLY = 0.5  # share of a set's texts that is too short, above which there is a warning; our choice
SPLITS = ("test", "validation", "train")  # the first that a source has
FIELDS = (
    "text", "prompt", "question", "instruction", "input", "messages", "conversations", "completion", "completions",
    "chosen", "rejected", "answer", "output", "user", "assistant", "reference",
)  # fmt: skip
FIRST = ("prompt", "question", "instruction", "user")  # what is said first
_CJK = re.compile("([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
_TOKEN = re.compile(r"\S+")


def build(
    sources: list[str], path: str | Path, n: int = N, *, shortest: int | None = None, columns: Sequence[str] = ()
) -> dict[str, Any]:
    """Write the index of evaluation sets.

    Args:
        sources: files, folders, finished runs or hub ids; `name#split` and `name:config#split` say which part. Without,
            it is the test split where there is one, then validation, then train.
        path: the index file (`.npz`).
        n: words of an n-gram.
        shortest: words that a text shorter than n must have; 8, or n where n is less.
        columns: those with the texts, what is said first at the front, of sources that have any of them. The others,
            and all without it, have columns of the names in `FIELDS`.

    Returns:
        `{"n", "shortest", "hashes", "fingerprint", "sets": {source: {"split", "rows", "texts", "short"}},
        "columns": {source: [...]}}`; `short` texts are left out. The fingerprint is that of the index's contents.

    Raises:
        DataError: where a source cannot be read, or holds no text that can be looked for.
    """
    shortest = min(SHORTEST, n) if shortest is None else shortest
    if not 1 <= shortest <= n:
        raise ConfigError(f"decontamination: whole texts from {shortest} words with n-grams of {n}: from 1 to {n}")
    grams: dict[tuple[int, int], int] = {}  # (words, hash) -> number of the set
    sets: dict[str, dict[str, Any]] = {}
    used: dict[str, list[str]] = {}
    for number, source in enumerate(sources):
        rows, split = _rows(source)
        counts, seen = {"rows": 0, "texts": 0, "short": 0}, dict[str, None]()
        for row in rows:
            counts["rows"] += 1
            given = _given(row, source, columns)
            seen |= dict.fromkeys(given)
            for text in _texts(given, columns):
                counts["texts"] += 1
                words = normal(text)
                length = min(n, len(words))
                if length < shortest:
                    counts["short"] += 1
                    continue
                for value in _hashes(words, length).tolist():
                    grams.setdefault((length, value), number)
        if counts["texts"] == counts["short"]:
            where = f" in its columns {', '.join(seen)}" if seen else ""
            raise DataError(
                f"{source} ({split}): no text of {shortest} words or more to look for{where}; leave the set out, or "
                "name its columns: --decontaminate_columns …"
            )
        sets[source], used[source] = {"split": split, **counts}, list(seen)
    if unknown := sorted(set(columns) - {name for names in used.values() for name in names}):
        raise DataError(f"decontaminate_columns: none of {', '.join(sources)} has {', '.join(unknown)}")
    digest = _save(Path(path), n, grams, list(sets))
    found = {"n": n, "shortest": shortest, "hashes": len(grams), "fingerprint": digest}
    return found | {"sets": sets, "columns": used}


def _save(path: Path, n: int, grams: dict[tuple[int, int], int], names: list[str]) -> str:
    """Write the index; the fingerprint of its contents."""
    order = sorted(grams)
    arrays = {
        "n": np.array([n]),
        "lengths": np.array([length for length, _ in order], np.uint16),
        "hashes": np.array([value for _, value in order], np.uint64),
        "sets": np.array([grams[key] for key in order], np.uint16),
        "names": np.array(names),
    }
    _write(path, arrays)
    digest = hashlib.sha256(b"".join(arrays[name].tobytes() for name in ("n", "lengths", "hashes", "sets")))
    return digest.hexdigest()


def told(report: dict[str, Any]) -> list[str]:
    """What `build` found to look for, a sentence for each set; and a warning where that is the smaller part of it."""
    lines = []
    for source, found in report["sets"].items():
        columns, left = ", ".join(report["columns"][source]), found["texts"] - found["short"]
        line = f"{source} ({found['split']}; {columns}): {left:,} of {found['texts']:,} texts are looked for"
        if found["short"]:
            line += (
                f", {found['short']:,} {'has' if found['short'] == 1 else 'have'} fewer than {report['shortest']} words"
            )
        if found["short"] > MOSTLY * found["texts"]:
            line += "; a document that repeats only those is not found"
        lines.append(line)
    return lines


class Index:
    """The n-grams of the evaluation sets: sorted hashes by length, and the set that each is of."""

    def __init__(self, n: int, names: list[str], grams: dict[int, tuple[np.ndarray, np.ndarray]]):
        self.n = n
        self.names = names
        self.grams = grams  # words -> (hashes [H], sets [H])

    @classmethod
    def load(cls, path: str | Path) -> Index:
        """Read what `build` wrote.

        Raises:
            ConfigError: for a file that is not there or that `build` did not write.
        """
        try:
            with np.load(path, allow_pickle=False) as held:
                lengths, hashes, sets = held["lengths"], held["hashes"], held["sets"]
                n, names = int(held["n"][0]), [str(name) for name in held["names"]]
        except (OSError, KeyError, ValueError) as error:
            raise ConfigError(f"decontamination index {path} cannot be read ({error}); build it again") from error
        by_length = {int(k): (hashes[lengths == k], sets[lengths == k]) for k in np.unique(lengths)}
        return cls(n, names, by_length)

    def rule(self, text: str) -> Ruling:
        """Drop a text that shares an n-gram with an evaluation set. Spans are all that is shared; the score is its
        share of the text's words."""
        words = normal(text)
        hits: list[tuple[int, int, int]] = []  # first word, end, set
        for length, (hashes, sets) in self.grams.items():
            found = _hashes(words, length)
            if not len(found):
                continue
            at = np.searchsorted(hashes, found)
            at[at == len(hashes)] = 0
            hits += [(int(i), int(i) + length, int(sets[at[i]])) for i in np.flatnonzero(hashes[at] == found)]
        if not hits:
            return KEEP
        merged: list[list[int]] = []
        for start, end, _ in sorted(hits):
            if merged and start <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([start, end])
        spans = _spans(text, merged)
        named = ", ".join(dict.fromkeys(self.names[number] for _, _, number in sorted(hits)))
        longest = max(end - start for start, end in merged)
        shown = " ".join(text[slice(*spans[0])].split())
        shown = shown if len(shown) <= 120 else shown[:117] + "…"
        detail = f"shares {longest} words in a row with {named}: “{shown}”"
        share = sum(end - start for start, end in merged) / len(words)
        return Ruling("drop", "contaminated", detail, tuple(spans), share)


def normal(text: str) -> list[str]:
    """The words that are compared. [W]"""
    from datatrove.utils.text import simplify_text

    if text.isascii():
        return simplify_text(text, _plain()).split()
    return simplify_text(_CJK.sub(r" \1 ", text)).split()


@lru_cache(1)
def _plain() -> Any:
    """datatrove's settings without the search for accents, which takes most of its time and finds none in ASCII."""
    from datatrove.utils.text import TextNormConfig

    return TextNormConfig(norm_unicode_diacritics=False)


@lru_cache(1 << 18)
def _word(word: str) -> int:
    from datatrove.utils.hashes.xxhash import xxhash64

    return xxhash64(word)


def _hashes(words: list[str], n: int) -> np.ndarray:
    """Hashes of all n-grams: sum over j of h(word j) BASE^(n-1-j), modulo 2^64. [max(0, W - n + 1)], uint64."""
    if len(words) < n:
        return np.zeros(0, np.uint64)
    each = np.fromiter(map(_word, words), np.uint64, len(words))
    count = len(words) - n + 1
    total = np.zeros(count, np.uint64)
    for j in range(n):
        total = total * BASE + each[j : j + count]
    return total


def _spans(text: str, ranges: list[list[int]]) -> list[tuple[int, int]]:
    """Ranges of words as ranges of characters: the text's own words, simplified one by one, in step with `normal`."""
    starts, ends = [], []
    for token in _TOKEN.finditer(text):
        for _ in normal(token[0]):
            starts.append(token.start())
            ends.append(token.end())
    return [(starts[start], ends[end - 1]) for start, end in ranges]


def _rows(source: str) -> tuple[Any, str]:
    """The rows of one source and the split that they are of."""
    from align.data import load

    name, _, split = source.partition("#")
    name, config = (name, "") if Path(name).exists() else (name.partition(":")[0], name.partition(":")[2])
    args = DataArguments(dataset_name=name, dataset_config=config or None)
    for wanted in (split,) if split else SPLITS:
        rows = load.load(args, wanted, seed=0)
        if rows is not None:
            return rows, wanted
    raise DataError(f"{name} has no split {split}; leave out #{split}, or name another")


def _given(row: dict[str, Any], source: str, columns: Sequence[str]) -> dict[str, list[str]]:
    """The texts of a row by column: of the named columns where it has any of them, else of those that we know; nothing
    where they are empty."""
    names = [name for name in columns if name in row] or [name for name in FIELDS if row.get(name) is not None]
    if not names and not any(name in row for name in FIELDS):
        raise DataError(
            f"{source}: has the columns {', '.join(row)}; one of these is needed: {', '.join(FIELDS)}; or name those "
            "with the texts: --decontaminate_columns …"
        )
    return {name: list(_strings(row[name])) for name in names}


def _texts(given: dict[str, list[str]], columns: Sequence[str]) -> Iterator[str]:
    """Every text of a row by itself, and what is said first (prompt, question) joined with each thing said after it."""
    yield from (text for texts in given.values() for text in texts if text.strip())
    asked = [name for name in (*columns[:1], *FIRST) if name in given][:1]
    if asked:
        first = " ".join(given[asked[0]])
        later = (text for other, texts in given.items() if other not in asked for text in texts)
        yield from (f"{first} {text}" for text in later if text.strip())
    for name in ("messages", "conversations"):
        if len(given.get(name, ())) > 1:
            yield " ".join(given[name])


def _strings(value: Any) -> Iterator[str]:
    """The texts in a value: itself, a message's content, or those of a list or of a mapping (choices, answers). What
    the system says is nobody's test."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        if value.get("role", value.get("from")) == "system":
            return
        told = value.get("content", value.get("value"))
        yield from _strings(list(value.values()) if told is None and "role" not in value else told)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Replace the file in one step."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
        os.replace(part, path)
    except OSError as error:
        raise RunError(f"decontamination index {path} cannot be written: {error.strerror}") from error
