"""Sections that both pages have: samples, gates, how it was made, notes, failed runs."""

from __future__ import annotations

from html import escape
from typing import Any

from align.evaluate.page import tables
from align.report import markup
from align.report.markup import Section


def _answer(answer: dict[str, Any]) -> str:
    found = tables.scores(answer)
    said = f" <span>{escape(found)}</span>" if found else ""
    text = escape(answer["text"]) if answer["text"] else "<i>(empty)</i>"
    return f"<div><dt>{escape(answer['name'])}{said}</dt><dd>{text}</dd></div>"


def samples(results: dict[str, Any]) -> Section | None:
    """Completions side by side, by the rule that picked them."""
    if not results.get("samples"):
        return None
    parts, count = [], 0
    for rule, found in tables.by_rule(results["samples"]).items():
        parts.append(f"<h3>{escape(rule[:1].upper() + rule[1:])}</h3>")
        for sample in found:
            count += 1
            answers = "\n".join(_answer(answer) for answer in sample["answers"])
            parts.append(
                f'<article class="sample">\n<h4>Prompt {count}</h4>\n<p class="prompt">{escape(sample["prompt"])}</p>\n'
                f'<dl class="answers">\n{answers}\n</dl>\n</article>'
            )
    intro = "<p>Completions of the same prompts, as generated. Each group was picked by the rule that heads it.</p>"
    return Section("samples", "Samples", "\n".join([intro, *parts]))


def gates(results: dict[str, Any]) -> Section | None:
    """What was checked first."""
    if not results.get("gates"):
        return None
    failed = [gate["run"] for gate in results["gates"] if not gate["passed"]]
    passed = len(results["gates"]) - len(failed)
    said = f"{passed} of {len(results['gates'])} runs passed every check."
    said += f" Failed: {', '.join(failed)}." if failed else ""
    return Section("gates", "Gates", f"<p>{escape(said)}</p>\n{markup.table(tables.gates(results))}")


def failed(texts: list[str]) -> str:
    """The runs that failed, as a list; nothing where none did."""
    if not texts:
        return ""
    rows = "\n".join(f"<li>{escape(text)}</li>" for text in texts)
    said = "One run failed:" if len(texts) == 1 else f"{len(texts)} runs failed:"
    return f'<div class="failed">\n<p>{said}</p>\n<ul>\n{rows}\n</ul>\n</div>'


def origin(results: dict[str, Any]) -> Section | None:
    """How it was made: command, models, budgets, versions."""
    parts = []
    if results.get("command"):
        parts.append(markup.command(results["command"]))
    setup = results.get("setup") or {}
    parts.append(markup.facts(tables.made(setup)))
    if "models" in results:
        parts.append(markup.table(tables.models(results)))
    parts += [markup.table(table) for table in tables.origin(setup)]
    body = "\n".join(filter(None, parts))
    return Section("origin", "How it was made", body) if body else None


def notes(results: dict[str, Any]) -> Section | None:
    """Remarks."""
    if not results.get("notes"):
        return None
    return Section("notes", "Notes", markup.paragraphs(results["notes"]))
