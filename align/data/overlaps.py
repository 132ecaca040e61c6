"""Which prompts two sets share: the same text (exact), or nearly the same (Jaccard similarity of word n-grams).

N prompts, G n-grams, P pairs.

The measure is that of `align.data.ngrams`. Two sets of n-grams as similar as asked share one of each set's rarest, so pairs
are met in an index of those alone (prefix filter: Chaudhuri et al. 2006; Bayardo et al. 2007), at places that leave
enough to share (positional filter: Xiao et al. 2008); bitmaps rule out most of the rest (Sandes et al. 2020), and the
true similarity decides. None of this misses a pair. Where thousands of prompts share most of a long template, all pairs
would be left; so each prompt is compared in vain with `TRIES` others at most, those with which it shares the rarest
first: a changed copy is found before its siblings. MinHash banding was tried and proposes most pairs of a template with
two blanks: their similarity, 0.6 to 0.7, is close to the threshold, and what tells them apart is rare.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from align.data.ngrams import words

THRESHOLD = 0.8  # near from here on: the nano evaluation's closest prompt to a trained one, worded anew, has 0.69
PAIRS = 1 << 16  # candidates that are looked at together: bounds the memory
VERIFIED = 1 << 12  # of them compared in full at once: the same
WORDS = 1 << 18  # words that are read together: the same
COUNTERS = 1 << 22  # for how often an n-gram occurs; where two share one, the search is slower and as right
BITMAP = 4  # times 64 bits
EDGE = 1e-9  # a similarity of exactly the threshold counts, whatever its last digit
PARTNERS = 1000  # each rare n-gram of a prompt is tried with so many others at most, the rarest n-grams first
TRIES = 16  # and is compared so many times in vain at most


# ------------------------------------------------------------------------------------------------------------- sets


@dataclass
class _Set:
    """The different prompts of one set, as numbers."""

    texts: list[str]  # N, as first written
    keys: dict[str, int]  # normalised text -> which of the N
    of_row: np.ndarray  # [rows] which of the N each row has; -1 for an empty one
    words: np.ndarray  # all their words as numbers from 1 on, one prompt after the other
    starts: np.ndarray  # [N + 1] where each begins

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        """[rows] bool: those that have a prompt of `chosen` ([N] bool)."""
        return np.append(chosen, False)[self.of_row]  # -1 reads the False at the end

    def chunks(self) -> Iterator[np.ndarray]:
        """The N prompts in order, some `WORDS` words at a time."""
        begin = 0
        while begin < len(self):
            end = max(int(np.searchsorted(self.starts, self.starts[begin] + WORDS, "right")) - 1, begin + 1)
            yield np.arange(begin, end)
            begin = end


def _read(prompts: list[str], vocabulary: dict[str, int]) -> _Set:
    texts: list[str] = []
    keys: dict[str, int] = {}
    numbers = array("I")
    starts = array("q", [0])
    of_row = np.full(len(prompts), -1, np.int64)
    for row, text in enumerate(prompts):
        found = words(text)
        if not found:
            continue
        at = of_row[row] = keys.setdefault(" ".join(found), len(texts))
        if at == len(texts):
            texts.append(text)
            numbers.extend([vocabulary.setdefault(word, len(vocabulary) + 1) for word in found])
            starts.append(len(numbers))
    return _Set(texts, keys, of_row, np.array(numbers, np.uint32), np.array(starts, np.int64))


def _mix(x: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele et al. 2014): every bit of the input moves every bit of the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


_ODD = [np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)]


def _shingles(prompts: _Set, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The n-grams of the chosen prompts as 64-bit numbers.

    Returns:
        owner: [G] the position in `chosen` of the prompt that each n-gram belongs to, ascending.
        gram: [G] uint64. With 1e7 different n-grams, two have the same number with a probability of 3e-6.
    """
    lengths = np.diff(prompts.starts)[chosen] + 4  # two pads before, two after
    ends = np.cumsum(lengths)
    owner = np.repeat(np.arange(len(chosen)), lengths)
    place = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)  # of a word in its padded prompt
    left = np.repeat(lengths, lengths) - place  # words from here to the end, pads included
    inside = (place >= 2) & (left > 2)
    word = np.zeros(len(owner), np.uint64)
    source = np.repeat(prompts.starts[:-1][chosen], lengths) + place - 2
    word[inside] = prompts.words[source[inside]]
    two, three = np.append(word[1:], np.uint64(0)), np.append(word[2:], np.zeros(2, np.uint64))
    one = _mix(word * _ODD[0] + _ODD[3])
    pair = _mix(one + two * _ODD[1] + _ODD[2])
    triple = _mix(pair + three * _ODD[2] + _ODD[1])
    kept = [inside, (place >= 1) & (left > 2), left > 2]
    owners = np.concatenate([owner[k] for k in kept])
    order = np.argsort(owners, kind="stable")
    return owners[order], np.concatenate([g[k] for g, k in zip((one, pair, triple), kept, strict=True)])[order]


