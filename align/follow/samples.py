"""The last samples of a run: what its policy said, from the newest file of rollouts or completions in its folder."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from align.data import text
from align.run.errors import RunError
from align.run.received import files
from align.run.received.screen import plain

# Folders in which recipes leave samples, and how the files end; the first that holds one counts
PLACES = (("rollouts", ".parquet"), ("completions", ".jsonl"), ("data", ".jsonl"))
SHOWN = 6  # samples
LONGEST = 3000  # characters of a text
HEAD = 1 << 20  # bytes of a file of lines in which they are looked for
LARGEST = 1 << 26  # bytes of a file of columns, and of what it unpacks to
NUMBERS = ("score", "reward", "gold", "kl", "tokens", "length")  # shown beside a sample, where a file has them
WANTED = ("prompt", "completion", "completions", "stopped", *NUMBERS)


def newest(folder: Path) -> list[Path]:
    """Files of samples in a run's folder, the newest first; none behind links."""
    for name, ending in PLACES:
        place = folder / name
        if place.is_symlink() or not place.is_dir():
            continue
        with os.scandir(place) as found:
            kept = [(entry.stat().st_mtime_ns, entry.name) for entry in found
                    if entry.name.endswith(ending) and entry.is_file(follow_symlinks=False)]  # fmt: skip
        if kept:
            return [place / file for _, file in sorted(kept, reverse=True)[:2]]
    return []


def mark(folder: Path) -> str:
    """Another word whenever there are other samples; empty where there are none."""
    found = newest(folder)
    return f"{found[0].name} {found[0].stat().st_mtime_ns}" if found else ""


def last(folder: Path) -> dict[str, Any]:
    """The last samples as texts: `file`, and `rows` of prompt, completions and numbers.

    The newest file may be half written; then it is the one before.
    """
    for file in newest(folder):
        try:
            rows = _columns(file) if file.suffix == ".parquet" else _lines(file)
        except (OSError, RunError, ValueError, NotImplementedError, TypeError):
            continue
        if found := [shown for row in rows if (shown := _shown(row)) is not None]:
            return {"file": plain(str(file.relative_to(folder))), "rows": found[:SHOWN]}
    return {"file": "", "rows": []}


def _columns(file: Path) -> list[dict[str, Any]]:
    """The first rows of a parquet file.

    Raises:
        ValueError: it is none, or a larger one than is read here.
    """
    import pyarrow.parquet as pq

    with files.opened(file) as stream:
        if os.fstat(stream.fileno()).st_size > LARGEST:
            raise ValueError("too large")
        table = pq.ParquetFile(stream)
        if not table.num_row_groups or table.metadata.row_group(0).total_byte_size > LARGEST:
            raise ValueError("nothing in it, or too much")
        names = [name for name in WANTED if name in table.schema_arrow.names]
        batch = next(table.iter_batches(batch_size=SHOWN, row_groups=[0], columns=names), None)
        return [] if batch is None else batch.to_pylist()


def _lines(file: Path) -> list[dict[str, Any]]:
    """The first whole rows of a file of lines."""
    with files.opened(file) as stream:
        block = stream.read(HEAD)
    rows = []
    for line in block[: block.rfind(b"\n") + 1].splitlines():
        row = files.parsed(line)
        if isinstance(row, dict) and "prompt" in row:
            rows.append(row)
        if len(rows) == SHOWN:
            break
    return rows


def _shown(row: dict[str, Any]) -> dict[str, Any] | None:
    said = row.get("completions") if "completions" in row else [row.get("completion")]
    if not isinstance(said, list) or all(one is None for one in said):
        return None
    numbers = {name: float(f"{row[name]:.4g}") for name in NUMBERS if _is_number(row.get(name))}
    cut = row.get("stopped") is False  # it went on to the longest answer
    return {
        "prompt": _text(row.get("prompt")),
        "completions": [_text(one) for one in said[:8]],
        "numbers": numbers,
        "cut": cut,
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> str:
    """A prompt or a completion for people, whatever somebody has written there."""
    try:
        words = text.readable(value) if isinstance(value, (str, list)) else str(value)
    except (KeyError, TypeError, AttributeError):
        words = str(value)
    return plain(words if len(words) <= LONGEST else f"{words[:LONGEST]}…")
