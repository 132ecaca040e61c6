"""How far annotators agree, with each other and with themselves; and `align agreement`, which says it as a table.

K completions of an item; ranks are whole numbers, 1 is best, ties allowed. Rows are the `rankings` schema. Intervals
are 95 % and rest on items or rankings, not on pairs: the pairs of one ranking are not independent.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from json import dumps
from statistics import fmean, stdev

from align import stats
from align.data import pairs
from align.label.biases import length_bias, pace, position_bias
from align.label.figures import columns, lines, table
from align.label.opinions import Ranks, item_of, opinions, signs, who
from align.label.reliability import alpha, tau_b
from align.label.store import source
from align.label.summary import Agreement, Alpha, OneAnnotator, Summary
from align.run.parse import parse


def _estimate(values: list[float], bounds: tuple[float, float]) -> stats.Estimate | None:
    """Mean of one value for each item, with Student's interval over items, kept within what is possible."""
    if not values:
        return None
    centre, half = fmean(values), math.inf
    if len(values) > 1:
        half = stats.t95(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    low, high = max(bounds[0], centre - half), min(bounds[1], centre + half)
    return stats.Estimate(centre, low, high, len(values))


def between(ranked: Iterable[tuple[dict[str, Ranks], dict[str, Ranks]]]) -> Agreement:
    """Agreement over items, each with two sides: every annotator of the one compared with everybody of the other."""
    taus, raws = [], []
    for left, right in ranked:
        item_taus, item_raws = [], []
        for (name, a), (other, b) in itertools.product(left.items(), right.items()):
            if name == other or (left is right and name > other):
                continue
            both = [text for text in a if text in b]
            if len(both) < 2:
                continue
            compared = list(itertools.combinations(both, 2))
            item_raws.append(fmean(x == y for x, y in zip(signs(a, compared), signs(b, compared), strict=True)))
            tau = tau_b([a[text] for text in both], [b[text] for text in both])
            item_taus += [] if tau is None else [tau]
        raws += [fmean(item_raws)] if item_raws else []
        taus += [fmean(item_taus)] if item_taus else []
    return Agreement(len(raws), _estimate(taus, (-1.0, 1.0)), _estimate(raws, (0.0, 1.0)))


def pair_alpha(ranked: Iterable[dict[str, Ranks]]) -> Alpha:
    """Krippendorff's alpha on pairs of completions, a unit each, with the values better, tie and worse.

    Which of the two completions is "a" is decided by their texts' hashes, so that the values do not lean to one side
    because of the order in which completions were sampled.
    """
    units: list[list[int]] = []
    for said in ranked:
        texts = sorted({text for one in said.values() for text in one}, key=pairs.digest)
        for a, b in itertools.combinations(texts, 2):
            units.append([signs(one, [(a, b)])[0] for one in said.values() if a in one and b in one])
    return Alpha(alpha(units), alpha(units, order=(-1, 0, 1)))


def consistency(rows: Sequence[dict]) -> Agreement:
    """Agreement of an annotator's repeated rankings with their first ones: as `between`."""
    first, again = opinions(rows), opinions(rows, repeats=True)

    def named(said: dict[str, Ranks], suffix: str) -> dict[str, Ranks]:
        return {name + suffix: one for name, one in said.items()}

    return between((named(first[item], "1"), named(again[item], "2")) for item in again if item in first)


def summary(rows: Iterable[dict]) -> Summary:
    """Everything above for one set of rankings."""
    rows = list(rows)
    kinds = {who(row): str(row.get("kind") or "person") for row in rows}
    said = opinions(rows)
    people = [row for row in rows if kinds[who(row)] == "person"]
    by: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        by[who(row)].append(row)
    of_people = {item: {n: r for n, r in one.items() if kinds[n] == "person"} for item, one in said.items()}
    models = {
        name: _among([({name: one[name]}, of_people[item]) for item, one in said.items() if name in one])
        for name, kind in kinds.items()
        if kind != "person"
    }
    return Summary(
        rankings=len(rows),
        items=len({item_of(row) for row in rows}),
        shared=sum(len(one) > 1 for one in said.values()),
        verdicts=dict(Counter(str(row.get("verdict") or "ranked") for row in rows)),
        people=_among([(one, one) for one in of_people.values()]),
        everybody=_among([(one, one) for one in said.values()]),
        models=models,
        position=position_bias(people),
        length=length_bias(people or rows),
        pace=pace(people or rows),
        annotators=[_one(name, kinds[name], mine, said) for name, mine in by.items()],
    )


def _among(ranked: list[tuple[dict[str, Ranks], dict[str, Ranks]]]) -> Agreement:
    """`between` and `pair_alpha` of the same items.

    A model is compared with one person at a time: units of all together would say how far people agree, not the model.
    """
    shared: list[dict[str, Ranks]] = []
    for left, right in ranked:
        shared += [left] if left is right else [{**left, name: said} for name, said in right.items()]
    return replace(between(ranked), alpha=pair_alpha(shared))


def _one(name: str, kind: str, mine: list[dict], said: dict[str, dict[str, Ranks]]) -> OneAnnotator:
    """One annotator: counts, agreement with the others, with themselves, biases and pace."""
    with_others = between(({name: one[name]}, one) for one in said.values() if name in one)
    verdicts = Counter(str(row.get("verdict") or "ranked") for row in mine)
    return OneAnnotator(
        name=name,
        kind=kind,
        rankings=len(mine),
        skipped=verdicts["skip"],
        all_bad=verdicts["all_bad"],
        repeats=sum(bool(row.get("repeat")) for row in mine),
        others=with_others,
        themselves=consistency(mine),
        position=position_bias(mine) if kind == "person" else None,  # the others never see the order shown
        length=length_bias(mine),
        pace=pace(mine),
    )


@dataclass
class AgreementConfig:
    """What `align agreement` takes."""

    source: str | None = field(default=None, metadata={"help": "Labels file or folder, or rows of rankings."})
    kinds: list[str] = field(
        default_factory=list, metadata={"help": "Only these kinds of annotators: person, model, simulated."}
    )
    annotators: list[str] = field(default_factory=list, metadata={"help": "Only these annotators."})
    json: bool = field(default=False, metadata={"help": "Print the figures as JSON instead."})


def main(argv: list[str]) -> None:
    """`align agreement SOURCE`: how far the annotators of some rankings agree, as a table."""
    (args,) = parse(AgreementConfig, nano=None, required=("source",), argv=argv)
    found = summary(source.read(args.source, kinds=args.kinds, annotators=args.annotators))
    if args.json:
        print(dumps(found.as_dict(), indent=2))
        return
    print(f"{columns(lines(found))}\n\n{columns(table(found))}")
