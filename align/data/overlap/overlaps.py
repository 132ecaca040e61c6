"""Which prompts two sets share: the same text (exact), or nearly the same (Jaccard similarity of word n-grams).

N prompts, G n-grams, P pairs.

The measure is that of `ngrams`. Two sets of n-grams as similar as asked share one of each set's rarest, so
pairs are met in an index of those alone (prefix filter: Chaudhuri et al. 2006; Bayardo et al. 2007), at places that
leave enough to share (positional filter: Xiao et al. 2008); bitmaps rule out most of the rest (Sandes et al. 2020), and
the true similarity decides. None of this misses a pair. Where thousands of prompts share most of a long template, all
pairs would be left; so each prompt is compared in vain with `TRIES` others at most, those with which it shares the
rarest first: a changed copy is found before its siblings. MinHash banding was tried and proposes most pairs of a
template with two blanks: their similarity, 0.6 to 0.7, is close to the threshold, and what tells them apart is rare.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from align.data.overlap import ngrams

THRESHOLD = 0.8  # near from here on: the nano evaluation's closest prompt to a trained one, worded anew, has 0.69
VERIFIED = 1 << 12  # candidates that are compared in full at once: bounds the memory
TRIES = 16  # a prompt is compared so many times in vain at most


@dataclass
class Shared:
    """What two sets have in common. A prompt is counted once however many rows have it, and as exact or as near."""

    a: str
    b: str
    exact: int  # prompts that are in both
    near: tuple[int, int]  # prompts of a (of b) that only have a near one in the other set
    prompts: tuple[int, int]  # different prompts of a (of b)
    rows: tuple[np.ndarray, np.ndarray]  # bool: which rows of a (of b) have such a prompt
    examples: list[dict[str, Any]]  # the first exact ones, then the closest near ones: a, b, similarity

    @property
    def share(self) -> float:
        """The share of the smaller set's prompts that the other set has, exactly or nearly."""
        side = int(self.prompts[1] < self.prompts[0])
        return (self.exact + self.near[side]) / max(1, self.prompts[side])

    def __bool__(self) -> bool:
        return bool(self.exact or any(self.near))

    def as_dict(self) -> dict[str, Any]:
        return {
            "sets": [self.a, self.b],
            "exact": self.exact,
            "near": list(self.near),
            "rows": [int(rows.sum()) for rows in self.rows],
            "of_rows": [len(rows) for rows in self.rows],
            "prompts": list(self.prompts),
            "share": round(self.share, 4),
            "examples": self.examples,
        }


def find(sets: dict[str, list[str]], *, threshold: float = THRESHOLD, examples: int = 3) -> list[Shared]:
    """Prompts shared by each two of the named sets, in the order in which they are named.

    Args:
        sets: prompts by name, one a row; empty ones count as none.
        threshold: Jaccard similarity from which two prompts are near, above 0 to 1.
        examples: so many are kept for each two sets.
    """
    assert 0 < threshold <= 1, threshold
    vocabulary: dict[str, int] = {}
    read = {name: ngrams.read_set(prompts, vocabulary) for name, prompts in sets.items()}
    counts = ngrams.count(read.values())
    indexed = {name: (prompts, ngrams.index(prompts, counts, threshold)) for name, prompts in read.items()}
    names = list(read)
    return [
        _compare((a, *indexed[a]), (b, *indexed[b]), threshold, examples)
        for number, a in enumerate(names)
        for b in names[number + 1 :]
    ]


@dataclass
class Asked:
    """Which of some prompts another set has, that set coming in parts: it may be of any size, this one is in memory."""

    read: ngrams.PromptSet
    vocabulary: dict[str, int]
    exact: np.ndarray  # [N] bool: in the other set
    near: np.ndarray  # [N] bool: a near one is there

    @classmethod
    def of(cls, prompts: list[str]) -> Asked:
        """Nothing is known to be shared yet."""
        vocabulary: dict[str, int] = {}
        read = ngrams.read_set(prompts, vocabulary)
        return cls(read, vocabulary, np.zeros(len(read), bool), np.zeros(len(read), bool))

    def look(self, known: list[str], threshold: float = THRESHOLD) -> None:
        """Look into a part of the other set."""
        there = ngrams.read_set(known, dict(self.vocabulary))  # its own words are forgotten again
        counts = ngrams.count([there, self.read])
        x, y = (ngrams.index(prompts, counts, threshold) for prompts in (there, self.read))
        flags = [np.zeros(len(there), bool), np.zeros(len(self.read), bool)]
        for key in there.keys.keys() & self.read.keys.keys():
            flags[0][there.keys[key]] = flags[1][self.read.keys[key]] = True
        self.exact |= flags[1]
        for _ in _near(there, self.read, x, y, flags, threshold):
            pass
        self.near |= flags[1]


