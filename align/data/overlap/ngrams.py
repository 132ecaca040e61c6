"""How similar two prompts are: Jaccard similarity of their words' n-grams. W words of one prompt.

A prompt is the set of its 1-, 2- and 3-grams of words, padded at both ends: W words have 3 W + 3 of them, and every
word counts alike wherever it stands. For prompts whose words all differ this gives, to check by hand:

    one word replaced in W       (W - 1) / (W + 3)    at least 0.8 from 17 words on
    one word added to W          W / (W + 3)          at least 0.8 from 12 words on

So a long prompt with a word changed is near, and short ones that share a template are not: "What is the capital of
Peru?" against Spain is 5 / 9, "What is 17 plus 25?" against 26 is 4 / 8. Characters' 5-grams put the latter at 0.87,
because the sums differ in one character; unpadded 1- to 3-grams put templates of ten words that end in another name at
0.8. The price: of prompts below 12 words, only equal ones are found at 0.8. Paraphrases are not what this finds: word
overlap cannot see them (Yang et al. 2023, "Rethinking Benchmark and Contamination for Language Models with Rephrased
Samples").
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import regex

PAIRS = 1 << 16  # candidates that are looked at together: bounds the memory
WORDS = 1 << 18  # words that are read together: the same
COUNTERS = 1 << 22  # for how often an n-gram occurs; where two share one, the search is slower and as right
BITMAP = 4  # times 64 bits
EDGE = 1e-9  # a similarity of exactly the threshold counts, whatever its last digit
PARTNERS = 1000  # each rare n-gram of a prompt is tried with so many others at most, the rarest n-grams first

# A letter of scripts that put no space between words is a word. Marks (Thai and Hindi vowels) belong to their letter.
LONE = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
# Symbols carry the meaning of sums and code ("2 + 2", "C#"): they are words. A hyphen is one where a number follows.
_TOKENS = regex.compile(
    rf"\p{{Nd}}+(?:[.,]\p{{Nd}}+)*|{LONE}\p{{M}}*|(?:(?!{LONE})[\p{{L}}\p{{M}}\p{{N}}_])+"
    r"|-(?=\s*\p{Nd})|[\p{Sm}\p{Sc}\p{So}^*/%#&@\\]"
)

_ASCII_TOKENS = re.compile(r"[0-9]+(?:[.,][0-9]+)*|[a-z_][a-z0-9_]*|-(?=\s*[0-9])|[$+<=>|~^*/%#&@\\]")


def words(text: str) -> list[str]:
    """The words of a prompt without case, spaces, sentence punctuation and Unicode forms.

    Text of nothing but punctuation is one word, itself; empty text has none.
    """
    if text.isascii():  # the same rules, five times as fast
        plain = text.lower().replace("'", "")
        return _ASCII_TOKENS.findall(plain) or plain.split()
    plain = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "").replace("'", "")
    return _TOKENS.findall(plain) or plain.split()


def grams(text: str) -> set[tuple[str, ...]]:
    """The padded 1-, 2- and 3-grams of a prompt's words: what `similarity` compares."""
    found: set[tuple[str, ...]] = set()
    for size in (1, 2, 3):
        padded = [""] * (size - 1) + words(text) + [""] * (size - 1)
        found |= {tuple(padded[at : at + size]) for at in range(len(padded) - size + 1)}
    return found


def similarity(a: str, b: str) -> float:
    """Jaccard similarity of two prompts, 0 to 1: the definition, for one pair at a time."""
    one, other = grams(a), grams(b)
    return len(one & other) / len(one | other) if words(a) and words(b) else 0.0


# ------------------------------------------------------------------------------------------------- sets of prompts
# N prompts, G n-grams, P pairs, E entries of an index


@dataclass
class PromptSet:
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
        """The N prompts in order, by number, about `WORDS` words at a time."""
        begin = 0
        while begin < len(self):
            end = max(int(np.searchsorted(self.starts, self.starts[begin] + WORDS, "right")) - 1, begin + 1)
            yield np.arange(begin, end)
            begin = end


def read_set(prompts: list[str], vocabulary: dict[str, int]) -> PromptSet:
    """The different ones of some prompts; `vocabulary` gives each word its number, and learns new ones."""
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
    return PromptSet(texts, keys, of_row, np.array(numbers, np.uint32), np.array(starts, np.int64))


def _mix(x: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele et al. 2014): every bit of the input moves every bit of the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


_ODD = [np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)]


def _shingles(prompts: PromptSet, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
class RareIndex:
    """What the search looks at: each prompt's rarest n-grams, sorted by n-gram (E of them), and a sketch of all."""

    gram: np.ndarray  # [E]
    prompt: np.ndarray  # [E] whose it is
    place: np.ndarray  # [E] how many of that prompt's n-grams are rarer
    size: np.ndarray  # [N] different n-grams of each prompt
    bitmap: np.ndarray  # [N, BITMAP] uint64: bit (n-gram mod its bits) says whether an odd number of n-grams has it


def count(sets: Iterable[PromptSet]) -> np.ndarray:
    """How often n-grams occur in all the sets, by their first bits: [COUNTERS]."""
    counts = np.zeros(COUNTERS, np.uint64)
    for prompts in sets:
        for chosen in prompts.chunks():
            slots = _slot(_shingles(prompts, chosen)[1])
            counts += np.bincount(slots, minlength=COUNTERS).astype(np.uint64)
    return np.minimum(counts, np.uint64(2**24 - 1))


def _slot(gram: np.ndarray) -> np.ndarray:
    return (gram % np.uint64(COUNTERS)).astype(np.int64)


def index(prompts: PromptSet, counts: np.ndarray, threshold: float) -> RareIndex:
    """Order every prompt's n-grams from rare to common, the same order for all sets, and keep the rare ones.

    `counts` is [COUNTERS], of `count`.

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
        return RareIndex(none.astype(np.uint64), none, none, none, np.zeros((0, BITMAP), np.uint64))
    gram, prompt, place, size, bitmap = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(gram, kind="stable")
    return RareIndex(gram[order], prompt[order], place[order], size, bitmap)


def jaccard(a: PromptSet, b: PromptSet, i: np.ndarray, j: np.ndarray) -> np.ndarray:
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


def needed(both: np.ndarray, threshold: float) -> np.ndarray:
    """N-grams that two prompts have in common at least, if they have `both` together and are so similar: [P]."""
    return np.ceil(threshold / (1 + threshold) * both - EDGE)


def meet(a: RareIndex, b: RareIndex, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Prompts of a and b that have a rare n-gram in common where enough is left to share, the rarest first.

    Two arrays [P], some `PAIRS` at a time, with `PARTNERS` at most for each n-gram of each prompt.
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
        kept = left >= needed(a.size[i] + b.size[j], threshold)
        yield i[kept], j[kept]
        begin = end
