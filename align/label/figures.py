"""The figures of `agreement.summary` in words: rows of cells, for the terminal, the data set's card and the page."""

from __future__ import annotations

from collections.abc import Iterator

from align.label.summary import Agreement, Summary
from align.stats import Estimate


def said(estimate: Estimate | None, *, percent: bool = False) -> str:
    """`0.62 (0.55-0.69, n 40)` or `81% (…)`; `-` where there is none."""
    if estimate is None:
        return "-"
    value, low, high = estimate.value, estimate.low, estimate.high
    if percent:
        return f"{value:.0%} ({low:.0%}-{high:.0%}, n {estimate.n})"
    return f"{value:.2f} ({low:.2f} to {high:.2f}, n {estimate.n})"


def _groups(found: Summary) -> Iterator[tuple[str, Agreement]]:
    if found.people.items:
        yield "between people", found.people
    for name, one in found.models.items():
        if one.items:
            yield f"{name} ({found.kind(name)}) with people", one
    if found.everybody.items and not found.people.items:
        yield "between all annotators", found.everybody


def lines(found: Summary) -> list[list[str]]:
    """A summary's measures as rows of two cells: what, and the number in words."""
    out = [["answers", f"{found.rankings:,}, on {found.items:,} items"]]
    out.append(["items ranked by two or more", f"{found.shared:,}"])
    for name, one in _groups(found):
        out.append([f"{name}: Kendall's tau-b", said(one.tau_b)])
        out.append([f"{name}: the same on a pair, ties included", said(one.raw, percent=True)])
        for what in ("nominal", "ordinal"):
            value = getattr(one.alpha, what)
            out.append([f"{name}: Krippendorff's alpha on pairs, {what}", "-" if value is None else f"{value:.2f}"])
    place = found.position
    if place:
        expected = f"; {place.expected:.0%} without regard to place"
        out.append(["the first shown is ranked best", said(place.rate, percent=True) + expected])
    if found.length:
        out.append(["the longer of two is preferred", said(found.length.rate, percent=True)])
    if found.pace:
        out.append(["pace", f"{found.pace.seconds:.0f} s a ranking, {found.pace.per_hour:.0f} an hour"])
    return out


def table(found: Summary) -> list[list[str]]:
    """A summary's annotators as rows of cells, the first one the heads."""
    heads = [
        "annotator",
        "kind",
        "answers",
        "skipped",
        "all bad",
        "tau-b with others",
        "tau-b with themselves",
        "first shown is best",
        "seconds each",
    ]
    out = [heads]
    for one in found.annotators:
        place = one.position.rate if one.position else None
        seconds = f"{one.pace.seconds:.0f}" if one.pace else "-"
        out.append([one.name, one.kind, str(one.rankings), str(one.skipped), str(one.all_bad),
                    said(one.others.tau_b), said(one.themselves.tau_b), said(place, percent=True),
                    seconds])  # fmt: skip
    return out


def columns(rows: list[list[str]]) -> str:
    """Rows of cells as text in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
