"""A corpus with a known truth: what was planted in it, so that cleaning can be graded.

Documents are made prose (`planted.prose`). Among them, in shares that `SHARES` says: exact duplicates,
near-duplicates of a MEASURED Jaccard index, junk of five kinds, boilerplate, foreign languages, personal data beside
look-alikes that must stay, unwanted pages beside ones that people should decide on, documents that quote an evaluation
set, broken encodings. Every row carries its name in the column `planted`; the truth says what it is:

    {"seed", "documents": {name: {"kind", "of"?, "jaccard"?, "gone"?, "stays"?}},
     "clusters" of copies, exact and near: [{"members": [names], "pairs": [[name, name, jaccard], …]}],
     "evaluation": [texts]}

The Jaccard index is over sets of 5-grams of words: lower case, letters and digits only, every number the same (the
normalisation of datatrove's MinHash). Planted indices are even over 0.6 to 1: far harder than the web, where most pairs
are either nearly the same or nothing alike.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from planted import prose, specimens
from planted.specimens import Fact

NGRAM = 5  # words of a shingle: FineWeb's setting
BANDS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
# Of all documents; the rest is good. The originals of exact and near-duplicates are among the good ones.
SHARES = {
    "exact": 0.03, "near": 0.10, "symbols": 0.01, "repetition": 0.01, "placeholder": 0.01, "short": 0.01,
    "foreign": 0.02, "boilerplate": 0.02, "personal": 0.03, "unwanted": 0.01, "excused": 0.01, "contaminated": 0.01,
    "mojibake": 0.02, "cp1252": 0.01,
}  # fmt: skip
Row = dict[str, Any]


def shingles(text: str) -> set[tuple[str, ...]]:
    """The set of 5-grams of words in a text. Empty below five words."""
    words = re.findall(r"[^\W_]+", re.sub(r"\d+(?:[.,]\d+)?", "0", text.lower()))
    return set(zip(*(words[i:] for i in range(NGRAM)), strict=False))


def jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    """|a and b| / |a or b|; 1 where both are empty."""
    return len(a & b) / len(a | b) if a or b else 1.0


def near_duplicate(text: str, target: float, rng: random.Random) -> str:
    """A copy with so many edits that its Jaccard index to `text` falls to `target`, within 0.01 or just below.

    Edits are, one kind a copy: words replaced, sentences left out, sentences put in, or all of these.
    """
    parts = [line.split(" ") for line in text.split("\n")]
    original = shingles(text)
    kinds = rng.choice((("word",), ("word",), ("word", "out"), ("word", "in"), ("word", "out", "in")))
    while True:
        copy = "\n".join(" ".join(words) for words in parts)
        found = jaccard(original, shingles(copy))
        if found <= target + 0.01 and copy != text:
            return copy
        # the last stretch by words alone, which move the index least
        kind = rng.choice(kinds) if found - target > 0.08 else "word"
        line = rng.choice([words for words in parts if len(words) > 1] or parts)
        at = rng.randrange(len(line))
        if kind == "word":
            mark = line[at][-1] if line[at][-1:] in ".,;" else ""
            line[at] = rng.choice(prose.NOUNS if rng.random() < 0.5 else prose.ADJECTIVES) + mark
        elif kind == "in":
            ends = [i + 1 for i, word in enumerate(line) if word.endswith(".")] or [len(line)]
            at = rng.choice(ends)
            line[at:at] = prose.sentences(rng, 1)[0].split(" ")
        elif len(line) > 60:
            ends = [i + 1 for i, word in enumerate(line) if word.endswith(".")]
            start = rng.randrange(len(ends) - 1) if len(ends) > 1 else 0
            del line[ends[start] : ends[start + 1] if len(ends) > 1 else None]


def _clusters(rng: random.Random, copies: int, lowest: float) -> Iterator[list[tuple[str, Fact]]]:
    """Originals with one to three near-duplicates each, until there are so many copies; most have one."""
    while copies > 0:
        original = prose.join(prose.paragraphs(rng, rng.randint(14, 45)))
        count = min(copies, rng.choice((1, 1, 1, 1, 1, 2, 3)))
        copies -= count
        facts: list[tuple[str, Fact]] = [(original, {"kind": "good"})]
        for _ in range(count):
            copy = near_duplicate(original, rng.uniform(lowest, 0.995), rng)
            facts.append((copy, {"kind": "near", "jaccard": jaccard(shingles(original), shingles(copy))}))
        yield facts


def plant(seed: int, count: int, *, lowest: float = BANDS[0]) -> tuple[list[Row], dict[str, Any]]:
    """Make a corpus of `count` documents in random order, and the truth about it. The same for the same seed.

    Args:
        lowest: near-duplicates' Jaccard indices to their originals are even between this and 1.

    Returns:
        Rows of `text`, `source` and `planted` (the document's name), and the truth as the module's docstring has it.
    """
    rng = random.Random(f"planted {seed}")
    numbers = {kind: round(share * count) for kind, share in SHARES.items()}
    evaluation = [" ".join(prose.sentences(rng, 4)) for _ in range(max(4, numbers["contaminated"]))]
    made: list[tuple[str, Fact]] = []
    families: list[list[int]] = []
    for family in _clusters(rng, numbers["near"], lowest):
        families.append(list(range(len(made), len(made) + len(family))))
        made += [(text, fact | ({"of": families[-1][0]} if i else {})) for i, (text, fact) in enumerate(family)]
    for kind, make in specimens.MAKERS.items():
        for _ in range(numbers[kind]):
            text, fact = make(rng)
            made.append((text, {"kind": kind} | fact))
    for i in range(numbers["contaminated"]):
        made.append((specimens.within(rng, [evaluation[i]], alone=True), {"kind": "contaminated"}))
    start = len(made)
    good = max(count - start - numbers["exact"], 1)
    made += [(prose.document(rng), {"kind": "good"}) for _ in range(good)]
    copies: dict[int, list[int]] = {}
    for _ in range(numbers["exact"]):
        at = rng.randrange(start, start + good)
        copies.setdefault(at, [at]).append(len(made))
        made.append((made[at][0], {"kind": "exact", "of": at}))
    families += copies.values()
    return _named(made, families, evaluation, seed, rng)


def _named(
    made: list[tuple[str, Fact]], families: list[list[int]], evaluation: list[str], seed: int, rng: random.Random
) -> tuple[list[Row], dict[str, Any]]:
    """Shuffle the documents and name them by where they came to stand; measure every pair of every cluster."""
    order = list(range(len(made)))
    rng.shuffle(order)
    names = {at: f"d{place:06d}" for place, at in enumerate(order)}
    rows, documents = [], {}
    for at in order:
        text, fact = made[at]
        rows.append({"text": text, "source": f"planted-{fact['kind']}", "planted": names[at]})
        documents[names[at]] = fact | ({"of": names[fact["of"]]} if "of" in fact else {})
    clusters = []
    for family in families:
        sets = {at: shingles(made[at][0]) for at in family}
        pairs = [[names[a], names[b], jaccard(sets[a], sets[b])] for a, b in combinations(family, 2)]
        clusters.append({"members": [names[at] for at in family], "pairs": pairs})
    return rows, {"seed": seed, "documents": documents, "clusters": clusters, "evaluation": evaluation}


def write(rows: list[Row], truth: dict[str, Any], folder: Path) -> None:
    """Write `raw/planted.jsonl` (UTF-8), `raw/cp1252.jsonl` (in that encoding), `evaluation.jsonl` and `truth.json`."""
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    old = {name for name, fact in truth["documents"].items() if fact["kind"] == "cp1252"}
    for file, encoding, which in (("planted", "utf-8", False), ("cp1252", "cp1252", True)):
        with (folder / "raw" / f"{file}.jsonl").open("w", encoding=encoding) as stream:
            for row in rows:
                if (row["planted"] in old) == which:
                    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    with (folder / "evaluation.jsonl").open("w", encoding="utf-8") as stream:
        for text in truth["evaluation"]:
            stream.write(json.dumps({"text": text}) + "\n")
    (folder / "truth.json").write_text(json.dumps(truth, ensure_ascii=False), encoding="utf-8")
