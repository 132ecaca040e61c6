"""`align runs`: every run below a folder under the run that its model came from, with status, gate and key figures."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.run import gates, lineage
from align.run.errors import ConfigError, RunError
from align.run.parse import parse
from align.run.received.screen import plain

# What a run is known by, the first that its metrics have: how it is called here, the metrics, how they are written
KEYS = [
    ("KL {:.1f}, reward {:.2f}", ("objective/kl", "objective/scores")),
    ("{:.1%} of held-out pairs", ("eval_rewards/accuracies",)),
    ("{:.1%} of held-out pairs", ("accuracy",)),
    ("stops {:.0%}, loss {:.2f}", ("stops", "eval_loss")),
    ("loss {:.2f}", ("eval_loss",)),
    ("{:,} completions, {:.0%} stop", ("completions", "stops")),
    ("{:,} rows", ("train_rows",)),
    ("{:,} leaks", ("leaks",)),
]
DEEPEST = 6  # folders below the one that is named
HEADS = ("run", "recipe", "status", "gate", "figures", "time", "began")


@dataclass
class RunsConfig:
    """Where to look."""

    folder: str = field(default="runs", metadata={"help": "Every run below it is shown."})
    json: bool = field(default=False, metadata={"help": "As JSON, a list of runs with their parents, for scripts."})


@dataclass
class Node:
    """One run, as it is shown."""

    folder: Path
    record: dict[str, Any]
    children: list[Node] = field(default_factory=list)

    def parents(self) -> dict[str, str]:
        """Paths of what it came from, by role."""
        return {role: one["path"] for role, one in (self.record.get("parents") or {}).items() if "path" in one}

    def figures(self) -> str:
        """What it is known by."""
        metrics = self.record.get("metrics") or {}
        for text, names in KEYS:
            values = [metrics.get(name) for name in names]
            if all(isinstance(value, (int, float)) for value in values):
                return text.format(*values)
        return str(self.record.get("error") or "")[:60]

    def gate(self) -> str:
        """passed, failed (by what), unreadable, or nothing."""
        try:
            found = gates.read(self.folder)
        except RunError:
            return "unreadable"
        if not found:
            return ""
        failed = [str(check.get("name")) for check in found.get("checks", []) if not check.get("passed")]
        return "passed" if found.get("passed") else f"failed: {', '.join(failed)}"

    def cells(self) -> list[str]:
        """The columns of `HEADS` after the first."""
        seconds = self.record.get("wall_seconds")
        told = [self.record.get("recipe"), self.record.get("status"), self.gate(), self.figures(),
                duration(seconds) if isinstance(seconds, (int, float)) else "",
                str(self.record.get("started") or "")[:16].replace("T", " ")]  # fmt: skip
        return [plain(str(value or "")) for value in told]

    def as_dict(self) -> dict[str, Any]:
        """For scripts."""
        wanted = ("recipe", "status", "started", "wall_seconds", "seed", "hash", "metrics", "error")
        told = {key: self.record[key] for key in wanted if key in self.record}
        return {"folder": str(self.folder), **told, "gate": self.gate() or None, "parents": self.parents()}


def main(argv: list[str]) -> None:
    """`align runs`: print the tree."""
    (args,) = parse(RunsConfig, nano=None, required=(), argv=argv)
    found = runs(Path(args.folder))
    print(
        json.dumps([run.as_dict() for run in found], indent=1) if args.json else table(roots(found), Path(args.folder))
    )


def runs(folder: Path) -> list[Node]:
    """All runs below a folder, by path; what lies behind links is not looked at.

    Raises:
        ConfigError: for a folder that is not there, or holds no run.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; name one with runs below it: align runs runs")
    found = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = [name for name in sorted(folders) if not name.startswith((".", "checkpoint-"))]
        if len(here.relative_to(folder).parts) >= DEEPEST:
            folders.clear()
        if "run.json" in files and (record := lineage.read_record(here)) is not None:
            found.append(Node(here, record))
    if not found:
        raise ConfigError(f"no run lies below {folder}: a run is a folder with a run.json")
    return sorted(found, key=lambda run: run.folder)


def roots(found: list[Node]) -> list[Node]:
    """Runs that come from none of the others; each of these is a child of the run of its model, else of its rows."""
    places = {run.folder.resolve(): run for run in found}
    tops: list[Node] = []
    for run in found:
        paths = run.parents()
        above = (_within(paths.get(role), places) for role in ("model", *(role for role in paths if role != "model")))
        parent = next((one for one in above if one is not None and not _descends(one, run)), None)
        (tops if parent is None else parent.children).append(run)
    return tops


def _within(path: str | None, places: dict[Path, Node]) -> Node | None:
    """The run that a path is, or lies in."""
    if path is None:
        return None
    whole = Path(path).resolve()
    return next((places[one] for one in (whole, *whole.parents) if one in places), None)


def _descends(run: Node, other: Node) -> bool:
    """Is it the other, or below it? Records can be made to say anything."""
    return run is other or any(_descends(run, child) for child in other.children)


def table(tops: list[Node], folder: Path) -> str:
    """The tree with its columns."""
    rows: list[list[str]] = [list(HEADS)]

    def add(run: Node, before: str, branch: str, below: str) -> None:
        try:
            name = run.folder.relative_to(folder)
        except ValueError:
            name = run.folder
        rows.append([before + branch + plain(str(name)), *run.cells()])
        for at, child in enumerate(run.children):
            last = at == len(run.children) - 1
            add(child, before + below, "└ " if last else "├ ", "  " if last else "│ ")

    for top in tops:
        add(top, "", "", "")
    wide = [max(len(row[at]) for row in rows) for at in range(len(HEADS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, wide, strict=True)).rstrip() for row in rows
    )


def duration(seconds: float) -> str:
    """Seconds as 48 s, 12 min or 3.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
