"""`align plan`: what a run needs, in which phase, and whether it fits, before anything is loaded."""

from __future__ import annotations

import json as encoder
from dataclasses import dataclass, field
from pathlib import Path

from align.plan import configured, machines, moves, tables, work
from align.plan.configured import Launch
from align.plan.forecast import Forecast
from align.plan.memory import phases
from align.run.errors import ConfigError
from align.run.parse import parse

OWN = ("recipe", "device", "num_processes", "config_file", "json", "help")
KINDS = {"NO": "single", "MULTI_GPU": "ddp", "MULTI_CPU": "ddp", "FSDP": "fsdp2"}


@dataclass
class PlanConfig:
    """What is planned, and where it is to run; all other flags are the recipe's own."""

    recipe: str | None = field(default=None, metadata={"help": "The program that is planned, as it lies in recipes/."})
    device: str | None = field(
        default=None,
        metadata={"help": "cpu, a card (h100, a100, 4090, …) or a GPU's memory (24GiB). Default: what is here."},
    )
    num_processes: int | None = field(default=None, metadata={"help": "As for accelerate launch."})
    config_file: str | None = field(default=None, metadata={"help": "As for accelerate launch: how processes share."})
    json: bool = field(default=False, metadata={"help": "As JSON, in bytes, for scripts."})

    def __post_init__(self) -> None:
        if self.num_processes is not None and self.num_processes < 1:
            raise ValueError(f"num_processes={self.num_processes}: at least 1")
        if self.config_file and not Path(self.config_file).is_file():
            raise ValueError(f"config_file={self.config_file}: no such file; ours are in accelerate_configs/")


def main(argv: list[str]) -> None:
    """`align plan`: print it."""
    mine, rest = split(argv)
    (args,) = parse(PlanConfig, nano=None, required=("recipe",), argv=mine)
    made = plan(args, rest)
    done = work.of(made.found, made.machine)
    changes = [] if made.fits else changes_of(args, rest, made)
    if args.json:
        print(encoder.dumps(tables.as_dict(made, done, changes), indent=1))
    else:
        print(tables.text(made, done, changes))


def split(argv: list[str]) -> tuple[list[str], list[str]]:
    """The command line as what is ours and what is the recipe's."""
    mine: list[str] = []
    rest: list[str] = []
    into = mine
    for word in argv:
        if word.startswith("--"):
            into = mine if word[2:].partition("=")[0] in OWN else rest
        into.append(word)
    return mine, rest


def plan(args: PlanConfig, words: list[str]) -> Forecast:
    """The plan of a run whose recipe gets these words.

    Raises:
        ConfigError: with all that is wrong with them.
    """
    machine, launch = machines.of(args.device), launched(args)
    found, notes = configured.read(str(args.recipe), words, machine, launch)
    return Forecast(found, machine, launch, phases.of(found.job), notes)


def launched(args: PlanConfig) -> Launch:
    """How processes are started: accelerate's file, and the number over the one in it.

    Raises:
        ConfigError: for a file that is none of accelerate's, or a kind of sharding that recipes do not run under.
    """
    import yaml

    if not args.config_file:
        count = args.num_processes or 1
        return Launch(count, "ddp" if count > 1 else "single")
    told = yaml.safe_load(Path(args.config_file).read_text())
    kind = told.get("distributed_type") if isinstance(told, dict) else None
    if kind not in (*KINDS, "DEEPSPEED"):
        raise ConfigError(
            f"config_file={args.config_file}: it is none of accelerate's; ours are in accelerate_configs/"
        )
    zero = told.get("deepspeed_config") or {}
    sharding = f"zero{zero.get('zero_stage', 2)}" if kind == "DEEPSPEED" else KINDS[kind]
    count = args.num_processes or told.get("num_processes") or 1
    return Launch(count, sharding, zero.get("offload_optimizer_device") == "cpu")


def changes_of(args: PlanConfig, words: list[str], made: Forecast) -> list[moves.Proposal]:
    """Changes with which it fits, as flags."""

    def again(flags: tuple[str, ...]) -> Forecast | moves.Refused:
        mine, rest = split(list(flags))
        given = {name: mine[at + 1] for at, word in enumerate(mine) if (name := word[2:]) in OWN}
        other = PlanConfig(
            args.recipe, args.device, int(given.get("num_processes") or args.num_processes or 0) or None,
            given.get("config_file") or args.config_file,
        )  # fmt: skip
        try:
            return plan(other, [*words, *rest])
        except ConfigError:  # a batch that cannot be shared so, rows of which too many would be left out
            return moves.Refused()

    return moves.proposals(made.found, made.machine, made.launch.processes, again)
