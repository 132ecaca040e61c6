"""Numbers as a reader sees them: a true minus, a 95 % interval in brackets, a dash for what is absent."""

from __future__ import annotations

import math

from align.stats import Estimate

ABSENT = "—"
THIN = "\u202f"  # narrow no-break space: between thousands, before a percent sign


def decimals(value: float) -> int:
    """How many decimals a number of this size is given."""
    size = abs(value)
    return 0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 1 else 3


def number(value: float | None, places: int | None = None) -> str:
    """A number with a decimal count of its own, or with `places`; a dash for None.

    Whole numbers (`int`) keep no decimals. Below 0.0005 it is written with a power of ten.
    """
    if value is None:
        return ABSENT
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if isinstance(value, int):
        text = f"{value:,d}"
    elif places is None and 0 < abs(value) < 5e-4:
        text = f"{value:.1e}".replace("e-0", "e-")
    else:
        text = f"{value:,.{decimals(value) if places is None else places}f}"
        if float(text.replace(",", "")) == 0:
            text = text.lstrip("-")
    return text.replace(",", THIN).replace("-", "−")


def percent(value: float | None) -> str:
    """A fraction as a percentage with one decimal."""
    return ABSENT if value is None else f"{number(100 * value, 1)}{THIN}%"


def estimate(found: Estimate | None, *, share: bool = False) -> str:
    """`0.52 [0.48, 0.56]`, as a percentage for a `share`; the value alone without an interval; a dash for None."""
    if found is None or found.n == 0:
        return ABSENT
    text = percent(found.value) if share else number(found.value)
    if found.low is None or found.high is None:
        return text
    scale = 100 if share else 1
    if share:
        places: int | None = 1
    else:
        places = decimals(found.value) if abs(found.value) >= 5e-4 or found.value == 0 else None
    return f"{text} [{number(scale * found.low, places)}, {number(scale * found.high, places)}]"


def bounds(found: Estimate | None) -> tuple[float, float]:
    """The distances from an estimate's value down to its low end and up to its high end, 0 where unknown."""
    if found is None or found.low is None or found.high is None:
        return 0.0, 0.0
    return max(found.value - found.low, 0.0), max(found.high - found.value, 0.0)


def value(found: Estimate | None) -> float | None:
    """An estimate's value, or None where it was not measured or is not finite."""
    return found.value if found is not None and math.isfinite(found.value) else None
