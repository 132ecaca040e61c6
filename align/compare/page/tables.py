"""The tables of a comparison, the same for both formats."""

from __future__ import annotations

from typing import Any

from align.compare.page import series
from align.evaluate.page.tables import JUDGES
from align.report.markup import Table
from align.report.numerals import ABSENT, estimate, number, percent

# key, heading, whether it is a share
COLUMNS = (
    ("kl", "KL, nats", False),
    ("reward", "reward", False),
    ("gold", "gold score", False),
    ("length", "length, tokens", False),
    ("stops", "stops by itself", True),
    ("entropy", "entropy, nats", False),
    ("distinct_2", "distinct bigrams", True),
    ("repetition", "repetition", True),
)
RUN_COLUMNS = (
    ("kl", "KL, nats", number),
    ("kl_per_token", "KL per token", number),
    ("reward", "reward", number),
    ("gold", "gold score", number),
    ("win_rate", "win rate", percent),
    ("length", "length, tokens", number),
    ("stops", "stops by itself", percent),
    ("entropy", "entropy, nats", number),
    ("distinct_2", "distinct bigrams", percent),
    ("repetition", "repetition", percent),
    ("seconds", "seconds", number),
    ("tokens", "tokens", number),
    ("peak_memory_bytes", "peak memory, GB", lambda x: number(x / 1e9) if x else ABSENT),
)


def judges(results: dict[str, Any]) -> list[str]:
    """The judges that any setting was judged by, in a fixed order."""
    found = {judge for s in results.get("settings", []) for judge, rate in (s.get("win_rate") or {}).items() if rate}
    return [judge for judge in JUDGES if judge in found] + sorted(found - set(JUDGES))


def judge_name(judge: str) -> str:
    """A judge's name in words."""
    return JUDGES.get(judge, judge.replace("_", " "))


def reference_name(results: dict[str, Any]) -> str:
    """What the reference is called."""
    return results.get("reference", {}).get("name", "the reference")


def settings(results: dict[str, Any]) -> Table:
    """Every setting's means, and the reference's."""
    rows = [results["reference"], *results["settings"]] if "reference" in results else results["settings"]
    columns = [c for c in COLUMNS if any(c[0] in row for row in rows)]
    body = []
    for row in rows:
        named = row["label"] if "label" in row else row["name"]
        cells = [estimate(row.get(key), share=share) for key, _, share in columns]
        if "label" not in row and "kl" not in row:  # the reference, from which KL is counted
            cells = ["0" if key == "kl" else cell for cell, (key, _, _) in zip(cells, columns, strict=True)]
        body.append([named, *cells])
    units = "; ".join(f"{name} in {unit}" for name, unit in results.get("units", {}).items())
    note = "Means over seeds and prompts with 95 % intervals." + (f" Units: {units}." if units else "")
    return Table("Every setting", ["setting", *(c[1] for c in columns)], body, note)


def runs(results: dict[str, Any]) -> Table:
    """Every seed of every setting, the failed ones too."""
    rows = [(s, run) for s in results["settings"] for run in s.get("runs", [])]
    columns = [c for c in RUN_COLUMNS if any(c[0] in run for _, run in rows)]
    head = ["setting", "seed", "status", *(c[1] for c in columns)]
    body = []
    for s, run in rows:
        body.append([s["label"], str(run["seed"]), run["status"], *(write(run.get(key)) for key, _, write in columns)])
    if errors := [(s, run) for s, run in rows if run.get("error")]:
        head.append("error")
        lookup = {id(run): run["error"] for _, run in errors}
        for cells, (_, run) in zip(body, rows, strict=True):
            cells.append(lookup.get(id(run), ""))
    return Table("Every run", head, body, "One row a seed.")


def failures(results: dict[str, Any]) -> list[str]:
    """The runs that failed, in words: as given, or read from the settings."""
    if "failed" in results:
        return list(results["failed"])
    return [
        f"{s['label']}, seed {run['seed']}: {run.get('error', run['status'])}"
        for s in results.get("settings", [])
        for run in s.get("runs", [])
        if run.get("status") != "complete"
    ]


def frontier(results: dict[str, Any], key: str) -> Table:
    """The numbers behind a frontier."""
    body = []
    if "reference" in results:
        body.append([reference_name(results), "0", estimate(results["reference"].get(key)), ""])
    for s in results["settings"]:
        points = series.finite_runs(s, "kl", key)
        seeds = "; ".join(f"{number(x)}, {number(y)}" for x, y in points)
        body.append([s["label"], estimate(s.get("kl")), estimate(s.get(key)), seeds])
    for row in results.get("best_of_n", []):
        if key in row:
            body.append([f"best of {row['n']}", number(row["kl"]), estimate(row[key]), ""])
    what = {"reward": "reward", "gold": "gold score"}[key]
    return Table(f"{what.capitalize()} and KL", ["setting", "KL, nats", what, "seeds: KL, " + what], body)


