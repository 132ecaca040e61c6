"""The tables of an evaluation: a row a measure, a column a model; and those that both reports share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from align.report.markup import Table
from align.report.numerals import ABSENT, estimate, number, percent

# key, words, whether it is a share
SAMPLED = (
    ("reward", "reward", False),
    ("gold", "gold score", False),
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
}
Read = Callable[[dict[str, Any]], str]


def _keys(found: Sequence[dict[str, Any]], order: Sequence[str]) -> list[str]:
    """The keys that any of the mappings has: the known ones in their order, then the others as they come."""
    present = dict.fromkeys(key for mapping in found for key in mapping)
    return [key for key in order if key in present] + [key for key in present if key not in order]


def _words(key: str) -> str:
    return {"over_refusal": "over-refusal"}.get(key, key.replace("_", " "))


def written(found: Any) -> str:
    """An estimate of a share, or a count."""
    return estimate(found, share=True) if isinstance(found, dict) else number(found) if found is not None else ABSENT


def _group(models: dict[str, Any], heading: str, rows: Sequence[tuple[str, Read]]) -> list[list[str]]:
    body = [[words, *(read(model) for model in models.values())] for words, read in rows]
    return [[heading], *body] if body else []


def _plain(models: dict[str, Any], part: str, heading: str, names: dict[str, str] | None = None) -> list[list[str]]:
    """The rows of a part that maps keys to shares."""
    names = names or {}
    keys = _keys([m.get(part) or {} for m in models.values()], [*names, *RATES])

    def reader(key: str) -> Read:
        return lambda m: written((m.get(part) or {}).get(key))

    return _group(models, heading, [(names.get(key, _words(key)), reader(key)) for key in keys])


def _sampled(models: dict[str, Any]) -> list[list[str]]:
    def reader(key: str, share: bool) -> Read:
        return lambda m: estimate((m.get("sampled") or {}).get(key), share=share)

    present = {key for m in models.values() for key in (m.get("sampled") or {})}
    rows: list[tuple[str, Read]] = [(words, reader(k, share)) for k, words, share in SAMPLED if k in present]
    if "n" in present:
        rows.append(("completions", lambda m: number((m.get("sampled") or {}).get("n"))))
    return _group(models, "Sampled completions", rows)


def _kept(models: dict[str, Any]) -> list[list[str]]:
    """What the model knew before: perplexity, bits per byte, skills; and how well it tells chosen from rejected."""
    parts = [m.get("tax") or {} for m in models.values()]
    rows: list[tuple[str, Read]] = []

    def plain(key: str) -> Read:
        return lambda m: estimate((m.get("tax") or {}).get(key))

    def skill(key: str) -> Read:
        return lambda m: written(((m.get("tax") or {}).get("skills") or {}).get(key))

    for key, words in (("perplexity", "perplexity"), ("bits_per_byte", "bits per byte")):
        if any(key in part for part in parts):
            rows.append((words, plain(key)))
    rows += [(_words(key), skill(key)) for key in _keys([part.get("skills") or {} for part in parts], ())]
    if any("preference_accuracy" in m for m in models.values()):
        rows.append(("prefers chosen to rejected", lambda m: written(m.get("preference_accuracy"))))
    return _group(models, "Alignment tax", rows)


def _named(models: dict[str, Any], part: str, prefix: str = "") -> list[list[str]]:
    """The rows of a part that maps names (of suites, of tasks) to mappings of keys to shares and counts."""
    rows: list[list[str]] = []

    def reader(name: str, key: str) -> Read:
        return lambda m: written(((m.get(part) or {}).get(name) or {}).get(key))

    for name in _keys([m.get(part) or {} for m in models.values()], ()):
        found = [(m.get(part) or {}).get(name) or {} for m in models.values()]
        keys = [key for key in _keys(found, tuple(SUITES)) if key != "kind"]
        rows += _group(models, prefix + name, [(SUITES.get(key, _words(key)), reader(name, key)) for key in keys])
    return rows


def measures(results: dict[str, Any]) -> Table:
    """Every measure of every model."""
    models, reference = results["models"], results.get("reference", "the reference")
    body = [
        *_plain(models, "rates", "Judged answers"),
        *_plain(models, "win_rate", f"Win rate against {reference}", JUDGES),
        *_sampled(models),
        *_kept(models),
        *_named(models, "suites"),
        *_named(models, "lm_eval", "lm-eval: "),
    ]
    note = f"With 95 % intervals. The reference is {reference}. A dash: not measured."
    return Table("Every measure of every model", ["measure", *models], body, note)


def models(results: dict[str, Any]) -> Table:
    """Which models were measured."""
    body = [
        [name, model.get("path", ""), model.get("recipe", ""), (model.get("hash") or ABSENT)[:12]]
        for name, model in results["models"].items()
    ]
    return Table("Models", ["model", "path", "recipe", "hash"], body)


def reward_model(results: dict[str, Any]) -> Table:
    """How often the reward model prefers the chosen completion."""
    found = results["reward_model"]
    body = []
    if "accuracy" in found:
        body.append(["accuracy", written(found["accuracy"])])
    if (alone := found.get("length_only_accuracy")) is not None:
        body.append(["accuracy of length alone", written(alone) if isinstance(alone, dict) else percent(alone)])
    body += [[_words(name), written(rate)] for name, rate in (found.get("categories") or {}).items()]
    return Table("Agreement with held-out pairs", ["held-out pairs", "prefers chosen"], body)


def gates(results: dict[str, Any]) -> Table:
    """What was checked before anything was measured."""
    body = []
    for gate in results["gates"]:
        for check in gate["checks"]:
            said = "passed" if check["passed"] else "failed"
            shown = check["value"]
            shown = number(shown) if isinstance(shown, (int, float)) and not isinstance(shown, bool) else str(shown)
            cells = [check["name"].replace("_", " "), shown, check.get("bound", ""), said, check.get("why", "")]
            body.append([gate["run"], *cells])
    return Table("Every check", ["run", "check", "value", "bound", "result", "why"], body)


def origin(setup: dict[str, Any]) -> list[Table]:
    """The tables of how it was made: what was used, budgets, versions."""
    found = []
    if rows := setup.get("rows"):
        found.append(Table("What was used", ["what", "where", "hash"], [[str(cell) for cell in row] for row in rows]))
    if rows := setup.get("budgets"):
        found.append(Table("Budgets", ["method", "budget"], [[str(cell) for cell in row] for row in rows]))
    if versions := setup.get("versions"):
        found.append(Table("Versions", ["package", "version"], [[k, str(v)] for k, v in versions.items()]))
    return found


def made(setup: dict[str, Any]) -> list[tuple[str, str]]:
    """Short facts of how it was made."""
    found = []
    if setup.get("prompts") is not None:
        found.append(("prompts", number(setup["prompts"])))
    if setup.get("seeds") is not None:
        found.append(("seeds", ", ".join(map(str, setup["seeds"]))))
    if setup.get("template"):
        found.append(("chat template", str(setup["template"])))
    if hardware := setup.get("hardware"):
        text = "; ".join(f"{k}: {v}" for k, v in hardware.items()) if isinstance(hardware, dict) else str(hardware)
        found.append(("hardware", text))
    if setup.get("seconds_in_all") is not None:
        found.append(("time in all", f"{number(setup['seconds_in_all'])} seconds"))
    return found


def scores(answer: dict[str, Any]) -> str:
    """A sampled answer's scores in words."""
    named = [("reward", "reward"), ("gold", "gold score")]
    return ", ".join(f"{words} {number(answer[key])}" for key, words in named if answer.get(key) is not None)


def by_rule(samples: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The samples by the rule that picked them."""
    found: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        found.setdefault(sample["rule"], []).append(sample)
    return found
