"""A chat template is a program that comes with a checkpoint: how long it may run, and how much memory it may take.

Jinja's sandbox keeps it from files and from Python, and from ranges over 100,000; loops within loops, and text that is
doubled again and again, it lets be.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from align.run.errors import ConfigError

SECONDS = 10.0  # of one conversation; templates take less than a thousandth of one
KILLED = 60.0  # seconds of the processor: two values that are compared hold Python up, and the system ends the process
BYTES = 1 << 30  # beyond what the process holds when a template begins
LOOK = 0.25  # seconds of the processor after which a template that is still at it is looked at, and again
FIRST = 32  # of a template's conversations in a process: so many cannot even ask for more memory at once
_seen: dict[str, int] = {}
_owner = 0  # the process whose alarm is ours: a fork has none
_begun: tuple[float, int] | None = None  # of the template that is at it: when, and the memory of the process


class TooMuch(ConfigError):
    """A template was stopped."""


@contextmanager
def bounded(template: str) -> Iterator[None]:
    """What is rendered inside the block ends by `TooMuch` where it would go on, or grow, for too long.

    Python stops its main thread only; in others nothing is bounded.
    """
    global _begun
    if threading.get_ident() != threading.main_thread().ident:
        yield
        return
    if template not in _seen:
        _check(template)
    _own_alarm()
    _begun = (time.monotonic(), -1)
    signal.setitimer(signal.ITIMER_VIRTUAL, LOOK, LOOK)
    signal.setitimer(signal.ITIMER_PROF, KILLED)
    first = _seen.get(template, 0) < FIRST
    limits = _less_memory() if first else None
    try:
        yield
    except MemoryError as error:
        raise TooMuch(_told()) from error
    finally:
        _begun = None
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if limits is not None:
            _set(limits)
        if first:
            _seen[template] = _seen.get(template, 0) + 1


def _check(template: str) -> None:
    """Refuse what nothing can stop: a power of powers is one step of Python's, and takes for ever."""
    import jinja2
    from jinja2 import nodes

    bare = re.sub(r"{%[-+]?\s*(end)?generation\b[^%]*%}", "", template)  # a tag that transformers adds to Jinja's
    try:
        parsed = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(bare)
    except jinja2.TemplateError:  # told where it is rendered
        return
    if next(parsed.find_all(nodes.Pow), None) is not None:
        raise TooMuch("the chat template computes powers (**), which no conversation needs; give another with "
                      "--chat_template_path")  # fmt: skip


def _told() -> str:
    return (
        f"the chat template takes over {SECONDS:.0f} seconds, or over {BYTES >> 30} GiB, for one conversation, so it "
        "was stopped; give another with --chat_template_path"
    )


def _own_alarm() -> None:
    global _owner
    if os.getpid() != _owner:
        signal.signal(signal.SIGVTALRM, _look)
        _owner = os.getpid()


def _look(*_: Any) -> None:
    """The alarm: how long has the template been at it, and how much has the process grown?"""
    global _begun
    if _begun is None:  # it ended while the alarm was on its way
        return
    since, before = _begun
    if before < 0:
        _begun = (since, _held(1))
    elif _held(1) > before + BYTES:
        raise TooMuch(_told())
    if time.monotonic() > since + SECONDS:
        raise TooMuch(_told())


def _held(which: int) -> int:
    """Bytes of this process: its address space (0), or what of it is in memory (1); 0 where there is no /proc."""
    import resource

    try:
        with open("/proc/self/statm") as stream:
            return int(stream.read().split()[which]) * resource.getpagesize()
    except OSError:
        return 0


def _less_memory() -> tuple[int, int] | None:
    """Let the process grow by `BYTES` and no more; its limits before. None where that cannot be known."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = _held(0)
    if not held or soft != resource.RLIM_INFINITY:
        return None
    _set((held + BYTES, hard))
    return soft, hard


def _set(limits: tuple[int, int]) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, limits)
