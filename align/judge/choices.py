"""Choices: which of two completions is better, by scores or by a judge that saw them in both orders. Pure functions.

A choice is 1.0 where `a` is better, 0.5 for a tie, 0.0 where `b` is better, and None where there is none. A prompted
judge sees every pair in both orders (Zheng et al. 2023, arXiv:2306.05685, section 3.4), so that liking whatever comes
first cancels out and is measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from align.run.errors import ConfigError

Shown = tuple[str, str]  # what won a pair (`1`, `2`, `tie`: the position) with `a` first, and with `b` first


def by_score(
    scores_a: Sequence[float | None], scores_b: Sequence[float | None], *, tie: float = 0.0
) -> list[float | None]:
    """Choices from two lists of scores of the same prompts, higher is better.

    Args:
        scores_a: [N], of `a`'s completions; the unit is the scorer's.
        scores_b: [N], of `b`'s.
        tie: largest difference, in that unit, that still counts as a tie.

    Returns:
        [N]: 1.0, 0.5 or 0.0; None where a score is missing or not finite.

    Raises:
        ConfigError: if `tie` is negative or not finite.
    """
    if not (math.isfinite(tie) and tie >= 0):
        raise ConfigError(f"tie={tie}: give the largest difference of scores that is a tie, 0 or more")
    choices: list[float | None] = []
    for a, b in zip(scores_a, scores_b, strict=True):
        if a is None or b is None or not (math.isfinite(a) and math.isfinite(b)):
            choices.append(None)
        else:
            choices.append(0.5 if abs(a - b) <= tie else float(a > b))
    return choices


@dataclass(frozen=True)
class OrderEffect:
    """How much the position decided. A rate is None where there is nothing to count."""

    flip_rate: float | None = None  # share of pairs in which the same position won both times
    half_tied: int = 0  # pairs with a winner in one order and a tie in the other
    first_position_rate: float | None = None  # of single choices, ties aside, for what was shown first; 0.5 is unbiased


def order_effect(shown: Iterable[Shown]) -> OrderEffect:
    """How much the position decided in pairs that were chosen from in both orders."""
    pairs = list(shown)
    decided = [choice for pair in pairs for choice in pair if choice != "tie"]
    flipped = sum(x == y != "tie" for x, y in pairs)
    return OrderEffect(
        flip_rate=flipped / len(pairs) if pairs else None,
        half_tied=sum((x == "tie") != (y == "tie") for x, y in pairs),
        first_position_rate=decided.count("1") / len(decided) if decided else None,
    )


@dataclass(frozen=True)
class JudgeReport:
    """What one comparison took: `pairs` = `judged` + `same_text` + `failed`."""

    pairs: int = 0
    judged: int = 0  # with a choice in both orders
    same_text: int = 0  # ties that were never asked about
    failed: int = 0  # without a choice
    order: OrderEffect = OrderEffect()
    malformed: int = 0  # requests whose replies held no choice, of a server twice in a row
    cached: int = 0  # choices that were on disk
    # of a server alone
    refused: int = 0  # requests that it would not answer (why is in `problems`)
    asked: int = 0  # requests sent by this call,
    retried: int = 0  # of which so many after trouble with the server
    asked_again: int = 0  # and so many after a reply without a choice
    truncated: int = 0  # replies cut at judge_max_tokens
    prompt_tokens: int | None = None  # of this call; None if the server does not say
    completion_tokens: int | None = None


@dataclass
class Judged:
    """One choice a pair, in the order of the pairs, and what it took."""

    choices: list[float | None]
    report: JudgeReport
    shown: list[Shown | None] = field(default_factory=list)  # None for the same text twice, and without a choice
    problems: list[str] = field(default_factory=list)  # why there is no choice; "" with one, and where none is known


def settle(shown: Shown) -> float:
    """Both orders of a pair together: 1.0 or 0.0 where they agree on the winner, 0.5 in every other case."""
    return {("1", "2"): 1.0, ("2", "1"): 0.0}.get(shown, 0.5)


def both_orders(
    keys: Sequence[Shown | None], said: Mapping[str, str], problems: Mapping[str, str], taken: JudgeReport
) -> Judged:
    """Put the two orders of each pair together, and count.

    Args:
        keys: [N], each pair's two requests, the one with `a` first and the one with `b` first; None for the same text.
        said: what won (`1`, `2`, `tie`) by request; malformed replies are missing.
        problems: why there is none, by request, where that is known.
        taken: what is known of the requests; the pairs are counted here.
    """
    choices: list[float | None] = []
    shown: list[Shown | None] = []
    for pair in keys:
        seen = (said[pair[0]], said[pair[1]]) if pair and pair[0] in said and pair[1] in said else None
        shown.append(seen)
        choices.append(settle(seen) if seen else 0.5 if pair is None else None)
    decided = [seen for seen in shown if seen]
    report = replace(
        taken, pairs=len(keys), judged=len(decided), same_text=sum(pair is None for pair in keys),
        failed=choices.count(None), order=order_effect(decided),
    )  # fmt: skip
    why = [next((problems[key] for key in pair or () if key in problems), "") for pair in keys]
    return Judged(choices, report, shown, why)


def in_a_sentence(judge: str, reports: Iterable[JudgeReport], refused: Mapping[str, str]) -> str | None:
    """Several comparisons by one judge in a sentence; None where there were none.

    Args:
        judge: its name.
        refused: why, by request that its server would not answer.
    """
    reports = list(reports)
    pairs, judged, failed, same_text = (
        sum(getattr(one, name) for one in reports) for name in ("pairs", "judged", "failed", "same_text")
    )
    if not pairs:
        return None
    why = ""
    if refused:
        why = f" ({len(refused):,} requests had no reply, for example because {min(refused.values())})"
    order = ""
    if judged:
        flips = sum((one.order.flip_rate or 0.0) * one.judged for one in reports) / judged
        order = f"; the same position won in both orders for {flips:.1%} of the pairs (counted as ties)"
    known = [(one.order.first_position_rate, one.judged) for one in reports]
    if decided := [(rate, count) for rate, count in known if rate is not None]:
        firsts = sum(rate * count for rate, count in decided) / sum(count for _, count in decided)
        order += f", and what stood first won {firsts:.1%} of the single choices (50 % is unbiased)"
    return (
        f"The judge {judge} saw {pairs:,} pairs in both orders: {failed:,} without a usable choice{why}, "
        f"{same_text:,} of the same text{order}."
    )
