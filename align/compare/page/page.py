"""The page of a comparison, PPO against DPO: one HTML file with nothing outside it, or Markdown for a model card.

The same results give the same bytes.
"""

from __future__ import annotations

from align.compare.comparison import ComparisonResults
from align.compare.page import figures, tables
from align.evaluate.page import passages, sections
from align.report import markdown as md
from align.report import markup
from align.report.markup import Section


def _verdict(results: ComparisonResults) -> Section:
    verdict = results.verdict
    body = markup.render("headline", verdict.headline) + "\n" + markup.paragraphs(verdict.sentences)
    return Section("verdict", "Verdict", body + sections.failed(results.failed))


def _plotted(name: str, heading: str, plots: list[markup.Plot], intro: str, after: str = "") -> Section | None:
    if not plots and not after:
        return None
    return Section(name, heading, f"{markup.paragraphs([intro])}\n{markup.figures(plots)}\n{after}")


def _frontier(results: ComparisonResults) -> Section | None:
    intro = (
        f"What each method gains for how far it moves from {results.reference_name}. At the same KL, "
        "the higher curve is the better method."
    )
    return _plotted("frontier", "Score against KL", figures.frontiers(results), intro)


def _away(results: ComparisonResults) -> Section | None:
    if not results.fits:
        return None
    intro = (
        "The reward model is a proxy that training climbs. Where the gold score turns down while the reward goes on "
        "rising, the policy exploits the proxy."
    )
    if not any("gold" in fit for fit in results.fits.values()):
        intro = "Reward gained as the policy moves away. Without a gold grader, over-optimisation cannot be seen here."
    plots = figures.over_optimisations(results)
    return _plotted("away", "Proxy and gold", plots, intro, markup.table(tables.fits(results)))


def _wins(results: ComparisonResults) -> Section | None:
    name = results.reference_name
    intro = f"How often a setting's completion is judged better than {name}'s for the same prompt, by each judge."
    return _plotted("wins", f"Win rates against {name}", figures.forests(results), intro)


def _pairs(results: ComparisonResults) -> Section | None:
    if not results.pairs:
        return None
    return Section("pairs", "Head to head", markup.table(tables.pairs(results)))


def _cost(results: ComparisonResults) -> Section | None:
    plots = figures.qualities(results)
    table = markup.table(tables.cost(results)) if results.cost else ""
    if not plots and not table:
        return None
    return Section("cost", "Cost", f"{table}\n{markup.figures(plots)}")


def _settings(results: ComparisonResults) -> Section:
    body = f"{markup.table(tables.settings(results))}\n{markup.table(tables.runs(results))}"
    return Section("settings", "Every setting, every seed", body)


def html(results: ComparisonResults) -> str:
    """The HTML page of a comparison of methods over strengths and seeds; what was not measured leaves itself out."""
    parts: list[Section | None] = []
    if results.settings:
        parts += [part(results) for part in (_frontier, _away, _wins)]
    parts.append(_pairs(results))
    if results.settings:
        parts += [_cost(results), _settings(results)]
    parts += [sections.samples(results.samples), sections.gates(results.gates)]
    parts += [sections.origin(results.command, results.setup), sections.notes(results.notes)]
    return markup.document(results.title, results.made, _verdict(results), [part for part in parts if part])


def markdown(results: ComparisonResults) -> str:
    """A comparison in Markdown."""
    verdict = results.verdict
    parts = [*passages.opening(results.title, results.made), "## Verdict", f"**{md.text(verdict.headline)}**"]
    parts += [md.text(sentence) for sentence in verdict.sentences]
    if results.failed:
        parts.append("\n".join(["Failed runs:", "", *(f"- {md.text(line)}" for line in results.failed)]))
    if results.settings:
        parts += ["## Settings", md.table(tables.settings(results))]
        if tables.judges(results):
            parts.append(md.table(tables.win_rates(results)))
        if results.fits:
            parts += ["## Proxy and gold", md.table(tables.fits(results))]
    if results.pairs:
        parts += ["## Head to head", md.table(tables.pairs(results))]
    if results.cost:
        parts += ["## Cost", md.table(tables.cost(results))]
    if results.settings:
        parts += ["## Every run", md.table(tables.runs(results))]
    parts += [*passages.samples(results.samples), *passages.gates(results.gates)]
    return passages.document([*parts, *passages.origin(results.command, results.setup), *passages.notes(results.notes)])
