"""The page of an evaluation of several models: one HTML file with nothing outside it, or Markdown for a model card."""

from __future__ import annotations

from typing import Any

from align.evaluate.page import heatmaps, passages, sections, tables
from align.report import markdown as md
from align.report import markup
from align.report.markup import Section


def html(results: dict[str, Any]) -> str:
    """The HTML page of an evaluation: a row a measure, a column a model; personas, samples, gates, origin."""
    parts: list[Section | None] = [Section("measures", "Measures", markup.table(tables.measures(results)))]
    if results.get("reward_model"):
        parts.append(Section("reward-model", "Reward model", markup.table(tables.reward_model(results))))
    if any(model.get("personas") for model in results["models"].values()):
        intro = "<p>How each model rates topics when it speaks as a persona.</p>\n"
        parts.append(Section("personas", "Personas", intro + heatmaps.section(results)))
    parts += [part(results) for part in (sections.samples, sections.gates, sections.origin, sections.notes)]
    return markup.document(results["title"], results.get("made", ""), None, [part for part in parts if part])


def markdown(results: dict[str, Any]) -> str:
    """An evaluation in Markdown."""
    parts = [*passages.opening(results), "## Measures", md.table(tables.measures(results))]
    if results.get("reward_model"):
        parts += ["## Reward model", md.table(tables.reward_model(results))]
    having = {name: m["personas"] for name, m in results["models"].items() if m.get("personas")}
    if having:
        parts.append("## Personas")
    for name, found in having.items():
        if found.get("measurable"):
            parts.append(md.table(heatmaps.table(name, found)))
        else:
            why = md.text(found.get("why") or "no reason was recorded")
            parts.append(f"**{md.text(name)}**: not measurable: {why}. {md.text(heatmaps.counted(found))}")
    return passages.document([*parts, *passages.closing(results)])
