"""The answer in words. It claims no more than the intervals do, and says who judged."""

from __future__ import annotations

from typing import Any

import numpy as np

from align.compare.config import CompareConfig
from align.compare.results import FEWEST, Setting, counted, head_to_head
from align.evaluate.measures import wins
from align.judge.endpoint import Endpoint

WHO = {
    "judge": "the judge behind the endpoint",
    "gold": "the gold grader, which is no part of the training reward",
    "reward": "the very reward model that PPO was trained on, which favours PPO: give a gold grader or a judge",
}


def halves(prompts: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts to choose settings by, and prompts to compare them on: two halves at random."""
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
    best: dict[str, Setting],
    entries: list[dict[str, Any]],
    found: dict[str, Any],
    endpoint: Endpoint | None,
    which: Any,
) -> dict[str, Any]:
    """Headline and sentences.

    Args:
        best: by method, chosen on one half of the prompts.
        entries: `settings` of the results.
        found: the rest of the results so far (`reference`, `fits`, `best_of_n`, `failed`).
        which: the other half, on which they are compared.
    """
    if len(best) < 2:
        finished = f"Only {next(iter(best))} has a finished run." if best else "No run finished."
        return {"headline": "There is nothing to compare.", "sentences": [finished, *found["failed"]]}
    methods = list(best)
    met = [head_to_head(best[a], best[b], endpoint, which) for i, a in enumerate(methods) for b in methods[i + 1 :]]
    first = met[0]
    sentences = [
        "Best setting against best setting, each chosen on one half of the held-out prompts and compared on the other: "
        + "; ".join(_met(one) for one in met) + ". Ties count half.",
        f"Judged by {WHO[first['judge']]}.",
        *(_needed(one) for one in met if one["win_rate"] and not one.get("won")),
        *(_against_sft(method, entries) for method in methods),
        *_turning_points(found, entries),
        *_best_of_n(best, entries, found),
    ]  # fmt: skip
    if first["seeds"] == 1:
        sentences.append("One seed says nothing about how much a method's result varies from run to run.")
    else:
        sentences.append(
            "The same runs serve both halves, so a method that was tried at more strengths keeps a little of its luck."
        )
    return {"headline": headline(met), "sentences": [sentence for sentence in sentences if sentence]}


def headline(met: list[dict[str, Any]]) -> str:
    """One line for all meetings of best settings: who beats whom, or that nobody can be said to."""
    if not any(one["win_rate"] for one in met):
        return "The judge gave no usable verdict."
    won = [one for one in met if one.get("won")]
    if not won:
        return "No difference can be claimed at this sample size."
    pairs = []
    for one in won:
        winner, loser = (one["a"], one["b"]) if one["won"] == one["a"] else (one["b"], one["a"])
        names = [label.split(",")[0] for label in (winner, loser)]
        pairs.append(
            f"{names[0]} is better than {names[1]}"
            if one["seeds"] > 1
            else f"this {names[0]} run beats this {names[1]} run"
        )
    text = ", ".join(pairs) + (" here." if won[0]["seeds"] > 1 else ".")
    return text[0].upper() + text[1:]


def _met(one: dict[str, Any]) -> str:
    rate = one["win_rate"]
    if rate is None:
        return f"{one['a']} against {one['b']}: no usable verdict"
    return (
        f"{one['a']} wins {rate['value']:.1%} of the time against {one['b']} (95 % interval {rate['low']:.1%} to "
        f"{rate['high']:.1%}; {rate['n']} prompts, {counted(one['seeds'])})"
    )


def _needed(one: dict[str, Any]) -> str:
    """What it would take to tell the gap seen from none."""
    rate, needed = one["win_rate"], one["prompts_needed"]
    if rate["n"] < FEWEST:
        return f"{rate['n']} prompts are too few for any verdict: give at least {2 * FEWEST}."
    if needed is None:
        return "The win rate is one half to the last digit: no number of prompts would settle it."
    gap = f"a gap of this size ({abs(rate['value'] - 0.5) * 100:.1f} points)"
    if needed <= rate["n"]:
        return f"What hides {gap} is how much the seeds differ: it would take more seeds, not more prompts."
    return f"To tell {gap} from none, about {needed:,} prompts would be needed (80 % power), were the seeds all alike."


def _against_sft(method: str, entries: list[dict[str, Any]]) -> str:
    """How many of a method's runs beat the SFT model they began from."""
    runs = [r for e in entries if e["method"] == method for r in e["runs"]]
    rates = [run["win_rate"] for run in runs if run["status"] == "complete" and run["win_rate"] is not None]
    failed = sum(run["status"] != "complete" for run in runs)
    tail = f"; {failed} failed" if failed else ""
    if not rates:
        return f"{method}: no run could be judged{tail}."
    span = f"{min(rates):.1%}" if len(rates) == 1 else f"{min(rates):.1%} to {max(rates):.1%}"
    below = sum(rate < 0.5 for rate in rates)
    won = f"{len(rates) - below} of {len(rates)} runs"
    return f"{method}: {won} win more often than not against the SFT model ({span}{tail})."


def _turning_points(found: dict[str, Any], entries: list[dict[str, Any]]) -> list[str]:
    """Over-optimisation, where more than noise speaks for it."""
    sentences = []
    for method, fits in found["fits"].items():
        if "gold" not in fits or "reward" not in fits:
            continue
        mine = [e for e in entries if e["method"] == method and e.get("gold")]
        far, best = max(mine, key=lambda e: e["kl"]["value"]), max(mine, key=lambda e: e["gold"]["value"])
        away = f"at a KL of {far['kl']['value']:.2g} nats"
        if fits["gold"]["falls"] and far["reward"]["value"] > best["reward"]["value"]:
            sentences.append(
                f"{method} over-optimises: {away} ({far['label']}) the reward model's score is "
                f"{far['reward']['value']:.2f} and the gold score {far['gold']['value']:.2f}, against "
                f"{best['reward']['value']:.2f} and {best['gold']['value']:.2f} at {best['kl']['value']:.2g} nats "
                f"({best['label']})."
            )
        elif fits["gold"]["falls"]:
            sentences.append(f"{method}: {away} ({far['label']}) both scores are lower than nearer to the SFT model.")
        else:
            sentences.append(
                f"{method}: no over-optimisation can be claimed up to a KL of {far['kl']['value']:.2g} nats."
            )
    return sentences


def _best_of_n(best: dict[str, Setting], entries: list[dict[str, Any]], found: dict[str, Any]) -> list[str]:
    """The baseline that costs no training."""
    key = "gold" if found.get("reference", {}).get("gold") else "reward"
    curve = [point for point in found.get("best_of_n", []) if point.get(key)]
    if not curve:
        return []
    top = max(curve, key=lambda point: point[key]["value"])
    scores = {e["label"]: e[key]["value"] for e in entries if e.get(key)}
    others = " and ".join(f"{scores[s.label]:.2f} of {s.label}" for s in best.values() if s.label in scores)
    what = "gold score" if key == "gold" else "reward"
    reached = f"a {what} of {top[key]['value']:.2f}"
    return [f"Best of {top['n']} from the SFT model, without training, reaches {reached}, against {others}."]


def gold_is_trained_on(args: CompareConfig, runs: list[dict[str, Any]]) -> bool:
    """Is the gold grader part of some run's training reward?"""
    used = {where for run in runs for where in run.get("config", {}).get("reward_funcs") or []}
    same = args.gold_model_path is not None and args.gold_model_path == args.reward_model_path
    return same or (args.gold_func is not None and args.gold_func in used)
