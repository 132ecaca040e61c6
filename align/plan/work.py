"""Tokens and steps of a run, and the time that they take where a run like it was measured on this machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.follow import tree
from align.plan.configured import Configured
from align.plan.machines import Machine
from align.run import device, record
from align.run.errors import ConfigError
from align.run.received.screen import plain

NEAR = 0.05  # how far the number of weights may be from that of a run whose rate is taken


@dataclass(frozen=True)
class Workload:
    """What is to be done. None for what the configuration does not tell."""

    unit: str  # of the steps
    steps: int | None
    tokens: int | None
    rate: float | None = None  # tokens a second
    source: str = ""  # the run that it was measured in

    @property
    def seconds(self) -> float | None:
        """How long it takes."""
        return self.tokens / self.rate if self.tokens and self.rate else None


def of(found: Configured, machine: Machine) -> Workload:
    """The work of a run; tokens are of rows as long as the rows are on average, answers as long as they may be."""
    args, rows = found.args, found.lengths
    steps: int | None
    tokens: int | None
    if found.stage in ("sample", "eval"):
        copies = found.job.asked.copies if found.job.asked else 1
        count = rows.count * copies or None
        unit, steps, tokens = "completions", count, count and int(count * args.max_new_tokens)
    elif found.stage == "ppo":
        plan, answer = found.rollouts, args.response_length
        known = rows.known or args.max_steps > 0 or args.total_episodes
        steps = plan.rollouts if known and plan.rollouts < 10**7 else None
        unit, tokens = "rollouts", steps and int(steps * plan.episodes * (rows.mean + answer))
    else:
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * found.job.processes
        a_pass = math.ceil(rows.count / batch) if rows.known else None
        steps = args.max_steps if args.max_steps > 0 else a_pass and math.ceil(a_pass * args.num_train_epochs)
        unit, tokens = "steps", steps and int(steps * batch * rows.mean)
    rate, source = (None, "") if machine.gpu and not device.has_gpu() else _measured(found)
    return Workload(unit, steps, tokens, rate, source)


def _measured(found: Configured) -> tuple[float | None, str]:
    """Tokens a second of the last finished run of this recipe beside the planned one: of a model of this size, trained
    in the same way, on a machine of this kind."""
    folder = Path(str(found.args.output_dir or "runs/x")).parent
    try:
        runs = tree.runs(folder if folder.is_dir() and str(folder) != "." else Path("runs"))
    except ConfigError:
        return None, ""
    here = record.hardware()
    for run in sorted(runs, key=lambda one: str(one.record.get("started")), reverse=True):
        told = run.record
        tokens, seconds = told.get("tokens"), told.get("wall_seconds")
        if not isinstance(tokens, int) or not isinstance(seconds, (int, float)) or min(tokens, seconds) <= 0:
            continue
        if told.get("status") == "complete" and told.get("hardware") == here and _like(told, found):
            return tokens / seconds, plain(str(run.folder))
    return None, ""


def _like(told: dict[str, Any], found: Configured) -> bool:
    if told.get("recipe") != found.stage:
        return False
    config = told.get("config") or {}
    if found.stage in ("sample", "eval"):
        return config.get("model_name_or_path") == found.args.model_name_or_path
    count, expected = told.get("parameters"), found.job.shape.parameters + (found.job.trained if found.job.ranks else 0)
    near = isinstance(count, int) and abs(count / expected - 1) <= NEAR
    return near and bool(config.get("use_peft")) == bool(found.job.ranks) and config.get("bf16") == found.args.bf16
