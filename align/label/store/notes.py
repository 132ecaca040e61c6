"""What judges said of each item, beside the labels: scores and choices, which a ranking alone does not tell."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from align.judge.rankers import Judgement
from align.run.errors import RunError
from align.run.received import files


class Notes:
    """What one judge said of each item, one JSON line each, beside the labels. The first line says who it is.

    Args:
        folder: `judges/`, made where it is not there.
        name: the judge's.
        identity: of its weights, or its model and prompt.

    Raises:
        RunError: another judge has used this name here.
    """

    def __init__(self, folder: Path, name: str, identity: str):
        folder.mkdir(parents=True, exist_ok=True)
        if folder.is_symlink():
            raise RunError(f"{folder} is a link, and links are not followed here; put a folder there")
        self.path = folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.jsonl"
        lines = read_lines(self.path)
        head = {"judge": name, "identity": identity}
        if lines and lines[0] != head:
            raise RunError(
                f"the name {name} was used in {self.path} by another judge ({lines[0].get('judge')}, other weights "
                "or another prompt); give this one a name of its own with --judge_name"
            )
        if not lines:
            self._add(json.dumps(head) + "\n")

    def keep(self, judgements: Sequence[Judgement]) -> None:
        """Add what was said now; of two lines about an item the later one holds."""
        said = (json.dumps(judgement.note()) + "\n" for judgement in judgements)
        self._add("".join(["\n", *said]))  # first the end of a line that a kill may have cut

    def _add(self, lines: str) -> None:
        with files.appended(self.path) as stream:
            stream.write(lines.encode())

    def failed(self) -> dict[str, int]:
        """The items that the judge could not rank when it was last asked, with the number of the note that says so."""
        last = {note["item"]: (number, note["problem"]) for number, note in enumerate(read_lines(self.path)[1:], 1)}
        return {item: number for item, (number, problem) in last.items() if problem}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file that a kill may have cut; none where there is no file."""
    found = []
    for line in files.text(path).split("\n") if path.is_file() else []:
        with contextlib.suppress(ValueError):
            found.append(files.parsed(line))
    return [line for line in found if isinstance(line, dict)]


def join_notes(folders: Sequence[Path]) -> dict[str, str]:
    """What one folder of all these would hold, by file name: every line once, in order.

    Raises:
        RunError: two judges of one name.
    """
    found: dict[str, dict[str, None]] = {}  # lines, as an ordered set
    for path in (file for folder in folders for file in sorted(folder.glob("*.jsonl"))):
        lines = [json.dumps(line) for line in read_lines(path)]
        held = found.setdefault(path.name, dict.fromkeys(lines[:1]))
        if lines[:1] != list(held)[:1]:
            raise RunError(
                f"{path} is by another judge than the notes of that name in another folder (other weights or another "
                "prompt), so they cannot be merged; judge again under another --judge_name"
            )
        held |= dict.fromkeys(lines)
    return {name: "".join(f"{line}\n" for line in lines) for name, lines in found.items()}


def read_notes(folder: Path) -> dict[str, dict[str, Judgement]]:
    """What every judge has said: judgements by item, by the judge's name."""
    found: dict[str, dict[str, Judgement]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        lines = read_lines(path)
        if lines and "judge" in lines[0]:
            said = [Judgement.read(line) for line in lines[1:]]
            found[lines[0]["judge"]] = {judgement.item: judgement for judgement in said}
    return found
