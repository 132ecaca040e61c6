"""Sections that both pages have: samples, gates, how it was made, notes, failed runs."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from align.evaluate.page import tables
from align.evaluate.results import Answer, Gate, ModelResult, Sample, Setup
from align.report import markup
from align.report.markup import Section


def _answer(answer: Answer) -> str:
    found = tables.scores(answer)
    said = f" <span>{escape(found)}</span>" if found else ""
    text = escape(answer.text) if answer.text else "<i>(empty)</i>"
    return f"<div><dt>{escape(answer.name)}{said}</dt><dd>{text}</dd></div>"


def samples(found: Sequence[Sample]) -> Section | None:
    """Completions side by side, by the rule that picked them."""
    if not found:
        return None
    parts, count = [], 0
    for rule, picked in tables.by_rule(found).items():
        parts.append(f"<h3>{escape(rule[:1].upper() + rule[1:])}</h3>")
        for sample in picked:
            count += 1
            answers = "\n".join(_answer(answer) for answer in sample.answers)
            parts.append(
                f'<article class="sample">\n<h4>Prompt {count}</h4>\n<p class="prompt">{escape(sample.prompt)}</p>\n'
                f'<dl class="answers">\n{answers}\n</dl>\n</article>'
            )
    intro = "<p>Completions of the same prompts, as generated. Each group was picked by the rule that heads it.</p>"
    return Section("samples", "Samples", "\n".join([intro, *parts]))


def gates(found: Sequence[Gate]) -> Section | None:
    """What was checked first."""
    if not found:
        return None
    failed = [gate.run for gate in found if not gate.passed]
    said = f"{len(found) - len(failed)} of {len(found)} runs passed every check."
    said += f" Failed: {', '.join(failed)}." if failed else ""
    return Section("gates", "Gates", f"<p>{escape(said)}</p>\n{markup.table(tables.gates(found))}")


def failed(texts: Sequence[str]) -> str:
    """The runs that failed, as a list; nothing where none did."""
    if not texts:
        return ""
    rows = "\n".join(f"<li>{escape(text)}</li>" for text in texts)
    said = "One run failed:" if len(texts) == 1 else f"{len(texts)} runs failed:"
    return f'<div class="failed">\n<p>{said}</p>\n<ul>\n{rows}\n</ul>\n</div>'


def origin(command: str, setup: Setup | None, models: dict[str, ModelResult] | None = None) -> Section | None:
    """How it was made: command, models, budgets, versions."""
    parts = [markup.command(command)] if command else []
    if setup:
        parts.append(markup.facts(tables.made(setup)))
    if models:
        parts.append(markup.table(tables.models(models)))
    if setup:
        parts += [markup.table(table) for table in tables.origin(setup)]
    return Section("origin", "How it was made", "\n".join(parts)) if parts else None


def notes(found: Sequence[str]) -> Section | None:
    """Remarks."""
    return Section("notes", "Notes", markup.paragraphs(found)) if found else None
