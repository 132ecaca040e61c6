"""The tables of a comparison, the same for both formats."""

from __future__ import annotations

from dataclasses import replace

from align.compare.comparison import ComparisonResults, FailedRun
from align.compare.page import series
from align.evaluate.page.tables import JUDGES
from align.report.markup import Table
from align.report.numerals import ABSENT, estimate, number, percent
from align.stats import Estimate

# key, heading, whether it is a share
COLUMNS = (
    ("kl", "KL, nats", False),
    ("reward", "reward", False),
    ("gold", "gold score", False),
    ("second", "second judge's score", False),
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
    ("second", "second judge's score", number),
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


def judges(results: ComparisonResults) -> list[str]:
    """The judges that any setting was judged by, in a fixed order."""
    found = {judge for s in results.settings for judge, rate in (s.win_rate or {}).items() if rate}
    return [judge for judge in JUDGES if judge in found] + sorted(found - set(JUDGES))


def judge_name(judge: str) -> str:
    """A judge's name in words."""
    return JUDGES.get(judge, judge.replace("_", " "))


def settings(results: ComparisonResults) -> Table:
    """Every setting's means, and the reference's."""
    reference = [(results.reference_name, results.reference)] if results.reference else []
    rows = [*reference, *((setting.label, setting) for setting in results.settings)]
    columns = [c for c in COLUMNS if any(getattr(row, c[0]) for _, row in rows)]
    body = [[name, *(estimate(getattr(row, key), share=share) for key, _, share in columns)] for name, row in rows]
    if results.reference and results.reference.kl is None:  # it is what KL is counted from
        body[0][1:] = ["0" if key == "kl" else cell for cell, (key, _, _) in zip(body[0][1:], columns, strict=True)]
    units = "; ".join(f"{name} in {unit}" for name, unit in (results.units or {}).items())
    note = "Means over seeds and prompts with 95 % intervals." + (f" Units: {units}." if units else "")
    return Table("Every setting", ["setting", *(c[1] for c in columns)], body, note)


def runs(results: ComparisonResults) -> Table:
    """Every seed of every setting, the failed ones too."""
    rows = [(s, run) for s in results.settings for run in s.runs]
    columns = [c for c in RUN_COLUMNS if any(getattr(run, c[0], None) is not None for _, run in rows)]
    head = ["setting", "seed", "status", *(c[1] for c in columns)]
    body = []
    for s, run in rows:
        cells = (write(getattr(run, key, None)) for key, _, write in columns)
        body.append([s.label, str(run.seed), run.status, *cells])
    if any(isinstance(run, FailedRun) for _, run in rows):
        head.append("error")
        for line, (_, run) in zip(body, rows, strict=True):
            line.append(run.error if isinstance(run, FailedRun) else "")
    return Table("Every run", head, body, "One row a seed.")


def frontier(results: ComparisonResults, key: str) -> Table:
    """The numbers behind a frontier."""
    body = []
    if results.reference:
        body.append([results.reference_name, "0", estimate(results.reference.score(key)), ""])
    for s in results.settings:
        points = series.seed_points(s, "kl", key)
        seeds = "; ".join(f"{number(x)}, {number(y)}" for x, y in points)
        body.append([s.label, estimate(s.kl), estimate(s.score(key)), seeds])
    for row in results.best_of_n:
        if row.score(key):
            body.append([f"best of {row.n}", number(row.kl), estimate(row.score(key)), ""])
    what = series.SCORES[key]
    return Table(f"{what.capitalize()} and KL", ["setting", "KL, nats", what, "seeds: KL, " + what], body)


def gains(results: ComparisonResults, method: str) -> Table:
    """The numbers behind a method's over-optimisation figure, points and fit."""
    body = []
    for key in series.SCORES:
        rows = series.gains(results, method, key)
        if rows:
            body.append([f"{key} gain"])
        for row in rows:
            seeds = "; ".join(f"{number(x)}, {number(y)}" for x, y in row.seeds)
            low, high = (row.gain - row.ends[0], row.gain + row.ends[1]) if any(row.ends) else (None, None)
            body.append([row.label, number(row.d), estimate(Estimate(row.gain, low, high, 1)), seeds])
    return Table(f"{method}: gain over {results.reference_name}", ["setting", "√KL", "gain", "seeds: √KL, gain"], body)


def fits(results: ComparisonResults) -> Table:
    """The fitted curves' parameters."""
    body = []
    for method, found in (results.fits or {}).items():
        for key, fit in found.items():
            peak = fit.peak_sqrt_kl
            where = "none" if peak is None else "within the data" if peak <= fit.d_max else "beyond the data"
            cells = [number(x) for x in (fit.alpha, fit.beta, peak, fit.d_max, fit.points)]
            body.append([f"{method}, {key}", *cells, where])
    return Table(
        "Fitted curves",
        ["method, score", "α", "β", "turns at √KL", "largest √KL", "points", "turning point"],
        body,
        "Gain = d (α − β log d) with d = √KL.",
    )


def win_rates(results: ComparisonResults) -> Table:
    """Win rates against the reference by judge."""
    found = judges(results)
    body = [[s.label, *(estimate(series.rate(s, judge), share=True) for judge in found)] for s in results.settings]
    return Table(f"Win rates against {results.reference_name}", ["setting", *map(judge_name, found)], body)


def win_rate(results: ComparisonResults, judge: str) -> Table:
    """Win rates against the reference by one judge."""
    name = judge_name(judge)
    body = []
    for s in (s for method in series.methods(results) for s in series.of_method(results, method)):
        found = series.rate(s, judge)
        body.append([s.label, estimate(found, share=True), number(found.n if found else None)])
    return Table(f"Win rates against {results.reference_name}: {name}", ["setting", "win rate", "n"], body)


def pairs(results: ComparisonResults) -> Table:
    """Head to head at the closest KL."""
    controlled = any(met.length_controlled for met in results.pairs)
    head = ["A against B", "KL of A", "KL of B", "judge", "A wins"]
    head += ["length-controlled"] if controlled else []
    head += ["prompts needed", "verdict"]
    body = []
    for met in results.pairs:
        cells = [f"{met.a} against {met.b}", number(met.kl_a), number(met.kl_b)]
        cells += [judge_name(met.judge), estimate(met.win_rate, share=True)]
        cells += [estimate(met.length_controlled, share=True)] if controlled else []
        body.append([*cells, number(met.prompts_needed), met.verdict])
    note = "A is judged against B on the same prompts. Prompts needed: to tell a difference of the size seen from none."
    return Table("Settings closest in KL", head, body, note)


def _giga(found: Estimate) -> Estimate:
    """The same in units of 1e9."""
    low, high = (None if end is None else end / 1e9 for end in (found.low, found.high))
    return replace(found, value=found.value / 1e9, low=low, high=high)


def cost(results: ComparisonResults) -> Table:
    """What a run of each method costs."""
    dollars = any(row.dollars for row in results.cost)
    head = ["method", "runs", "seconds", "tokens", "peak memory, GB"]
    head += [*(["dollars"] if dollars else []), "gain per minute"]
    body = []
    for row in results.cost:
        cells = [number(row.runs), estimate(row.seconds), estimate(row.tokens), estimate(_giga(row.peak_memory_bytes))]
        cells += [estimate(row.dollars)] if dollars else []
        body.append([row.method, *cells, number(row.gain_per_minute)])
    note = f"Gain per minute: of the method's best setting over {results.reference_name}, a minute of a run."
    return Table("What a run costs", head, body, note)


def quality(results: ComparisonResults, key: str) -> Table:
    """The numbers behind the figure of quality against seconds."""
    what = series.SCORES[key]
    body = []
    for s in results.settings:
        points = series.seed_points(s, "seconds", key)
        seconds = number(sum(x for x, _ in points) / len(points)) if points else ABSENT
        seeds = "; ".join(f"{number(x)}, {number(y)}" for x, y in points)
        body.append([s.label, seconds, estimate(s.score(key)), seeds])
    return Table(f"Seconds and {what}", ["setting", "seconds per run", what, f"seeds: seconds, {what}"], body)
