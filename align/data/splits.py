"""Train and test: the raw splits of what was named, and an account of what became of their rows."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from align.data import load, pairs
from align.data.forms import schemas
from align.run.arguments import DataArguments
from align.run.errors import DataError


@dataclass
class Report:
    """What became of the rows of one split: for the first lines of a run and for its record."""

    source: str
    rows_in: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    rows_out: int = 0
    examples: int = 0  # more than rows where a template renders the earlier turns of a conversation otherwise
    fingerprint: str = ""
    first: dict[str, str] = field(default_factory=dict)  # the first row dropped for each reason, shortened
    rankings: Counter[str] = field(default_factory=Counter)  # read, pairs made, and what gave none, by reason

    def __str__(self) -> str:
        lost = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items()) or "none dropped"
        ranked = f"{pairs.describe(self.rankings)}; " if self.rankings else ""
        more = f" as {self.examples:,} examples, turn by turn" if self.examples > self.rows_out else ""
        return f"{self.source}: {ranked}{self.rows_in:,} rows in, {lost}, {self.rows_out:,} used{more}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "rows_in": self.rows_in,
            "dropped": dict(self.dropped),
            "rows_out": self.rows_out,
            **({"examples": self.examples} if self.examples > self.rows_out else {}),
            "fingerprint": self.fingerprint,
            **({"rankings": dict(self.rankings)} if self.rankings else {}),
        }


def fingerprint(rows: Any) -> str:
    """SHA-256 over the rows themselves, so that the same rows have the same fingerprint wherever they came from."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def check_dropped(report: Report, allowed: float) -> None:
    """Stop where more rows were dropped than the user said may be.

    Raises:
        DataError: with the reasons, the first such row, and the two ways on.
    """
    lost = sum(report.dropped.values())
    if not lost or (report.rows_out and lost <= allowed * report.rows_in):
        return
    share = lost / report.rows_in
    lines = [f"{report.source}: {lost} of {report.rows_in} rows ({share:.1%}) cannot be used:"]
    for reason, count in report.dropped.items():
        lines.append(f"    {count} {reason}, the first: {report.first[reason]}")
    longest = report.first["longest"]
    ways = f"raise --max_length (the longest row has {longest} tokens), " if "longer" in lines[1] else "mend them, "
    way_on = f"or accept the loss with --max_dropped {share + 0.005:.2f}" if report.rows_out else "no row would be left"
    raise DataError("\n".join(lines) + f"\n  {ways}{way_on}")


@dataclass
class Splits:
    """Tokenised rows to train and to evaluate on, with their reports."""

    train: Any
    test: Any
    reports: dict[str, Report]
    shared: dict[str, Any] | None = None  # prompts on both sides: `align.data.overlap.prompts.within`

    def __str__(self) -> str:
        lines = [f"  {name}: {report}" for name, report in self.reports.items()]
        return "\n".join(lines + ([f"  {self.shared['line']}"] if self.shared else []))

    def as_dict(self) -> dict[str, Any]:
        found = {name: report.as_dict() for name, report in self.reports.items()}
        return found | ({"shared_prompts": self.shared} if self.shared else {})


def read(args: DataArguments, *, seed: int) -> dict[str, Any]:
    """The raw train split and, where there is one or `test_split_size` cuts one off, the test split (else None)."""
    train = load.load(args, args.dataset_train_split, seed=seed)
    if train is None:
        raise DataError(
            f"{args.dataset_name} has no split {args.dataset_train_split!r}; name one with --dataset_train_split"
        )
    test = load.load(args, args.dataset_test_split, seed=seed)
    if test is None and args.test_split_size:
        train, test = _halves(train, args, seed)
        if args.max_eval_rows is not None:
            test = test.select(range(min(args.max_eval_rows, len(test))))
    return {"train": train, "test": test}


def _halves(rows: Any, args: DataArguments, seed: int) -> tuple[Any, Any]:
    """Cut `test_split_size` off: by prompt where the rows have one, so that no prompt is on both sides."""
    assert args.test_split_size is not None
    size = int(args.test_split_size) if args.test_split_size >= 1 else args.test_split_size
    try:
        named = schemas.rename(rows, args.columns)
        if "text" in (named.column_names or []):
            halves = rows.train_test_split(test_size=size, seed=seed)
            return halves["train"], halves["test"]
        keys = [_prompt_of(row, f"{args.dataset_name}, row {number + 1}") for number, row in enumerate(named)]
        kept, held = pairs.split_by_prompt(keys, size, shuffle=random.Random(f"split-{seed}").shuffle)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"test_split_size={args.test_split_size}: {error}") from error
    return rows.select(kept), rows.select(held)


def _prompt_of(row: dict, where: str) -> str:
    """What names a raw row's prompt, in whatever schema it is; a row without one stands for itself."""
    try:
        return pairs.prompt_key(schemas.prompt(row, where)["prompt"])
    except KeyError:
        return where
