"""What a comparison's figures and tables are made of: settings by method, seeds, gains, fitted curves."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from align.report import numerals

WIDE = 12  # from this ratio of largest to smallest KL on, the KL axis is a square-root one


def methods(results: dict[str, Any]) -> list[str]:
    """The methods in the order of their settings."""
    return list(dict.fromkeys(setting["method"] for setting in results["settings"]))


def of_method(results: dict[str, Any], method: str) -> list[dict[str, Any]]:
    """A method's settings by strength."""
    return sorted((s for s in results["settings"] if s["method"] == method), key=lambda s: s["strength"])


def measured(settings: Sequence[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """The settings whose KL and `key` were measured."""
    return [s for s in settings if numerals.value(s.get("kl")) is not None and numerals.value(s.get(key)) is not None]


def finite_runs(setting: dict[str, Any], x: str, y: str) -> list[tuple[float, float]]:
    """The seeds' (x, y) where both were measured."""
    pairs = [(run.get(x), run.get(y)) for run in setting.get("runs", [])]
    return [(a, b) for a, b in pairs if a is not None and b is not None and math.isfinite(a) and math.isfinite(b)]


def signed_root(x: Any) -> Any:
    """sqrt with its sign kept: an estimated KL can fall just below 0."""
    return np.sign(x) * np.sqrt(np.abs(x))


def signed_square(x: Any) -> Any:
    """The inverse of `signed_root`."""
    return np.sign(x) * np.square(x)


def wide(results: dict[str, Any]) -> bool:
    """Whether the KLs of the settings span so much that their axis is a square-root one."""
    found = [abs(v) for s in results["settings"] if (v := numerals.value(s.get("kl")))]
    return bool(found) and max(found) / min(found) >= WIDE


def axis_label(results: dict[str, Any], key: str) -> str:
    """What an axis of `key` shows, with its units."""
    units = results.get("units", {}).get(key, "")
    what = {"reward": "reward", "gold": "gold score"}[key]
    inside = units.removeprefix(what).strip() if units.startswith(f"{what} (") else units
    if inside and not inside.startswith("("):
        inside = f"({inside})"
    signed = re.sub(r"(?<![\w)])-(?=\d)", "−", inside)
    return f"{what} {signed}".strip()


def gains(results: dict[str, Any], method: str, key: str) -> list[dict[str, Any]]:
    """A method's settings with `d` and the gain over the reference in `key`, by strength."""
    start = numerals.value(results.get("reference", {}).get(key))
    if start is None:
        return []
    return [
        {
            "label": s["label"],
            "d": float(signed_root(s["kl"]["value"])),
            "gain": s[key]["value"] - start,
            "ends": numerals.bounds(s[key]),
            "seeds": [(float(signed_root(a)), b - start) for a, b in finite_runs(s, "kl", key)],
        }
        for s in measured(of_method(results, method), key)
    ]


def reach(fit: dict[str, Any], rows: Sequence[dict[str, Any]]) -> float:
    """The largest sqrt(KL) that a fit rests on."""
    return float(fit.get("d_max") or max(row["d"] for row in rows))


def curve(fit: dict[str, Any], d: Any) -> Any:
    """Gain at distance d = sqrt(KL): d (alpha - beta log d), 0 at 0 (Gao et al. 2023, arXiv 2210.10760, eq. 1)."""
    d = np.asarray(d, dtype=float)
    return d * (fit["alpha"] - fit["beta"] * np.log(np.where(d > 0, d, 1.0)))


def rate(setting: dict[str, Any], judge: str) -> dict[str, Any] | None:
    """A setting's win rate by a judge, or None."""
    return (setting.get("win_rate") or {}).get(judge)
