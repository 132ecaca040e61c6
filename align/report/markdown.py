"""Texts and tables in Markdown. Every text from outside is escaped: one line, no markup, no links of its own."""

from __future__ import annotations

import re

from align.report.markup import Table
from align.run.received.screen import plain


def text(found: str) -> str:
    """A text that means nothing to Markdown, on one line; line breaks become ↵."""
    found = found.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    found = re.sub(r"([\\`*_\[\]|~#$!])", r"\\\1", found)
    found = found.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")
    return plain(re.sub(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+\s*", " ↵ ", found.strip()))


def table(content: Table) -> str:
    """A table under its caption; a group's heading is a row in bold."""
    head = " | ".join(text(name) for name in content.head)
    rows = []
    for row in content.rows:
        cells = [f"**{text(row[0])}**", *[""] * (len(content.head) - 1)] if len(row) == 1 else [text(c) for c in row]
        rows.append(f"| {' | '.join(cells)} |")
    note = f" {text(content.note)}" if content.note else ""
    rule = "|".join(["---"] * len(content.head))
    return "\n".join([f"**{text(content.caption)}.**{note}", "", f"| {head} |", f"|{rule}|", *rows])
