"""The runs that a run comes from, up to the checkpoint that was there first, as far as their records are here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from align.run.errors import RunError
from align.run.lineage import read_record, run_directory
from align.run.received import files

FARTHEST = 50  # parents: a record that names itself must end
LICENCE = re.compile(r"^license:\s*[\"']?([\w.+-]+)[\"']?\s*$", re.MULTILINE)
CARD = 1 << 20  # bytes of a card


class Ancestor(NamedTuple):
    """A model on the way, or rows: where it is, what made it, and what is known of its licence."""

    path: str
    recipe: str | None
    hash: str | None
    origin: dict[str, Any]
    licence: str | None


def line(path: str | None) -> list[Ancestor]:
    """A model, its parent, and so on: the last is the one whose own parent no record here names."""
    found: list[Ancestor] = []
    while path and path not in [one.path for one in found] and len(found) < FARTHEST:
        found.append(of(path))
        record = _record(path)
        parent = (record.get("parents") or {}).get("model") or {}
        begun = (record.get("config") or {}).get("model_config")  # from random weights: what it names is a tokenizer
        path = None if begun else parent.get("path")
    return found


def of(path: str, entry: dict[str, Any] | None = None) -> Ancestor:
    """One parent. `entry`: what the child's record says of it."""
    record = _record(path)
    origin = record.get("origin")
    origin = origin if isinstance(origin, dict) else {}
    said = origin.get("licence") or of_card(Path(path))
    known = {**record, **(entry or {})}
    return Ancestor(path, known.get("recipe"), known.get("hash"), origin, str(said) if said else None)


def licence(found: list[Ancestor]) -> str | None:
    """Of the nearest model that has one named."""
    return next((one.licence for one in found if one.licence and one.licence != "not named"), None)


def of_card(folder: Path) -> str | None:
    """The licence that a folder's card (README.md, as the hub reads it) names; None without."""
    try:
        text = files.text(folder / "README.md", CARD)
    except (OSError, RunError):
        return None
    head = text[4:].partition("\n---")[0] if text.startswith("---\n") else ""
    found = LICENCE.search(head)
    return found[1] if found else None


def _record(path: str) -> dict[str, Any]:
    folder = run_directory(path) if Path(path).exists() else None
    return {} if folder is None else read_record(folder) or {}
