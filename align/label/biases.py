"""What moves ranks beside the answers: the place at which one is shown, its length; and the time that it takes.

Intervals are 95 % and rest on rankings, not on pairs: the pairs of one ranking are not independent.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from statistics import fmean, median
from typing import Any

from align import stats
from align.label.opinions import ranks_of


def position_bias(rows: Iterable[dict]) -> dict[str, Any] | None:
    """How often the completion that was shown first is ranked best, against the 1/K of a ranking without regard to it.

    A shared best rank of m completions counts 1/m. `expected` is the mean of 1/K over the rankings. None without
    rankings whose shown order is known.
    """
    best, chance = [], []
    for row in rows:
        shown, ranking = row.get("shown"), row.get("ranking")
        if ranks_of(row) is None or not shown or len(shown) < 2 or max(shown) >= len(ranking or []):
            continue
        seen = [ranking[place] for place in shown]  # type: ignore[index]
        best.append((seen[0] == min(seen)) / seen.count(min(seen)))
        chance.append(1 / len(seen))
    found = stats.rate(sum(best), len(best))
    return None if found is None else {**found.as_dict(), "expected": fmean(chance)}


def length_bias(rows: Iterable[dict]) -> dict[str, Any] | None:
    """How often the longer of two completions (in characters) is preferred, over pairs that are no tie in either.

    The interval is Wilson's for as many decisions as there are rankings with such a pair; `pairs` counts the pairs.
    """
    longer = counted = used = 0
    for row in rows:
        said = ranks_of(row) or {}
        told = [(a, b) for a, b in itertools.combinations(said, 2) if said[a] != said[b] and len(a) != len(b)]
        longer += sum((said[a] < said[b]) == (len(a) > len(b)) for a, b in told)
        counted += len(told)
        used += bool(told)
    if not counted:
        return None
    share = longer / counted
    return stats.Estimate(share, *stats.wilson(share * used, used), used).as_dict() | {"pairs": counted}


def pace(rows: Iterable[dict]) -> dict[str, Any] | None:
    """Seconds a ranking (the median, since people take breaks) and rankings an hour at that pace; None if not known."""
    seconds = [row["seconds"] for row in rows if row.get("seconds")]
    if not seconds:
        return None
    return {"seconds": median(seconds), "per_hour": 3600 / median(seconds), "timed": len(seconds)}
