"""A comparison's numbers over all settings: best-of-n, over-optimisation fits, cost, and the answers to show."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from align import stats
from align.compare.comparison import BestOfN, Cost, SettingResult
from align.compare.config import CompareConfig
from align.compare.settings import Setting
from align.evaluate import policy
from align.evaluate.policy import Bench, Rows
from align.evaluate.program import answer
from align.evaluate.results import Sample, Sampled
from align.run import lineage
from align.stats import Estimate, Fit


def best_of_n(bench: Bench, most: int) -> list[BestOfN]:
    """Best-of-n from the SFT model by the reward model, n = 1, 2, 4, … `most`: what costs no training.

    From K = 2 x `most` samples a prompt, all n-subsets count (`stats.best_of_n`), so neighbouring n share samples.
    """
    if most == 1 or "reward" not in bench.graders:
        return []
    file = Path(str(bench.args.output_dir)) / "completions" / "best_of_n.json"
    inputs = [lineage.identity(bench.reference_path), lineage.identity(str(bench.args.reward_model_path)), most]
    inputs += [bench.grader_ids, bench.args.temperature, bench.args.max_new_tokens, bench.args.seed, bench.prompts]
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

    def mean(name: str, n: int) -> Estimate | None:
        return stats.mean(stats.best_of_n(known["reward"], known[name], n)) if name in known else None

    counts = (2**i for i in range(int(math.log2(most)) + 1))
    return [BestOfN(n, stats.best_of_n_kl(n), *(mean(key, n) for key in policy.SCORES)) for n in counts]


def fits(settings: Sequence[SettingResult], reference: Sampled) -> dict[str, dict[str, Fit]]:
    """Gao et al.'s curve through every run of a method, for proxy and gold: gain over the SFT model against sqrt KL."""
    found: dict[str, dict[str, Fit]] = {}
    for method in dict.fromkeys(setting.method for setting in settings):
        groups = [setting.finished for setting in settings if setting.method == method and setting.finished]
        for key in ("reward", "gold"):
            start = reference.score(key)
            if start is None or not groups:
                continue
            scored = [[(run.kl, run.score(key)) for run in group] for group in groups]
            known = [[(kl, score) for kl, score in group if score is not None] for group in scored]
            kls, scores = zip(*(pair for group in known for pair in group), strict=True)
            fit = stats.over_optimisation(kls, [score - start.value for score in scores])
            if fit is not None:
                falls = stats.turns_down([([kl for kl, _ in group], [score for _, score in group]) for group in known])
                found.setdefault(method, {})[key] = replace(fit, falls=falls)
    return found


def cost(settings: Sequence[SettingResult], reference: Sampled, args: CompareConfig) -> list[Cost]:
    """What a run of each method took, and what its best setting gained over the SFT model per minute."""
    key = policy.decides(reference.measures()) or "reward"
    start = reference.score(key)
    found: list[Cost] = []
    for method in dict.fromkeys(setting.method for setting in settings):
        mine = [(setting, score) for setting in settings if setting.method == method and (score := setting.score(key))]
        runs = [run for setting, _ in mine for run in setting.finished]
        if not runs or start is None:
            continue
        seconds = _spread([run.seconds for run in runs])
        price = args.price_per_hour
        found.append(
            Cost(
                method=method,
                runs=len(runs),
                seconds=seconds,
                tokens=_spread([run.tokens for run in runs]),
                peak_memory_bytes=_spread([run.peak_memory_bytes for run in runs]),
                dollars=None if price is None else _spread([run.seconds / 3600 * price for run in runs]),
                gain_per_minute=(max(score.value for _, score in mine) - start.value) / (seconds.value / 60),
            )
        )
    return found


def _spread(values: Sequence[float]) -> Estimate:
    """Mean with the smallest and the largest of the runs."""
    return Estimate(float(np.mean(values)), min(values), max(values), len(values))


def samples(best: dict[str, Setting], sft: Rows, count: int, seed: int) -> tuple[Sample, ...]:
    """Answers side by side, chosen by rule: random, where the best settings differ most, and the worst of each."""
    columns: dict[str, Rows] = {"SFT": sft} | {setting.label: setting.rows[0] for setting in best.values()}
    key = policy.decides(sft[0]) or "reward"

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
    return tuple(
        Sample(rule, sft[at]["prompt"], tuple(answer(name, rows[at]) for name, rows in columns.items()))
        for rule, where in rules.items()
        for at in where
    )
