"""Parts of an HTML page: escaped text, tables that scroll in their own box, figures with their data, the document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from align.report.numerals import THIN
from align.report.style import CSS

NUMERAL = rf"[−+]?(?:[\d{THIN}]+(?:\.\d+)?(?:e[−+]?\d+)?|∞|NaN)(?:{THIN}%)?"
INTERVAL = re.compile(rf"({NUMERAL}) (\[{NUMERAL}, {NUMERAL}\])")
NUMBER = re.compile(rf"—|{NUMERAL}(?: \[{NUMERAL}, {NUMERAL}\])?")
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


def _cell(text: str, kind: str) -> str:
    if kind == "num" and (found := INTERVAL.fullmatch(text)):
        return f'<td class="num">{escape(found[1])} <span>{escape(found[2])}</span></td>'
    mark = {"passed": "good", "failed": "bad", "complete": "good"}.get(text)
    kinds = " ".join(filter(None, (kind, mark)))
    return f'<td class="{kinds}">{escape(text)}</td>' if kinds else f"<td>{escape(text)}</td>"


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


def scroll(label: str, inner: str) -> str:
    """A box that scrolls sideways by itself and can be reached with the keyboard."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">\n{inner}\n</div>'


def table(content: Table) -> str:
    """A table with a caption and headers that say what they head."""
    kinds = _kinds(content)
    head = "".join(
        f'<th scope="col" class="num">{escape(text)}</th>' if kind == "num" else f'<th scope="col">{escape(text)}</th>'
        for text, kind in zip(content.head, ["", *kinds[1:]], strict=True)
    )
    bodies: list[list[str]] = [[]]
    for row in content.rows:
        if len(row) == 1:
            group = f'<tr><th scope="rowgroup" colspan="{len(content.head)}">{escape(row[0])}</th></tr>'
            bodies.append([group])
        else:
            assert len(row) == len(content.head), (content.caption, row, content.head)
            cells = "".join(_cell(text, kind) for text, kind in zip(row[1:], kinds[1:], strict=True))
            bodies[-1].append(f'<tr><th scope="row">{escape(row[0])}</th>{cells}</tr>')
    body = "\n".join("<tbody>\n" + "\n".join(rows) + "\n</tbody>" for rows in bodies if rows)
    note = f" {escape(content.note)}" if content.note else ""
    caption = f"<caption><span><b>{escape(content.caption)}.</b>{note}</span></caption>"
    return scroll(content.caption, f"<table>\n{caption}\n<thead><tr>{head}</tr></thead>\n{body}\n</table>")


def figure(plot: Plot) -> str:
    """A figure with its caption, and its data as a table that opens."""
    return (
        f"<div>\n<figure>\n{plot.svg}\n<figcaption><b>{escape(plot.title)}.</b> {escape(plot.caption)}</figcaption>\n"
        f"</figure>\n<details><summary>Data of this figure</summary>\n{table(plot.table)}\n</details>\n</div>"
    )


def figures(plots: Sequence[Plot]) -> str:
    """Figures side by side where there is room."""
    return '<div class="plots">\n' + "\n".join(figure(plot) for plot in plots) + "\n</div>" if plots else ""


def paragraphs(texts: Sequence[str]) -> str:
    """One `<p>` a text."""
    return "\n".join(f"<p>{escape(text)}</p>" for text in texts)


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """A list of names and what they stand for."""
    rows = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs)
    return f'<dl class="facts">\n{rows}\n</dl>' if pairs else ""


def command(text: str) -> str:
    """A command line as it was given."""
    return f'<pre tabindex="0" role="region" aria-label="Command"><code>{escape(text)}</code></pre>'


def document(title: str, made: str, lead: Section | None, sections: Sequence[Section]) -> str:
    """The whole page: what leads it, the list of the other sections, and those."""
    bodies = [
        f'<section id="{part.name}" aria-labelledby="{part.name}-h">\n'
        f'<h2 id="{part.name}-h">{escape(part.heading)}</h2>\n{part.body}\n</section>'
        for part in ([lead] if lead else []) + list(sections)
    ]
    links = "\n".join(f'<li><a href="#{part.name}">{escape(part.heading)}</a></li>' for part in sections)
    nav = f'<nav aria-label="On this page">\n<ul>\n{links}\n</ul>\n</nav>' if links else ""
    date = f'<p class="made">{escape(made)}</p>' if made else ""
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>",
            '<a class="skip" href="#main">Skip to the content</a>',
            f"<header>\n<h1>{escape(title)}</h1>\n{date}\n</header>",
            '<main id="main" tabindex="-1">',
            *bodies[: 1 if lead else 0],
            nav,
            *bodies[1 if lead else 0 :],
            "</main>\n<footer>\n<p>One file: no scripts, nothing loaded from elsewhere. Intervals are 95 %.</p>"
            "\n</footer>\n</body>\n</html>\n",
        ]
    )
