"""Beginning a run anew with fewer rows at once (`--find_batch_size`), as if it had been started so.

The process is replaced by one with the same command: no memory of the first attempt is left, no wrapped model, no
random number that was drawn. (accelerate's `find_executable_batch_size`, behind transformers' `auto_find_batch_size`,
calls the training again instead, with 0.9 of the batch: the same accumulation then gives another global batch, and the
weights of the first attempt stay where they are.)
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from align.run.errors import ConfigError
from align.run.trial import throwaway

SIZES = "ALIGN_ROWS_AT_ONCE"  # what did not fit, and last what is tried now
GIVEN = dict(os.environ)  # before libraries write into it
_sizes: list[list[int]] = []  # of this process, where it searches
_leaving: list[Callable[[], Any]] = []


def sizes(search: bool) -> dict[str, Any]:
    """The setting that the last attempt has changed, if there was one; none where nothing is searched."""
    told = GIVEN.get(SIZES, "") if search else ""
    try:
        found = [int(word) for word in told.split()]
    except ValueError:
        raise ConfigError(f"{SIZES}={told!r} is for a run that begins again; unset it") from None
    _sizes[:] = [found] if search else []
    return {"per_device_train_batch_size": found[-1]} if found else {}


def searching() -> bool:
    """Is the number of rows that fit at once looked for?"""
    return bool(_sizes)


def did_not_fit() -> list[int]:
    """Rows at once for which memory ran out in attempts before this one."""
    return _sizes[0][:-1] if _sizes else []


def facts(size: int) -> dict[str, Any]:
    """What a run's record says of the search, where there was one. `size`: the rows at once of this attempt."""
    return {"micro_batch": {"did_not_fit": did_not_fit(), "used": size}} if _sizes else {}


def before_leaving(tidy: Callable[[], Any]) -> None:
    """Call this before the process is replaced: what it would take away at its end."""
    _leaving.append(tidy)


def begin(failed: int, size: int, port: int | None) -> NoReturn:
    """Replace this process by the same command, with at most `size` rows at once after `failed` did not fit.

    Args:
        port: where the processes meet again, if there are several.
    """
    environment = GIVEN | {SIZES: " ".join(map(str, [*did_not_fit(), failed, size]))}
    if port is not None:  # what they told each other where they met first is still there
        environment |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "False"}
    throwaway.remove()
    for tidy in _leaving:
        tidy()
    for child in multiprocessing.active_children():  # loaders' workers
        child.kill()
    for number in _descriptors():
        with contextlib.suppress(OSError):
            os.set_inheritable(number, False)
    sys.stdout.flush()
    sys.stderr.flush()
    typed = sys.orig_argv if sys.orig_argv[-len(sys.argv) :] == sys.argv else [sys.executable, *sys.argv]
    os.execve(sys.executable, [sys.executable, *typed[1:]], environment)


def _descriptors() -> list[int]:
    """Open files and sockets, but the three that every program has; libraries in C leave theirs to whatever follows."""
    folder = Path("/proc/self/fd")
    numbers = [int(one.name) for one in folder.iterdir()] if folder.is_dir() else [*range(3, 1024)]
    return [number for number in numbers if number > 2]
