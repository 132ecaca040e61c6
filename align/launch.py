"""How the processes were started: what was asked for, what was got, and defaults that belong to every trainer."""

from __future__ import annotations

from typing import Any

# Shared by every training recipe. TRL's and transformers' own defaults hold for all the rest.
TRAINER_DEFAULTS: dict[str, Any] = dict(
    logging_steps=10,
    logging_nan_inf_filter=False,  # a NaN is to be seen, not averaged away
    include_num_input_tokens_seen="non_padding",
    save_strategy="steps",
    save_steps=500,
    save_total_limit=1,
    per_device_eval_batch_size=64,
    report_to="none",
    seed=0,
)


def world_size() -> int:
    """How many processes train together."""
    from accelerate import PartialState

    return PartialState().num_processes


def is_main_process() -> bool:
    """Is this the process that prints and writes?"""
    from accelerate import PartialState

    return PartialState().is_main_process


def resumes(args: Any) -> bool:
    """Was `--resume_from_checkpoint` given?"""
    return str(args.resume_from_checkpoint).lower() not in ("none", "false")


def check() -> None:
    """Placeholder until the launcher report is in."""


def starts_over(args: Any) -> bool:
    """For a trainer that cannot resume: say so, and let the folder be written again."""
    if resumes(args):
        print("PPO cannot resume yet: this run starts over from its parents", flush=True)
    return resumes(args)
