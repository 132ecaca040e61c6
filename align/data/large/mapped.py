"""Rows of a source to the tokens that are learnt, by `datasets.map` in several processes, in memory that does not grow.

Each process takes a part of the rows, in order, batch by batch. What it makes goes to a file; what it has to tell (the
account of each batch, the digest of each row) to files beside. Put together in order, they are the same for any number
of processes. A malformed row ends in one sentence, about the first such row: who meets one notes it, those who are
beyond it stop, those before it go on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import multiprocess
import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features, List, Value

from align.data import arrow
from align.data.encoding import ENCODERS, Encoder, encode
from align.data.forms import normal
from align.data.large import cached, pace
from align.data.splits import Report, row_digest
from align.run import device
from align.run.errors import DataError

BATCH = 128  # rows that are Python objects at once in a process
FEW = 2_000  # rows that are prepared in memory, in this process; and the fewest that another process is started for
MOST = 16  # processes, where the user names no number: each holds a tokenizer and a batch
DIGEST = 32  # bytes of a row's digest
IDS = List(Value("int32"))
WORDS, NUMBER = Value("string"), Value("float64")


def tokenise(
    rows: normal.NormalRows, tokenizer: Any, *, max_length: int | None, report: Report,
    encoder: Encoder | None = None, processes: int | None = None,
) -> Dataset:  # fmt: skip
    """Tokenise the rows of a source; `report` learns what became of them, their fingerprint included.

    Args:
        encoder: by default that of the rows' schema.
        processes: so many; by default one for each core, and fewer where there are few rows.

    Raises:
        DataError: for the first malformed row.
    """
    worker = _Worker(rows, encoder or ENCODERS[rows.schema], tokenizer, max_length)
    count = shared_by(len(rows), processes)
    with one_thread():
        if len(rows) <= FEW:
            table, account = worker.in_memory(rows.rows)
            made = Dataset(table, info=DatasetInfo(features=worker.features))
        else:
            parts = [
                rows.schema, rows.source, rows.prompt_format, max_length, worker.encoder.__qualname__,
                cached.contents(rows.rows), cached.tokens(tokenizer),
            ]  # fmt: skip
            folder = cached.kept(parts, lambda part: _map(worker, rows.rows, part, count, rows.source))
            made, account = arrow.opened(folder), read_account(json.loads((folder / "account.json").read_text()))
    account.not_read = list(dict.fromkeys([*rows.names, *account.not_read]))
    account.matter = list(dict.fromkeys([*rows.matter, *account.matter]))
    report.add(account)
    report.fingerprint = account.fingerprint
    unsaid = [name for name in made.column_names if made.data.column(name).null_count == len(made)]
    return made.remove_columns(unsaid) if len(unsaid) < len(made.column_names) else made


def shared_by(rows: int, asked: int | None) -> int:
    """How many processes share so many rows: as many as were asked for; else one a core, each with enough to do."""
    return min(asked or max(1, min(device.cores(), MOST, rows // FEW)), rows)


def _map(worker: _Worker, rows: Dataset, folder: Path, processes: int, source: str) -> None:
    """Fill a folder with what `arrow.opened` reads and an account of it."""
    worker.folder = folder
    several = processes if processes > 1 else None
    with pace.told(f"preparing {source}", len(rows), lambda: _size(folder) // DIGEST), causes():
        rows.map(
            worker, batched=True, batch_size=BATCH, with_indices=True, with_rank=True, num_proc=several,
            remove_columns=rows.column_names, features=worker.features, writer_batch_size=BATCH,
            cache_file_name=str(folder / "rows.arrow"), load_from_cache_file=False, new_fingerprint="align",
        )  # fmt: skip
    if wrong := worker.wrong():
        raise DataError(wrong[0].read_text())
    account, digest = Report(""), hashlib.sha256()
    for file in sorted(folder.glob("*.accounts")):
        for line in file.open():
            account.add(read_account(json.loads(line)))
        file.unlink()
    for file in sorted(folder.glob("*.digests")):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        file.unlink()
    account.fingerprint = digest.hexdigest()
    arrow.keep_features(folder, worker.features)
    (folder / "account.json").write_text(json.dumps(plain(account)))


def leave_interrupts(rank: int | None) -> None:
    """In a process of `datasets.map`: Ctrl-C is the main process's to tell."""
    if rank is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def causes() -> Iterator[None]:
    """Raise what ended `datasets.map`: while it ends it waits for its processes, and tells that this took too long."""
    try:
        yield
    except (RuntimeError, multiprocess.TimeoutError) as error:
        chain: list[BaseException] = [error]
        while chain[-1].__context__ is not None:
            chain.append(chain[-1].__context__)
        if any(isinstance(one, KeyboardInterrupt) for one in chain):
            raise KeyboardInterrupt from error
        if any("abruptly died" in str(one) for one in chain):
            raise DataError(
                "a process that prepared rows was killed, for want of memory as a rule; let fewer do it: "
                "--dataset_num_proc 1"
            ) from error
        raise


