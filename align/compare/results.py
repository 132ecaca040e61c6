"""From measured arms to the numbers of the comparison: settings, best-of-n, fits, win rates, cost, samples.

S seeds, N prompts, K completions per prompt. The keys are those of `results.json`; estimates are those of
`align.stats`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from align import stats
from align.compare.arms import KNOBS, Arm
from align.compare.config import CompareConfig
from align.evaluate import policy
from align.evaluate.measures import wins
from align.evaluate.policy import Bench, Rows, by_prompt
from align.judge.endpoint import Endpoint
from align.run import gates, lineage

MEASURES = {
    "reward": stats.ANY, "gold": stats.ANY, "kl": stats.POSITIVE, "length": stats.POSITIVE,
    "stops": stats.SHARE, "repetition": stats.SHARE,
}  # fmt: skip
OF_A_RUN = (*MEASURES, "entropy", "kl_per_token", "distinct_1", "distinct_2")


class Setting:
    """One method at one strength: its arms, and the measured rows of those that finished."""

    def __init__(self, arms: list[Arm], rows: dict[Path, Rows]):
        self.arms = arms
        self.method, self.strength, self.label = arms[0].method, arms[0].strength, arms[0].label
        self.done = [arm for arm in arms if arm.folder in rows]
        self.rows = [rows[arm.folder] for arm in self.done]

    def table(self, key: str) -> np.ndarray:
        """A measure of each seed and prompt, mean over a prompt's completions: [S, N]."""
        key = "stopped" if key == "stops" else key
        return np.stack([by_prompt(rows, key) for rows in self.rows])

    def of_common_seeds(self, other: Setting) -> list[Rows]:
        """The rows of the seeds that both have; where they have none in common, of as many as both have."""
        seeds = [arm.seed for arm in other.done]
        common = [rows for arm, rows in zip(self.done, self.rows, strict=True) if arm.seed in seeds]
        return common or self.rows[: min(len(self.rows), len(other.rows))]

    @property
    def kl(self) -> float:
        """Mean KL to the SFT model, in nats a sequence."""
        return float(self.table("kl").mean())


def settings_of(arms: list[Arm], rows: dict[Path, Rows]) -> list[Setting]:
    """Arms grouped by label, in their order."""
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        groups.setdefault(arm.label, []).append(arm)
    return [Setting(members, rows) for members in groups.values()]


def of_setting(setting: Setting, sft: Rows, rows: dict[Path, Rows], endpoint: Endpoint | None) -> dict[str, Any]:
    """One entry of `settings`: every run's own numbers, and estimates over seeds and prompts."""
    runs = []
    for arm in setting.arms:
        run = arm.record
        if arm.folder not in rows:
            runs.append({"seed": arm.seed, "status": "failed", "error": arm.error or "it did not finish"})
            continue
        found = policy.summary(rows[arm.folder])
        own = {key: found[key]["value"] for key in OF_A_RUN if found.get(key)}
        own["rates"] = {key: float(value["value"]) for key, value in policy.rates(rows[arm.folder]).items()}
        judged = wins.win_rates([rows[arm.folder]], [sft], endpoint)
        own["win_rate"] = (next(iter(judged.values()), None) or {}).get("value")
        cost = {"seconds": run["wall_seconds"], "tokens": run["tokens"], "peak_memory_bytes": run["peak_memory_bytes"]}
        runs.append({"seed": arm.seed, "status": "complete", "path": str(arm.folder), **own, **cost})
    entry: dict[str, Any] = {
        "method": setting.method, "knob": KNOBS[setting.method], "strength": setting.strength, "label": setting.label,
        "runs": runs,
    }  # fmt: skip
    if setting.rows:
        entry |= {
            key: stats.over_seeds(setting.table(key), within=within)
            for key, within in MEASURES.items()
            if _has(setting.rows[0], key)
        }
        complete = [run for run in runs if run["status"] == "complete"]
        for key in ("entropy", "distinct_2"):
            entry[key] = stats.estimate(float(np.mean([run[key] for run in complete])), None, None, len(complete))
        entry["win_rate"] = wins.win_rates(setting.rows, [sft], endpoint)
    return entry


