"""What both reports have, in Markdown for a model card: opening, samples, gates, how it was made, notes."""

from __future__ import annotations

from typing import Any

from align.evaluate.page import tables
from align.report import markdown
from align.report.markup import Table


def _samples(results: dict[str, Any]) -> list[str]:
    if not results.get("samples"):
        return []
    parts = ["## Samples"]
    for rule, found in tables.by_rule(results["samples"]).items():
        parts.append(f"### {markdown.text(rule[:1].upper() + rule[1:])}")
        for sample in found:
            rows = [[a["name"], tables.scores(a), a["text"] or "(empty)"] for a in sample["answers"]]
            parts.append(markdown.table(Table("Prompt", ["model", "scores", "completion"], rows, sample["prompt"])))
    return parts


def _origin(results: dict[str, Any]) -> list[str]:
    setup = results.get("setup") or {}
    parts = []
    if results.get("command"):
        parts.append(f"Command: {markdown.text(results['command'])}")
    if found := tables.made(setup):
        parts.append("\n".join(f"- {markdown.text(name)}: {markdown.text(value)}" for name, value in found))
    if "models" in results:
        parts.append(markdown.table(tables.models(results)))
    parts += [markdown.table(content) for content in tables.origin(setup)]
    return ["## How it was made", *parts] if parts else []


def closing(results: dict[str, Any]) -> list[str]:
    """Samples, gates, origin and notes."""
    gates = ["## Gates", markdown.table(tables.gates(results))] if results.get("gates") else []
    notes = ["## Notes", *(markdown.text(note) for note in results["notes"])] if results.get("notes") else []
    return [*_samples(results), *gates, *_origin(results), *notes]


def opening(results: dict[str, Any]) -> list[str]:
    """The title, and when it was made."""
    made = [markdown.text(results["made"])] if results.get("made") else []
    return [f"# {markdown.text(results['title'])}", *made]


def document(parts: list[str]) -> str:
    """Passages as one text."""
    return "\n\n".join(parts) + "\n"
