"""What a judge's rankings are worth: what became of the items, its own consistency, and its agreement with people."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from align import stats
from align.judge.choices import order_effect, settle
from align.judge.rankers import Judgement, Rankable, texts_of
from align.judge.uncertainty import contradicts, decided, pairs_of, spread
from align.label import agreement
from align.label.summary import Agreement


@dataclass
class JudgeRun:
    """What became of the items that a judge was given."""

    ranked: int = 0
    before: int = 0  # ranked by an earlier run
    unranked: Counter[str] = field(default_factory=Counter)  # the others, by reason


@dataclass(frozen=True)
class SameOrder:
    """How often annotators order two completions alike: the share, and how many pairs both of them decided."""

    rate: stats.Estimate  # over items
    pairs: int


def same_order(one: Iterable[dict], others: Iterable[dict], items: Mapping[str, Rankable]) -> SameOrder | None:
    """How often annotators order two completions as others do, over the pairs that both decided (no tie).

    Args:
        one: rows of `store.rankings()`.
        others: the rows to compare them with; nobody is compared with themselves. Given the same rows twice, every two
            annotators are compared once.
        items: by id.

    Returns:
        The share, with an interval by bootstrap over items; None where no pair was decided by both.
    """
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    theirs: dict[str, list[dict]] = defaultdict(list)
    for row in filter(_ranks, others):
        theirs[row["item"]].append(row)
    for mine in filter(_ranks, one):
        key = mine["item"]
        for row in theirs[key] if key in items else []:
            if mine["annotator"] != row["annotator"] and (one is not others or mine["annotator"] < row["annotator"]):
                said = list(decided(mine["ranking"], row["ranking"], pairs_of(texts_of(items[key]))))
                right[key] += sum(said)
                total[key] += len(said)
    shared = sorted(key for key, count in total.items() if count)
    found = stats.ratio([right[key] for key in shared], [total[key] for key in shared]) if shared else None
    return None if found is None else SameOrder(found, total.total())


def _ranks(row: Mapping[str, Any]) -> bool:
    """Is this a first ranking? Repeats, skips and "all bad" without ranks are not."""
    return row["ranking"] is not None and not row["repeat"]


def report(
    name: str, became: JudgeRun, items: Mapping[str, Rankable], said: Mapping[str, Judgement], rows: list[dict]
) -> str:
    """The lines that `align judge` prints.

    Args:
        name: the judge's, among the annotators.
        became: what `feedback.rank_items` gives.
        items: by id.
        said: the judge's judgements by item.
        rows: all rankings of the labels file.
    """
    lines = [f"{became.ranked:,} of {len(items):,} items ranked now, {became.before:,} before"]
    lines += [f"  {count:,} not ranked: {why} (the next run tries again)" for why, count in became.unranked.items()]
    lines += filter(None, [_consistency(said), _margins(items, said)])
    mine = [row for row in rows if row["annotator"] == name]
    for kind, who in (("person", "people"), ("simulated", "simulated labelers")):
        others = [row for row in rows if row["kind"] == kind]
        if others or kind == "person":
            lines += _against(name, who, mine, others, items)
    return "\n".join(lines)


def _against(name: str, who: str, mine: list[dict], others: list[dict], items: Mapping[str, Rankable]) -> list[str]:
    """The judge with the others, and the others with each other, which is as much as can be asked of a judge."""
    if not others:
        return ["agreement with people: nobody has ranked yet; rank some (align label), then run this again"]
    found = same_order(mine, others, items)
    if found is None:
        return [f"agreement with {who}: not known, no pair of completions was decided by both"]
    # to `summary`, people are those of the kind `person`; labelers that a program simulates are asked about alike
    both = agreement.summary([*mine, *({**row, "kind": "person"} for row in others)])
    lines = _words(f"agreement with {who}", found, both.models[name])
    if between := same_order(others, others, items):
        lines += _words(f"{who} with each other", between, both.people)
    return lines


def _words(who: str, found: SameOrder, measured: Agreement) -> list[str]:
    rate, tau = found.rate, measured.tau_b
    alpha = measured.alpha and measured.alpha.nominal
    interval = f" ({rate.low:.0%} to {rate.high:.0%})" if rate.n > 1 else ""
    tied = [] if tau is None else [f"Kendall's tau-b {tau.value:.2f} ({tau.low:.2f} to {tau.high:.2f})"]
    tied += [] if alpha is None else [f"Krippendorff's alpha on pairs {alpha:.2f}"]
    share = f"{rate.value:.0%}{interval}"
    return [
        f"{who}, on {rate.n:,} item{'s' if rate.n != 1 else ''}:",
        f"  the same order in {share} of {found.pairs:,} pairs that both decided (chance: 50 %)",
        f"  ties included: {', '.join(tied) or 'not known'}",
    ]


def _consistency(said: Mapping[str, Judgement]) -> str | None:
    """A prompted judge's order effect, in a sentence."""
    shown = [seen for judgement in said.values() for seen in judgement.shown.values()]
    if not shown:
        return None
    found = order_effect(shown)
    circles = sum(judgement.ranking is not None and _circular(judgement) for judgement in said.values())
    first = found.first_position_rate
    return (
        f"order: of {len(shown):,} pairs, the same position won both times in {found.flip_rate:.1%} (counted as "
        "ties)"
        + ("" if first is None else f"; what stood first won {first:.1%} of the single choices (50 % is unbiased)")
        + (f"; {circles:,} items have choices in a circle" if circles else "")
    )


def _circular(judgement: Judgement) -> bool:
    """Does the ranking contradict one of its choices?"""
    ranking = judgement.ranking
    assert ranking is not None
    return any(contradicts(ranking, pair, settle(seen)) for pair, seen in judgement.shown.items())


def _margins(items: Mapping[str, Rankable], said: Mapping[str, Judgement]) -> str | None:
    """How far apart a reward model's scores are, in a sentence."""
    scored = {key: found for key, found in said.items() if found.scores is not None and key in items}
    if not scored:
        return None
    unit = spread([found.distinct_scores(texts_of(items[key])) for key, found in scored.items()])
    gaps = [
        abs(found.scores[i] - found.scores[j])
        for key, found in scored.items()
        if found.scores is not None
        for i, j in pairs_of(texts_of(items[key]))
    ]
    close = sum(gap < unit / 4 for gap in gaps) / max(len(gaps), 1)
    near = f"{close:.1%} of {len(gaps):,} pairs are closer than a quarter of that"
    return f"scores: spread {unit:.3g} around an item's mean; {near}"
