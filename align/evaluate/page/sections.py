"""Sections that both pages have: samples, gates, how it was made, notes, failed runs."""

from __future__ import annotations

from collections.abc import Sequence

from align.evaluate.page import tables
from align.evaluate.results import Gate, ModelResult, Sample, Setup
from align.report import markup
from align.report.markup import Section


def samples(found: Sequence[Sample]) -> Section | None:
    """Completions side by side, by the rule that picked them."""
    if not found:
        return None
    return Section("samples", "Samples", markup.render("samples", tables.by_rule(found).items(), tables.scores))


def gates(found: Sequence[Gate]) -> Section | None:
    """What was checked first."""
    if not found:
        return None
    failed = [gate.run for gate in found if not gate.passed]
    said = f"{len(found) - len(failed)} of {len(found)} runs passed every check."
    said += f" Failed: {', '.join(failed)}." if failed else ""
    return Section("gates", "Gates", f"{markup.paragraphs([said])}\n{markup.table(tables.gates(found))}")


def failed(texts: Sequence[str]) -> str:
    """The runs that failed, as a list; nothing where none did."""
    return markup.render("failed", texts) if texts else ""


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
