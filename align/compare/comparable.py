"""Refusing to compare runs that differ in more than method, strength and seed."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from align.compare.arms import Arm
from align.compare.config import CompareConfig
from align.models.checkpoints import load_tokenizer
from align.run import lineage
from align.run.arguments import DataArguments
from align.run.errors import ConfigError


def check(arms: list[Arm], args: CompareConfig, prompts: DataArguments) -> None:
    """Refuse to compare runs that differ in anything but method, strength and seed.

    Raises:
        ConfigError: naming every run and in what it differs.
    """
    wanted = {
        "model": [_parent(args.model_name_or_path)],
        "reward_model": [_parent(args.reward_model_path)],
        "prompts": list(lineage.parents(prompts.parents()).values()),
        "rankings": [_parent(args.rankings)],
    }
    problems = _reward_model_problems(args, wanted)
    template = _template(str(args.model_name_or_path))
    others: dict[str, list[tuple[Arm, dict[str, Any]]]] = {}
    rows: dict[tuple[str, str], set[str]] = defaultdict(set)
    for arm in arms:
        run = arm.record
        if arm.error or run.get("status") != "complete":
            continue
        dpo = arm.recipe == "dpo"
        roles = {"model": "model", "data": "rankings" if dpo else "prompts"}
        if not dpo and run["config"].get("reward_model_path"):
            roles["reward_model"] = "reward_model"
        problems += filter(None, (_other(arm.folder, run, role, name, wanted) for role, name in roles.items()))
        if _template(str(arm.folder)) != template:
            problems.append(f"{arm.folder}: its chat template differs from that of {args.model_name_or_path}")
        length = run["config"].get("response_length" if arm.recipe == "ppo" else "max_completion_length")
        if not dpo and length != args.max_new_tokens:
            problems.append(f"{arm.folder}: trained on answers of {length} tokens, measured on {args.max_new_tokens}")
        heat = run["config"].get("temperature")
        if not dpo and heat != args.temperature:
            problems.append(f"{arm.folder}: trained at temperature {heat}, measured at {args.temperature}")
        rows[("rankings" if dpo else "prompts", arm.recipe.upper())].add(run["data"]["train"]["fingerprint"])
        others.setdefault(arm.method, []).append((arm, shared_config(run, arm.knob)))
    for method, members in others.items():
        first = members[0][1]
        keys = {k for _, one in members for k in one if k in first and one[k] != first[k]}  # versions have other flags
        if keys:
            problems.append(f"{method}: the runs differ in {', '.join(sorted(keys))}, not only in strength and seed")
    for (what, method), found in rows.items():
        if len(found) > 1:
            problems.append(f"{method}: the runs were trained on different rows of the {what}")
    if problems:
        raise ConfigError("these runs cannot be compared:\n" + "\n".join(f"  - {problem}" for problem in problems))


def _other(
    folder: Path | str, run: dict[str, Any], role: str, name: str, wanted: dict[str, list[dict[str, Any]]]
) -> str | None:
    """Why a run's parents of this role are not the wanted ones; None where they are. A mixture of rows has several."""
    parents = run.get("parents", {})
    mine = [found for key, found in parents.items() if key == role or (role == "data" and key.startswith("data_"))]
    if sorted(map(_who, mine)) == sorted(map(_who, filter(None, wanted[name]))):
        return None
    return f"{folder}: its {name} is {_named(mine)}, not {_named(wanted[name])}"


def _parent(path: str | None) -> dict[str, Any]:
    """One parent by its hash; nothing where none was named."""
    return lineage.parents({"one": path}).get("one", {})


def _reward_model_problems(args: CompareConfig, wanted: dict[str, list[dict[str, Any]]]) -> list[str]:
    """PPO's reward model and DPO must have seen the same rankings, and start from the same SFT model."""
    run = lineage.read_record(str(args.reward_model_path)) if args.reward_model_path else None
    if run is None:
        return []
    where = f"{args.reward_model_path}: the reward model's"
    found = [
        _other("", run, role, name, wanted)
        for role, name in (("data", "rankings"), ("model", "model"))
        if any(wanted[name])
    ]
    return [problem.replace(": its", where, 1) for problem in found if problem]


def _who(parent: dict[str, Any]) -> str:
    """A parent by its hash; a hub id, which has none here, by its name."""
    return str(parent.get("hash") or parent.get("path"))


def _named(parents: list[dict[str, Any]]) -> str:
    return " + ".join(f"{one.get('path')} ({str(one.get('hash'))[:12]})" for one in parents if one) or "not known"


def _template(path: str) -> str:
    """A checkpoint's chat template."""
    file = Path(path) / "chat_template.jinja"
    return file.read_text() if file.is_file() else str(load_tokenizer(path).chat_template)


def shared_config(run: dict[str, Any], knob: str) -> dict[str, Any]:
    """A run's configuration without what may differ between the arms of one method."""
    return {key: value for key, value in run["config"].items() if key not in (*OWN_KEYS, knob)}


OWN_KEYS = ("seed", "data_seed", "output_dir", "logging_dir", "run_name", "overwrite", "resume_from_checkpoint",
            "hub_model_id", "exp_name", "accept_failed")  # fmt: skip
