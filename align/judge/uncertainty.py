"""From scores and choices to rankings, and how unsure a judge is of them: pure functions.

K completions of one item. Those with the same text are one completion: measures rest on the pairs (i, j), i < j, of
different texts, and each is between 0 (nothing to ask) and 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from align.judge.choices import Shown, settle

Pair = tuple[int, int]


def firsts(texts: Sequence[str]) -> list[int]:
    """For each completion, the index of the first one with its text: `[a, b, a]` gives `[0, 1, 0]`."""
    return [texts.index(text) for text in texts]


def pairs_of(texts: Sequence[str]) -> list[Pair]:
    """The pairs of completions that differ, each text once, by its first index: `[a, b, a]` gives `[(0, 1)]`."""
    return list(itertools.combinations(sorted(set(firsts(texts))), 2))


def ranks(scores: Sequence[float], tie: float = 0.0) -> list[int]:
    """Scores to ranks, 1 for the highest. Scores within `tie` of the best one of their group share its rank.

    `ranks([0.5, 2.0, 0.4, 0.0], 0.2)` is `[2, 1, 2, 4]`.

    Args:
        scores: [K], higher is better, in the scorer's unit.
        tie: largest difference, in that unit, that is a tie; 0 or more.
    """
    out = [0] * len(scores)
    leader, rank = math.inf, 0
    for position, index in enumerate(sorted(range(len(scores)), key=lambda k: -scores[k]), 1):
        if position == 1 or leader - scores[index] > tie:
            leader, rank = scores[index], position
        out[index] = rank
    return out


def copeland(k: int, choices: Mapping[Pair, float]) -> list[float]:
    """Each completion's wins over the others, a tie as half a win (Copeland 1951): [K], 0 where it was never compared.

    Args:
        k: K.
        choices: by pair (i, j): 1.0 where i is better, 0.5 for a tie, 0.0 where j is.
    """
    wins = [0.0] * k
    for (i, j), won in choices.items():
        wins[i] += won
        wins[j] += 1 - won
    return wins


def contradicts(ranking: Sequence[int], pair: Pair, won: float) -> bool:
    """Does a ranking say otherwise than the choice that made it (1.0: the first of the pair won, 0.0: the second)?

    Choices in a circle cannot all be in a ranking. A tie is no choice to contradict.
    """
    a, b = ranking[pair[0]], ranking[pair[1]]
    return won != 0.5 and (a < b) - (a > b) != (1 if won == 1.0 else -1)


def of_choices(shown: Mapping[Pair, Shown], ranking: Sequence[int]) -> float:
    """How unsure a prompted judge is of an item: the mean over its pairs of

    1 where the same position won in both orders, or the ranking contradicts the choice (choices in a circle);
    1/2 where one order gave a winner and the other a tie; 0 where both orders agree.
    """
    if not shown:
        return 0.0
    total = 0.0
    for pair, (first, second) in shown.items():
        if first == second != "tie" or contradicts(ranking, pair, settle((first, second))):
            total += 1.0
        elif "tie" in (first, second) and first != second:
            total += 0.5
    return total / len(shown)


def spread(items: Sequence[Sequence[float]]) -> float:
    """Standard deviation of a reward model's scores around their item's mean, pooled; 0 with nothing to pool.

    Scores of different prompts are not comparable (training fixes differences within a prompt only), so the differences
    between items are left out: sqrt(sum of squares / sum of (K - 1)).
    """
    squares, freedom = 0.0, 0
    for scores in filter(None, items):
        mean = sum(scores) / len(scores)
        squares += sum((score - mean) ** 2 for score in scores)
        freedom += len(scores) - 1
    return math.sqrt(squares / freedom) if freedom else 0.0


def of_scores(scores: Sequence[float], pairs: Sequence[Pair], unit: float) -> float:
    """How unsure a reward model is of an item: the mean over its pairs of exp(-|difference| / unit).

    1 for equal scores, 0.37 for scores one unit apart.

    Args:
        scores: [K].
        pairs: those that differ in text.
        unit: the model's `spread`; 0 (every score equal) makes every pair wholly unsure.
    """
    if not pairs:
        return 0.0
    if unit == 0:
        return 1.0
    return sum(math.exp(-abs(scores[i] - scores[j]) / unit) for i, j in pairs) / len(pairs)


def disagreement(rankings: Sequence[Sequence[int]], pairs: Sequence[Pair]) -> float:
    """How far judges disagree on an item: the mean over pairs of completions and pairs of judges of

    1 for opposite orders, 1/2 where one of the two judges has a tie, 0 for the same. That is half of 1 - Kendall's tau
    where nobody ties. With fewer than two judges it is 0.
    """
    between = list(itertools.combinations(rankings, 2))
    if not between or not pairs:
        return 0.0

    def order(ranking: Sequence[int], pair: Pair) -> int:
        a, b = ranking[pair[0]], ranking[pair[1]]
        return (a < b) - (a > b)

    total = sum(abs(order(one, pair) - order(two, pair)) / 2 for one, two in between for pair in pairs)
    return total / (len(between) * len(pairs))


def priority(unsure: Sequence[float], apart: float) -> float:
    """One number to ask people by, 0 to 1: 1 - (1 - mean of the judges' unsureness) (1 - their disagreement).

    Either of the two is enough to bring an item forward, and both together bring it further.
    """
    mean = sum(unsure) / len(unsure) if unsure else 0.0
    return 1 - (1 - mean) * (1 - apart)


def decided(one: Sequence[int], two: Sequence[int], pairs: Sequence[Pair]) -> Iterator[bool]:
    """Do two rankings agree? One answer for each pair that both of them decided (no tie)."""
    for i, j in pairs:
        if one[i] != one[j] and two[i] != two[j]:
            yield (one[i] < one[j]) == (two[i] < two[j])
