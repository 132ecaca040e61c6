"""The figures of a comparison: frontiers, over-optimisation, win rates, quality against time.

KL is in nats per completion; d = sqrt(KL). Every seed is a small mark, a setting's mean a large one with its 95 %
interval; a method has a colour and a marker shape of its own everywhere.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from align.compare.page.series import (
    axis_label,
    curve,
    finite_runs,
    gains,
    measured,
    methods,
    of_method,
    rate,
    reach,
    signed_root,
    signed_square,
    wide,
)
from align.report import numerals
from align.report.svg import INK, MUTED, PAPER, canvas, drawing, render


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


def look(results: dict[str, Any], method: str) -> Look:
    """The method's colour and marker, the same in every figure of a page."""
    others = [name for name in methods(results) if name not in LOOKS]
    return LOOKS[method] if method in LOOKS else OTHERS[others.index(method) % len(OTHERS)]


def _kl_axis(ax: Axes, root: bool, reference: str) -> None:
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


def _label(figure: Figure, ax: Axes, texts: Sequence[Label], bars: Sequence[Bbox] = ()) -> None:
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
            cost = _crossed(box, bars)
            if fits and not _crossed(box, taken) and (best is None or cost < best[0]):
                if best is not None:
                    best[1].remove()
                best = (cost, note)
            else:
                note.remove()
        if best is not None:
            taken.append(best[1].get_window_extent())


def _bars(ax: Axes, settings: Sequence[dict[str, Any]], key: str) -> list[Bbox]:
    """The intervals' boxes in pixels."""
    boxes = []
    for s in settings:
        x, y = s["kl"]["value"], s[key]["value"]
        (left, right), (down, up) = numerals.bounds(s["kl"]), numerals.bounds(s[key])
        for a, b in (((x - left, y), (x + right, y)), ((x, y - down), (x, y + up))):
            (x0, y0), (x1, y1) = ax.transData.transform(a), ax.transData.transform(b)
            boxes.append(Bbox.from_extents(x0 - 1, y0 - 1, x1 + 1, y1 + 1))
    return boxes


Ends = tuple[float, float]


def _boxes(ax: Axes, line: Line2D) -> list[Bbox]:
    """Small boxes along a drawn line, in pixels."""
    xy = ax.transData.transform(np.column_stack([np.asarray(line.get_xdata()), np.asarray(line.get_ydata())]))
    steps = [a + (b - a) * t for a, b in zip(xy, xy[1:], strict=False) for t in np.linspace(0, 1, 25)]
    return [Bbox.from_bounds(x - 1, y - 1, 2, 2) for x, y in steps]


def _mean(ax: Axes, x: float, y: float, how: Look, xerr: Ends = (0.0, 0.0), yerr: Ends = (0.0, 0.0)) -> None:
    """A setting's mean with its intervals (`xerr`, `yerr`: distances down and up)."""
    ax.plot([x - xerr[0], x + xerr[1]], [y, y], color=how.colour, linewidth=1.1, zorder=3)
    ax.plot([x, x], [y - yerr[0], y + yerr[1]], color=how.colour, linewidth=1.1, zorder=3)
    ax.plot([x], [y], how.marker, color=how.colour, markersize=7, markeredgecolor=PAPER, markeredgewidth=0.9, zorder=4)


def _seeds(ax: Axes, points: Sequence[tuple[float, float]], how: Look) -> None:
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


def _legend(figure: Figure, results: dict[str, Any], names: Sequence[str], best_of_n: bool = False) -> None:
    handles = [
        Line2D([], [], color=how.colour, marker=how.marker, markersize=6, linewidth=1, label=name)
        for name in names
        for how in [look(results, name)]
    ]
    if best_of_n:
        handles.append(Line2D([], [], color=MUTED, linewidth=1.2, dashes=(4, 2), marker="|", label="best of n"))
    figure.legend(handles=handles, loc="outside upper left", ncols=4, handlelength=1.8, columnspacing=1.4)


@drawing
def frontier(results: dict[str, Any], key: str, name: str, words: tuple[str, str]) -> str:
    """`key` (`reward` or `gold`) against KL: the seeds, the settings joined by strength, best-of-n, the reference.

    Args:
        words: What is seen, and what it shows.
    """
    figure, (ax,) = canvas(3.5)
    reference = results.get("reference", {})
    texts: list[Label] = []
    bars: list[dict[str, Any]] = []
    curve = [row for row in results.get("best_of_n", []) if numerals.value(row.get(key)) is not None]
    if curve:
        ys = [row[key]["value"] for row in curve]
        ax.plot([row["kl"] for row in curve], ys, "|", color=MUTED, linestyle=(0, (4, 2)), linewidth=1.2, zorder=1)
    if (start := numerals.value(reference.get(key))) is not None:
        _mean(ax, 0, start, Look(INK, "D"), yerr=numerals.bounds(reference[key]))
        texts.append((0, start, reference["name"], INK))
    drawn = []
    for method in methods(results):
        found = measured(of_method(results, method), key)
        how = look(results, method)
        ax.plot([s["kl"]["value"] for s in found], [s[key]["value"] for s in found], color=how.colour, linewidth=0.9)
        for s in found:
            _seeds(ax, finite_runs(s, "kl", key), how)
            sides = {"xerr": numerals.bounds(s["kl"]), "yerr": numerals.bounds(s[key])}
            _mean(ax, s["kl"]["value"], s[key]["value"], how, **sides)
            texts.append((s["kl"]["value"], s[key]["value"], f"{s['strength']:g}", how.text))
        drawn += [method] if found else []
        bars += found
    ax.margins(0.07, 0.1)
    ax.set_ylabel(axis_label(results, key))
    _kl_axis(ax, wide(results), reference.get("name", "the reference"))
    _legend(figure, results, drawn, bool(curve))
    marked = [(row["kl"], row[key]["value"], f"n = {row['n']}", MUTED) for row in curve if row["n"] in (4, 16, 64)]
    figure.draw_without_rendering()
    lines = [box for line in ax.get_lines() for box in _boxes(ax, line)]
    _label(figure, ax, [*texts, *marked], _bars(ax, bars, key) + lines)
    return render(figure, name, *words)


