"""Acceptance gates: did a stage do what the next one relies on? Each gate is a handful of checks, kept with the run.

A check is `{"name", "value", "bound", "passed", "why"}`. A run whose gate failed is refused as a parent, unless the
command names it: `--accept_failed <run>`. So "is SFT, the reward model or PPO bad?" has an answer before time is spent.
"""

from __future__ import annotations

import json
import operator
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.run.errors import ConfigError, RunError
from align.run.received import files

if TYPE_CHECKING:
    from align.stats import Estimate

STOPS = 0.9  # share of SFT's answers that must end by themselves: PPO and sampling rely on it
FEW = 30  # below so many prompts a category's interval is too wide to call it at chance
COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
KL_BUDGET = 10.0  # nats a sequence: beyond, published runs are of no use (Gao et al. 2022; Bai et al. 2022)

Check = dict[str, Any]


def at_least(name: str, value: float, bound: float, why: str) -> Check:
    """`value` must be at least `bound`."""
    return {"name": name, "value": value, "bound": f">= {bound:.3g}", "passed": value >= bound, "why": why}


def above(name: str, value: float, bound: float, why: str) -> Check:
    """`value` must be greater than `bound`."""
    return {"name": name, "value": value, "bound": f"> {bound:.3g}", "passed": value > bound, "why": why}


def below(name: str, value: float, bound: float, why: str) -> Check:
    """`value` must be less than `bound`."""
    return {"name": name, "value": value, "bound": f"< {bound:.3g}", "passed": value < bound, "why": why}


def sft(metrics: dict[str, Any]) -> list[Check]:
    """SFT stops by itself, and beats the model it began from on held-out demonstrations."""
    checks = []
    if "stops" in metrics:
        why = (
            f"of {metrics['stops_prompts']} prompts; an answer that never ends cannot be ranked: is the stop token in "
            "the loss, and trained long enough?"
        )
        checks.append(at_least("stops", metrics["stops"], STOPS, why))
    if "eval_loss" in metrics and "loss_before" in metrics:
        why = "held-out demonstrations are no likelier than before training: learning rate, template or data are wrong"
        checks.append(below("held-out loss", metrics["eval_loss"], metrics["loss_before"], why))
    return checks


def reward(metrics: dict[str, Any]) -> list[Check]:
    """The reward model beats chance and the length-only baseline with its interval, and chance in every category."""
    if "accuracy_low" not in metrics:
        return []
    low = metrics["accuracy_low"]
    checks = [
        above("accuracy, low end", low, 0.5, "the interval holds chance: more rankings, or a larger model"),
        above("accuracy against length alone", low, metrics["length_only_accuracy"],
              "choosing by length does as well: the policy would learn lengths"),
    ]  # fmt: skip
    for name, found in metrics.get("categories", {}).items():
        if found["prompts"] >= FEW:
            why = f"not told from chance on {name} ({found['prompts']} prompts): PPO would move there at random"
            checks.append(above(f"accuracy on {name}, low end", found["low"], 0.5, why))
    return checks


def policy(gain: Estimate | None, kl: float, judge: str, budget: float = KL_BUDGET) -> list[Check]:
    """A trained policy raises the held-out judge's score over its reference, within a KL budget.

    Args:
        gain: estimate of the paired difference in the judge's score, policy less reference.
        kl: nats a sequence.
    """
    checks = []
    if gain is not None:
        why = f"the held-out {judge} score did not rise for certain: {gain.value:.3g} on {gain.n} prompts"
        assert gain.low is not None, "a mean over prompts has an interval"
        checks.append(above(f"{judge} score gained, low end", gain.low, 0.0, why))
    why = "too far from the SFT model to be trusted: raise kl_coef or beta, or train for less long"
    return [*checks, below("KL to the reference", kl, budget, why)]


def keep(
    folder: str | Path, checks: list[Check], *, missing: dict[str, str] | None = None, say: bool = True
) -> dict[str, Any]:
    """Write a run's gate to its folder, and (with `say`) say on the screen what failed. Only the main process does.

    Args:
        missing: measurements that failed, each with the reason: they stand in the gate, and decide nothing.
    """
    gate: dict[str, Any] = {"passed": all(check["passed"] for check in checks), "checks": checks}
    if missing:
        gate["not_measured"] = missing
    if (checks or missing) and Path(folder).is_dir() and int(os.environ.get("RANK", "0")) == 0:
        files.replace(Path(folder) / "gate.json", json.dumps(gate, indent=2) + "\n")
        failed = [check for check in checks if not check["passed"]]
        said = "; ".join(f"{c['name']} is {c['value']:.3g}, must be {c['bound']} ({c['why']})" for c in failed)
        if say:
            passed = f"{len(checks) - len(failed)} of {len(checks)} checks passed"
            print(f"gate: {passed}" + (f"; {said}" if said else ""))
            for what, why in (missing or {}).items():
                print(f"GATE NOT MEASURED: {what} ({why}); the next stage builds on it all the same")
    return gate


def read(folder: str | Path) -> dict[str, Any] | None:
    """The gate of a run, None where none was measured."""
    file = Path(folder) / "gate.json"
    if not file.is_file():
        return None
    try:
        found = files.parsed(files.text(file))
        checks = [
            {"name": str(one["name"]), "value": float(one["value"]), "bound": str(one["bound"]),
             "passed": one["passed"] is True, "why": str(one.get("why", ""))} for one in found["checks"]
        ]  # fmt: skip
        missing = {str(what): str(why) for what, why in found.get("not_measured", {}).items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"{file} is no gate of a run ({error}); take it away, and measure the run again") from error
    return {"passed": found.get("passed") is True, "checks": checks} | ({"not_measured": missing} if missing else {})


def problem(path: str, folder: Path) -> str | None:
    """Why a run may not be a parent; None where its gate passed or was not measured."""
    gate = read(folder)
    if gate is None or gate["passed"]:
        return None
    said = "; ".join(f"{c['name']} is {c['value']:.3g}, must be {c['bound']}: {c['why']}"
                     for c in gate["checks"] if not c["passed"])  # fmt: skip
    return f"{path} failed its gate ({said}). Mend that stage, or go on all the same with --accept_failed {path}"


def unmeasured(path: str, folder: Path) -> list[str]:
    """Lines about what the gate of a run that is to be a parent could not measure."""
    missing = (read(folder) or {}).get("not_measured", {})
    return [f"note: {path} is built on, and its gate could not measure {what}: {why}" for what, why in missing.items()]


def of_parents(paths: list[str]) -> list[dict[str, Any]]:
    """The gates of some runs, for a report."""
    found = ((path, read(path)) for path in paths)
    return [{"run": path, **gate} for path, gate in found if gate]


def check_bounds(stage: str, metrics: dict[str, Any], bounds: dict[str, str]) -> None:
    """Compare a finished stage's metrics with the bounds that its chain gives, `{accuracy: ">= 0.9"}`.

    Raises:
        ConfigError: for a bound that is none.
        RunError: naming the stage, the metric, its value and the bound.
    """
    for key, bound in bounds.items():
        match = re.fullmatch(r"\s*(>=|<=|>|<)\s*([-+.\deE]+)\s*", str(bound))
        if match is None:
            raise ConfigError(f"stage {stage}: the gate {key}: {bound!r} is not like '>= 0.9'")
        value: Any = metrics
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is None:
            raise RunError(f"stage {stage} has no metric {key}; it has {', '.join(metrics)}")
        if not COMPARE[match[1]](value, float(match[2])):
            raise RunError(f"stage {stage} missed its gate: {key} is {value:.4g}, must be {bound}")
