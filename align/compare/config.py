"""What a comparison takes: the common ground, the arms, and how much of the machine they may use."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from align.evaluate.config import MeasureArguments
from align.run.lineage import parent_problem


@dataclass
class CompareConfig(MeasureArguments):
    """One SFT model, one set of rankings, one reward model, one set of prompts; strengths and seeds for each method."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "The SFT model: every arm starts there, and it is the reference of every KL."}
    )
    rankings: str | None = field(
        default=None, metadata={"help": "Rankings or pairs: DPO's data, and what the reward model was trained on."}
    )
    ppo_config: str | None = field(default=None, metadata={"help": "YAML of the PPO recipe for all PPO arms."})
    dpo_config: str | None = field(default=None, metadata={"help": "YAML of the DPO recipe for all DPO arms."})
    rloo_config: str | None = field(default=None, metadata={"help": "YAML of the RLOO recipe for all RLOO arms."})
    kl_coefs: list[float] = field(
        default_factory=lambda: [0.01, 0.05, 0.2, 0.5], metadata={"help": "PPO's strengths: coefficients of the KL."}
    )
    betas: list[float] = field(
        default_factory=lambda: [0.03, 0.1, 0.3, 1.0], metadata={"help": "DPO's strengths: beta."}
    )
    rloo_betas: list[float] = field(
        default_factory=list, metadata={"help": "RLOO's strengths: coefficients of the KL. Empty: no third arm."}
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Of every arm's training."})
    ppo: dict = field(default_factory=dict, metadata={"help": "YAML only: keys over ppo_config's."})
    dpo: dict = field(default_factory=dict, metadata={"help": "YAML only: keys over dpo_config's."})
    rloo: dict = field(default_factory=dict, metadata={"help": "YAML only: keys over rloo_config's."})
    more: list[dict] = field(
        default_factory=list,
        metadata={
            "help": "YAML only: further arms, a list of {name, recipe, config, strengths, over}: another loss of DPO "
            "(over: {loss_type: [sigmoid]}), PPO against functions (over: {reward_funcs: [my.py:good], "
            "reward_model_path: null})."
        },
    )
    take: list[str] = field(
        default_factory=list, metadata={"help": "Finished PPO and DPO runs to compare instead of training any."}
    )
    best_of_n: int = field(
        default=16, metadata={"help": "Most samples of the best-of-n baseline, a power of two; 1 for none."}
    )
    jobs: int = field(default=1, metadata={"help": "Arms trained at once; they share the CPU's cores."})
    launch: str | None = field(
        default=None, metadata={"help": "Launcher of each arm: `accelerate launch --config_file …`; none: one process."}
    )
    price_per_hour: float | None = field(default=None, metadata={"help": "Of the machine, in dollars."})
    samples: int = field(default=3, metadata={"help": "Prompts shown for each rule of the table of samples."})
    title: str = field(default="PPO against DPO", metadata={"help": "Of the report."})

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = []
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            problems.append(f"seeds={self.seeds}: give one or more, each once")
        for name in ("kl_coefs", "betas", "rloo_betas"):
            values = getattr(self, name)
            if len(set(values)) != len(values) or any(v < 0 for v in values):
                problems.append(f"{name}={values}: give each strength once, 0 or more")
        if 0 in self.betas:
            problems.append("betas: DPO's beta must be above 0 (at 0 its loss does not depend on the policy)")
        odd = [problem for entry in self.more for problem in _entry_problems(entry)]
        names = ["ppo", "dpo", "rloo", *(str(entry.get("name")) for entry in self.more)]
        if len(set(names)) < len(names):
            odd.append(f"more: each needs a name of its own, other than ppo, dpo and rloo; given {names[3:]}")
        if self.more and self.take:
            odd.append("take and more were both given: finished runs, or runs to train")
        problems += odd
        grid = [] if odd or self.take else self.grid()
        if self.best_of_n < 1 or self.best_of_n & (self.best_of_n - 1):
            problems.append(f"best_of_n={self.best_of_n}: a power of two (1, 2, 4, 8, …)")
        if self.jobs < 1:
            problems.append(f"jobs={self.jobs}: at least 1")
        if not (odd or self.take) and not any(one["strengths"] for one in grid):
            problems.append("nothing to compare: give ppo_config and dpo_config (YAML of the recipes), or take: [runs]")
        if not (self.reward_model_path or self.gold_func or self.gold_model_path):
            problems.append("a score is needed: --reward_model_path runs/mine/reward (PPO needs it too)")
        if any(one["recipe"] == "dpo" for one in grid) and not self.rankings:
            problems.append("rankings is needed for DPO: --rankings runs/mine/rank (pairs or rankings)")
        if not self.reward_model_path and any(_needs_model(one) for one in grid):
            problems.append("reward_model_path is needed for PPO and RLOO: --reward_model_path runs/mine/reward")
        if bool(self.rloo_config) != bool(self.rloo_betas) and not self.take:
            problems.append("rloo_config and rloo_betas go together: give both for a third arm, or neither")
        if self.jobs > 1 and self.launch:
            problems.append("jobs above 1 is for arms of one process each: with launch, one arm at a time")
        for path in filter(None, [*self.take, self.rankings]):
            if problem := parent_problem(path, allow_hub=path == self.rankings):
                problems.append(problem)
        if problems:
            raise ValueError("; ".join(problems))

    def grid(self) -> list[dict]:
        """Every group of arms: `name`, `recipe`, `config`, `strengths` and `over`, what is said over its YAML."""
        own = [
            ("ppo", self.ppo_config, self.kl_coefs, self.ppo),
            ("dpo", self.dpo_config, self.betas, self.dpo),
            ("rloo", self.rloo_config, self.rloo_betas, self.rloo),
        ]
        keys = ("name", "recipe", "config", "strengths", "over")
        found = [dict(zip(keys, (name, name, *rest), strict=True)) for name, *rest in own if rest[0]]
        return [*found, *({"over": {}, **entry} for entry in self.more)]


def _needs_model(group: dict) -> bool:
    """Is it trained against the comparison's reward model?"""
    over = group["over"]
    return group["recipe"] != "dpo" and over.get("reward_model_path", "") is not None


def _entry_problems(entry: dict) -> list[str]:
    """What is wrong with an entry of `more`."""
    needed, known = ("name", "recipe", "config", "strengths"), ("name", "recipe", "config", "strengths", "over")
    if wrong := [key for key in needed if not entry.get(key)] + [key for key in entry if key not in known]:
        return [f"more: {entry.get('name', entry)}: {', '.join(wrong)}; an entry has {', '.join(known)}"]
    if entry["recipe"] not in ("ppo", "dpo", "rloo"):
        return [f"more: {entry['name']}: recipe {entry['recipe']}; it is ppo, dpo or rloo"]
    strengths, over = entry["strengths"], entry.get("over", {})
    numbers = isinstance(strengths, list) and all(isinstance(one, (int, float)) and one >= 0 for one in strengths)
    if not numbers or len(set(strengths)) < len(strengths):
        return [f"more: {entry['name']}: strengths {strengths}; a list of numbers, 0 or more, each once"]
    if not isinstance(over, dict):
        return [f"more: {entry['name']}: over {over}; keys and values over those of its config, or leave it out"]
    if not re.fullmatch(r"[\w-]+", str(entry["name"])):
        return [f"more: name {entry['name']!r}: letters, digits and - only; it is the name of a folder"]
    if entry["recipe"] == "rloo" and "reward_funcs" in over:
        return [f"more: {entry['name']}: the RLOO recipe takes no reward_funcs; PPO does"]
    if entry["recipe"] == "dpo" and 0 in strengths:
        return [f"more: {entry['name']}: DPO's beta must be above 0"]
    return []