def _limits(results: dict[str, Any], key: str) -> tuple[float, float]:
    """The range of gains over all methods, so that their figures share an axis."""
    ends = [0.0]
    for method in methods(results):
        for row in gains(results, method, key):
            ends += [row["gain"] - row["ends"][0], row["gain"] + row["ends"][1], *(b for _, b in row["seeds"])]
    room = 0.08 * (max(ends) - min(ends) or 1)
    return min(ends) - room, max(ends) + room


@drawing
def over_optimisation(results: dict[str, Any], method: str, name: str, words: tuple[str, str]) -> str:
    """Proxy and gold gain against d = sqrt(KL) for one method: points, fitted curve, turning point."""
    fits = results["fits"][method]
    keys = [key for key in ("reward", "gold") if gains(results, method, key)]
    figure, axes = canvas(0.5 + 1.75 * len(keys), len(keys))
    how = look(results, method)
    farthest = max(row["d"] for m in methods(results) for key in keys for row in gains(results, m, key))
    for ax, key in zip(axes, keys, strict=True):
        rows = gains(results, method, key)
        ax.axhline(0, color=MUTED, linewidth=0.7)
        for row in rows:
            _seeds(ax, row["seeds"], how)
            _mean(ax, row["d"], row["gain"], how, yerr=row["ends"])
        if fit := fits.get(key):
            d = np.linspace(0, reach(fit, rows), 200)
            ax.plot(d, curve(fit, d), color=INK, linewidth=1.1, zorder=2)
            peak = fit.get("peak_sqrt_kl")
            if peak is not None and peak <= reach(fit, rows):
                ax.plot([peak, peak], [0, float(curve(fit, peak))], color=MUTED, linewidth=1, dashes=(2, 2), zorder=1)
                ax.annotate(
                    f"turns at {peak:.2f}", (peak, 0), (4, 3), textcoords="offset points", fontsize=9, in_layout=False
                )
        ax.set_ylim(*_limits(results, key))
        ax.set_xlim(-0.04 * farthest, 1.08 * farthest)
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.set_title({"reward": "proxy: ", "gold": ""}[key] + axis_label(results, key), loc="left", fontsize=9.5)
        ax.set_ylabel("gain")
    axes[-1].set_xlabel("√KL, √nats")
    return render(figure, name, *words)


@drawing
def forest(results: dict[str, Any], judge: str, name: str, words: tuple[str, str]) -> str:
    """Win rates against the reference, one row a setting: dot, 95 % interval, a line at a half."""
    rows = [s for m in methods(results) for s in of_method(results, m) if numerals.value(rate(s, judge)) is not None]
    figure, (ax,) = canvas(0.75 + 0.27 * len(rows))
    ax.axvline(50, color=MUTED, linewidth=1, dashes=(4, 2))
    for y, s in enumerate(rows):
        found, how = s["win_rate"][judge], look(results, s["method"])
        sides = numerals.bounds(found)
        _mean(ax, 100 * found["value"], y, how, xerr=(100 * sides[0], 100 * sides[1]))
    ax.set_yticks(range(len(rows)), [textwrap.shorten(s["label"], 26, placeholder="…") for s in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    everywhere = [
        r for s in results["settings"] for r in s.get("win_rate", {}).values() if numerals.value(r) is not None
    ]
    low = min(50.0, *(100 * (r["value"] - numerals.bounds(r)[0]) for r in everywhere))
    high = max(50.0, *(100 * (r["value"] + numerals.bounds(r)[1]) for r in everywhere))
    ax.set_xlim(max(low - 4, -2), min(high + 4, 102))
    ax.set_xlabel(f"win rate against {results.get('reference', {}).get('name', 'the reference')}, %")
    return render(figure, name, *words)


@drawing
def quality(results: dict[str, Any], key: str, name: str, words: tuple[str, str]) -> str:
    """`key` against the seconds of a run: every seed, and each setting's mean with its interval in `key`."""
    figure, (ax,) = canvas(3.2)
    drawn: list[str] = []
    texts: list[Label] = []
    start = numerals.value(results.get("reference", {}).get(key))
    if start is not None:
        ax.axhline(start, color=MUTED, linewidth=1, dashes=(4, 2), zorder=1)
    for method in methods(results):
        how = look(results, method)
        for s in of_method(results, method):
            points = finite_runs(s, "seconds", key)
            _seeds(ax, points, how)
            if points and numerals.value(s.get(key)) is not None:
                seconds = sum(x for x, _ in points) / len(points)
                _mean(ax, seconds, s[key]["value"], how, yerr=numerals.bounds(s[key]))
                texts.append((seconds, s[key]["value"], f"{s['strength']:g}", how.text))
                drawn.append(method)
    ax.margins(0.14, 0.1)
    ax.set_xlim(left=0)
    ax.set_xlabel("seconds per run")
    ax.set_ylabel(axis_label(results, key))
    _legend(figure, results, list(dict.fromkeys(drawn)))
    figure.draw_without_rendering()
    _label(figure, ax, texts, [box for line in ax.get_lines() for box in _boxes(ax, line)])
    if start is not None:
        _label(figure, ax, [(0, start, results["reference"]["name"], MUTED)])
    return render(figure, name, *words)