@dataclass
class _Index:
    """What the search looks at: each prompt's rarest n-grams, sorted by n-gram (E of them), and a sketch of all."""

    gram: np.ndarray  # [E]
    prompt: np.ndarray  # [E] whose it is
    place: np.ndarray  # [E] how many of that prompt's n-grams are rarer
    size: np.ndarray  # [N] different n-grams of each prompt
    bitmap: np.ndarray  # [N, BITMAP] uint64: bit (n-gram mod its bits) says whether an odd number of n-grams has it


def _count(sets: Iterable[_Set]) -> np.ndarray:
    """How often n-grams occur in all the sets, by their first bits: [COUNTERS]."""
    counts = np.zeros(COUNTERS, np.uint64)
    for prompts in sets:
        for chosen in prompts.chunks():
            slots = _slot(_shingles(prompts, chosen)[1])
            counts += np.bincount(slots, minlength=COUNTERS).astype(np.uint64)
    return np.minimum(counts, np.uint64(2**24 - 1))


def _slot(gram: np.ndarray) -> np.ndarray:
    return (gram % np.uint64(COUNTERS)).astype(np.int64)


def _index(prompts: _Set, counts: np.ndarray, threshold: float) -> _Index:
    """Order every prompt's n-grams from rare to common, the same order for all sets, and keep the rare ones.

    A set of s n-grams has s - ceil(t s) + 1 such that any set of similarity t or more has one of them among its own.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    for chosen in prompts.chunks():
        owner, gram = _shingles(prompts, chosen)
        ranked = (counts[_slot(gram)] << np.uint64(40)) | (gram >> np.uint64(24))
        order = np.lexsort((ranked, owner))
        owner, ranked = owner[order], ranked[order]
        new = np.append(True, (owner[1:] != owner[:-1]) | (ranked[1:] != ranked[:-1]))
        owner, ranked = owner[new], ranked[new]
        size = np.bincount(owner, minlength=len(chosen))
        first = np.cumsum(size) - size
        place = np.arange(len(owner)) - first[owner]
        rare = place <= size[owner] - np.ceil(threshold * size - EDGE)[owner]
        bit = _mix(ranked)
        columns = []
        for column in range(BITMAP):
            here = (bit >> np.uint64(6)) % np.uint64(BITMAP) == column
            value = np.where(here, np.uint64(1) << (bit % np.uint64(64)), np.uint64(0))
            columns.append(np.bitwise_xor.reduceat(value, first))
        parts.append((ranked[rare], chosen[owner[rare]], place[rare], size, np.stack(columns, 1)))
    if not parts:
        none = np.zeros(0, np.int64)
        return _Index(none.astype(np.uint64), none, none, none, np.zeros((0, BITMAP), np.uint64))
    gram, prompt, place, size, bitmap = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(gram, kind="stable")
    return _Index(gram[order], prompt[order], place[order], size, bitmap)


def _jaccard(a: _Set, b: _Set, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """The true similarity of prompt `i[p]` of a and `j[p]` of b, for each p: [P]."""
    sides, sizes = [], []
    for prompts, chosen in ((a, i), (b, j)):
        owner, gram = _shingles(prompts, chosen)
        key, first = np.unique(_mix(gram + owner.astype(np.uint64) * _ODD[0]), return_index=True)
        sides.append((key, owner[first]))
        sizes.append(np.bincount(owner[first], minlength=len(i)))
    _, at, _ = np.intersect1d(sides[0][0], sides[1][0], assume_unique=True, return_indices=True)
    both = np.bincount(sides[0][1][at], minlength=len(i))
    return both / (sizes[0] + sizes[1] - both)


# ----------------------------------------------------------------------------------------------------------- finding


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
    read = {name: _read(prompts, vocabulary) for name, prompts in sets.items()}
    counts = _count(read.values())
    indexed = {name: (prompts, _index(prompts, counts, threshold)) for name, prompts in read.items()}
    names = list(read)
    return [
        _compare((a, *indexed[a]), (b, *indexed[b]), threshold, examples)
        for number, a in enumerate(names)
        for b in names[number + 1 :]
    ]


def _compare(one: tuple[str, _Set, _Index], other: tuple[str, _Set, _Index], threshold: float, examples: int) -> Shared:
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
    a: _Set, b: _Set, x: _Index, y: _Index, flags: list[np.ndarray], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Pairs at or above the threshold, enough of them to flag every prompt that has one; sets the flags.

    A pair of which both are flagged already is not looked at: the work does not grow with how much is shared.
    """
    closed = [flag.copy() for flag in flags]  # nothing more to find out about these
    tries = [np.zeros(len(flag), np.int64) for flag in flags]
    for i, j in itertools.chain(_meet(x, y, threshold), ((i, j) for j, i in _meet(y, x, threshold))):
        kept = ~(closed[0][i] & closed[1][j])
        i, j = i[kept], j[kept]
        both = x.size[i] + y.size[j]
        differ = np.bitwise_count(x.bitmap[i] ^ y.bitmap[j]).sum(1, dtype=np.int64)
        kept = differ <= both - 2 * _needed(both, threshold)
        pair = np.unique(i[kept] * len(b) + j[kept])
        for begin in range(0, len(pair), VERIFIED):
            i, j = np.divmod(pair[begin : begin + VERIFIED], len(b))
            kept = ~(closed[0][i] & closed[1][j])
            i, j = i[kept], j[kept]
            if not len(i):
                continue
            value = _jaccard(a, b, i, j)
            hit = value >= threshold - EDGE
            for side, mine in enumerate((i, j)):
                flags[side][mine[hit]] = True
                tries[side] += np.bincount(mine, minlength=len(flags[side]))
                closed[side] |= flags[side] | (tries[side] >= TRIES)
            yield from zip(i[hit].tolist(), j[hit].tolist(), value[hit].tolist(), strict=True)


