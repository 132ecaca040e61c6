"""Persona ratings as heat maps: tables whose cells are coloured, with the number in each.

`ratings[i][j]` is the rating of topic i under persona j, None where it could not be read.
"""

from __future__ import annotations

from matplotlib import colormaps
from matplotlib.colors import to_hex

from align.evaluate.results import EvaluationResults, Grid, PersonaRatings
from align.report.markup import Table, paragraphs, render
from align.report.numerals import ABSENT, number


def check(name: str, found: PersonaRatings) -> None:
    """Refuse ratings that are not one row a topic and one column a persona.

    Raises:
        ValueError: with the two shapes.
    """
    wanted = (len(found.topics), len(found.personas))
    for key, rows in (("ratings", found.ratings), ("generated", found.generated)):
        if len(rows) != wanted[0] or any(len(row) != wanted[1] for row in rows):
            shape = (len(rows), sorted({len(row) for row in rows}))
            raise ValueError(
                f"personas of {name}: {key} is {shape}; give one row a topic, one column a persona: {wanted}"
            )


def shift(found: PersonaRatings, reference: PersonaRatings) -> Grid | None:
    """Ratings less the reference's; None where the two cannot be compared."""
    alike = found.topics == reference.topics and found.personas == reference.personas
    if not (alike and found.measurable and reference.measurable):
        return None
    pairs = zip(found.ratings, reference.ratings, strict=True)
    return [[None if a is None or b is None else a - b for a, b in zip(*rows, strict=True)] for rows in pairs]


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def text_on(colour: str) -> str:
    """Black or white, whichever stands out more: at least 4.5:1 on any colour."""
    light = luminance(colour)
    return "#000000" if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else "#ffffff"


def _colour(value: float, low: float, high: float, diverging: bool) -> str:
    """Cividis for ratings, purple to orange through near-white for shifts: both readable without red and green."""
    share = 0.5 if high == low else (value - low) / (high - low)
    return str(to_hex(colormaps["PuOr_r"](0.12 + 0.76 * share) if diverging else colormaps["cividis"](share)))


def span(grids: list[Grid], diverging: bool = False) -> tuple[float, float]:
    """The range that the colours cover; symmetrical for shifts."""
    values = [v for grid in grids for row in grid for v in row if v is not None] or [0.0]
    if diverging:
        most = max(abs(v) for v in values)
        return -most, most
    return min(values), max(values)


def _signed(value: float) -> str:
    text = number(value, 2)
    return f"+{text}" if value > 0 and text.strip("0.") else text


def heat(caption: str, found: PersonaRatings, grid: Grid, ends: tuple[float, float], diverging: bool = False) -> str:
    """One heat map."""

    def cell(value: float | None) -> tuple[str, str]:
        if value is None:
            return ABSENT, ""
        back = _colour(value, *ends, diverging)
        return _signed(value) if diverging else number(value, 2), f"background:{back};color:{text_on(back)}"

    rows = [(topic, [cell(value) for value in row]) for topic, row in zip(found.topics, grid, strict=True)]
    kind = "purple below, orange above" if diverging else "dark blue low, yellow high"
    low, high = (_signed(x) if diverging else number(x, 2) for x in ends)
    return render("heat", caption, found.personas, rows, f"Colours from {low} to {high}: {kind}.")


def counted(found: PersonaRatings) -> str:
    """How many ratings could be read, in words."""
    counts = "; ".join(f"{name.replace('_', ' ')} {number(n)}" for name, n in found.counts.items())
    told = " Refusals to rate are told by phrases alone." if found.counts.get("refused") else ""
    return f"Method: {found.method}." + (f" Answers: {counts}.{told}" if counts else "")


def section(results: EvaluationResults) -> str:
    """Heat maps of every model that has personas, and their shifts from the reference."""
    having = {name: model.personas for name, model in results.models.items() if model.personas}
    for name, found in having.items():
        check(name, found)
    reference = having.get(results.reference)
    readable = [found for found in having.values() if found.measurable]
    ends = span([grid for found in readable for grid in (found.ratings, found.generated)])
    shifts = {name: shift(p, reference) for name, p in having.items() if reference is not None and p is not reference}
    across = span([grid for grid in shifts.values() if grid], diverging=True)
    parts = []
    for name, found in having.items():
        parts.append(render("persona", name, counted(found), "" if found.measurable else found.why))
        if not found.measurable:
            continue
        parts.append(heat(f"Ratings by {name}", found, found.ratings, ends))
        parts.append(heat(f"Ratings by {name}, read from generated answers", found, found.generated, ends))
        grid = shifts.get(name)
        if grid is not None:
            parts.append(heat(f"{name}: shift from {results.reference}", found, grid, across, diverging=True))
        elif name in shifts:
            parts.append(paragraphs([f"No shift from {results.reference}: the two have no ratings to compare."]))
    return "\n".join(parts)


def table(name: str, found: PersonaRatings) -> Table:
    """A model's ratings without colours."""
    check(name, found)
    body = [[topic, *(number(v, None if v is None else 2) for v in row)] for topic, row in zip(
        found.topics, found.ratings, strict=True)]  # fmt: skip
    return Table(f"Ratings by {name}", ["topic", *found.personas], body, counted(found))
