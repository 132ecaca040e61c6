"""Where the labels are kept, and what is ranked: a run's, a file's or a hub data set's rows into the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from align.config import DataArguments, DataError, fail
from align.label.config import LabelArguments
from align.label.database import FILE_NAME
from align.label.source import DATABASES
from align.label.store import Store
from align.record import parent_problem

OVERLAP, REPEATS = 1, 0.05  # where neither the command line nor the labels file says otherwise


def take_in(store: Store, source: str, args: LabelArguments) -> str:
    """Put a run's or a file's rows into the store; what became of them, in words.

    Raises:
        DataError: nothing there, no completions, K = 1, nothing but completions that are all the same.
    """
    from align import loading

    read = added = 0
    left_out: dict[str, int] = {}
    held = store.settings() or (OVERLAP, REPEATS)
    overlap, repeats = args.overlap or held[0], held[1] if args.repeats is None else args.repeats
    with store.transaction():
        for split in ("train", "test"):
            rows = loading.load(DataArguments(dataset_name=source), split, seed=0)
            if rows is None:
                continue
            if "completions" not in (rows.column_names or []):
                raise DataError(
                    f"{source} has the columns {', '.join(rows.column_names or [])}; ranking needs prompt and "
                    "completions: sample some with recipes/sample.py, or bring pairs in with `align import`"
                )
            try:
                added += store.add(map(_without_none, rows), split=split, overlap=overlap, repeats=repeats)
            except DataError as error:
                raise DataError(f"{source}, {split}, {error}") from None
            read += len(rows)
            for reason, count in store.left_out.items():
                left_out[reason] = left_out.get(reason, 0) + count
    others = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
    if not store.counts()["items"]:
        raise DataError(
            f"{source}: none of its {read:,} prompts has anything to rank ({others or 'there are no rows'})"
        )
    return f"{read:,} prompts in {source}: {added:,} new" + (f"; left out: {others}" if others else "")


def _without_none(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the columns that only other rows have."""
    return {key: value for key, value in row.items() if value is not None}


def places(args: LabelArguments) -> tuple[Path, str | None]:
    """Where the labels are kept, and the rows to take in (None: the source is labels already)."""
    source = Path(str(args.source))
    if source.suffix in DATABASES or (source / FILE_NAME).is_file():
        file = source if source.suffix in DATABASES else source / FILE_NAME
        if args.output_dir and Path(args.output_dir) != file.parent:
            fail([f"{file} is where the labels are; copy it to {args.output_dir} yourself, or leave --output_dir out"])
        return file, None
    if problem := parent_problem(str(args.source), allow_hub=True):
        raise DataError(f"source: {problem}")
    if not args.output_dir and not source.exists():
        fail([f"output_dir is needed, for {source} is not a file here: --output_dir runs/…/label"])
    folder = Path(args.output_dir) if args.output_dir else source.parent / "label"
    return folder / FILE_NAME, str(args.source)
