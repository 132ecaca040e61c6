"""The figures of a data card: what each step took out, and how long documents were before and after."""

from __future__ import annotations

from typing import Any

from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from align.clean.card.tables import plural, words
from align.report.markup import Plot, Table
from align.report.numerals import number, percent
from align.report.svg import INK, MUTED, canvas, drawing, render

TICKS = 8  # edges written under the lengths


def _taken(card: dict[str, Any]) -> list[tuple[str, float, float | None]]:
    """For each step that took something out: name, share of all documents, share of all bytes."""
    documents = card["totals"].get("documents_in") or 0
    bytes_in = card["totals"].get("bytes_in") or 0
    rows = []
    for step in card["steps"]:
        given, kept = step.get("documents_in"), step.get("documents_out")
        lost = (step.get("bytes_in") or 0) - (step.get("bytes_out") or 0)
        if documents and given is not None and kept is not None and (given > kept or lost > 0):
            rows.append((words(step["name"]), (given - kept) / documents, lost / bytes_in if bytes_in else None))
    return rows


@drawing
def _bars(rows: list[tuple[str, float, float | None]], title: str, said: str) -> str:
    figure, (ax,) = canvas(0.75 + 0.46 * len(rows))
    top = 100 * max(max(row[1], row[2] or 0.0) for row in rows)
    for y, (_, documents, size) in enumerate(rows):
        for value, colour, down in ((documents, "#0072b2", -0.18), (size, "#d55e00", 0.18)):
            if value is None:
                continue
            ax.barh(y + down, 100 * value, height=0.32, color=colour)
            text = f"{100 * value:.1f}" if value >= 5e-4 else f"{100 * value:.2g}"
            ax.annotate(text.replace("-", "−"), (max(100 * value, 0), y + down), (3, 0), textcoords="offset points",
                        va="center", fontsize=9, color=INK)  # fmt: skip
    ax.set_yticks(range(len(rows)), [row[0] if len(row[0]) < 27 else row[0][:25] + "…" for row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.6)
    ax.set_xlim(min(0.0, *(100 * (row[2] or 0) for row in rows)), top * 1.14 or 1)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_color(MUTED)
    ax.set_xlabel("% of all that came in")
    handles = [Patch(color=colour) for colour in ("#0072b2", "#d55e00")]
    figure.legend(handles, ["documents", "bytes"], loc="outside upper left", ncols=2, handlelength=1.0)
    return render(figure, "taken", title, said)


def taken(card: dict[str, Any]) -> Plot | None:
    """What each step took out, as shares of all documents and all bytes; None where no step took anything."""
    rows = _taken(card)
    if not rows:
        return None
    title = "What each step took out"
    name, most, _ = max(rows, key=lambda row: row[1])
    said = f"{name[:1].upper() + name[1:]} took out the most documents: {percent(most)} of all."
    caption = f"As shares of the whole input; documents that wait for review count as taken out. {said}"
    body = [[row[0], percent(row[1]), percent(row[2])] for row in rows]
    table = Table(title, ["step", "of all documents", "of all bytes"], body)
    return Plot("taken", _bars(rows, title, said), title, caption, table)


def _bins(edges: list[float], count: int) -> list[str]:
    """A name for each bin: `50 to 99`, the last one open where there are as many edges as counts."""
    shown = [number(int(edge) if float(edge).is_integer() else edge) for edge in edges]
    names = []
    for i in range(count):
        if i + 1 >= len(edges):
            names.append(f"{shown[i]} and more")
        else:
            whole = float(edges[i]).is_integer() and float(edges[i + 1]).is_integer()
            high = number(int(edges[i + 1]) - 1) if whole else f"< {shown[i + 1]}"
            names.append(shown[i] if high == shown[i] else f"{shown[i]} to {high}")
    return names


@drawing
def _histogram(edges: list[float], before: list[int], after: list[int], title: str, said: str) -> str:
    figure, (ax,) = canvas(2.7)
    places = list(range(len(before) + 1))
    ax.stairs(before, places, color="#d55e00", linewidth=1.4, linestyle=(0, (3, 1.5)), label="before")
    ax.stairs(after, places, color="#0072b2", linewidth=1.4, label="after")
    every = -(-len(edges) // TICKS)
    ax.set_xticks(
        places[: len(edges)][::every], [number(int(e) if float(e).is_integer() else e) for e in edges[::every]]
    )
    ax.set_xlim(0, len(before))
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlabel("words in a document")
    ax.set_ylabel("documents")
    figure.legend(loc="outside upper left", ncols=2)
    return render(figure, "lengths", title, said)


def lengths(card: dict[str, Any]) -> Plot | None:
    """How many words documents had before and after; None where nothing was counted."""
    found = card["lengths"]
    edges, before, after = list(found["edges"]), list(found["before"]), list(found["after"])
    assert len(before) == len(after) and len(edges) - len(before) in (0, 1), (len(edges), len(before), len(after))
    if not sum(before):
        return None
    names = _bins(edges, len(before))
    modes = [names[counts.index(max(counts))] for counts in (before, after)]
    title = "Lengths before and after"
    said = f"The fullest bin is {modes[0]} words before"
    said += f" and {modes[1]} after." if sum(after) else "; nothing is left after."
    caption = f"Documents by their number of words; the bins are not equally wide. {said}"
    body = [[name, number(a), number(b)] for name, a, b in zip(names, before, after, strict=True)]
    table = Table(
        title, ["words", "documents before", "documents after"], body, f"{plural(sum(before), 'document')} in all."
    )
    return Plot("lengths", _histogram(edges, before, after, title, said), title, caption, table)
