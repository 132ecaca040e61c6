"""Train and test: the raw splits of what was named, and an account of what became of their rows."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from align.data import arrow, load, pairs
from align.data.forms import asked, beside, schemas, sides
from align.run.arguments import DataArguments
from align.run.errors import DataError, in_words, one_sentence

HELD_OUT = 1_000  # rows that are read of a stream's test split, where --max_eval_rows says nothing
_AT_A_COMMIT = re.compile(r"hf://datasets/[^@]+@([0-9a-f]{40})/")


@dataclass
class Report:
    """What became of the rows of one split: for the first lines of a run and for its record."""

    source: str
    rows_in: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # by reason, those that are too long aside
    rows_out: int = 0
    examples: int = 0  # more than rows where a template renders the earlier turns of a conversation otherwise
    fingerprint: str = ""
    commits: list[str] = field(default_factory=list)  # of hub data sets
    first: dict[str, str] = field(default_factory=dict)  # the first row dropped for each reason, shortened
    rankings: Counter[str] = field(default_factory=Counter)  # read, pairs made, and what gave none, by reason
    too_long: int = 0
    longest: int = 0  # tokens
    limit: int | None = None  # tokens, by the flag `limit_flag`
    limit_flag: str = "max_length"
    forms: Counter[str] = field(default_factory=Counter)  # prompts by what they were taken for: text, chat
    not_read: list[str] = field(default_factory=list)  # columns
    matter: list[str] = field(default_factory=list)  # those of them that are often part of what is learnt
    settings: set[str] = field(default_factory=set)  # names in the rows' chat_template_kwargs

    def add(self, later: Report) -> None:
        """Take in the account of the rows that follow those that this one is of."""
        for name in ("rows_in", "rows_out", "examples", "too_long"):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.dropped.update(later.dropped)
        self.forms.update(later.forms)
        self.longest = max(self.longest, later.longest)
        self.first = later.first | self.first
        self.settings |= later.settings
        for mine, theirs in ((self.not_read, later.not_read), (self.matter, later.matter)):
            mine += [name for name in theirs if name not in mine]

    def __str__(self) -> str:
        if not self.rows_in:
            return f"{self.source}: rows are checked and counted as they arrive"
        reasons = [f"{count:,} {reason}" for reason, count in self.dropped.items()]
        reasons += [f"{self.too_long:,} longer than {self.limit:,} tokens"] if self.too_long else []
        ranked = f"{pairs.describe(self.rankings)}; " if self.rankings else ""
        more = f" as {self.examples:,} examples, turn by turn" if self.examples > self.rows_out else ""
        lost = ", ".join(reasons) or "none dropped"
        lines = [f"{self.source}: {ranked}{self.rows_in:,} rows in, {lost}, {self.rows_out:,} used{more}"]
        if self.too_long:
            lines.append(
                f"TOO LONG: {self.too_long / self.rows_in:.1%} of the rows are left out; the longest has "
                f"{self.longest:,} tokens, and --{self.limit_flag} {self.longest} would take them all"
            )
        lines += beside.not_read(self.not_read, self.matter)
        return "\n    ".join(lines)

    def as_dict(self) -> dict[str, Any]:
        optional = {
            "commits": self.commits,
            "rankings": dict(self.rankings),
            "too_long": self.too_long,
            "prompts": dict(self.forms),
            "not_read": self.not_read,
            "examples": self.examples if self.examples > self.rows_out else 0,
        }
        return {
            "source": self.source,
            "rows_in": self.rows_in,
            "dropped": dict(self.dropped),
            "rows_out": self.rows_out,
            "fingerprint": self.fingerprint,
            **{name: value for name, value in optional.items() if value},
        }


def commits(rows: Any) -> list[str]:
    """The commits of the hub's data sets that rows were read from, by the addresses of their files; none for others."""
    found = (_AT_A_COMMIT.match(address) for address in rows.info.download_checksums or {})
    return sorted({match[1] for match in found if match})


