"""What a comparison's figures and tables are made of: settings by method, seeds, gains, how far a fit reaches."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from align.compare.comparison import ComparisonResults, SettingResult
from align.report import numerals
from align.stats import Estimate, Fit

WIDE = 12  # from this ratio of largest to smallest KL on, the KL axis is a square-root one
SCORES = {"reward": "reward", "gold": "gold score", "second": "second judge's score"}  # in words
FITTED = ("reward", "gold")  # proxy and gold of Gao et al. 2022


@dataclass(frozen=True)
class Point:
    """A setting whose KL and score were measured, with its seeds' (KL, score)."""

    setting: SettingResult
    kl: Estimate
    score: Estimate
    seeds: list[tuple[float, float]]


@dataclass(frozen=True)
class Gain:
    """A setting's distance d = sqrt(KL) and its gain over the reference, and the seeds' (d, gain)."""

    label: str
    d: float
    gain: float
    ends: tuple[float, float]  # of the interval, from the gain down and up
    seeds: list[tuple[float, float]]


def methods(results: ComparisonResults) -> list[str]:
    """The methods in the order of their settings."""
    return list(dict.fromkeys(setting.method for setting in results.settings))


def of_method(results: ComparisonResults, method: str) -> list[SettingResult]:
    """A method's settings by strength."""
    return sorted((s for s in results.settings if s.method == method), key=lambda s: s.strength)


def points(settings: Sequence[SettingResult], key: str) -> list[Point]:
    """The settings whose KL and `key` (`reward`, `gold` or `second`) were measured."""
    found = []
    for setting in settings:
        kl, score = setting.kl, setting.score(key)
        if kl and score and numerals.value(kl) is not None and numerals.value(score) is not None:
            found.append(Point(setting, kl, score, seed_points(setting, "kl", key)))
    return found


def seed_points(setting: SettingResult, x: str, key: str) -> list[tuple[float, float]]:
    """The seeds' (x, score) where both are finite; `x` is `kl` or `seconds`."""
    pairs = [(run.seconds if x == "seconds" else run.kl, run.score(key)) for run in setting.finished]
    return [(a, b) for a, b in pairs if b is not None and math.isfinite(a) and math.isfinite(b)]


def signed_root(x: Any) -> Any:
    """sqrt with its sign kept: an estimated KL can fall just below 0."""
    return np.sign(x) * np.sqrt(np.abs(x))


def signed_square(x: Any) -> Any:
    """The inverse of `signed_root`."""
    return np.sign(x) * np.square(x)


def wide(results: ComparisonResults) -> bool:
    """Whether the KLs of the settings span so much that their axis is a square-root one."""
    found = [abs(v) for s in results.settings if (v := numerals.value(s.kl))]
    return bool(found) and max(found) / min(found) >= WIDE


def axis_label(results: ComparisonResults, key: str) -> str:
    """What an axis of `key` shows, with its units."""
    units, what = (results.units or {}).get(key, ""), SCORES[key]
    inside = units.removeprefix(what).strip() if units.startswith(f"{what} (") else units
    if inside and not inside.startswith("("):
        inside = f"({inside})"
    signed = re.sub(r"(?<![\w)])-(?=\d)", "−", inside)
    return f"{what} {signed}".strip()


def gains(results: ComparisonResults, method: str, key: str) -> list[Gain]:
    """A method's settings by strength, as gains over the reference; none where the reference was not measured."""
    start = numerals.value(results.reference.score(key)) if results.reference else None
    if start is None:
        return []
    return [
        Gain(
            point.setting.label,
            float(signed_root(point.kl.value)),
            point.score.value - start,
            numerals.bounds(point.score),
            [(float(signed_root(kl)), score - start) for kl, score in point.seeds],
        )
        for point in points(of_method(results, method), key)
    ]


def reach(fit: Fit, rows: Sequence[Gain]) -> float:
    """The largest sqrt(KL) that a fit rests on."""
    return fit.d_max or max(row.d for row in rows)


def rate(setting: SettingResult, judge: str) -> Estimate | None:
    """A setting's win rate by a judge, or None."""
    return (setting.win_rate or {}).get(judge)
