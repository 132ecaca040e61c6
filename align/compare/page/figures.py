"""A comparison's figures with their words: what is seen, what it says, the data behind it."""

from __future__ import annotations

from align.compare.comparison import ComparisonResults
from align.compare.page import plots, series, tables
from align.evaluate.policy import decides
from align.report.markup import Plot
from align.report.numerals import number, value
from align.stats import Fit


def _scores(results: ComparisonResults) -> list[str]:
    """The scores that any setting has: `reward`, `gold`, `second`."""
    return [key for key in series.SCORES if series.points(results.settings, key)]


def _spans(results: ComparisonResults, key: str) -> str:
    """In words, for each method, from where to where its settings reach."""
    said = []
    for method in series.methods(results):
        found = series.points(series.of_method(results, method), key)
        if found:
            xs, ys = [point.kl.value for point in found], [point.score.value for point in found]
            said.append(
                f"{method}: {len(found)} settings, KL {number(min(xs))} to {number(max(xs))}, "
                f"{series.SCORES[key]} {number(min(ys))} to {number(max(ys))}."
            )
    return " ".join(said)


def frontiers(results: ComparisonResults) -> list[Plot]:
    """Reward, and gold score where there is one, against KL."""
    found = []
    for key in _scores(results):
        title = f"{series.SCORES[key].capitalize()} against KL to {results.reference_name}"
        strengths = sorted({f"{s.method} {s.knob}" for s in results.settings})
        caption = (
            "Small marks are seeds, large ones a setting's mean with its 95 % interval in both directions; "
            f"lines join settings by strength, written beside them where there is room ({', '.join(strengths)})."
        )
        if any(point.score(key) for point in results.best_of_n):
            caption += " Dashed: the best of n completions of the reference by the reward model, at its analytic KL."
        if series.wide(results):
            caption += " The KL axis is a square-root one."
        missing = len(results.settings) - len(series.points(results.settings, key))
        if missing:
            caption += f" {missing} setting{'s' if missing > 1 else ''} without a measurement not drawn."
        svg = plots.frontier(results, key, f"frontier-{key}", (title, _spans(results, key)))
        found.append(Plot(f"frontier-{key}", svg, title, caption, tables.frontier(results, key)))
    return found


def _turning(method: str, fits: dict[str, Fit], results: ComparisonResults) -> str:
    """In words, where each fitted curve turns."""
    said = []
    for key in series.FITTED:
        fit, rows = fits.get(key), series.gains(results, method, key)
        if not rows:
            continue
        if not fit:
            said.append(f"No curve was fitted to the {key} gain.")
            continue
        peak, farthest = fit.peak_sqrt_kl, series.reach(fit, rows)
        if peak is None:
            said.append(f"The {key} curve has no turning point.")
        elif peak > farthest:
            said.append(
                f"The {key} curve would turn at √KL = {number(peak)}, outside the data (up to {number(farthest)})."
            )
        else:
            said.append(
                f"The fitted {key} curve turns at √KL = {number(peak)}; the verdict says if that is more than noise."
            )
    return " ".join(said)


def over_optimisations(results: ComparisonResults) -> list[Plot]:
    """Proxy and gold as the policy moves away, one figure a method."""
    found = []
    for method, fits in (results.fits or {}).items():
        if not any(series.gains(results, method, key) for key in series.FITTED):
            continue
        name = f"away-{series.methods(results).index(method)}"
        title = f"{method}: gain over {results.reference_name} as the policy moves away"
        turning = _turning(method, fits, results)
        caption = (
            f"Line: the fit d (α − β log d), d = √KL. {turning} Intervals are the setting's own; the "
            "reference's is not added. All methods share the axes."
        )
        svg = plots.over_optimisation(results, method, name, (title, turning))
        found.append(Plot(name, svg, title, caption, tables.gains(results, method)))
    return found


def forests(results: ComparisonResults) -> list[Plot]:
    """Win rates against the reference, one figure a judge."""
    found = []
    for place, judge in enumerate(tables.judges(results)):
        rates = [series.rate(setting, judge) for setting in results.settings]
        known = [rate for rate in rates if rate and value(rate) is not None]
        if not known:
            continue
        name = f"wins-{place}"
        title = f"Win rate against {results.reference_name}, {tables.judge_name(judge)}"
        above, below = (sum(wins) for wins in zip(*((r.above(0.5), r.below(0.5)) for r in known), strict=True))
        said = f"Of {len(known)} settings, {above} lie above 50 % with their whole interval and {below} below."
        svg = plots.forest(results, judge, name, (title, said))
        caption = f"Dot and 95 % interval; the dashed line is 50 %, no difference. {said}"
        found.append(Plot(name, svg, title, caption, tables.win_rate(results, judge)))
    return found


def qualities(results: ComparisonResults) -> list[Plot]:
    """The best grader's score against the time of a run."""
    key = decides(_scores(results)) or "reward"
    if not any(series.seed_points(setting, "seconds", key) for setting in results.settings):
        return []
    title = f"{series.SCORES[key].capitalize()} against the time of a run"
    caption = (
        "Small marks are seeds, large ones a setting's mean with its 95 % interval; the numbers beside them are "
        f"strengths. The dashed line is {results.reference_name}, before any training."
    )
    svg = plots.quality(results, key, "quality", (title, _spans(results, key)))
    return [Plot("quality", svg, title, caption, tables.quality(results, key))]
