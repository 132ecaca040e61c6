"""The figures of a comparison: frontiers, over-optimisation, win rates, quality against time.

KL is in nats per completion; d = sqrt(KL).
"""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.ticker import MaxNLocator

from align.compare.comparison import ComparisonResults
from align.compare.page.marks import Label, Look, bars, boxes, kl_axis, legend, look, mean, seeds, write_labels
from align.compare.page.series import (
    Point,
    axis_label,
    gains,
    methods,
    of_method,
    points,
    rate,
    reach,
    seed_points,
    wide,
)
from align.report import numerals
from align.report.svg import INK, MUTED, canvas, drawing, render


@drawing
def frontier(results: ComparisonResults, key: str, name: str, words: tuple[str, str]) -> str:
    """`key` (`reward` or `gold`) against KL: the seeds, the settings joined by strength, best-of-n, the reference.

    Args:
        words: What is seen, and what it shows.
    """
    figure, (ax,) = canvas(3.5)
    texts: list[Label] = []
    drawn: list[str] = []
    shown: list[Point] = []
    curve = [(row.n, row.kl, found.value) for row in results.best_of_n if (found := row.score(key))]
    if curve:
        ax.plot(
            [kl for _, kl, _ in curve],
            [score for *_, score in curve],
            "|",
            color=MUTED,
            linestyle=(0, (4, 2)),
            linewidth=1.2,
            zorder=1,
        )
    start = results.reference.score(key) if results.reference else None
    if start is not None and numerals.value(start) is not None:
        mean(ax, 0, start.value, Look(INK, "D"), yerr=numerals.bounds(start))
        texts.append((0, start.value, results.reference_name, INK))
    for method in methods(results):
        found_points = points(of_method(results, method), key)
        how = look(results, method)
        xs, ys = [point.kl.value for point in found_points], [point.score.value for point in found_points]
        ax.plot(xs, ys, color=how.colour, linewidth=0.9)
        for point in found_points:
            x, y = point.kl.value, point.score.value
            seeds(ax, point.seeds, how)
            mean(ax, x, y, how, xerr=numerals.bounds(point.kl), yerr=numerals.bounds(point.score))
            texts.append((x, y, f"{point.setting.strength:g}", how.text))
        drawn += [method] if found_points else []
        shown += found_points
    ax.margins(0.07, 0.1)
    ax.set_ylabel(axis_label(results, key))
    kl_axis(ax, wide(results), results.reference_name)
    legend(figure, results, drawn, bool(curve))
    marked = [(kl, score, f"n = {n}", MUTED) for n, kl, score in curve if n in (4, 16, 64)]
    figure.draw_without_rendering()
    lines = [box for line in ax.get_lines() for box in boxes(ax, line)]
    write_labels(figure, ax, [*texts, *marked], bars(ax, shown) + lines)
    return render(figure, name, *words)


def _limits(results: ComparisonResults, key: str) -> tuple[float, float]:
    """The range of gains over all methods, so that their figures share an axis."""
    ends = [0.0]
    for method in methods(results):
        for row in gains(results, method, key):
            ends += [row.gain - row.ends[0], row.gain + row.ends[1], *(b for _, b in row.seeds)]
    room = 0.08 * (max(ends) - min(ends) or 1)
    return min(ends) - room, max(ends) + room


@drawing
def over_optimisation(results: ComparisonResults, method: str, name: str, words: tuple[str, str]) -> str:
    """Proxy and gold gain against d = sqrt(KL) for one method: points, fitted curve, turning point."""
    fits = (results.fits or {})[method]
    keys = [key for key in ("reward", "gold") if gains(results, method, key)]
    figure, axes = canvas(0.5 + 1.75 * len(keys), len(keys))
    how = look(results, method)
    farthest = max(row.d for m in methods(results) for key in keys for row in gains(results, m, key))
    for ax, key in zip(axes, keys, strict=True):
        rows = gains(results, method, key)
        ax.axhline(0, color=MUTED, linewidth=0.7)
        for row in rows:
            seeds(ax, row.seeds, how)
            mean(ax, row.d, row.gain, how, yerr=row.ends)
        if fit := fits.get(key):
            d = np.linspace(0, reach(fit, rows), 200)
            ax.plot(d, fit.at(d), color=INK, linewidth=1.1, zorder=2)
            peak = fit.peak_sqrt_kl
            if peak is not None and peak <= reach(fit, rows):
                ax.plot([peak, peak], [0, float(fit.at(peak))], color=MUTED, linewidth=1, dashes=(2, 2), zorder=1)
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
def forest(results: ComparisonResults, judge: str, name: str, words: tuple[str, str]) -> str:
    """Win rates against the reference, one row a setting: dot, 95 % interval, a line at a half."""
    rates = [(s, rate(s, judge)) for m in methods(results) for s in of_method(results, m)]
    rows = [(s, found) for s, found in rates if found and numerals.value(found) is not None]
    figure, (ax,) = canvas(0.75 + 0.27 * len(rows))
    ax.axvline(50, color=MUTED, linewidth=1, dashes=(4, 2))
    for y, (s, found) in enumerate(rows):
        sides = numerals.bounds(found)
        mean(ax, 100 * found.value, y, look(results, s.method), xerr=(100 * sides[0], 100 * sides[1]))
    ax.set_yticks(range(len(rows)), [textwrap.shorten(s.label, 26, placeholder="…") for s, _ in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    every_judge = [found for s in results.settings for found in (s.win_rate or {}).values()]
    everywhere = [found for found in every_judge if found and numerals.value(found) is not None]
    low = min(50.0, *(100 * (r.value - numerals.bounds(r)[0]) for r in everywhere))
    high = max(50.0, *(100 * (r.value + numerals.bounds(r)[1]) for r in everywhere))
    ax.set_xlim(max(low - 4, -2), min(high + 4, 102))
    ax.set_xlabel(f"win rate against {results.reference_name}, %")
    return render(figure, name, *words)


@drawing
def quality(results: ComparisonResults, key: str, name: str, words: tuple[str, str]) -> str:
    """`key` against the seconds of a run: every seed, and each setting's mean with its interval in `key`."""
    figure, (ax,) = canvas(3.2)
    drawn: list[str] = []
    texts: list[Label] = []
    start = numerals.value(results.reference.score(key)) if results.reference else None
    if start is not None:
        ax.axhline(start, color=MUTED, linewidth=1, dashes=(4, 2), zorder=1)
    for method in methods(results):
        how = look(results, method)
        for s in of_method(results, method):
            known, score = seed_points(s, "seconds", key), s.score(key)
            seeds(ax, known, how)
            if known and score and numerals.value(score) is not None:
                seconds = sum(x for x, _ in known) / len(known)
                mean(ax, seconds, score.value, how, yerr=numerals.bounds(score))
                texts.append((seconds, score.value, f"{s.strength:g}", how.text))
                drawn.append(method)
    ax.margins(0.14, 0.1)
    ax.set_xlim(left=0)
    ax.set_xlabel("seconds per run")
    ax.set_ylabel(axis_label(results, key))
    legend(figure, results, list(dict.fromkeys(drawn)))
    figure.draw_without_rendering()
    write_labels(figure, ax, texts, [box for line in ax.get_lines() for box in boxes(ax, line)])
    if start is not None:
        write_labels(figure, ax, [(0, start, results.reference_name, MUTED)])
    return render(figure, name, *words)
