"""The tables of an evaluation: a row a measure, a column a model; and those that both reports share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from align.evaluate.measures import refusals
from align.evaluate.results import (
    UNASKED,
    Answer,
    EvaluationResults,
    Gate,
    ModelResult,
    RefusalJudge,
    SafetyGrades,
    Sample,
    Setup,
)
from align.report.markup import Table
from align.report.numerals import ABSENT, estimate, number, percent
from align.stats import Estimate

# key, words, whether it is a share
SAMPLED = (
    ("reward", "reward", False),
    ("gold", "gold score", False),
    ("second", "second judge's score", False),
    ("kl", "KL to the reference, nats per completion", False),
    ("kl_per_token", "KL to the reference, nats per token", False),
    ("entropy", "entropy, nats per token", False),
    ("length", "length, tokens", False),
    ("stops", "stops by itself", True),
    ("distinct_1", "distinct words", True),
    ("distinct_2", "distinct bigrams", True),
    ("repetition", "repetition", True),
)
# Safe and unsafe side by side: what a model refuses by right stands beside what it refuses by mistake.
RATES = ("helpful", "honest", "harmless", "harmless_unseen", "over_refusal")
JUDGES = {
    "second": "second judge",
    "gold": "gold grader",
    "reward": "reward model",
    "length_controlled": "length-controlled",
    "judge": "judge model",
}
SUITES = {
    "unsafe_refused": "unsafe refused",
    "safe_complied": "safe answered",
    "both": "both right",
    "partial": "partial answers, count",
    "empty": "empty answers, count",
    "accuracy": "accuracy",
    "unparsable": "unparsable answers, count",
    "repeating": "repeating",
    "not_judged": "not judged (not English, no decision), count",
    "judge": "refusals told by",
    "agreement": "agrees with the shipped judge",
}
SHARES = ("unsafe_refused", "safe_complied", "both")  # of a suite of pairs
Models = dict[str, ModelResult]
Read = Callable[[ModelResult], str]


def _keys(found: Sequence[dict[str, Any]], order: Sequence[str]) -> list[str]:
    """The keys that any of the mappings has: the known ones in their order, then the others as they come."""
    present = dict.fromkeys(key for mapping in found for key in mapping)
    return [key for key in order if key in present] + [key for key in present if key not in order]


def _words(key: str) -> str:
    return {"over_refusal": "over-refusal"}.get(key, key.replace("_", " "))


def _share(found: Estimate | None) -> str:
    return estimate(found, share=True)


def _group(models: Models, heading: str, rows: Sequence[tuple[str, Read]]) -> list[list[str]]:
    body = [[words, *(read(model) for model in models.values())] for words, read in rows]
    return [[heading], *body] if body else []


def _shares(heading: str, found: Sequence[dict[str, Estimate | None]], names: dict[str, str]) -> list[list[str]]:
    """A group of rows from each model's mapping of keys to shares."""
    body = [
        [names.get(key, _words(key)), *(_share(mapping.get(key)) for mapping in found)]
        for key in _keys(found, [*names, *RATES])
    ]
    return [[heading], *body] if body else []


def _sampled(models: Models) -> list[list[str]]:
    def reader(key: str, share: bool) -> Read:
        return lambda m: estimate(m.sampled.measures().get(key), share=share)

    present = {key for m in models.values() for key in m.sampled.measures()}
    rows: list[tuple[str, Read]] = [(words, reader(k, share)) for k, words, share in SAMPLED if k in present]
    return _group(models, "Sampled completions", [*rows, ("prompts", lambda m: number(m.sampled.n))])


def _kept(models: Models) -> list[list[str]]:
    """What the model knew before: perplexity, bits per byte; and how well it tells chosen from rejected."""
    rows: list[tuple[str, Read]] = []
    if any(m.tax for m in models.values()):
        rows.append(("perplexity", lambda m: estimate(m.tax.perplexity if m.tax else None)))
        rows.append(("bits per byte", lambda m: estimate(m.tax.bits_per_byte if m.tax else None)))
    if any(m.preference_accuracy is not UNASKED for m in models.values()):
        rows.append(("prefers chosen to rejected", lambda m: _share(m.preference_accuracy)))
    return _group(models, "Alignment tax", rows)


