"""The answer in words. It claims no more than the intervals do, and says who judged."""

from __future__ import annotations

from typing import Any

import numpy as np

from align.compare.results import Setting, head_to_head
from align.evaluate import wins
from align.evaluate.judge import Endpoint

WHO = {
    "judge": "the judge behind the endpoint",
    "gold": "the gold grader, which no method was trained on",
    "reward": "the very reward model that PPO was trained on, which favours PPO: give a gold grader or a judge",
}


def best_settings(settings: list[Setting], sft: Any, endpoint: Endpoint | None) -> dict[str, Setting]:
    """The best setting of each method, judged on the even-numbered half of the prompts only."""
    found: dict[str, tuple[float, Setting]] = {}
    for setting in (s for s in settings if s.rows):
        key = wins.judges(setting.rows[0], endpoint)[0]
        table = wins.table(setting.rows, [sft], key, endpoint) if key == "judge" else setting.table(key)
        score = float(np.nanmean(table[:, ::2]))
        if setting.method not in found or score > found[setting.method][0]:
            found[setting.method] = (score, setting)
    return {method: setting for method, (_, setting) in found.items()}


def verdict(
    best: dict[str, Setting], entries: list[dict[str, Any]], found: dict[str, Any], endpoint: Endpoint | None
) -> dict[str, Any]:
    """Headline and sentences.

    Args:
        best: by method, chosen on the even-numbered prompts; they are compared on the odd-numbered ones.
        entries: `settings` of the results.
        found: the rest of the results so far (`reference`, `fits`, `failed`).
    """
    if len(best) < 2:
        missing = ", ".join(found["failed"]) or "only one method was asked for"
        return {"headline": "There is nothing to compare.", "sentences": [f"Finished: {', '.join(best)}. {missing}."]}
    first, second, *_ = best.values()
    odd = np.arange(1, first.table("kl").shape[1], 2)
    met = head_to_head(first, second, endpoint, odd)
    rate, seeds = met["win_rate"], min(len(first.rows), len(second.rows))
    if rate["low"] > 0.5 or rate["high"] < 0.5:
        headline = f"{(first if rate['low'] > 0.5 else second).method} is better here."
    else:
        headline = "No difference can be claimed at this sample size."
    sentences = [
        f"Best setting against best setting, each chosen on one half of the held-out prompts and compared on the other "
        f"({rate['n']} prompts, {_seeds(seeds)}): {first.label} wins {rate['value']:.1%} of the time against "
        f"{second.label} (95 % interval {rate['low']:.1%} to {rate['high']:.1%}; ties count half).",
        f"Judged by {WHO[met['judge']]}.",
    ]
    if met["prompts_needed"] is not None and not (rate["low"] > 0.5 or rate["high"] < 0.5):
        sentences.append(
            f"To tell a gap of this size ({abs(rate['value'] - 0.5) * 100:.1f} points) from none, about "
            f"{met['prompts_needed']:,} prompts would be needed (80 % power), were the seeds all alike."
        )
    elif met["prompts_needed"] is None:
        sentences.append("The win rate is one half to the last digit, so no number of prompts would settle it.")
    sentences += [_against_sft(method, entries) for method in best]
    sentences += _turning_points(found)
    if seeds == 1:
        sentences.append("One seed says nothing about how much a method's result varies from run to run.")
    return {"headline": headline, "sentences": sentences}


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _against_sft(method: str, entries: list[dict[str, Any]]) -> str:
    """How many of a method's runs beat the SFT model they began from."""
    runs = [r for e in entries if e["method"] == method for r in e["runs"]]
    rates = [run["win_rate"] for run in runs if run["status"] == "complete" and run["win_rate"] is not None]
    below = sum(rate < 0.5 for rate in rates)
    failed = sum(run["status"] != "complete" for run in runs)
    tail = f"; {failed} failed" if failed else ""
    if not rates:
        return f"{method}: no run could be judged{tail}."
    return (
        f"{method}: {len(rates) - below} of {len(rates)} runs are no worse than the SFT model that they began from "
        f"(win rates against it from {min(rates):.1%} to {max(rates):.1%}{tail})."
    )


def _turning_points(found: dict[str, Any]) -> list[str]:
    """Where gold turns down while the proxy still rises; and where it does not."""
    sentences = []
    for method, by_score in found["fits"].items():
        if "gold" not in by_score or "reward" not in by_score:
            continue
        gold, proxy = by_score["gold"], by_score["reward"]
        reached = gold["d_max"]
        turns = gold["peak_sqrt_kl"] is not None and gold["peak_sqrt_kl"] < reached
        proxy_turns = proxy["peak_sqrt_kl"] is not None and proxy["peak_sqrt_kl"] < gold["peak_sqrt_kl"] if turns else 0
        if turns and not proxy_turns:
            sentences.append(
                f"{method} over-optimises: by the fitted curve the gold score falls beyond a KL of "
                f"{gold['peak_sqrt_kl'] ** 2:.2g} nats, while the reward model's score goes on to a larger one."
            )
        elif turns:
            sentences.append(f"{method}: beyond {gold['peak_sqrt_kl'] ** 2:.2g} nats both scores fall.")
        else:
            sentences.append(f"{method}: no turning point of the gold score up to a KL of {reached**2:.2g} nats.")
    return sentences
