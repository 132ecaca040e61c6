"""Where the labels are kept, and what is ranked: a run's, a file's or a hub data set's rows into the store."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from align.data.forms import schemas
from align.label.config import LabelArguments
from align.label.store.database import ENDINGS, FILE_NAME
from align.label.store.items import MOST, item
from align.label.store.source import labels_file
from align.label.store.store import Store
from align.run.arguments import DataArguments
from align.run.errors import DataError, fail, recipe
from align.run.lineage import parent_problem

SHARED_BY, REPEATS = 1, 0.05  # where neither the command line nor the labels file says otherwise


def take_in(store: Store, source: str, args: LabelArguments) -> str:
    """Put a run's or a file's rows into the store; what became of them, and what else is there, in words.

    Raises:
        DataError: nothing there, no completions, K = 1, nothing but completions that are all the same.
    """
    from align.data import load

    read = added = 0
    left_out: Counter[str] = Counter()
    before, here = store.counts()["items"], set[str]()
    held = store.settings() or (SHARED_BY, REPEATS)
    shared_by, repeats = args.overlap or held[0], held[1] if args.repeats is None else args.repeats
    with store.transaction():
        for split in ("train", "test"):
            rows = load.load(DataArguments(dataset_name=source), split, seed=0)
            if rows is None:
                continue
            if "completions" not in (rows.column_names or []):
                raise DataError(
                    f"{source} has the columns {', '.join(rows.column_names or [])}; ranking needs prompt and "
                    f"completions: sample some with {recipe('sample')}, or bring pairs in with `align import`"
                )
            try:
                given = (_rankable(row, f"row {number}", left_out) for number, row in enumerate(rows, 1))
                added += store.add(given, split=split, shared_by=shared_by, repeats=repeats)
            except DataError as error:
                raise DataError(f"{source}, {split}, {error}") from None
            read += len(rows)
            left_out += store.left_out
            here |= {item(_rankable(row, source, Counter()), source, split).id for row in rows} if before else set()
    others = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
    if not store.counts()["items"]:
        raise DataError(
            f"{source}: none of its {read:,} prompts has anything to rank ({others or 'there are no rows'})"
        )
    told = f"{read:,} prompts in {source}: {added:,} new" + (f"; left out: {others}" if others else "")
    if before and (more := sum(row["id"] not in here for row in store.all("SELECT id FROM items"))):
        told += (
            f"\n{store.path} holds {more:,} other items, which are asked about as well; to rank these alone, keep them "
            "in a folder of their own: --output_dir …"
        )
    return told


def _rankable(row: dict[str, Any], where: str, left_out: Counter[str]) -> dict[str, Any]:
    """A row with its prompt as training reads it, without the columns that only other rows have.

    And without a written answer that is one too many.
    """
    read = schemas.ranking(row, where)
    row = {key: read[key] for key in ("prompt", *row) if read[key] is not None}
    if row.get("written") and len(row["completions"]) == MOST + 1:  # an export of 9, the annotator's own after them
        left_out[f"written answers after {MOST} others"] += 1
        row |= {name: row[name][:MOST] for name in ("completions", "sources") if name in row}
    return row


def places(args: LabelArguments) -> tuple[Path, str | None]:
    """Where the labels are kept, and the rows to take in (None: the source is labels already)."""
    source = Path(str(args.source))
    if file := labels_file(str(source)) or (source if source.suffix in ENDINGS else None):
        if args.output_dir and Path(args.output_dir) != file.parent:
            fail([f"{file} is where the labels are; copy it to {args.output_dir} yourself, or leave --output_dir out"])
        return file, None
    if problem := parent_problem(str(args.source), allow_hub=True):
        raise DataError(f"source: {problem}")
    if not args.output_dir and not source.exists():
        fail([f"output_dir is needed, for {source} is not a file here: --output_dir runs/…/label"])
    # Files of one folder are sources of their own; the runs beside a run are its stages
    name = f"label-{Path(source.name.removesuffix('.gz')).stem}" if source.is_file() else "label"
    folder = Path(args.output_dir) if args.output_dir else source.parent / name
    return folder / FILE_NAME, str(args.source)
