"""Which changes make a run fit: each is flags, tried by planning the run anew with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from align.plan.configured import Configured
from align.plan.machines import Machine

ZERO = ("accelerate_configs/zero2.yaml", "accelerate_configs/zero3.yaml")


@dataclass(frozen=True)
class Move:
    """Flags, gentler first, and what they cost."""

    cost: str
    steps: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Proposal:
    """Flags with which the run fits."""

    flags: tuple[str, ...]
    cost: str
    peak: float  # bytes


class Refused:
    """What planning with flags gives that the run cannot have."""

    fits: ClassVar[bool] = False


def _halved(flag: str, value: int | None, least: int = 1) -> tuple[tuple[str, ...], ...]:
    """Half the value, a quarter, and so on."""
    found: list[tuple[str, ...]] = []
    while value is not None and value > least:
        value = max(least, value // 2)
        found.append((f"--{flag}", str(value)))
    return tuple(found)


def possible(found: Configured, machine: Machine, processes: int) -> Iterator[Move]:
    """What can be changed, from what costs nothing to what makes it another run."""
    args, job, stage = found.args, found.job, found.stage
    trains = job.learns
    if trains:
        pieces = _halved("per_device_train_batch_size", args.per_device_train_batch_size)
        yield Move("the same training in smaller pieces", pieces)
    if stage != "ppo":
        rows = _halved("per_device_eval_batch_size", args.per_device_eval_batch_size)
        yield Move("the same, with fewer rows at once where nothing is trained", rows)
    else:
        rows = _halved("local_rollout_forward_batch_size", min(args.local_rollout_forward_batch_size, job.scored))
        yield Move("the same, with fewer episodes sampled at once", rows)
    if trains and not job.again:
        yield Move("the same training, about a fifth slower", (("--activation_checkpointing", "true"),))
    if job.ranks and job.held == 4.0 and not machine.gpu:
        yield Move("frozen weights are rounded", (("--bf16", "true", "--dtype", "bfloat16"),))
    if machine.gpu and trains and processes == 1:
        here = [zero for zero in ZERO if Path(zero).is_file()]
        wide = tuple(("--num_processes", str(n), "--config_file", zero) for n in (2, 4, 8) for zero in here)
        yield Move("more GPUs of this kind", wide)
    if trains and not job.ranks:
        low = ("--dtype", "bfloat16", "--bf16", "true") if not machine.gpu else ()
        yield Move(
            "another method: LoRA instead of all weights", (("--use_peft", "true"), ("--use_peft", "true", *low))
        )
    if stage in ("sft", "reward", "dpo"):
        yield Move("longer rows are left out", _halved("max_length", args.max_length, 64))
    else:
        answer = "response_length" if stage == "ppo" else "max_new_tokens"
        yield Move("shorter answers", _halved(answer, getattr(args, answer), 16))


def proposals(
    found: Configured, machine: Machine, processes: int, again: Callable[[tuple[str, ...]], Any]
) -> list[Proposal]:
    """Single changes that are enough, each at its gentlest; where none is, one list of changes together.

    Args:
        again: plans the run with more flags; gives the plan, with `fits` and `peak`, or `Refused`.
    """
    moves = [move for move in possible(found, machine, processes) if move.steps]
    single = []
    for move in moves:
        if not again(move.steps[-1]).fits:
            continue
        flags, plan = next((step, made) for step in move.steps if (made := again(step)).fits)
        single.append(Proposal(flags, move.cost, plan.peak.total))
    return single or _together(moves, again)


def _together(moves: list[Move], again: Callable[[tuple[str, ...]], Any]) -> list[Proposal]:
    """As many changes as it takes, in their order, each then as gentle as the others allow."""
    taken: list[tuple[Move, tuple[str, ...]]] = []
    for move in moves:
        taken.append((move, move.steps[-1]))
        if again(_flags(taken)).fits:
            break
    else:
        return []
    for at, (move, _) in enumerate(list(taken)):
        for step in ((), *move.steps):
            changed = [*taken[:at], (move, step), *taken[at + 1 :]]
            if again(_flags(changed)).fits:
                taken = changed
                break
    taken = [(move, step) for move, step in taken if step]
    costs = "; ".join(dict.fromkeys(move.cost for move, _ in taken))
    return [Proposal(_flags(taken), costs, again(_flags(taken)).peak.total)]


def _flags(taken: list[tuple[Move, tuple[str, ...]]]) -> tuple[str, ...]:
    return tuple(word for _, step in taken for word in step)
