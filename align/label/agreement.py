"""How far annotators agree, with each other and with themselves, and what else moves their ranks: pure functions.

K completions of an item; ranks are whole numbers, 1 is best, ties allowed. Rows are the `rankings` schema. Intervals
are 95 % and rest on items or rankings, not on pairs: the pairs of one ranking are not independent.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from json import dumps
from statistics import fmean, median, stdev
from typing import Any

from align import stats
from align.data import pairs
from align.label.figures import columns, lines, table

Ranks = dict[str, int]  # a completion's text to its rank

# ---------------------------------------------------------------------------------------------------------- measures


def tau_b(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Kendall's rank correlation with ties (Kendall 1945): [K], [K] -> -1 to 1; None where one side is all ties.

    tau_b = (P - Q) / sqrt((P + Q + X) (P + Q + Y)) over the K(K-1)/2 pairs: P pairs in the same order on both sides,
    Q in the opposite one, X tied in x only, Y tied in y only.
    """
    same = opposite = only_x = only_y = 0
    for (a, b), (c, d) in itertools.combinations(zip(x, y, strict=True), 2):
        p, q = (a > c) - (a < c), (b > d) - (b < d)
        same += p * q > 0
        opposite += p * q < 0
        only_x += p == 0 and q != 0
        only_y += q == 0 and p != 0
    below = (same + opposite + only_x) * (same + opposite + only_y)
    return (same - opposite) / math.sqrt(below) if below else None


def alpha(units: Iterable[Sequence[Hashable]], order: Sequence[Hashable] | None = None) -> float | None:
    """Krippendorff's alpha = 1 - D_o / D_e (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability").

    Coincidences o_ck = sum over units of (ordered pairs of values c, k in it) / (m_u - 1), n_c = sum_k o_ck,
    n = sum_c n_c; D_o = sum o_ck d_ck / n, D_e = sum n_c n_k d_ck / (n (n - 1)). Nominal: d_ck = 1 for c != k.
    Ordinal, where `order` gives the values from low to high: d_ck = (sum_{g=c}^{k} n_g - (n_c + n_k) / 2)^2.

    Args:
        units: the values that each unit got, one for each observer who judged it (whoever did not is left out).

    Returns:
        1 for perfect agreement, 0 for chance, below for less; None where no unit has two values, or all are the same.
    """
    weights: dict[tuple[Hashable, Hashable], float] = defaultdict(float)
    for unit in units:
        if len(unit) < 2:
            continue
        counts = Counter(unit)
        for c, k in itertools.product(counts, counts):
            weights[c, k] += (counts[c] * counts[k] - (c == k) * counts[c]) / (len(unit) - 1)
    totals: dict[Hashable, float] = defaultdict(float)
    for (c, _), weight in weights.items():
        totals[c] += weight
    n = sum(totals.values())

    def apart(c: Hashable, k: Hashable) -> float:
        if c == k or order is None:
            return float(c != k)
        low, high = sorted((order.index(c), order.index(k)))
        return (sum(totals[g] for g in order[low : high + 1] if g in totals) - (totals[c] + totals[k]) / 2) ** 2

    expected = sum(totals[c] * totals[k] * apart(c, k) for c, k in itertools.product(totals, totals))
    observed = sum(weight * apart(c, k) for (c, k), weight in weights.items())
    return 1 - (n - 1) * observed / expected if expected else None


# --------------------------------------------------------------------------------------------------- rows as judgements


def ranks(row: dict) -> Ranks | None:
    """What one row says: each distinct completion that was shown, with its rank; None where it ranks nothing.

    Of identical completions the first counts. A better answer that the annotator wrote stands after the K that were
    shown (see `export`); nobody else judged it, and it is left out. That all are bad ranks none above another.
    """
    if row.get("ranking") is None or row.get("verdict") == "skip":
        return None
    count = len(row["completions"]) - bool(row.get("written"))
    out: Ranks = {}
    for completion, rank in list(zip(row["completions"], row["ranking"], strict=True))[:count]:
        out.setdefault(pairs.text(completion), rank)
    if row.get("written") and row.get("verdict") == "all_bad" and len(set(out.values())) == 1:
        return None
    return out if len(out) > 1 else None


def who(row: dict) -> str:
    """The annotator's name; `unknown` where the rows came without one."""
    return str(row.get("annotator") or "unknown")


def item_of(row: dict) -> str:
    """The item that a row ranks: by its id, else by what is ranked."""
    return str(row.get("item") or pairs.item_key(row))


