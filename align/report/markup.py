"""Parts of an HTML page: escaped text, tables that scroll in their own box, figures with their data, the document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from align.report.numerals import THIN
from align.report.style import CSS
from align.run.received.screen import plain

NUMERAL = rf"[−+]?(?:[\d{THIN}]+(?:\.\d+)?(?:e[−+]?\d+)?|∞|NaN)(?:{THIN}%)?"
INTERVAL = re.compile(rf"({NUMERAL}) (\[{NUMERAL}, {NUMERAL}\])")
NUMBER = re.compile(rf"—|{NUMERAL}(?: \[{NUMERAL}, {NUMERAL}\])?")
LOADER = FileSystemLoader(Path(__file__).parent)
PARTS: Any = Environment(
    loader=LOADER, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
).get_template("parts.html").module  # fmt: skip
PROSE = 20  # a column with a longer cell than this is set as prose


@dataclass(frozen=True)
class Table:
    """A table for both formats. The first cell of a row names it; a row of one cell heads a group of rows."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Plot:
    """A drawn figure, what it shows in words, and the numbers behind it."""

    name: str
    svg: str
    title: str
    caption: str
    table: Table


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading of its own."""

    name: str
    heading: str
    body: str


def _kinds(table: Table) -> list[str]:
    """For each column: `num`, `prose` or nothing."""
    kinds = []
    for column in range(len(table.head)):
        cells = [row[column] for row in table.rows if len(row) > 1]
        if cells and all(NUMBER.fullmatch(cell) for cell in cells):
            kinds.append("num")
        else:
            kinds.append("prose" if any(len(cell) > PROSE for cell in cells) else "")
    return kinds


def render(part: str, *values: Any) -> str:
    """One of the template's macros with its values, as HTML."""
    return str(getattr(PARTS, part)(*values)).strip()


def table(content: Table) -> str:
    """A table with a caption and headers that say what they head; it scrolls sideways in a box of its own."""
    kinds = _kinds(content)
    groups: list[tuple[str, list[Sequence[str]]]] = [("", [])]
    for row in content.rows:
        assert len(row) in (1, len(content.head)), (content.caption, row, content.head)
        if len(row) == 1:
            groups.append((row[0], []))
        else:
            groups[-1][1].append(row)

    def interval(text: str, kind: str) -> re.Match[str] | None:
        return INTERVAL.fullmatch(text) if kind == "num" else None

    return render("table", content, kinds, [group for group in groups if any(group)], interval)


def figures(plots: Sequence[Plot]) -> str:
    """Figures side by side where there is room, each with its caption and its data as a table that opens."""
    return render("figures", [(plot, table(plot.table)) for plot in plots]) if plots else ""


def paragraphs(texts: Sequence[str]) -> str:
    """One `<p>` a text."""
    return render("paragraphs", texts)


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """A list of names and what they stand for."""
    return render("facts", pairs) if pairs else ""


def command(text: str) -> str:
    """A command line as it was given."""
    return render("command", text)


def document(title: str, made: str, lead: Section | None, sections: Sequence[Section]) -> str:
    """The whole page: what leads it, the list of the other sections, and those. No control character is in it."""
    return plain(str(render("document", title, made, lead, sections, CSS))) + "\n"
