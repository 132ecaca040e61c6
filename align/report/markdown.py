"""The same reports in Markdown, for a model card: headings, tables, verdict; no images.

Every text from outside is escaped: one line, no markup, no links of its own.
"""

from __future__ import annotations

import re
from typing import Any

from align.report import measures, personas, tables
from align.report.markup import Table


def text(found: str) -> str:
    """A text that means nothing to Markdown, on one line; line breaks become ↵."""
    found = found.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    found = re.sub(r"([\\`*_\[\]|~#$!])", r"\\\1", found)
    found = found.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")
    return re.sub(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+\s*", " ↵ ", found.strip())


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


def _samples(results: dict[str, Any]) -> list[str]:
    if not results.get("samples"):
        return []
    parts = ["## Samples"]
    for rule, found in measures.by_rule(results["samples"]).items():
        parts.append(f"### {text(rule[:1].upper() + rule[1:])}")
        for sample in found:
            rows = [[a["name"], measures.scores(a), a["text"] or "(empty)"] for a in sample["answers"]]
            parts.append(table(Table("Prompt", ["model", "scores", "completion"], rows, sample["prompt"])))
    return parts


def _origin(results: dict[str, Any]) -> list[str]:
    setup = results.get("setup") or {}
    parts = []
    if results.get("command"):
        parts.append(f"Command: {text(results['command'])}")
    if found := measures.made(setup):
        parts.append("\n".join(f"- {text(name)}: {text(value)}" for name, value in found))
    if "models" in results:
        parts.append(table(measures.models(results)))
    parts += [table(content) for content in measures.origin(setup)]
    return ["## How it was made", *parts] if parts else []


def _closing(results: dict[str, Any]) -> list[str]:
    """Samples, gates, origin and notes."""
    gates = ["## Gates", table(measures.gates(results))] if results.get("gates") else []
    notes = ["## Notes", *(text(note) for note in results["notes"])] if results.get("notes") else []
    return [*_samples(results), *gates, *_origin(results), *notes]


def _opening(results: dict[str, Any]) -> list[str]:
    made = [text(results["made"])] if results.get("made") else []
    return [f"# {text(results['title'])}", *made]


def _document(parts: list[str]) -> str:
    return "\n\n".join(parts) + "\n"


def comparison(results: dict[str, Any]) -> str:
    """A comparison in Markdown."""
    verdict = results["verdict"]
    parts = [*_opening(results), "## Verdict", f"**{text(verdict['headline'])}**"]
    parts += [text(sentence) for sentence in verdict.get("sentences", [])]
    if failed := tables.failures(results):
        parts.append("\n".join(["Failed runs:", "", *(f"- {text(line)}" for line in failed)]))
    if results.get("settings"):
        parts += ["## Settings", table(tables.settings(results))]
        if tables.judges(results):
            parts.append(table(tables.win_rates(results)))
        if results.get("fits"):
            parts += ["## Proxy and gold", table(tables.fits(results))]
    if results.get("pairs"):
        parts += ["## Head to head", table(tables.pairs(results))]
    if results.get("cost"):
        parts += ["## Cost", table(tables.cost(results))]
    if results.get("settings"):
        parts += ["## Every run", table(tables.runs(results))]
    return _document([*parts, *_closing(results)])


def evaluation(results: dict[str, Any]) -> str:
    """An evaluation in Markdown."""
    parts = [*_opening(results), "## Measures", table(measures.measures(results))]
    if results.get("reward_model"):
        parts += ["## Reward model", table(measures.reward_model(results))]
    having = {name: m["personas"] for name, m in results["models"].items() if m.get("personas")}
    if having:
        parts.append("## Personas")
    for name, found in having.items():
        if found.get("measurable"):
            parts.append(table(personas.table(name, found)))
        else:
            why = text(found.get("why") or "no reason was recorded")
            parts.append(f"**{text(name)}**: not measurable: {why}. {text(personas.counted(found))}")
    return _document([*parts, *_closing(results)])
