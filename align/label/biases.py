"""What moves ranks beside the answers: the place at which one is shown, its length; and the time that it takes.

Intervals are 95 % and rest on rankings, not on pairs: the pairs of one ranking are not independent.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from statistics import fmean, median

from align import stats
from align.label.opinions import ranks_of
from align.label.summary import LengthBias, Pace, PositionBias


def position_bias(rows: Iterable[dict]) -> PositionBias | None:
    """How often the completion that was shown first is ranked best, against the 1/K of a ranking without regard to it.

    A shared best rank of m completions counts 1/m; what is expected is the mean of 1/K over the rankings. None without
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
    return None if found is None else PositionBias(found, fmean(chance))


def length_bias(rows: Iterable[dict]) -> LengthBias | None:
    """How often the longer of two completions (in characters) is preferred, over pairs that are no tie in either.

    The interval is Wilson's for as many decisions as there are rankings with such a pair.
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
    return LengthBias(stats.Estimate(share, *stats.wilson(share * used, used), used), counted)


def pace(rows: Iterable[dict]) -> Pace | None:
    """Seconds a ranking (the median, since people take breaks) and rankings an hour at that pace; None if not known."""
    seconds = [row["seconds"] for row in rows if row.get("seconds")]
    if not seconds:
        return None
    return Pace(median(seconds), 3600 / median(seconds), len(seconds))
