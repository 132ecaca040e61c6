"""A run's `metrics.jsonl` as curves, read as it grows: only what is new, and a bounded number of points for each.

Where a curve has more values than points, a point is the mean of several, and keeps the smallest and the largest.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.run.errors import RunError
from align.run.received import files
from align.run.received.screen import plain

MOST_POINTS = 1000  # of one curve; even, because full curves are halved
MOST_CURVES = 300  # of one run
LONGEST_NAME = 100  # characters of a metric's name
BLOCK = 1 << 20  # bytes read at once; a longer line is passed over
AT_ONCE = 32 * BLOCK  # bytes read before there is an answer; the rest waits for the next time
HEAD = 256  # bytes by which a file is known again
LATEST = 30  # rows over which the pace is measured


@dataclass
class Growing:
    """A file of lines that somebody else is writing. A line half written is left for the next time."""

    path: Path
    at: int = 0  # bytes of whole lines that have been read
    head: bytes = b""
    identity: tuple[int, int] | None = None
    overlong: bool = False  # inside a line that is passed over

    def lines(self) -> Iterator[bytes | None]:
        """The lines that are new. None where another file has taken the place: what follows is its own, from the top.

        Raises:
            RunError: a link, or no file.
        """
        try:
            stream = files.opened(self.path)
        except OSError:  # not there yet, or no longer, or not for us
            if self.identity is not None:
                self._forget(None)
                yield None
            return
        with stream:
            found = os.fstat(stream.fileno())
            identity = (found.st_dev, found.st_ino)
            same = identity == self.identity and found.st_size >= self.at and stream.read(len(self.head)) == self.head
            if not same:
                self._forget(identity)
                yield None
            stream.seek(self.at)
            for _ in range(AT_ONCE // BLOCK):
                block = stream.read(BLOCK)
                whole = block.rfind(b"\n") + 1
                if not whole and len(block) < BLOCK:
                    return
                passed, self.overlong = self.overlong, not whole
                self.head = self.head or block[: min(HEAD, whole or BLOCK)]
                self.at += whole or BLOCK
                stream.seek(self.at)
                yield from block[:whole].splitlines()[1 if passed else 0 :]

    def _forget(self, identity: tuple[int, int] | None) -> None:
        self.at, self.head, self.identity, self.overlong = 0, b"", identity, False


@dataclass
class Curve:
    """One metric. Each point: step, seconds, mean, smallest, largest, how many values, the row that came last."""

    points: list[list[float]] = field(default_factory=list)
    share: int = 1  # values in a full point
    redone: int = 0  # the row at which all points were made anew
    odd: tuple[float, str] | None = None  # the first value that is no number: its step, and what it is

    def add(self, row: int, step: float, seconds: float, value: float) -> None:
        """One more value, of the row of that number."""
        if self.points and self.points[-1][5] < self.share:
            last = self.points[-1]
            many = last[5] + 1
            self.points[-1] = [step, seconds, last[2] + (value - last[2]) / many, min(last[3], value),
                               max(last[4], value), many, row]  # fmt: skip
            return
        if len(self.points) == MOST_POINTS:
            self.points = [_merged(*self.points[at : at + 2]) for at in range(0, MOST_POINTS, 2)]
            self.share, self.redone = 2 * self.share, row
        self.points.append([step, seconds, value, value, value, 1, row])

    def cut(self, step: float, row: int) -> None:
        """Take away what was reached at or after a step: the run went back, and does it again."""
        self.points, self.redone = [point for point in self.points if point[0] < step], row

    def since(self, row: int) -> tuple[int, list[list[float]]]:
        """How many points are as they were after that row, and the others."""
        if row < self.redone:
            return 0, self.points
        at = len(self.points)
        while at and self.points[at - 1][6] > row:
            at -= 1
        return at, self.points[at:]


def _merged(a: list[float], b: list[float]) -> list[float]:
    many = a[5] + b[5]
    return [b[0], b[1], (a[2] * a[5] + b[2] * b[5]) / many, min(a[3], b[3]), max(a[4], b[4]), many, b[6]]


class Curves:
    """All metrics of one run, as far as they have been written."""

    def __init__(self, path: Path):
        self.file = Growing(path)
        self.generation = 0  # another one: what was sent before holds no longer
        self._begin()

    def _begin(self) -> None:
        self.curves: dict[str, Curve] = {}
        self.left_out: set[str] = set()
        self.rows, self.step, self.seconds = 0, 0.0, 0.0
        self.spent = 0.0  # seconds of earlier executions of a run that went on
        self.episodes: float | None = None  # in a step
        self.latest: deque[tuple[float, float]] = deque(maxlen=LATEST)  # step and seconds, of the last rows

    def refresh(self) -> None:
        """Read what is new."""
        try:
            for line in self.file.lines():
                if line is None:
                    self.generation += 1
                    self._begin()
                else:
                    self._add(line)
        except RunError:  # a link where the file should be
            self.generation += bool(self.curves)
            self._begin()

    def _add(self, line: bytes) -> None:
        try:
            row = files.parsed(line)
        except ValueError:
            return
        if not isinstance(row, dict):
            return
        self.rows += 1
        step, seconds = _number(row.get("step")), _number(row.get("seconds"))
        step = float(self.rows) if step is None or not math.isfinite(step) else step
        seconds = 0.0 if seconds is None or not math.isfinite(seconds) else seconds
        if self.rows > 1 and (step < self.step or seconds < self.seconds):  # it was resumed
            self.spent += self.seconds
            self.latest.clear()
            for curve in self.curves.values():
                curve.cut(step, self.rows)
        if not self.latest or step > self.latest[-1][0]:
            self.latest.append((step, seconds))
        self.step, self.seconds = step, seconds
        for name, told in row.items():
            value = _number(told)
            if value is not None and name not in ("step", "seconds"):
                self._value(plain(name[:LONGEST_NAME]), step, self.spent + seconds, value)
        episode = _number(row.get("episode"))
        if episode is not None and math.isfinite(episode) and step > 0:
            self.episodes = episode / step

    def _value(self, name: str, step: float, seconds: float, value: float) -> None:
        if name not in self.curves and len(self.curves) >= MOST_CURVES:
            self.left_out.add(name) if len(self.left_out) < MOST_CURVES else None
            return
        curve = self.curves.setdefault(name, Curve())
        if math.isfinite(value):
            curve.add(self.rows, step, seconds, value)
        else:
            curve.odd = curve.odd or (step, str(value))

    def pace(self) -> float | None:
        """Seconds a step, over the last rows; None before there are two."""
        if len(self.latest) < 2:
            return None
        (first, began), (last, ended) = self.latest[0], self.latest[-1]
        return (ended - began) / (last - first)

    def since(self, generation: int, row: int) -> dict[str, Any]:
        """What a page lacks that has all up to a row of a generation; everything where that holds no longer.

        Returns:
            `axes`: steps and seconds, each pair once; `curves`: by name `[points that stay, axis, means, smallest,
            largest]`, the last two None where every point is one value; `odd`: by name step and word of the first value
            that is no number.
        """
        known = row if generation == self.generation and row <= self.rows else -1
        axes: dict[tuple[tuple[float, ...], ...], int] = {}
        curves = {}
        for name, curve in self.curves.items():
            kept, points = curve.since(known)
            if not points and known >= curve.redone:
                continue
            columns = list(zip(*points, strict=True)) if points else [()] * 7
            axis = axes.setdefault((columns[0], columns[1]), len(axes))
            low, high = (columns[3], columns[4]) if curve.share > 1 else (None, None)
            curves[name] = [
                kept,
                axis,
                *(column and [_short(one) for one in column] for column in (columns[2], low, high)),
            ]
        return {
            "generation": self.generation, "row": self.rows, "whole": known < 0, "episodes": self.episodes,
            "axes": [[list(steps), [round(one, 1) for one in seconds]] for steps, seconds in axes], "curves": curves,
            "odd": {name: curve.odd for name, curve in self.curves.items() if curve.odd},
            "left_out": len(self.left_out),
        }  # fmt: skip


def _number(value: Any) -> float | None:
    """A number of a row; None for what is none (true and false are none)."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _short(value: float) -> float:
    return float(f"{value:.6g}")