def _needed(both: np.ndarray, threshold: float) -> np.ndarray:
    """N-grams that two prompts have in common at least, if they have `both` together and are so similar."""
    return np.ceil(threshold / (1 + threshold) * both - EDGE)


def _meet(a: _Index, b: _Index, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Prompts of a and b that have a rare n-gram in common where enough is left to share, the rarest first.

    Some `PAIRS` at a time, with `PARTNERS` at most for each n-gram of each prompt.
    """
    first = np.searchsorted(b.gram, a.gram, "left")
    found = np.minimum(np.searchsorted(b.gram, a.gram, "right") - first, PARTNERS)
    some = np.flatnonzero(found)
    totals = np.cumsum(found[some])
    begin = 0
    while begin < len(some):
        before = totals[begin - 1] if begin else 0
        end = max(int(np.searchsorted(totals, before + PAIRS, "right")), begin + 1)
        mine = some[begin:end]
        here = np.repeat(mine, found[mine])
        there = np.repeat(first[mine] - np.cumsum(found[mine]) + found[mine], found[mine]) + np.arange(len(here))
        i, j = a.prompt[here], b.prompt[there]
        left = np.minimum(a.size[i] - a.place[here], b.size[j] - b.place[there])  # n-grams from this one on
        kept = left >= _needed(a.size[i] + b.size[j], threshold)
        yield i[kept], j[kept]
        begin = end