def _signs(said: Ranks, pairs: Iterable[tuple[str, str]]) -> list[int]:
    """1 where the first of a pair is better, -1 where the second is, 0 for a tie."""
    return [(said[a] < said[b]) - (said[a] > said[b]) for a, b in pairs]


def opinions(rows: Iterable[dict], *, repeats: bool = False) -> dict[str, dict[str, Ranks]]:
    """What each annotator said of each item: item -> annotator -> ranks; first rankings, or the repeated ones."""
    out: dict[str, dict[str, Ranks]] = defaultdict(dict)
    for row in rows:
        said = ranks(row)
        if said is not None and bool(row.get("repeat")) == repeats:
            out[item_of(row)].setdefault(who(row), said)
    return out


def _estimate(values: list[float], bounds: tuple[float, float]) -> stats.Estimate | None:
    """Mean of one value for each item, with Student's interval over items, kept within what is possible."""
    if not values:
        return None
    centre, half = fmean(values), math.inf
    if len(values) > 1:
        half = stats.t95(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return stats.estimate(centre, max(bounds[0], centre - half), min(bounds[1], centre + half), len(values))


def between(judged: Iterable[tuple[dict[str, Ranks], dict[str, Ranks]]]) -> dict[str, Any]:
    """Agreement over items, each with the annotators of one side and of the other, everybody compared with everybody.

    Returns:
        `items` shared; `tau_b`, the mean over items of the mean over pairs of annotators; `raw`, the share of pairs of
        completions on which two annotators say the same (better, worse, tie), likewise.
    """
    taus, raws = [], []
    for left, right in judged:
        item_taus, item_raws = [], []
        for (name, a), (other, b) in itertools.product(left.items(), right.items()):
            if name == other or (left is right and name > other):
                continue
            both = [text for text in a if text in b]
            if len(both) < 2:
                continue
            pairs = list(itertools.combinations(both, 2))
            item_raws.append(fmean(x == y for x, y in zip(_signs(a, pairs), _signs(b, pairs), strict=True)))
            tau = tau_b([a[text] for text in both], [b[text] for text in both])
            item_taus += [] if tau is None else [tau]
        raws += [fmean(item_raws)] if item_raws else []
        taus += [fmean(item_taus)] if item_taus else []
    return {"items": len(raws), "tau_b": _estimate(taus, (-1.0, 1.0)), "raw": _estimate(raws, (0.0, 1.0))}


def pair_alpha(judged: Iterable[dict[str, Ranks]]) -> dict[str, float | None]:
    """Krippendorff's alpha on pairs of completions, a unit each, with the values better, tie and worse.

    `nominal`, and `ordinal` (worse < tie < better). Which of the two completions is "a" is decided by their texts'
    hashes, so that the values do not lean to one side because of the order in which completions were sampled.
    """
    units: list[list[int]] = []
    for said in judged:
        texts = sorted({text for one in said.values() for text in one}, key=pairs.digest)
        for a, b in itertools.combinations(texts, 2):
            units.append([_signs(one, [(a, b)])[0] for one in said.values() if a in one and b in one])
    return {"alpha": alpha(units), "alpha_ordinal": alpha(units, order=(-1, 0, 1))}


# -------------------------------------------------------------------------------------------------------------- biases


def position_bias(rows: Iterable[dict]) -> dict[str, Any] | None:
    """How often the completion that was shown first is ranked best, against the 1/K of a ranking without regard to it.

    A shared best rank of m completions counts 1/m. `expected` is the mean of 1/K over the rankings. None without
    rankings whose shown order is known.
    """
    best, chance = [], []
    for row in rows:
        shown, ranking = row.get("shown"), row.get("ranking")
        if ranks(row) is None or not shown or len(shown) < 2 or max(shown) >= len(ranking or []):
            continue
        seen = [ranking[place] for place in shown]  # type: ignore[index]
        best.append((seen[0] == min(seen)) / seen.count(min(seen)))
        chance.append(1 / len(seen))
    found = stats.rate(sum(best), len(best))
    return None if found is None else {**found, "expected": fmean(chance)}


def length_bias(rows: Iterable[dict]) -> stats.Estimate | None:
    """How often the longer of two completions (in characters) is preferred, over pairs that are no tie in either.

    The interval is Wilson's for as many decisions as there are rankings with such a pair; `pairs` counts the pairs.
    """
    longer = pairs = used = 0
    for row in rows:
        said = ranks(row) or {}
        told = [(a, b) for a, b in itertools.combinations(said, 2) if said[a] != said[b] and len(a) != len(b)]
        longer += sum((said[a] < said[b]) == (len(a) > len(b)) for a, b in told)
        pairs += len(told)
        used += bool(told)
    if not pairs:
        return None
    share = longer / pairs
    return stats.estimate(share, *stats.wilson(share * used, used), used) | {"pairs": pairs}


def pace(rows: Iterable[dict]) -> dict[str, Any] | None:
    """Seconds a ranking (the median, since people take breaks) and rankings an hour at that pace; None if not known."""
    seconds = [row["seconds"] for row in rows if row.get("seconds")]
    if not seconds:
        return None
    return {"seconds": median(seconds), "per_hour": 3600 / median(seconds), "timed": len(seconds)}


def consistency(rows: Sequence[dict]) -> dict[str, Any]:
    """Agreement of an annotator's repeated rankings with their first ones: as `between`."""
    first, again = opinions(rows), opinions(rows, repeats=True)

    def named(said: dict[str, Ranks], suffix: str) -> dict[str, Ranks]:
        return {name + suffix: one for name, one in said.items()}

    return between((named(first[item], "1"), named(again[item], "2")) for item in again if item in first)


# ------------------------------------------------------------------------------------------------------------- summary


def summary(rows: Iterable[dict]) -> dict[str, Any]:
    """Everything above for one set of rankings, ready for JSON: for the manager's page and the data set's card.

    Returns:
        `rankings`, `items`, `shared` (items with two annotators or more), `verdicts`; `people` and `everybody`:
        agreement between annotators (`items`, `tau_b`, `raw`, `alpha`, `alpha_ordinal`); `models`: each annotator that
        is not a person against the people on the items that both ranked; `position` over people, who see an order;
        `length`, `pace` over people (or, without any, over everybody); `annotators`: a row for each.
    """
    rows = list(rows)
    kinds = {who(row): str(row.get("kind") or "person") for row in rows}
    said = opinions(rows)
    people = [row for row in rows if kinds[who(row)] == "person"]
    by: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        by[who(row)].append(row)
    of_people = {item: {n: r for n, r in one.items() if kinds[n] == "person"} for item, one in said.items()}
    models = {
        name: {
            "kind": kind,
            **_among([({name: one[name]}, of_people[item]) for item, one in said.items() if name in one]),
        }
        for name, kind in kinds.items()
        if kind != "person"
    }
    return {
        "rankings": len(rows),
        "items": len({item_of(row) for row in rows}),
        "shared": sum(len(one) > 1 for one in said.values()),
        "verdicts": dict(Counter(str(row.get("verdict") or "ranked") for row in rows)),
        "people": _among([(one, one) for one in of_people.values()]),
        "everybody": _among([(one, one) for one in said.values()]),
        "models": models,
        "position": position_bias(people),
        "length": length_bias(people or rows),
        "pace": pace(people or rows),
        "annotators": [_one(name, kinds[name], mine, said) for name, mine in by.items()],
    }


def _among(judged: list[tuple[dict[str, Ranks], dict[str, Ranks]]]) -> dict[str, Any]:
    """`between` and `pair_alpha` of the same items.

    A model is compared with one person at a time: units of all together would say how far people agree, not the model.
    """
    shared: list[dict[str, Ranks]] = []
    for left, right in judged:
        shared += [left] if left is right else [{**left, name: said} for name, said in right.items()]
    return {**between(judged), **pair_alpha(shared)}


def _one(name: str, kind: str, mine: list[dict], said: dict[str, dict[str, Ranks]]) -> dict[str, Any]:
    """One annotator: counts, agreement with the others, with themselves, biases and pace."""
    with_others = between(({name: one[name]}, one) for one in said.values() if name in one)
    verdicts = Counter(str(row.get("verdict") or "ranked") for row in mine)
    return {
        "name": name,
        "kind": kind,
        "rankings": len(mine),
        "skipped": verdicts["skip"],
        "all_bad": verdicts["all_bad"],
        "repeats": sum(bool(row.get("repeat")) for row in mine),
        "others": with_others,
        "self": consistency(mine),
        "position": position_bias(mine) if kind == "person" else None,  # the others never see the order shown
        "length": length_bias(mine),
        "pace": pace(mine),
    }


# ------------------------------------------------------------------------------------------------------------- program


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
    from align.label.store import source
    from align.run.parse import parse

    (args,) = parse(AgreementConfig, nano=None, required=("source",), argv=argv)
    found = summary(source.read(args.source, kinds=args.kinds, annotators=args.annotators))
    if args.json:
        print(dumps(found, indent=2))
        return
    print(f"{columns(lines(found))}\n\n{columns(table(found))}")
