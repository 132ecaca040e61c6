"""How a run stands: does it run, how far is it, when will it be done. Killed, its record still says `running`."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from align.follow.curves import Curves
from align.follow.tree import Node, duration
from align.run.received.screen import plain

QUIET = 60.0  # seconds without a sign of life after which a run whose process is not here is taken for dead
QUIET_UNKNOWN = 600.0  # the same where its record names no process: loading a model and measuring take minutes
USUAL = 5  # times its usual pause between two rows, where that is longer
STATES = {"complete": "complete", "interrupted": "stopped", "failed": "failed", "running": "running"}
WORDS = 300  # characters of what a record says of itself


def alive(record: dict[str, Any]) -> bool:
    """Does the process that a record names run on this machine?"""
    import psutil

    told = record.get("process") or {}
    pid, began = told.get("pid"), told.get("began")
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0 or not isinstance(began, (int, float)):
        return False
    try:
        return abs(psutil.Process(pid).create_time() - began) < 2  # the number may be another process's by now
    except (psutil.Error, OverflowError):
        return False


def heard(run: Node) -> float:
    """Unix time at which the run last wrote its record or its metrics."""
    times = []
    for name in ("run.json", "metrics.jsonl"):
        with contextlib.suppress(OSError):
            times.append(os.lstat(run.folder / name).st_mtime)
    return max(times, default=0.0)


def standing(run: Node, quiet: float, usual: float | None) -> tuple[str, str]:
    """A run's state in one word, and a sentence where there is more to say.

    Args:
        quiet: seconds since it was last heard of.
        usual: seconds between two of its rows, None where that is not known.
    """
    record = run.record
    state = STATES.get(str(record.get("status")), "unreadable")
    if state == "running" and not alive(record):
        limit = max(QUIET if record.get("process") else QUIET_UNKNOWN, USUAL * (usual or 0.0))
        if quiet > limit:
            return "killed", (
                f"Its record says that it runs, but no process of it is here, and it has written nothing for "
                f"{duration(quiet)}."
            )
    if state == "stopped":
        return state, "By Ctrl-C or a signal."
    if state == "failed":
        return state, plain(str(record.get("error") or "")[:WORDS])
    stopped_by = (record.get("metrics") or {}).get("stopped_by")
    return state, f"Ended early: {plain(str(stopped_by)[:WORDS])}." if state == "complete" and stopped_by else ""


def planned(record: dict[str, Any]) -> int | None:
    """How many steps the run will make, where it has said so."""
    told = record.get("max_steps")
    return told if isinstance(told, int) and not isinstance(told, bool) and told > 0 else None


def left(curves: Curves, steps: int | None, quiet: float) -> float | None:
    """Seconds that the remaining steps will take at the pace of the last ones; None where it is not known."""
    pace = curves.pace()
    if steps is None or pace is None or curves.step >= steps:
        return None
    return max(0.0, (steps - curves.step) * pace - quiet)


def told(run: Node, curves: Curves | None) -> dict[str, Any]:
    """What the page shows of a run beside its curves; `curves` where they have been read."""
    record, quiet = run.record, max(0.0, time.time() - heard(run))
    pace = None if curves is None else curves.pace()
    rows = list(curves.latest) if curves else []
    usual = (rows[-1][1] - rows[0][1]) / (len(rows) - 1) if len(rows) > 1 else None
    state, why = standing(run, quiet, usual)
    steps = planned(record)
    spent = record.get("wall_seconds")
    step = curves.step if curves and curves.rows else None
    return {
        "recipe": plain(str(record.get("recipe") or "")[:40]), "state": state, "why": why,
        "gate": plain(run.gate()[:WORDS]), "figures": plain(run.figures()) if state != "failed" else "",
        "started": plain(str(record.get("started") or "")[:25]),
        "step": step, "steps": steps, "pace": pace, "quiet": quiet if state == "running" else None,
        "left": left(curves, steps, quiet) if curves and state == "running" else None,
        "spent": float(spent) if isinstance(spent, (int, float)) and not isinstance(spent, bool) else None,
    }  # fmt: skip
