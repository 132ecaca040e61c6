"""What a comparison's figures are drawn with: a method's colour and marker, means and seeds, labels, axes, legends.

Every seed is a small mark, a setting's mean a large one with its 95 % interval; a method has a colour and a marker
shape of its own everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from align.compare.comparison import ComparisonResults
from align.compare.page.series import Point, methods, signed_root, signed_square
from align.report import numerals
from align.report.svg import MUTED, PAPER


@dataclass(frozen=True)
class Look:
    """A method's colour and marker."""

    colour: str
    marker: str

    @property
    def text(self) -> str:
        """The colour of its text (see `svg.COLOURS`)."""
        return f"{self.colour[:-1]}{int(self.colour[-1], 16) + 1:x}"


LOOKS = {"PPO": Look("#0072b2", "o"), "DPO": Look("#d55e00", "s"), "RLOO": Look("#009e73", "^")}
OTHERS = (Look("#cc79a7", "D"), Look("#56b4e9", "v"), Look("#e69f00", "P"))


def look(results: ComparisonResults, method: str) -> Look:
    """The method's colour and marker, the same in every figure of a page. DPO's are DPO's whatever its loss; a second
    method of one family (`DPO` beside `DPO + SFT`) has its own."""
    first = {name.split()[0]: name for name in reversed(methods(results))}
    if first.get(family := method.split()[0]) == method and family in LOOKS:
        return LOOKS[family]
    others = [name for name in methods(results) if name.split()[0] not in LOOKS or first[name.split()[0]] != name]
    return OTHERS[others.index(method) % len(OTHERS)]


def kl_axis(ax: Axes, root: bool, reference: str) -> None:
    """Name the KL axis, and with `root` make it a square-root one."""
    if root:
        high = ax.get_xlim()[1]
        ax.set_xscale("function", functions=(signed_root, signed_square))
        ax.set_xlim(-high / 250, high)
        ticks = MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(0, math.sqrt(max(high, 0)))
        ax.xaxis.set_major_locator(FixedLocator([t * t for t in ticks if 0 <= t * t <= high]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}"))
    suffix = " (square-root axis)" if root else ""
    ax.set_xlabel(f"KL to {reference}, nats per completion{suffix}")


Label = tuple[float, float, str, str]


def _crossed(box: Bbox, bars: Sequence[Bbox]) -> int:
    return sum(box.overlaps(bar) for bar in bars)


def write_labels(figure: Figure, ax: Axes, texts: Sequence[Label], bars: Sequence[Bbox] = ()) -> None:
    """Write each text beside its point where it covers no other point or text; leave it out where nothing fits.

    Args:
        texts: x, y in data coordinates, the text and its colour, the most important first.
        bars: Intervals in pixels, which a text covers only for want of better.
    """
    figure.draw_without_rendering()
    inside = ax.get_window_extent()
    spots = [ax.transData.transform((x, y)) for x, y, *_ in texts]
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in spots]
    offsets = [(8, 5), (-8, 5), (8, -5), (-8, -5), (0, 10), (0, -10), (9, 0), (-9, 0), (0, 18), (0, -18)]
    for x, y, text, colour in texts:
        best: tuple[int, Any] | None = None
        for dx, dy in offsets:
            across = "left" if dx > 0 else "right" if dx < 0 else "center"
            along = "bottom" if dy > 0 else "top" if dy < 0 else "center"
            note = ax.annotate(
                text, (x, y), (dx, dy), textcoords="offset points", ha=across, va=along, fontsize=9, color=colour
            )
            note.set_in_layout(False)
            box = note.get_window_extent()
            fits = inside.x0 <= box.x0 and box.x1 <= inside.x1 + 6 and inside.y0 <= box.y0 and box.y1 <= inside.y1 + 6
            cost = _crossed(box, bars) if fits and not _crossed(box, taken) else None
            if cost is not None and (best is None or cost < best[0]):
                if best is not None:
                    best[1].remove()
                best = (cost, note)
            else:
                note.remove()
        if best is not None:
            taken.append(best[1].get_window_extent())


def bars(ax: Axes, points: Sequence[Point]) -> list[Bbox]:
    """The intervals' boxes in pixels."""
    boxes = []
    for point in points:
        x, y = point.kl.value, point.score.value
        (left, right), (down, up) = numerals.bounds(point.kl), numerals.bounds(point.score)
        for a, b in (((x - left, y), (x + right, y)), ((x, y - down), (x, y + up))):
            (x0, y0), (x1, y1) = ax.transData.transform(a), ax.transData.transform(b)
            boxes.append(Bbox.from_extents(x0 - 1, y0 - 1, x1 + 1, y1 + 1))
    return boxes


Ends = tuple[float, float]


def boxes(ax: Axes, line: Line2D) -> list[Bbox]:
    """Small boxes along a drawn line, in pixels."""
    xy = ax.transData.transform(np.column_stack([np.asarray(line.get_xdata()), np.asarray(line.get_ydata())]))
    steps = [a + (b - a) * t for a, b in zip(xy, xy[1:], strict=False) for t in np.linspace(0, 1, 25)]
    return [Bbox.from_bounds(x - 1, y - 1, 2, 2) for x, y in steps]


def mean(ax: Axes, x: float, y: float, how: Look, xerr: Ends = (0.0, 0.0), yerr: Ends = (0.0, 0.0)) -> None:
    """A setting's mean with its intervals (`xerr`, `yerr`: distances down and up)."""
    ax.plot([x - xerr[0], x + xerr[1]], [y, y], color=how.colour, linewidth=1.1, zorder=3)
    ax.plot([x, x], [y - yerr[0], y + yerr[1]], color=how.colour, linewidth=1.1, zorder=3)
    ax.plot([x], [y], how.marker, color=how.colour, markersize=7, markeredgecolor=PAPER, markeredgewidth=0.9, zorder=4)


def seeds(ax: Axes, points: Sequence[tuple[float, float]], how: Look) -> None:
    """Small marks at (x, y)."""
    if points:
        xs, ys = zip(*points, strict=True)
        ax.plot(
            xs,
            ys,
            how.marker,
            color=how.colour,
            markersize=4.5,
            alpha=0.75,
            markeredgecolor=PAPER,
            markeredgewidth=0.5,
            zorder=3,
        )


def legend(figure: Figure, results: ComparisonResults, names: Sequence[str], best_of_n: bool = False) -> None:
    """The methods' marks above the figure."""
    handles = [
        Line2D([], [], color=how.colour, marker=how.marker, markersize=6, linewidth=1, label=name)
        for name in names
        for how in [look(results, name)]
    ]
    if best_of_n:
        handles.append(Line2D([], [], color=MUTED, linewidth=1.2, dashes=(4, 2), marker="|", label="best of n"))
    figure.legend(handles=handles, loc="outside upper left", ncols=4, handlelength=1.8, columnspacing=1.4)
