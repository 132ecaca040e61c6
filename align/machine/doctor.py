"""`align doctor`: is this machine fit for the recipes? A line for each thing that was looked at, with the command that
mends what is wrong.

It has to speak where packages are missing or broken. So nothing is imported here that may be, torch is looked at like
anything else, and the command's one flag is read without TRL's parser.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from align.machine import gpus, network
from align.machine.findings import FAIL, WARN, Finding
from align.run.errors import ConfigError, RunError

BEGUN = time.perf_counter()


@dataclass
class DoctorConfig:
    """How it is told."""

    json: bool = field(default=False, metadata={"help": "As JSON, for scripts."})


def parse(*classes: type, argv: list[str]) -> tuple[Any, ...]:
    """The one flag.

    Raises:
        ConfigError: for anything else.
    """
    (cls,) = classes
    names = [one.name for one in dataclasses.fields(cls)]
    if {"-h", "--help"} & set(argv):
        print("usage: align doctor [--json]\n\n  --json  " + dataclasses.fields(cls)[0].metadata["help"])
        raise SystemExit(0)
    if wrong := [word for word in argv if word.removeprefix("--") not in names]:
        raise ConfigError(f"align doctor does not know {wrong[-1]!r}; it takes --json, or nothing")
    return (cls(**{name: f"--{name}" in argv for name in names}),)


def main(argv: list[str]) -> None:
    """`align doctor`: look, print, and end with 1 where something has to be mended."""
    (args,) = parse(DoctorConfig, argv=argv)
    found = examine()
    seconds = time.perf_counter() - BEGUN
    failed = [one for one in found if one.state == FAIL]
    if args.json:
        told = [one._asdict() for one in found]
        print(json.dumps({"fit": not failed, "seconds": round(seconds, 2), "findings": told}, indent=1))
    else:
        print("\n".join(map(str, found)))
        warned = sum(one.state == WARN for one in found)
        print(f"\n{len(found)} looked at in {seconds:.1f} s: {len(failed)} fail, {warned} to be minded")
    if failed:
        sys.stdout.flush()
        raise RunError(f"to be mended first: {', '.join(dict.fromkeys(one.name for one in failed))}")


def examine() -> list[Finding]:
    """Look at everything; what takes the longest (the hub, importing torch) at the same time."""
    answer = network.ask(os.environ)
    found = tried(_packages)
    torch, problem = _torch()
    cuda = None if torch is None else torch.version.cuda
    return [*found, *problem, *tried(lambda: _cards(torch)), *tried(lambda: _resources(cuda)), answer()]


def tried(look: Callable[[], list[Finding]]) -> list[Finding]:
    """What a look finds, or that it needs a package that is not here."""
    try:
        return look()
    except ImportError as error:
        name = error.name or str(error)
        return [
            Finding(FAIL, "packages", f"{name} cannot be imported: {error}", f"pip install --force-reinstall {name}")
        ]


def _packages() -> list[Finding]:
    from align.machine import packages

    return packages.findings()


def _resources(cuda: str | None) -> list[Finding]:
    from align.machine import resources

    return resources.findings(os.environ, cuda)


def _torch() -> tuple[Any, list[Finding]]:
    """torch, or why it cannot be imported: it is not there, or a library that it was built for is not."""
    try:
        import torch
    except (ImportError, OSError, RuntimeError) as error:
        told = " ".join(str(error).split())[:200]
        again = "pip install --force-reinstall -c constraints.txt torch"
        return None, [Finding(FAIL, "torch", f"it cannot be imported: {told}", again)]
    return torch, []


def _cards(torch: Any) -> list[Finding]:
    """The GPUs and the matrix rate."""
    there = gpus.cards()
    build = gpus.Build("", None, False) if torch is None else gpus.build(torch)
    found = []
    if torch is not None or not there:
        found = gpus.look(there, gpus.newest_cuda(), build, gpus.hidden(), gpus.on_the_bus())
    broken = any(one.state == FAIL for one in found)
    return found if torch is None or broken else [*found, gpus.rate(torch)]
