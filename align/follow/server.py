"""`align watch`: a page on which runs are seen while they train, several laid over each other; finished ones as well.

It only reads, and only in the folders that were named. What a page has, it is not sent again.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.follow import pulse, samples, tree
from align.follow.curves import Curves
from align.follow.tree import Node
from align.run.errors import ConfigError
from align.run.parse import parse
from align.run.received.screen import plain
from align.web.server import Problem, ServeArguments, application, check_installed, get
from align.web.serving import serve

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

PAGE = Path(__file__).parent / "page"
LOOK = 2.0  # seconds before the folders are looked through again
MOST_RUNS = 300  # in the list, the newest
MOST_ON = 12  # runs laid over each other: six colours, each with a whole and a broken line
NEWEST = 3  # runs that are shown where none runs now
KNOWN = re.compile(r"(\d{1,9}):(\d{1,9}):(\d{1,12})")  # a run, and generation and row up to which a page has it


@dataclass
class WatchArguments(ServeArguments):
    """Which runs are shown."""

    runs: list[str] = field(
        default_factory=lambda: ["runs"],
        metadata={"help": "Runs, or folders with runs below them: those that run now are shown, the others listed."},
    )


class Watch:
    """The runs below some folders, and what has been read of them. Its methods may be called from several threads."""

    def __init__(self, folders: Sequence[str]):
        """Raises:
        ConfigError: for a folder that is not there, or holds no run.
        """
        self.folders = [Path(folder) for folder in dict.fromkeys(folders)]
        self.lock = threading.Lock()
        self.instance = secrets.token_hex(8)  # numbers are of this process, and a page may outlive it
        self.numbers: dict[Path, int] = {}  # of each run, for as long as this process lasts
        self.read: dict[int, Curves] = {}
        self.looked = 0.0
        self.runs = self._look(strict=True)

    def _look(self, *, strict: bool = False) -> dict[int, Node]:
        """All runs by number, the last begun first."""
        found: dict[Path, Node] = {}
        for folder in self.folders:
            try:
                found |= {run.folder.resolve(): run for run in tree.runs(folder)}
            except ConfigError:
                if strict:
                    raise
        for place in found:
            self.numbers.setdefault(place, len(self.numbers))
        begun = sorted(found.items(), key=lambda one: str(one[1].record.get("started") or ""), reverse=True)
        self.looked = time.monotonic()
        return {self.numbers[place]: run for place, run in begun[:MOST_RUNS]}

    def state(self, known: dict[int, tuple[int, int]]) -> dict[str, Any]:
        """All runs, and of those that are shown what the page lacks.

        Args:
            known: by number of a run: the generation and the row up to which the page has its curves.
        """
        with self.lock:
            if time.monotonic() - self.looked > LOOK:
                self.runs = self._look()
            told = []
            for number, run in self.runs.items():
                curves = self._curves(number, run, number in known)
                row = {"id": number, "name": self._name(run), "curves": (run.folder / "metrics.jsonl").is_file()}
                told.append(row | pulse.told(run, curves))
            shown = [number for number in known if number in self.runs]
            return {
                "runs": told, "curves": {number: self.read[number].since(*known[number]) for number in shown},
                "samples": {number: samples.mark(self.runs[number].folder) for number in shown},
                "instance": self.instance, "proposed": self._proposed(told), "most": MOST_ON,
            }  # fmt: skip

    def samples(self, number: int) -> dict[str, Any]:
        """The last samples of a run."""
        with self.lock:
            run = self.runs.get(number)
        if run is None:
            raise Problem(404, "this run is no longer there; load the page again")
        return samples.last(run.folder)

    def _curves(self, number: int, run: Node, shown: bool) -> Curves | None:
        """What has been read of a run's metrics. Where it is neither shown nor says that it runs, nothing is read."""
        if not shown and run.record.get("status") != "running":
            return self.read.get(number)
        curves = self.read.setdefault(number, Curves(run.folder / "metrics.jsonl"))
        curves.refresh()
        return curves

    def _name(self, run: Node) -> str:
        """A run's path below the folder that was named, or below the one that holds all that were."""
        name = os.path.relpath(run.folder, os.path.commonpath([folder.absolute() for folder in self.folders]))
        return plain(str(run.folder) if name == "." else name)

    def _proposed(self, told: list[dict[str, Any]]) -> list[int]:
        """What a page begins with: runs that were named, else those that run now, else the newest with curves."""
        named = {folder.resolve() for folder in self.folders}
        ids = {self.numbers[place] for place in named if place in self.numbers}
        with_curves = [run["id"] for run in told if run["curves"]]
        found = [run for run in with_curves if run in ids] or [run["id"] for run in told if run["state"] == "running"]
        return found[:MOST_ON] or with_curves[:NEWEST]


def app(watch: Watch, args: ServeArguments) -> Starlette:
    """The page and its API over `watch`."""

    def state(request: Request, _: dict[str, Any]) -> dict[str, Any]:
        known: dict[int, tuple[int, int]] = {}
        for one in filter(None, request.query_params.get("on", "").split(",")):
            found = KNOWN.fullmatch(one)
            if found is None or len(known) >= MOST_ON:
                raise Problem(400, f"on: at most {MOST_ON} of run:generation:row, with commas between them")
            known[int(found[1])] = (int(found[2]), int(found[3]))
        return watch.state(known)

    def last_samples(request: Request, _: dict[str, Any]) -> dict[str, Any]:
        number = request.query_params.get("run", "")
        if not re.fullmatch(r"\d{1,9}", number):
            raise Problem(400, "run: the number of a run is needed, as /api/state gives it")
        return watch.samples(int(number))

    routes = [get("/api/state", state), get("/api/samples", last_samples)]
    return application(routes, args, page=PAGE, what=watch.folders[0])


def main(argv: list[str]) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        ConfigError: for arguments that cannot work, and folders without runs.
        RunError: for a port that is taken.
    """
    (args,) = parse(WatchArguments, nano=None, required=(), argv=argv)
    check_installed()
    watch = Watch(args.runs)
    many = "1 run" if len(watch.runs) == 1 else f"{len(watch.runs):,} runs"
    told = f"{many} below {', '.join(plain(folder) for folder in args.runs)}"
    serve(app(watch, args), args, lambda url: print(f"{told}\n{url}  (Ctrl-C ends it)", flush=True))
