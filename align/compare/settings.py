"""From measured arms to the numbers of each setting, alone and head to head with another.

S seeds, N prompts, K completions per prompt.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from align import stats
from align.compare.arms import Arm
from align.compare.comparison import FailedRun, HeadToHead, RunResult, SettingResult
from align.evaluate import policy
from align.evaluate.measures import wins
from align.evaluate.policy import Rows, by_prompt
from align.evaluate.results import Gate, read
from align.judge.endpoint import Endpoint
from align.run import gates

MEASURES = {
    "reward": stats.ANY, "gold": stats.ANY, "second": stats.ANY, "kl": stats.POSITIVE, "length": stats.POSITIVE,
    "stops": stats.SHARE, "repetition": stats.SHARE,
}  # fmt: skip
FEWEST = 30  # prompts: below, a bootstrap's interval is too narrow to rest a verdict on


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


def of_setting(setting: Setting, sft: Rows, rows: dict[Path, Rows], endpoint: Endpoint | None) -> SettingResult:
    """Every run's own numbers, and estimates over seeds and prompts."""
    runs: list[RunResult | FailedRun] = []
    for arm in setting.arms:
        if arm.folder in rows:
            runs.append(_of_run(arm, rows[arm.folder], sft, endpoint))
        else:
            runs.append(FailedRun(seed=arm.seed, error=arm.error or "it did not finish"))
    found: dict[str, Any] = {}
    if setting.rows:
        found = {
            key: stats.over_seeds(setting.table(key), within=within)
            for key, within in MEASURES.items()
            if key in setting.rows[0][0] or key == "stops"
        }
        complete = [run for run in runs if isinstance(run, RunResult)]
        for key in ("entropy", "distinct_2"):
            known = [value for run in complete if (value := getattr(run, key)) is not None]
            found[key] = stats.Estimate(float(np.mean(known)), None, None, len(known)) if known else None
        found["win_rate"] = wins.win_rates(setting.rows, [sft], endpoint)
    return SettingResult(
        method=setting.method, knob=setting.arms[0].knob, strength=setting.strength, label=setting.label,
        runs=tuple(runs), **found,
    )  # fmt: skip


def _of_run(arm: Arm, rows: Rows, sft: Rows, endpoint: Endpoint | None) -> RunResult:
    """One finished run's own numbers."""
    run = arm.record
    measured: dict[str, Any] = {key: found.value for key, found in policy.summary(rows).measures().items()}
    won = next(iter(wins.win_rates([rows], [sft], endpoint).values()), None)
    return RunResult(
        seed=arm.seed, path=str(arm.folder), **measured,
        rates={key: found.value for key, found in policy.rates(rows).items()}, win_rate=won.value if won else None,
        seconds=run["wall_seconds"], tokens=run["tokens"], peak_memory_bytes=run["peak_memory_bytes"],
    )  # fmt: skip


def gates_of(settings: list[Setting], sft: Rows) -> list[Gate]:
    """Each setting's gate, over its seeds: does the score that decides rise, within the KL budget?"""
    found = []
    key = policy.decides(sft[0]) or "reward"
    for setting in (s for s in settings if s.rows):
        gain = stats.over_seeds(setting.table(key) - by_prompt(sft, key))
        checks = gates.policy(gain, setting.kl, key)
        found.append({"run": setting.label, "passed": all(c["passed"] for c in checks), "checks": checks})
    return [read(Gate, gate) for gate in found]


def pairs(settings: list[Setting], endpoint: Endpoint | None) -> list[HeadToHead]:
    """Each setting of a method against the setting of every later method that is closest in KL."""
    finished = [setting for setting in settings if setting.rows]
    found = []
    for first, second in itertools.combinations(dict.fromkeys(s.method for s in finished), 2):
        for a in (s for s in finished if s.method == first):
            b = min((s for s in finished if s.method == second), key=lambda s: abs(s.kl - a.kl))
            found.append(head_to_head(a, b, endpoint))
    return [met for met in found if met.win_rate]


def head_to_head(a: Setting, b: Setting, endpoint: Endpoint | None, which: Any = None) -> HeadToHead:
    """Win rate of `a` over `b`, over common seeds and the prompts `which` (all by default), and what it can show."""
    mine, theirs = a.of_common_seeds(b), b.of_common_seeds(a)
    seeds = len(mine)
    key = wins.judges(mine[0], endpoint)[0]
    table = wins.table(mine, theirs, key, endpoint)
    table = table if which is None else table[:, which]
    rate = stats.over_seeds(table, within=stats.SHARE)
    if rate is None:
        return HeadToHead(a.label, b.label, a.kl, b.kl, key, None, seeds, None, None, "no usable choice", None)
    whole = table[:, ~np.isnan(table).any(0)].mean(0)
    needed = stats.prompts_needed(rate.value - 0.5, float(whole.var()))
    won = None if rate.n < FEWEST else a.label if rate.above(0.5) else b.label if rate.below(0.5) else None
    said = f"{won} is better" if won else f"no difference can be claimed with {rate.n} prompts, {counted(seeds)}"
    controlled = wins.win_rates(mine, theirs, endpoint)["length_controlled"]
    return HeadToHead(a.label, b.label, a.kl, b.kl, key, rate, seeds, controlled, needed, said, won)


def counted(seeds: int) -> str:
    """`1 seed`, `3 seeds`."""
    return "1 seed" if seeds == 1 else f"{seeds} seeds"
