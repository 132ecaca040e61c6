"""Matplotlib's SVG made fit for the inside of a page: its colours and fonts, ids of its own, a name to be read."""

from __future__ import annotations

import io
import re
from html import escape
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 4.4  # inches: 317 points, so that 9.5 pt text stays near 10.5 px on a phone 390 px wide
INK, PAPER, MUTED = "#000000", "#ffffff", "#7f7f7f"
# Okabe and Ito's colours (their palette is made for every kind of colour vision), each a variable of the style sheet,
# which lightens or darkens it to a contrast of at least 3:1 with the page.
COLOURS = {
    INK: "currentColor",
    PAPER: "var(--paper)",
    MUTED: "var(--muted)",
    "#0072b2": "var(--blue)",
    "#d55e00": "var(--vermillion)",
    "#009e73": "var(--green)",
    "#cc79a7": "var(--purple)",
    "#56b4e9": "var(--sky)",
    "#e69f00": "var(--orange)",
    # the same as text, which needs 4.5:1; told apart by the last digit
    "#0072b3": "var(--blue-text)",
    "#d55e01": "var(--vermillion-text)",
    "#009e74": "var(--green-text)",
    "#cc79a8": "var(--purple-text)",
    "#56b4ea": "var(--sky-text)",
    "#e69f01": "var(--orange-text)",
}
RC: dict[str, Any] = {
    "figure.dpi": 72,  # a pixel is a point: label boxes are measured in points
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine lays the figure out alike
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "axes.titlesize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "axes.formatter.use_mathtext": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "align",
}
drawing = matplotlib.style.context(["default", RC])


def canvas(height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure `WIDTH` wide with `rows` axes under one another that share the x axis."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    return figure, list(axes)


def render(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as inline SVG.

    Args:
        name: Unique on the page; heads every id.
        title: What is seen, for readers who do not see it.
        description: What it shows, in a sentence or two.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"; font-family: [^;\"]+|font-family: [^;\"]+; ", "", text)
    for colour, variable in COLOURS.items():
        text = text.replace(colour, variable)
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None, text[:200]
    head = (
        f'<svg viewBox="{box[1]}" role="img" aria-labelledby="{name}-title" aria-describedby="{name}-desc">\n'
        f'<title id="{name}-title">{escape(title)}</title>\n<desc id="{name}-desc">{escape(description)}</desc>'
    )
    return head + text[text.index(">") + 1 :]