def _suites(models: Models, error: RefusalJudge | None) -> list[list[str]]:
    """A group of rows for each suite: shares, counts of answers that no grade fits, and how sure the judge is."""
    rows: list[list[str]] = []

    def reader(name: str, key: str) -> Read:
        def written(model: ModelResult) -> str:
            found = getattr((model.suites or {}).get(name), key, None)
            return found if isinstance(found, str) else number(found) if isinstance(found, int) else _share(found)

        return written

    def by_shipped(name: str, key: str) -> Read:
        def written(model: ModelResult) -> str:
            return _share(getattr(getattr((model.suites or {}).get(name), "shipped", None), key, None))

        return written

    for name in _keys([m.suites or {} for m in models.values()], ()):
        graded = [m.suites[name] for m in models.values() if m.suites and name in m.suites]
        keys = [key for key in SUITES if any(getattr(found, key, None) is not None for found in graded)]
        told = [(SUITES[key], reader(name, key)) for key in keys]
        if any(getattr(found, "shipped", None) for found in graded):
            told += [(f"{SUITES[key]}, by the shipped judge", by_shipped(name, key)) for key in keys if key in SHARES]
        if error is not None and any(isinstance(found, SafetyGrades) for found in graded):
            told.append(("the shipped judge agrees with people in", lambda _: _share(error.agreement)))
        rows += _group(models, name, told)
    return rows


def measures(results: EvaluationResults) -> Table:
    """Every measure of every model."""
    models = results.models
    all_of = list(models.values())
    body = [
        *_shares("Graded answers", [dict(m.rates or {}) for m in all_of], {}),
        *_shares(f"Win rate against {results.reference}", [m.win_rate or {} for m in all_of], JUDGES),
        *_sampled(models),
        *_kept(models),
        *_suites(models, results.refusal_judge),
    ]
    for task in _keys([m.lm_eval or {} for m in all_of], ()):
        body += _shares(f"lm-eval: {task}", [dict((m.lm_eval or {}).get(task, {})) for m in all_of], {})
    note = f"With 95 % intervals. The reference is {results.reference}. A dash: not measured."
    if results.refusal_judge is not None:
        note += " " + refusals.in_words(results.refusal_judge)
    return Table("Every measure of every model", ["measure", *models], body, note)


def models(found: Models) -> Table:
    """Which models were measured."""
    body = [[name, model.path, model.recipe, model.hash[:12] or ABSENT] for name, model in found.items()]
    return Table("Models", ["model", "path", "recipe", "hash"], body)


def reward_model(results: EvaluationResults) -> Table:
    """How often the reward model prefers the chosen completion."""
    found = results.reward_model
    assert found is not None
    body = [["accuracy", _share(found.accuracy)], ["accuracy of length alone", percent(found.length_only_accuracy)]]
    body += [[_words(name), _share(rate)] for name, rate in found.categories.items()]
    return Table("Agreement with held-out pairs", ["held-out pairs", "prefers chosen"], body)


def gates(found: Sequence[Gate]) -> Table:
    """What was checked before anything was measured."""
    body = [
        [gate.run, check.name.replace("_", " "), number(check.value), check.bound,
         "passed" if check.passed else "failed", check.why]
        for gate in found
        for check in gate.checks
    ]  # fmt: skip
    body += [[gate.run, what, "", "", "not measured", why] for gate in found for what, why in gate.not_measured.items()]
    return Table("Every check", ["run", "check", "value", "bound", "result", "why"], body)


def origin(setup: Setup) -> list[Table]:
    """The tables of how it was made: what was used, budgets, versions."""
    found = [Table("What was used", ["what", "where", "hash"], setup.rows)]
    if setup.budgets:
        found.append(Table("Budgets", ["method", "budget"], setup.budgets))
    versions = [[package, str(version)] for package, version in setup.versions.items()]
    return [*found, Table("Versions", ["package", "version"], versions)]


def made(setup: Setup) -> list[tuple[str, str]]:
    """Short facts of how it was made."""
    found = [("prompts", number(setup.prompts))]
    if setup.seeds is not None:
        found.append(("seeds", ", ".join(map(str, setup.seeds))))
    found += [("chat template", setup.template), ("hardware", setup.hardware)]
    if setup.seconds_in_all is not None:
        found.append(("time in all", f"{number(setup.seconds_in_all)} seconds"))
    return found


def scores(answer: Answer) -> str:
    """A sampled answer's scores in words."""
    named = (("reward", answer.reward), ("gold score", answer.gold))
    return ", ".join(f"{words} {number(score)}" for words, score in named if score is not None)


def by_rule(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The samples by the rule that picked them."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.rule, []).append(sample)
    return found