def fingerprint(rows: Any) -> str:
    """SHA-256 over the SHA-256 of each row, so that the same rows have the same fingerprint wherever they came from."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row_digest(row))
    return digest.hexdigest()


def row_digest(row: Any) -> bytes:
    """What stands for one row in the fingerprint of all."""
    return hashlib.sha256(json.dumps(row, sort_keys=True, default=str).encode()).digest()


def check_dropped(report: Report, args: DataArguments) -> None:
    """Stop where more rows were dropped than the user said may be: too long ones, and others.

    Raises:
        DataError: with the reasons, the first such row, and the ways on.
    """
    lost = sum(count for reason, count in report.dropped.items() if reason != sides.BAD)  # the data set's own word
    unfit = lost > args.max_dropped * report.rows_in
    long = report.too_long > args.max_too_long * report.rows_in
    if report.rows_out and not unfit and not long:
        return
    all_lost = sum(report.dropped.values()) + report.too_long
    lines = [
        f"{report.source}: {all_lost} of {report.rows_in} rows ({all_lost / report.rows_in:.1%}) cannot be used:",
        *(f"    {count} {reason}, the first: {report.first[reason]}" for reason, count in report.dropped.items()),
    ]
    ways = []
    if report.too_long:
        lines.append(f"    {report.too_long} longer than {report.limit} tokens, the first: {report.first['too long']}")
        if long or not report.rows_out:
            ways.append(f"raise --{report.limit_flag} (the longest row has {report.longest} tokens)")
    if lost and (unfit or not report.rows_out):
        ways.append("mend them")
    if report.rows_out:
        flags = {"max_too_long": report.too_long if long else 0, "max_dropped": lost if unfit else 0}
        accept = (f"--{flag} {count / report.rows_in + 0.005:.2f}" for flag, count in flags.items() if count)
        ways.append(f"accept the loss with {' '.join(accept)}")
    else:
        ways.append("name other rows: of these, no row would be left")
    raise DataError("\n".join(lines) + f"\n  {', or '.join(ways)}")


@dataclass
class Splits:
    """Tokenised rows to train and to evaluate on, with their reports."""

    train: Any
    test: Any
    reports: dict[str, Report]
    shared: dict[str, Any] | None = None  # prompts on both sides: `align.data.overlap.prompts.within`
    stream: Any = None  # what reads the rows to train on where they are read as they arrive

    def __str__(self) -> str:
        lines = [f"  {name}: {report}" for name, report in self.reports.items()]
        lines += [f"  {line}" for line in taken_for(sum((r.forms for r in self.reports.values()), Counter()))]
        return "\n".join(lines + ([f"  {self.shared['line']}"] if self.shared else []))

    def as_dict(self) -> dict[str, Any]:
        found = {name: report.as_dict() for name, report in self.reports.items()}
        return found | ({"shared_prompts": self.shared} if self.shared else {})


def taken_for(forms: Counter[str]) -> list[str]:
    """What the prompts were taken for, and the flag that says otherwise."""
    said = {
        "text": "plain text, without the chat template (--prompt_format chat makes each a user's turn)",
        "chat": "chat turns, through the chat template",
    }
    if len(forms) == 1:
        return [f"prompts: {said[next(iter(forms))]}"]
    return [f"prompts: {count:,} as {said[form]}" for form, count in sorted(forms.items())]


def read(args: DataArguments, *, seed: int, stream: bool = False) -> dict[str, Any]:
    """The raw train split and, where there is one or `test_split_size` cuts one off, the test split (else None)."""
    train = load.load(args, args.dataset_train_split, seed=seed, stream=stream)
    if train is None:
        raise DataError(
            f"{args.dataset_name} has no split {args.dataset_train_split!r}; name one with --dataset_train_split"
        )
    test = load.load(args, args.dataset_test_split, seed=seed, stream=stream)
    if test is None and args.test_split_size:
        train, test = _halves(train, args, seed)
        if args.max_eval_rows is not None:
            test = test.select(range(min(args.max_eval_rows, len(test))))
    elif stream and test is not None:
        with readable(f"{args.dataset_name or 'mixture'} ({args.dataset_test_split})"):
            test = arrow.of_rows(test if args.max_eval_rows is not None else test.take(HELD_OUT))
    elif args.test_split_size and os.environ.get("RANK", "0") == "0":
        print(f"test_split_size: nothing is held out, as {args.dataset_name or 'the mixture'} has a split "
              f"{args.dataset_test_split}", flush=True)  # fmt: skip
    return {"train": train, "test": test}


@contextlib.contextmanager
def readable(what: str) -> Iterator[None]:
    """Rows that are read when they are asked for: what the hub, a file system or a reader raises is about them.

    Raises:
        DataError: for such.
    """
    try:
        with one_sentence(f"{what} cannot be read", kind=DataError):
            yield
    except OSError as error:
        raise DataError(f"{what} cannot be read: {in_words(error)}") from error


def _halves(rows: Any, args: DataArguments, seed: int) -> tuple[Any, Any]:
    """Cut `test_split_size` off: by prompt where the rows have one, so that no prompt is on both sides."""
    assert args.test_split_size is not None
    size = int(args.test_split_size) if args.test_split_size >= 1 else args.test_split_size
    try:
        named = schemas.rename(rows, args.columns)
        if "text" in (named.column_names or []) and _prompt_of(next(iter(named), {}), "") is None:
            halves = rows.train_test_split(test_size=size, seed=seed)
            return halves["train"], halves["test"]
        where = (f"{args.dataset_name}, row {number}" for number in itertools.count(1))
        useful = [name for name in named.column_names if name in asked.COLUMNS]
        asking = named.select_columns(useful) if useful else named
        names = (int(_prompt_of(row, at) or pairs.digest(at), 16) for row, at in zip(asking, where, strict=False))
        keys = np.fromiter(names, np.uint64, len(named))
        kept, held = pairs.split_by_prompt(keys, size, shuffle=random.Random(f"split-{seed}").shuffle)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"test_split_size={args.test_split_size}: {error}") from error
    return rows.select(kept), rows.select(held)


def _prompt_of(row: dict, where: str) -> str | None:
    """16 hex digits for a raw row's prompt, in whatever schema it is; None for a row without one."""
    try:
        return pairs.prompt_key(schemas.prompt(row, where)["prompt"])
    except schemas.NoForm:
        return None
