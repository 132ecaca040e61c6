"""Where rankings are read from: a labels file, the folder that holds one, or rows in the `rankings` schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from align.data import load, pairs
from align.label.store.database import ENDINGS, FILE_NAME, MAKES
from align.label.store.names import folded
from align.label.store.store import Store
from align.run.arguments import DataArguments
from align.run.errors import ConfigError, DataError

PERSON = "person"


def labels_file(source: str) -> Path | None:
    """The labels file that `source` is or holds; None where it is something else."""
    path = Path(source)
    if path.is_file():
        return path if path.suffix in ENDINGS else None
    found = sorted(file for end in ENDINGS for file in path.glob(f"*{end}")) if path.is_dir() else []
    if len(found) > 1 and path / FILE_NAME not in found:
        raise DataError(f"{source} holds several labels files; name one: {', '.join(map(str, found))}")
    return path / FILE_NAME if path / FILE_NAME in found else found[0] if found else None


def stored(source: str) -> Path:
    """The labels file that `source` is or holds.

    Raises:
        ConfigError: where there is none, with the command that makes one.
    """
    if file := labels_file(source):
        return file
    raise ConfigError(f"{source} holds no labels; {MAKES} makes them")


def read(source: str, *, kinds: list[str] | None = None, annotators: list[str] | None = None) -> list[dict[str, Any]]:
    """The rankings of `source`, each with its `split`.

    Args:
        source: a labels file (SQLite) or its folder; a finished run, folder, file or hub id with `rankings` rows.
        kinds: only these kinds of annotators (`person`, `model`, `simulated`).
        annotators: only these names, whatever their capitals.

    Raises:
        DataError: nothing there, rows without ranks, an annotator who is not among them.
    """
    file = labels_file(source)
    rows = _stored(file) if file else _rows(source)
    if not rows:
        raise DataError(f"{source}: nothing has been ranked yet; align label … opens the page to do it")
    names = {str(row.get("annotator")) for row in rows}
    wanted, known = set(map(folded, annotators or [])), set(map(folded, names))
    if missing := [name for name in annotators or [] if folded(name) not in known]:
        raise DataError(f"{source}: nobody called {', '.join(sorted(missing))} ranked here; there are {sorted(names)}")
    kept = [
        row
        for row in rows
        if (not kinds or str(row.get("kind") or PERSON) in kinds)
        and (not wanted or folded(str(row.get("annotator"))) in wanted)
    ]
    if not kept:
        found = sorted({str(row.get("kind") or PERSON) for row in rows})
        raise DataError(f"{source}: no ranking by these annotators; the kinds there are: {', '.join(found)}")
    return kept


def _stored(file: Path) -> list[dict[str, Any]]:
    with Store(file, read_only=True) as store:
        return list(store.rankings())


def _rows(source: str) -> list[dict[str, Any]]:
    """Rows of a data set, checked: for those that did not come through our store."""
    out: list[dict[str, Any]] = []
    args = DataArguments(dataset_name=source)
    for split in ("train", "test"):
        loaded = load.load(args, split, seed=0)
        for number, row in enumerate(loaded if loaded is not None else []):
            where = f"{source} ({split}), row {number + 1}"
            if missing := [name for name in ("prompt", "completions", "ranking") if name not in row]:
                raise DataError(f"{where}: has no {', '.join(missing)}; rankings have prompt, completions, ranking")
            if not pairs.is_undecided(row):
                pairs.check(row, where)
            out.append({**row, "split": split})
    return out
