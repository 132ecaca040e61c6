"""The page of an evaluation of several models: one HTML file with nothing outside it, or Markdown for a model card."""

from __future__ import annotations

from dataclasses import replace

from align.evaluate.page import heatmaps, passages, sections, tables
from align.evaluate.results import EvaluationResults
from align.report import markdown as md
from align.report import markup
from align.report.markup import Section


def html(results: EvaluationResults) -> str:
    """The HTML page of an evaluation: a row a measure, a column a model; personas, samples, gates, origin."""
    parts: list[Section | None] = [Section("measures", "Measures", markup.table(tables.measures(results)))]
    if results.reward_model:
        parts.append(Section("reward-model", "Reward model", markup.table(tables.reward_model(results))))
    if any(model.personas for model in results.models.values()):
        intro = "<p>How each model rates topics when it speaks as a persona.</p>\n"
        parts.append(Section("personas", "Personas", intro + heatmaps.section(results)))
    parts += [sections.samples(results.samples), sections.gates(results.gates)]
    parts += [sections.origin(results.command, results.setup, results.models), sections.notes(results.notes)]
    return markup.document(results.title, results.made, None, [part for part in parts if part])


def markdown(results: EvaluationResults) -> str:
    """An evaluation in Markdown."""
    parts = [*passages.opening(results.title, results.made), "## Measures", md.table(tables.measures(results))]
    if results.reward_model:
        parts += ["## Reward model", md.table(tables.reward_model(results))]
    having = {name: model.personas for name, model in results.models.items() if model.personas}
    if having:
        parts.append("## Personas")
    for name, found in having.items():
        if found.measurable:
            parts.append(md.table(heatmaps.table(name, found)))
        else:
            why = md.text(found.why)
            parts.append(f"**{md.text(name)}**: not measurable: {why}. {md.text(heatmaps.counted(found))}")
    parts += [*passages.samples(results.samples), *passages.gates(results.gates)]
    parts += passages.origin(results.command, results.setup, results.models)
    return passages.document([*parts, *passages.notes(results.notes)])


def for_card(name: str, results: EvaluationResults, report: str) -> str:
    """What was found of one model, in Markdown for its card. `report`: where the whole of it is."""
    table = tables.measures(replace(results, models={name: results.models[name]}))
    told = f"Measured on {results.made} on held-out prompts; the whole is in {report}."
    return f"### Measured by an evaluation\n\n{md.text(told)}\n\n{md.table(replace(table, caption='Measures'))}"
