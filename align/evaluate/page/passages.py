"""What both reports have, in Markdown for a model card: opening, samples, gates, how it was made, notes."""

from __future__ import annotations

from collections.abc import Sequence

from align.evaluate.page import tables
from align.evaluate.results import Gate, ModelResult, Sample, Setup
from align.report import markdown
from align.report.markup import Table


def opening(title: str, made: str) -> list[str]:
    """The title, and when it was made."""
    return [f"# {markdown.text(title)}", *([markdown.text(made)] if made else [])]


def samples(found: Sequence[Sample]) -> list[str]:
    """Completions side by side, by the rule that picked them."""
    parts = ["## Samples"] if found else []
    for rule, picked in tables.by_rule(found).items():
        parts.append(f"### {markdown.text(rule[:1].upper() + rule[1:])}")
        for sample in picked:
            rows = [[answer.name, tables.scores(answer), answer.text or "(empty)"] for answer in sample.answers]
            parts.append(markdown.table(Table("Prompt", ["model", "scores", "completion"], rows, sample.prompt)))
    return parts


def gates(found: Sequence[Gate]) -> list[str]:
    """What was checked first."""
    return ["## Gates", markdown.table(tables.gates(found))] if found else []


def origin(command: str, setup: Setup | None, models: dict[str, ModelResult] | None = None) -> list[str]:
    """How it was made: command, models, budgets, versions."""
    parts = [f"Command: {markdown.text(command)}"] if command else []
    if setup:
        facts = tables.made(setup)
        parts.append("\n".join(f"- {markdown.text(name)}: {markdown.text(value)}" for name, value in facts))
    if models:
        parts.append(markdown.table(tables.models(models)))
    if setup:
        parts += [markdown.table(content) for content in tables.origin(setup)]
    return ["## How it was made", *parts] if parts else []


def notes(found: Sequence[str]) -> list[str]:
    """Remarks."""
    return ["## Notes", *(markdown.text(note) for note in found)] if found else []


def document(parts: Sequence[str]) -> str:
    """Passages as one text."""
    return "\n\n".join(parts) + "\n"