@dataclass
class _Worker:
    """What a process does with a batch of a source's rows; it is sent to each."""

    rows: Any
    encoder: Encoder
    tokenizer: Any
    max_length: int | None
    folder: Path | None = None

    def __post_init__(self) -> None:
        source = self.rows
        self.features = _features(source.schema, source.rows.features, self.tokenizer)
        self.rows = normal.NormalRows(None, source.schema, source.source, source.prompt_format)

    def in_memory(self, rows: Dataset) -> tuple[pa.Table, Report]:
        """All rows at once."""
        account, digest, tables = Report(""), hashlib.sha256(), []
        for begin in range(0, len(rows), BATCH):
            table, some, digests = self.made(rows[begin : begin + BATCH], begin)
            account.add(some)
            digest.update(digests)
            tables.append(table)
        account.fingerprint = digest.hexdigest()
        return pa.concat_tables(tables), account

    def made(self, batch: Any, first: int) -> tuple[pa.Table, Report, bytes]:
        """One batch: its examples, their account, the digests of its rows."""
        names = list(batch)
        raw = (dict(zip(names, values, strict=True)) for values in zip(*(batch[name] for name in names), strict=True))
        self.rows.names, self.rows.matter = [], []
        read = [self.rows.made(row, number) for number, row in enumerate(raw, first)]
        schema = self.rows.schema
        told = (r["text"] if schema == "text" else {k: v for k, v in r.items() if k != "origin"} for r in read)
        digests = b"".join(map(row_digest, told))
        settings: dict[str, Any] = {"max_length": self.max_length, "first": first + 1, "encoder": self.encoder}
        examples, account = encode(read, schema, self.tokenizer, **settings)
        if schema != "text":
            account.not_read, account.matter = self.rows.names, self.rows.matter
        columns = [_column([one.get(name) for one in examples], feature) for name, feature in self.features.items()]
        return pa.table(columns, schema=self.features.arrow_schema), account, digests

    def __call__(self, batch: Any, numbers: list[int], rank: int | None) -> pa.Table:
        """What `datasets.map` asks for."""
        leave_interrupts(rank)
        assert self.folder is not None
        if any(int(file.stem) < numbers[0] for file in self.wrong()):
            return self.features.arrow_schema.empty_table()
        try:
            table, account, digests = self.made(batch, numbers[0])
        except DataError as error:  # about the batch's first malformed row
            part = self.folder / f"{numbers[0]:012}.part"
            part.write_text(str(error))
            part.rename(part.with_suffix(".wrong"))
            return self.features.arrow_schema.empty_table()
        with (self.folder / f"{rank or 0:05}.accounts").open("a") as stream:
            stream.write(json.dumps(plain(account)) + "\n")
        with (self.folder / f"{rank or 0:05}.digests").open("ab") as file:
            file.write(digests)
        return table

    def wrong(self) -> list[Path]:
        """Notes about malformed rows, the first of them first."""
        assert self.folder is not None
        return sorted(self.folder.glob("*.wrong"))


def _features(schema: str, raw: Features, tokenizer: Any) -> Features:
    """The columns of what is made of rows: all that may be said; those in which nothing is are left out in the end."""
    if schema == "text":
        return Features({"text": WORDS} if tokenizer is None else {"input_ids": IDS})
    if schema == "sft":
        return Features({"input_ids": IDS, "labels": IDS})
    if schema == "preference":
        sides = dict.fromkeys(("prompt_ids", "chosen_ids", "rejected_ids"), IDS)
        return Features({"margin": NUMBER, "category": WORDS, "weight": NUMBER, "group": WORDS, **sides})
    beside = {name: feature for name, feature in raw.items() if name not in ("drop", "origin")}
    ours = dict.fromkeys(("prompt", "tools", "chat_template_kwargs"), arrow.Written())
    return Features({**beside, **ours, "input_ids": IDS})


def _column(values: list[Any], feature: Any) -> Any:
    """Values as Arrow holds those of a feature."""
    if feature == IDS:  # `Features` holds another object than it was given
        return pa.array(values, pa.list_(pa.int32()))
    if isinstance(feature, arrow.Written):
        return arrow.as_text(values)
    if feature in (WORDS, NUMBER):
        return pa.array(values, feature.pa_type)
    made = Dataset.from_dict({"it": values}, features=Features({"it": feature}))  # images, dates and what else there is
    return made.data.column("it").combine_chunks()


def plain(account: Report) -> dict[str, Any]:
    """An account as JSON."""
    found = {field.name: getattr(account, field.name) for field in fields(account)}
    return {name: sorted(value) if isinstance(value, set) else value for name, value in found.items()}


def read_account(told: dict[str, Any]) -> Report:
    """An account from its JSON."""
    counters = {name: Counter(told[name]) for name in ("dropped", "rankings", "forms")}
    return Report(**told | counters | {"settings": set(told["settings"])})


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.digests"))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Tokenizers without threads of their own: there are processes, and threads do not survive a fork."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        os.environ.pop(name)
        os.environ.update({} if before is None else {name: before})
