"""A comparison's figures with their words: what is seen, what it says, the data behind it."""

from __future__ import annotations

from typing import Any

from align.compare.page import plots, series, tables
from align.report.markup import Plot
from align.report.numerals import number, value


def _scores(results: dict[str, Any]) -> list[str]:
    """The scores that any setting has: `reward`, then `gold`."""
    return [key for key in ("reward", "gold") if series.measured(results["settings"], key)]


def _spans(results: dict[str, Any], key: str) -> str:
    """In words, for each method, from where to where its settings reach."""
    said = []
    for method in series.methods(results):
        found = series.measured(series.of_method(results, method), key)
        if found:
            xs, ys = [s["kl"]["value"] for s in found], [s[key]["value"] for s in found]
            said.append(
                f"{method}: {len(found)} settings, KL {number(min(xs))} to {number(max(xs))}, "
                f"{'reward' if key == 'reward' else 'gold score'} {number(min(ys))} to {number(max(ys))}."
            )
    return " ".join(said)


def frontiers(results: dict[str, Any]) -> list[Plot]:
    """Reward, and gold score where there is one, against KL."""
    found = []
    for key in _scores(results):
        title = f"{'Reward' if key == 'reward' else 'Gold score'} against KL to {tables.reference_name(results)}"
        strengths = sorted({f"{s['method']} {s['knob']}" for s in results["settings"]})
        caption = (
            "Small marks are seeds, large ones a setting's mean with its 95 % interval in both directions; "
            f"lines join settings by strength, written beside them where there is room ({', '.join(strengths)})."
        )
        if any(key in row for row in results.get("best_of_n", [])):
            caption += " Dashed: the best of n completions of the reference by the reward model, at its analytic KL."
        if series.wide(results):
            caption += " The KL axis is a square-root one."
        missing = len(results["settings"]) - len(series.measured(results["settings"], key))
        if missing:
            caption += f" {missing} setting{'s' if missing > 1 else ''} without a measurement not drawn."
        svg = plots.frontier(results, key, f"frontier-{key}", (title, _spans(results, key)))
        found.append(Plot(f"frontier-{key}", svg, title, caption, tables.frontier(results, key)))
    return found


def _turning(method: str, fits: dict[str, Any], results: dict[str, Any]) -> str:
    """In words, where each fitted curve turns."""
    said = []
    for key, name in (("reward", "reward"), ("gold", "gold")):
        fit, rows = fits.get(key), series.gains(results, method, key)
        if not rows:
            continue
        if not fit:
            said.append(f"No curve was fitted to the {name} gain.")
            continue
        peak, farthest = fit.get("peak_sqrt_kl"), series.reach(fit, rows)
        if peak is None:
            said.append(f"The {name} curve has no turning point.")
        elif peak > farthest:
            said.append(
                f"The {name} curve would turn at √KL = {number(peak)}, outside the data (up to {number(farthest)})."
            )
        else:
            said.append(
                f"The fitted {name} curve turns at √KL = {number(peak)}; the verdict says if that is more than noise."
            )
    return " ".join(said)


def over_optimisations(results: dict[str, Any]) -> list[Plot]:
    """Proxy and gold as the policy moves away, one figure a method."""
    found = []
    for method, fits in results.get("fits", {}).items():
        if not any(series.gains(results, method, key) for key in ("reward", "gold")):
            continue
        name = f"away-{series.methods(results).index(method)}"
        title = f"{method}: gain over {tables.reference_name(results)} as the policy moves away"
        turning = _turning(method, fits, results)
        caption = (
            f"Line: the fit d (α − β log d), d = √KL. {turning} Intervals are the setting's own; the "
            "reference's is not added. All methods share the axes."
        )
        svg = plots.over_optimisation(results, method, name, (title, turning))
        found.append(Plot(name, svg, title, caption, tables.gains(results, method)))
    return found


def forests(results: dict[str, Any]) -> list[Plot]:
    """Win rates against the reference, one figure a judge."""
    found = []
    for judge in tables.judges(results):
        rates = [(s["label"], series.rate(s, judge)) for s in results["settings"]]
        known = [(label, rate) for label, rate in rates if rate and value(rate) is not None]
        if not known:
            continue
        name = f"wins-{judge.replace('_', '-')}"
        title = f"Win rate against {tables.reference_name(results)}, {tables.judge_name(judge)}"
        above = sum(rate["low"] is not None and rate["low"] > 0.5 for _, rate in known)
        below = sum(rate["high"] is not None and rate["high"] < 0.5 for _, rate in known)
        said = f"Of {len(known)} settings, {above} lie above 50 % with their whole interval and {below} below."
        svg = plots.forest(results, judge, name, (title, said))
        caption = f"Dot and 95 % interval; the dashed line is 50 %, no difference. {said}"
        found.append(Plot(name, svg, title, caption, tables.win_rate(results, judge)))
    return found


def qualities(results: dict[str, Any]) -> list[Plot]:
    """The best judge's score against the time of a run."""
    scores = _scores(results)
    key = "gold" if "gold" in scores else "reward"
    if not any(series.finite_runs(s, "seconds", key) for s in results["settings"]):
        return []
    what = "Gold score" if key == "gold" else "Reward"
    title = f"{what} against the time of a run"
    caption = (
        "Small marks are seeds, large ones a setting's mean with its 95 % interval; the numbers beside them are "
        f"strengths. The dashed line is {tables.reference_name(results)}, before any training."
    )
    svg = plots.quality(results, key, "quality", (title, _spans(results, key)))
    return [Plot("quality", svg, title, caption, tables.quality(results, key))]