def gains(results: dict[str, Any], method: str) -> Table:
    """The numbers behind a method's over-optimisation figure, points and fit."""
    body = []
    for key, name in (("reward", "reward gain"), ("gold", "gold gain")):
        rows = series.gains(results, method, key)
        if rows:
            body.append([name])
        for row in rows:
            seeds = "; ".join(f"{number(x)}, {number(y)}" for x, y in row["seeds"])
            low, high = row["gain"] - row["ends"][0], row["gain"] + row["ends"][1]
            found = {"value": row["gain"], "low": low, "high": high}
            body.append(
                [row["label"], number(row["d"]), estimate(found if any(row["ends"]) else {**found, "low": None}), seeds]
            )
    return Table(f"{method}: gain over {reference_name(results)}", ["setting", "√KL", "gain", "seeds: √KL, gain"], body)


def fits(results: dict[str, Any]) -> Table:
    """The fitted curves' parameters."""
    body = []
    for method, found in results["fits"].items():
        for key, fit in found.items():
            if not fit:
                continue
            peak = fit.get("peak_sqrt_kl")
            inside = peak is not None and peak <= fit.get("d_max", peak)
            where = "none" if peak is None else "within the data" if inside else "beyond the data"
            cells = [number(fit.get(x)) for x in ("alpha", "beta", "peak_sqrt_kl", "d_max", "points")]
            body.append([f"{method}, {key}", *cells, where])
    return Table(
        "Fitted curves",
        ["method, score", "α", "β", "turns at √KL", "largest √KL", "points", "turning point"],
        body,
        "Gain = d (α − β log d) with d = √KL.",
    )


def win_rates(results: dict[str, Any]) -> Table:
    """Win rates against the reference by judge."""
    found = judges(results)
    body = [
        [s["label"], *(estimate(series.rate(s, judge), share=True) for judge in found)] for s in results["settings"]
    ]
    return Table(f"Win rates against {reference_name(results)}", ["setting", *map(judge_name, found)], body)


def win_rate(results: dict[str, Any], judge: str) -> Table:
    """Win rates against the reference by one judge."""
    name = judge_name(judge)
    body = []
    for s in (s for method in series.methods(results) for s in series.of_method(results, method)):
        found = series.rate(s, judge)
        body.append([s["label"], estimate(found, share=True), number((found or {}).get("n"))])
    return Table(f"Win rates against {reference_name(results)}: {name}", ["setting", "win rate", "n"], body)


def pairs(results: dict[str, Any]) -> Table:
    """Head to head at the closest KL."""
    rows = results["pairs"]
    controlled = any(row.get("length_controlled") for row in rows)
    head = ["A against B", "KL of A", "KL of B", "judge", "A wins"]
    head += ["length-controlled"] if controlled else []
    head += ["prompts needed", "verdict"]
    body = []
    for row in rows:
        cells = [f"{row['a']} against {row['b']}", number(row.get("kl_a")), number(row.get("kl_b"))]
        cells += [judge_name(row["judge"]), estimate(row.get("win_rate"), share=True)]
        cells += [estimate(row.get("length_controlled"), share=True)] if controlled else []
        body.append([*cells, number(row.get("prompts_needed")), row.get("verdict", "")])
    note = "A is judged against B on the same prompts. Prompts needed: to tell a difference of the size seen from none."
    return Table("Settings closest in KL", head, body, note)


def cost(results: dict[str, Any]) -> Table:
    """What a run of each method costs."""
    rows = results["cost"]

    def scaled(found: dict[str, Any] | None) -> dict[str, Any] | None:
        ends = ("value", "low", "high")
        return found and {**found, **{k: found[k] / 1e9 for k in ends if found.get(k) is not None}}

    dollars = any("dollars" in row for row in rows)
    head = [
        "method",
        "runs",
        "seconds",
        "tokens",
        "peak memory, GB",
        *(["dollars"] if dollars else []),
        "gain per minute",
    ]
    body = []
    for row in rows:
        cells = [number(row.get("runs")), estimate(row.get("seconds")), estimate(row.get("tokens"))]
        cells += [estimate(scaled(row.get("peak_memory_bytes")))]
        cells += [estimate(row.get("dollars"))] if dollars else []
        body.append([row["method"], *cells, number(row.get("gain_per_minute"))])
    note = f"Gain per minute: of the method's best setting over {reference_name(results)}, a minute of a run."
    return Table("What a run costs", head, body, note)


def quality(results: dict[str, Any], key: str) -> Table:
    """The numbers behind the figure of quality against seconds."""
    what = {"reward": "reward", "gold": "gold score"}[key]
    body = []
    for s in results["settings"]:
        points = series.finite_runs(s, "seconds", key)
        seconds = number(sum(x for x, _ in points) / len(points)) if points else ABSENT
        seeds = "; ".join(f"{number(x)}, {number(y)}" for x, y in points)
        body.append([s["label"], seconds, estimate(s.get(key)), seeds])
    return Table(f"Seconds and {what}", ["setting", "seconds per run", what, f"seeds: seconds, {what}"], body)
