"""A dry run's folder: the run writes there what it would write, and the folder goes when the run ends, however it ends.

What follows from `--dry_run` is said once, when the command line has been read, as `received.permission` is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from align.run.errors import RunError


@dataclasses.dataclass
class DryRun:
    """What a dry run was asked for: where the run would be saved, and its own folder once all processes know it."""

    settings: Any  # the dataclass that has `output_dir`
    wanted: str
    folder: str = ""


_asked: list[DryRun] = []


def begin(groups: tuple[Any, ...], dry: bool) -> None:
    """What the user's command says; `groups` are the configuration's dataclasses, one of which has `output_dir`."""
    owners = [one for one in groups if "output_dir" in {field.name for field in dataclasses.fields(one)}]
    _asked[:] = [DryRun(one, str(one.output_dir)) for one in owners if dry]


def asked() -> DryRun | None:
    """The dry run that this process is in, or None."""
    return _asked[0] if _asked else None


def destination(output_dir: str) -> str:
    """Where a run is saved; of a dry run, where it would be."""
    return _asked[0].wanted if _asked else output_dir


def problems(values: dict[str, Any]) -> list[str]:
    """Settings that a dry run cannot go with."""
    if not values.get("dry_run") or str(values.get("resume_from_checkpoint")).lower() in ("none", "false"):
        return []
    return ["dry_run tries how a run begins, and leaves nothing to go on with: leave resume_from_checkpoint out"]


def settle(share: Callable[[list[Any]], Any]) -> None:
    """Point the run at a folder below the system's temporary one, the same in every process.

    Args:
        share: makes a list what it is on the first process.
    """
    if not _asked:
        return
    names = [f"dry-run-{secrets.token_hex(8)}"]  # nobody can have laid a link there
    share(names)
    _asked[0].folder = str(Path(tempfile.gettempdir()) / names[0])
    _asked[0].settings.output_dir = _asked[0].folder


def home(wanted: str) -> Path:
    """The nearest folder above `wanted`, or that one itself, that is there."""
    path = Path(wanted).expanduser().absolute()
    return next(one for one in (path, *path.parents) if one.exists())


@contextlib.contextmanager
def folder(main: bool, may_begin: Callable[[Path], None]) -> Iterator[None]:
    """Inside the block a dry run has its folder. Nothing is done where the run is none.

    Args:
        main: is this the process that makes it?
        may_begin: raises where the run itself could not begin in the folder where it would be saved.
    """
    if not _asked:
        yield
        return
    dry = _asked[0]
    if main:
        may_begin(Path(dry.wanted))
        if not os.access(home(dry.wanted), os.W_OK):
            raise RunError(f"output_dir {dry.wanted} cannot be written: {home(dry.wanted)} is not yours to write in; "
                           "name a folder that can")  # fmt: skip
    try:
        if main:
            os.mkdir(dry.folder, 0o700)
        yield
    finally:
        remove()


def remove() -> None:
    """Take the folder away, where there is one."""
    if _asked and _asked[0].folder:
        shutil.rmtree(_asked[0].folder, ignore_errors=True)
