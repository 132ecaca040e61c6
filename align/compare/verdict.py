"""The answer in words. It claims no more than the intervals do, and says who judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from align.compare.comparison import ComparisonResults, HeadToHead, SettingResult, Verdict
from align.compare.config import CompareConfig
from align.compare.settings import FEWEST, Setting, counted, head_to_head
from align.evaluate import policy
from align.evaluate.measures import wins
from align.judge.endpoint import Endpoint
from align.run.lineage import identity, same, same_function

WHO = {
    "judge": "the judge behind the endpoint",
    "second": "the second judge, which is no part of a training reward",
    "gold": "the gold grader, which is no part of the training reward",
    "reward": "the very reward model that PPO was trained on, which favours PPO: give a gold grader or a judge",
}
FARTHER = 2.0  # times as far from the SFT model: beyond, a win says as much about the strengths tried as of the methods


def halves(prompts: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts to choose settings by, and prompts to compare them on: two halves at random, [N/2] numbers each."""
    order = np.random.default_rng(seed).permutation(prompts)
    return np.sort(order[: prompts // 2]), np.sort(order[prompts // 2 :])


def best_settings(settings: list[Setting], sft: Any, endpoint: Endpoint | None, which: Any) -> dict[str, Setting]:
    """The setting of each method with the highest mean score on the prompts `which` (a judge: win rate)."""
    found: dict[str, tuple[float, Setting]] = {}
    for setting in (s for s in settings if s.rows):
        key = wins.judges(setting.rows[0], endpoint)[0]
        table = wins.table(setting.rows, [sft], key, endpoint) if key == "judge" else setting.table(key)
        known = table[:, which][~np.isnan(table[:, which])]
        score = float(known.mean()) if known.size else -np.inf
        if setting.method not in found or score > found[setting.method][0]:
            found[setting.method] = (score, setting)
    return {method: setting for method, (_, setting) in found.items()}


def verdict(
    best: dict[str, Setting], found: ComparisonResults, endpoint: Endpoint | None, which: np.ndarray
) -> Verdict:
    """Headline and sentences.

    Args:
        best: by method, chosen on one half of the prompts.
        found: the results so far (`reference`, `settings`, `fits`, `best_of_n`, `failed`).
        which: [N/2], the other half, on which they are compared.
    """
    if len(best) < 2:
        finished = f"Only {next(iter(best))} has a finished run." if best else "No run finished."
        return Verdict("There is nothing to compare.", (finished, *found.failed))
    methods = list(best)
    met = [head_to_head(best[a], best[b], endpoint, which) for i, a in enumerate(methods) for b in methods[i + 1 :]]
    first = met[0]
    sentences = [
        "Best setting against best setting, each chosen on one half of the held-out prompts and compared on the other: "
        + "; ".join(_met(one) for one in met) + ". Ties count half.",
        f"Judged by {WHO[first.judge]}.",
        _distances(met),
        *(_needed(one, len(met) > 1) for one in met if not one.won),
        *(_against_sft(method, found.settings) for method in methods),
        *_turning_points(found),
        *_best_of_n(best, found),
    ]  # fmt: skip
    if first.seeds == 1:
        sentences.append("One seed says nothing about how much a method's result varies from run to run.")
    else:
        sentences.append(
            "The same runs serve both halves, so a method that was tried at more strengths keeps a little of its luck."
        )
    return Verdict(headline(met), tuple(sentence for sentence in sentences if sentence))


def headline(met: Sequence[HeadToHead]) -> str:
    """One line for all meetings of best settings: who beats whom, or that nobody can be said to."""
    if not any(one.win_rate for one in met):
        return "The judge made no usable choice."
    won = [one for one in met if one.won]
    if not won:
        return "No difference can be claimed at this sample size."
    pairs = []
    for one in won:
        sides = [(one.a, one.kl_a), (one.b, one.kl_b)]
        (winner, its), (loser, other) = sides if one.won == one.a else sides[::-1]
        names = [label.split(",")[0] for label in (winner, loser)]
        said = "{} is better than {}" if one.seeds > 1 else "this {} run beats this {} run"
        where = f" ({its:.2g} nats from the SFT model against {other:.2g})" if _unlike(its, other) else ""
        pairs.append(said.format(*names) + where)
    text = ", ".join(pairs) + (" here." if won[0].seeds > 1 else ".")
    return text[0].upper() + text[1:]


def _unlike(kl: float, other: float) -> bool:
    """Is one setting so much farther from the SFT model that its score may be bought with that?"""
    return max(kl, other) > FARTHER * min(kl, other)


def _distances(met: Sequence[HeadToHead]) -> str:
    """What a best setting's win rate leaves open where the other one stayed nearer."""
    if not any(_unlike(one.kl_a, one.kl_b) for one in met):
        return ""
    kl = {label: value for one in met for label, value in ((one.a, one.kl_a), (one.b, one.kl_b))}
    told = ", ".join(f"{label} at {value:.2g}" for label, value in kl.items())
    return (
        f"Best settings are not equally far from the SFT model ({told} nats): what a method gains at one distance is "
        "in the first figures, and a gain far out may be the judge's own over-optimisation."
    )


def _met(one: HeadToHead) -> str:
    rate = one.win_rate
    if rate is None:
        return f"{one.a} against {one.b}: no usable choice"
    return (
        f"{one.a} wins {rate.value:.1%} of the time against {one.b} (95 % interval {rate.low:.1%} to "
        f"{rate.high:.1%}; {rate.n} prompts, {counted(one.seeds)})"
    )


def _needed(one: HeadToHead, several: bool) -> str:
    """What it would take to tell the gap seen from none; of which pair, where there are `several`."""
    rate, needed = one.win_rate, one.prompts_needed
    if rate is None:
        return ""
    if rate.n < FEWEST:
        return f"{rate.n} prompts are too few for any verdict: give at least {2 * FEWEST}."
    pair = f" between {one.a} and {one.b}" if several else ""
    if needed is None:
        return f"The win rate{pair} is one half to the last digit: no number of prompts would settle it."
    gap = f"a gap of this size{pair} ({abs(rate.value - 0.5) * 100:.1f} points)"
    if needed <= rate.n:
        return f"What hides {gap} is how much the seeds differ: it would take more seeds, not more prompts."
    return f"To tell {gap} from none, about {needed:,} prompts would be needed (80 % power), were the seeds all alike."


def _against_sft(method: str, settings: Sequence[SettingResult]) -> str:
    """How many of a method's runs beat the SFT model they began from."""
    mine = [setting for setting in settings if setting.method == method]
    rates = [run.win_rate for setting in mine for run in setting.finished if run.win_rate is not None]
    failed = sum(len(setting.runs) - len(setting.finished) for setting in mine)
    tail = f"; {failed} failed" if failed else ""
    if not rates:
        return f"{method}: no run could be judged{tail}."
    span = f"{min(rates):.1%}" if len(rates) == 1 else f"{min(rates):.1%} to {max(rates):.1%}"
    won = f"{sum(rate > 0.5 for rate in rates)} of {len(rates)} runs"
    return f"{method}: {won} win more often than not against the SFT model ({span}{tail})."


def _turning_points(found: ComparisonResults) -> list[str]:
    """Over-optimisation, where more than noise speaks for it."""
    sentences = []
    for method, fits in (found.fits or {}).items():
        if "gold" not in fits or "reward" not in fits or method.startswith(("PPO (", "RLOO (")):  # has no proxy
            continue
        known = [
            (setting.label, setting.kl.value, setting.gold.value, setting.reward.value)
            for setting in found.settings
            if setting.method == method and setting.kl and setting.gold and setting.reward
        ]
        far_label, far_kl, far_gold, far_reward = max(known, key=lambda row: row[1])
        label, kl, gold, reward = max(known, key=lambda row: row[2])
        away = f"at a KL of {far_kl:.2g} nats"
        if fits["gold"].falls and far_reward > reward:
            sentences.append(
                f"{method} over-optimises: {away} ({far_label}) the reward model's score is {far_reward:.2f} and the "
                f"gold score {far_gold:.2f}, against {reward:.2f} and {gold:.2f} at {kl:.2g} nats ({label})."
            )
        elif fits["gold"].falls:
            sentences.append(f"{method}: {away} ({far_label}) both scores are lower than nearer to the SFT model.")
        else:
            sentences.append(f"{method}: no over-optimisation can be claimed up to a KL of {far_kl:.2g} nats.")
    return sentences


def _best_of_n(best: dict[str, Setting], found: ComparisonResults) -> list[str]:
    """The baseline that costs no training."""
    key = policy.decides(found.reference.measures() if found.reference else {}) or "reward"
    curve = [(score.value, point.n) for point in found.best_of_n if (score := point.score(key))]
    if not curve:
        return []
    reached, n = max(curve, key=lambda point: point[0])
    scores = {setting.label: score.value for setting in found.settings if (score := setting.score(key))}
    others = " and ".join(f"{scores[s.label]:.2f} of {s.label}" for s in best.values() if s.label in scores)
    what = {"second": "second judge's score", "gold": "gold score"}.get(key, key)
    return [f"Best of {n} from the SFT model, without training, reaches a {what} of {reached:.2f}, against {others}."]


def gold_is_trained_on(args: CompareConfig, runs: list[dict[str, Any]]) -> bool:
    """Is the grader that decides, the gold one or the second, in some run's reward, under whatever name or copy?"""
    used = [where for run in runs for where in run.get("config", {}).get("reward_funcs") or []]
    models = [args.reward_model_path, *(run.get("config", {}).get("reward_model_path") for run in runs)]
    if args.second_func:
        return any(same_function(args.second_func, where) for where in used)
    gold = args.gold_model_path
    return any(gold and path and (same(gold, path) or identity(gold) == identity(path)) for path in models) or any(
        same_function(args.gold_func, where) for where in used
    )
