"""Win rates of one policy's completions over another's for the same prompts, by every judge at hand.

S seeds, N prompts, K completions per prompt. Two completions meet that are of the same prompt and the same number.
"""

from __future__ import annotations

import numpy as np

from align import stats
from align.evaluate.policy import DECIDE, SCORES, Rows
from align.judge.choices import by_score
from align.judge.endpoint import Endpoint

JUDGES = ("judge", *DECIDE)  # who decides, the first that is there


def choices(a: Rows, b: Rows, key: str, endpoint: Endpoint | None = None) -> np.ndarray:
    """1 where `a`'s completion is better, 0.5 for a tie, 0 where `b`'s is, NaN where the judge chose none: [N K]."""
    if key == "judge":
        assert endpoint is not None
        prompts = [row["prompt"] for row in a]
        found = endpoint.compare(prompts, [row["completion"] for row in a], [row["completion"] for row in b]).choices
    else:
        found = by_score([row[key] for row in a], [row[key] for row in b])
    return np.array([np.nan if choice is None else choice for choice in found])


def judges(rows: Rows, endpoint: Endpoint | None) -> list[str]:
    """The judges that there are, the one that decides first."""
    return [key for key in JUDGES if (key == "judge" and endpoint) or (key in SCORES and key in rows[0])]


def _per_prompt(values: np.ndarray, rows: Rows) -> np.ndarray:
    """Mean over a prompt's completions: [N]; NaN where none has a value."""
    where = np.array([row["index"] for row in rows])
    known = ~np.isnan(values)
    size = int(where.max()) + 1
    counts = np.bincount(where[known], minlength=size)
    sums = np.bincount(where[known], values[known], minlength=size)
    return np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)


def table(a: list[Rows], b: list[Rows], key: str, endpoint: Endpoint | None = None) -> np.ndarray:
    """The judge's choices for each seed and prompt: [S, N]. Seed s of `a` meets seed s of `b`, or its only one."""
    others = b if len(b) == len(a) else [b[0]] * len(a)
    assert len(others) == len(a) or len(b) == 1, (len(a), len(b))
    return np.stack([_per_prompt(choices(x, y, key, endpoint), x) for x, y in zip(a, others, strict=True)])


def win_rates(a: list[Rows], b: list[Rows], endpoint: Endpoint | None = None) -> dict[str, stats.Estimate | None]:
    """Win rate of `a` over `b` by each judge, with intervals over prompts and seeds, and `length_controlled` by the one
    that decides, with an interval over prompts."""
    found: dict[str, stats.Estimate | None] = {}
    for key in judges(a[0], endpoint):
        found[key] = stats.over_seeds(table(a, b, key, endpoint), within=stats.SHARE)
    if found:
        first = next(iter(found))
        others = b if len(b) == len(a) else [b[0]] * len(a)
        pairs = list(zip(a, others, strict=True))
        every = np.concatenate([choices(x, y, first, endpoint) for x, y in pairs])
        longer = np.array([r["length"] - o["length"] for x, y in pairs for r, o in zip(x, y, strict=True)])
        found["length_controlled"] = stats.length_controlled(every, longer, [r["index"] for x, _ in pairs for r in x])
    return found