def _compare(
    one: tuple[str, ngrams.PromptSet, ngrams.RareIndex],
    other: tuple[str, ngrams.PromptSet, ngrams.RareIndex],
    threshold: float,
    examples: int,
) -> Shared:
    (name_a, a, x), (name_b, b, y) = one, other
    same = [(at, b.keys[key]) for key, at in a.keys.items() if key in b.keys]
    best: list[dict[int, tuple[float, int]]] = [{}, {}]  # by prompt of a (of b): similarity, partner
    flags = [np.zeros(len(a), bool), np.zeros(len(b), bool)]
    for i, j in same:
        flags[0][i] = flags[1][j] = True
    exact = [flag.copy() for flag in flags]
    for i, j, value in _near(a, b, x, y, flags, threshold):
        for side, (mine, theirs) in enumerate(((i, j), (j, i))):
            best[side][mine] = max(best[side].get(mine, (0.0, 0)), (value, theirs))
    shown = [{"a": a.texts[i], "b": b.texts[j], "similarity": 1.0} for i, j in same[:examples]]
    near = {(i, j): value for i, (value, j) in best[0].items()} | {(i, j): value for j, (value, i) in best[1].items()}
    closest = sorted(near.items(), key=lambda found: (-found[1], found[0]))
    closest = [(pair, value) for pair, value in closest if not (exact[0][pair[0]] and exact[1][pair[1]])]
    room = max(1, examples - len(shown))
    shown += [{"a": a.texts[i], "b": b.texts[j], "similarity": round(v, 3)} for (i, j), v in closest[:room]]
    near_counts = [int((flag & ~was).sum()) for flag, was in zip(flags, exact, strict=True)]
    return Shared(
        name_a, name_b, len(same), (near_counts[0], near_counts[1]), (len(a), len(b)),
        (a.rows(flags[0]), b.rows(flags[1])), shown,
    )  # fmt: skip


def _near(
    a: ngrams.PromptSet,
    b: ngrams.PromptSet,
    x: ngrams.RareIndex,
    y: ngrams.RareIndex,
    flags: list[np.ndarray],
    threshold: float,
) -> Iterator[tuple[int, int, float]]:
    """Pairs at or above the threshold, enough of them to flag every prompt that has one; sets the flags.

    A pair of which both are flagged already is not looked at: the work does not grow with how much is shared.
    """
    closed = [flag.copy() for flag in flags]  # nothing more to find out about these
    tries = [np.zeros(len(flag), np.int64) for flag in flags]
    for i, j in itertools.chain(ngrams.meet(x, y, threshold), ((i, j) for j, i in ngrams.meet(y, x, threshold))):
        kept = ~(closed[0][i] & closed[1][j])
        i, j = i[kept], j[kept]
        both = x.size[i] + y.size[j]
        differ = np.bitwise_count(x.bitmap[i] ^ y.bitmap[j]).sum(1, dtype=np.int64)
        kept = differ <= both - 2 * ngrams.needed(both, threshold)
        pair = np.unique(i[kept] * len(b) + j[kept])
        for begin in range(0, len(pair), VERIFIED):
            i, j = np.divmod(pair[begin : begin + VERIFIED], len(b))
            kept = ~(closed[0][i] & closed[1][j])
            i, j = i[kept], j[kept]
            if not len(i):
                continue
            value = ngrams.jaccard(a, b, i, j)
            hit = value >= threshold - ngrams.EDGE
            for side, mine in enumerate((i, j)):
                flags[side][mine[hit]] = True
                tries[side] += np.bincount(mine, minlength=len(flags[side]))
                closed[side] |= flags[side] | (tries[side] >= TRIES)
            yield from zip(i[hit].tolist(), j[hit].tolist(), value[hit].tolist(), strict=True)