def _has(rows: Rows, key: str) -> bool:
    return key in rows[0] or key == "stops"


def gates_of(settings: list[Setting], sft: Rows) -> list[dict[str, Any]]:
    """Each setting's gate, over its seeds: does the judge's score rise, within the KL budget?"""
    found = []
    key = "gold" if "gold" in sft[0] else "reward"
    for setting in (s for s in settings if s.rows):
        gain = stats.over_seeds(setting.table(key) - by_prompt(sft, key))
        checks = gates.policy(gain, setting.kl, key)
        found.append({"run": setting.label, "passed": all(c["passed"] for c in checks), "checks": checks})
    return found


def best_of_n(bench: Bench, most: int) -> list[dict[str, Any]]:
    """Best-of-n from the SFT model by the reward model, n = 1, 2, 4, … `most`: what costs no training.

    From K = 2 x `most` samples a prompt, all n-subsets count (`stats.best_of_n`), so neighbouring n share samples.
    """
    if most == 1 or "reward" not in bench.sources:
        return []
    file = Path(str(bench.args.output_dir)) / "completions" / "best_of_n.json"
    inputs = [lineage.identity(bench.reference_path), lineage.identity(str(bench.args.reward_model_path)), most]
    inputs += [bench.scorers, bench.args.temperature, bench.args.max_new_tokens, bench.args.seed, bench.prompts]
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    known = json.loads(file.read_text()) if file.is_file() else {}
    if known.get("key") != key:
        copies = 2 * most
        answers = bench.answer(
            bench.reference, temperature=bench.args.temperature, copies=copies, seed=bench.args.seed + 1_000_003
        )
        scores = bench.score(
            [bench.rows[i] for i, found in enumerate(answers) for _ in found], [c for found in answers for c in found]
        )
        known = {"key": key} | {name: np.reshape(v, (-1, copies)).tolist() for name, v in scores.items()}
        policy.write_rows(file, [known])
    curve = []
    for n in (2**i for i in range(int(math.log2(most)) + 1)):
        point: dict[str, Any] = {"n": n, "kl": stats.best_of_n_kl(n)}
        for name in ("reward", "gold"):
            if name in known:
                point[name] = stats.mean(stats.best_of_n(known["reward"], known[name], n))
        curve.append(point)
    return curve


def fits(entries: list[dict[str, Any]], reference: dict[str, Any]) -> dict[str, Any]:
    """Gao et al.'s curve through every run of a method, for proxy and gold: gain over the SFT model against sqrt KL."""
    found: dict[str, Any] = {}
    for method in dict.fromkeys(entry["method"] for entry in entries):
        runs = [r for e in entries if e["method"] == method for r in e["runs"] if r["status"] == "complete"]
        for score in ("reward", "gold"):
            if reference.get(score) and runs:
                gain = [run[score] - reference[score]["value"] for run in runs]
                fit = stats.over_optimisation([run["kl"] for run in runs], gain)
                if fit is not None:
                    groups = [
                        [r for r in e["runs"] if r["status"] == "complete"] for e in entries if e["method"] == method
                    ]
                    fit["falls"] = stats.turns_down(
                        [([r["kl"] for r in g], [r[score] for r in g]) for g in groups if g]
                    )
                    found.setdefault(method, {})[score] = fit
    return found


def pairs(settings: list[Setting], endpoint: Endpoint | None) -> list[dict[str, Any]]:
    """Each setting of a method against the setting of every later method that is closest in KL."""
    finished = [setting for setting in settings if setting.rows]
    found = []
    for first, second in itertools.combinations(dict.fromkeys(s.method for s in finished), 2):
        for a in (s for s in finished if s.method == first):
            b = min((s for s in finished if s.method == second), key=lambda s: abs(s.kl - a.kl))
            found.append(head_to_head(a, b, endpoint))
    return [met for met in found if met["win_rate"]]


def head_to_head(a: Setting, b: Setting, endpoint: Endpoint | None, which: Any = None) -> dict[str, Any]:
    """Win rate of `a` over `b`, over common seeds and the prompts `which` (all by default), and what it can show."""
    mine, theirs = a.of_common_seeds(b), b.of_common_seeds(a)
    seeds = len(mine)
    key = wins.judges(mine[0], endpoint)[0]
    table = wins.table(mine, theirs, key, endpoint)
    table = table if which is None else table[:, which]
    rate = stats.over_seeds(table, within=stats.SHARE)
    found = {"a": a.label, "b": b.label, "kl_a": a.kl, "kl_b": b.kl, "judge": key, "win_rate": rate, "seeds": seeds}
    if rate is None:
        return found | {"length_controlled": None, "prompts_needed": None, "verdict": "no usable verdict"}
    whole = table[:, ~np.isnan(table).any(0)].mean(0)
    needed = stats.prompts_needed(rate["value"] - 0.5, float(whole.var()))
    won = None if rate["n"] < FEWEST else a.label if rate["low"] > 0.5 else b.label if rate["high"] < 0.5 else None
    verdict = f"{won} is better" if won else f"no difference can be claimed with {rate['n']} prompts, {counted(seeds)}"
    controlled = wins.win_rates(mine, theirs, endpoint)["length_controlled"]
    return found | {"length_controlled": controlled, "prompts_needed": needed, "verdict": verdict, "won": won}


FEWEST = 30  # prompts: below, a bootstrap's interval is too narrow to rest a verdict on


def counted(seeds: int) -> str:
    """`1 seed`, `3 seeds`."""
    return "1 seed" if seeds == 1 else f"{seeds} seeds"


def cost(entries: list[dict[str, Any]], reference: dict[str, Any], args: CompareConfig) -> list[dict[str, Any]]:
    """What a run of each method took, and what its best setting gained over the SFT model per minute."""
    key = "gold" if reference.get("gold") else "reward"
    found = []
    for method in dict.fromkeys(entry["method"] for entry in entries):
        mine = [entry for entry in entries if entry["method"] == method and entry.get(key)]
        runs = [run for entry in mine for run in entry["runs"] if run["status"] == "complete"]
        if not runs:
            continue
        row: dict[str, Any] = {"method": method, "runs": len(runs)}
        for name in ("seconds", "tokens", "peak_memory_bytes"):
            row[name] = _spread([run[name] for run in runs])
        if args.price_per_hour is not None:
            row["dollars"] = _spread([run["seconds"] / 3600 * args.price_per_hour for run in runs])
        best = max(entry[key]["value"] for entry in mine) - reference[key]["value"]
        row["gain_per_minute"] = best / (row["seconds"]["value"] / 60)
        found.append(row)
    return found


def _spread(values: list[float]) -> dict[str, Any]:
    """Mean with the smallest and the largest of the runs."""
    return stats.estimate(float(np.mean(values)), min(values), max(values), len(values))


def samples(best: dict[str, Setting], sft: Rows, count: int, seed: int) -> list[dict[str, Any]]:
    """Answers side by side, chosen by rule: random, where the best settings differ most, and the worst of each."""
    columns: dict[str, Rows] = {"SFT": sft} | {setting.label: setting.rows[0] for setting in best.values()}
    key = "gold" if "gold" in sft[0] else "reward"

    def difference(at: int) -> tuple[float, float]:
        scores = [[rows[at].get(k, 0.0) for rows in list(columns.values())[1:]] for k in (key, "reward")]
        return tuple(max(s) - min(s) for s in scores)

    def badness(method: str) -> Callable[[int], tuple[float, float]]:
        rows = best[method].rows[0]
        return lambda at: (-rows[at].get(key, 0.0), -rows[at].get("reward", 0.0))

    everything = list(range(len(sft)))
    rules = {"random": random.Random(seed).sample(everything, min(count, len(everything)))}
    if len(best) > 1:
        rules["largest disagreement"] = sorted(everything, key=difference, reverse=True)[:count]
    for method in best:
        rules[f"worst of {method}"] = sorted(everything, key=badness(method), reverse=True)[:count]
    return [
        {
            "rule": rule,
            "prompt": sft[at]["prompt"],
            "answers": [
                {"name": name, "text": rows[at]["completion"], "reward": rows[at].get("reward"),
                 "gold": rows[at].get("gold")}
                for name, rows in columns.items()
            ],
        }
        for rule, where in rules.items()
        for at in where
    ]  # fmt: skip
