"""Rows as they arrive: normalised, checked, encoded and counted like rows that are read first, and never all at once.

Readers share a stream: every process has one, or as many as its data loader has workers. Each reads files (or parts of
them) of its own where there are enough, and else every so-manieth row.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.data import encoding, preview
from align.data.forms import schemas
from align.data.forms.normal import NormalRows
from align.data.large import mapped
from align.data.splits import Report, check_dropped, readable
from align.run import launch
from align.run.arguments import DataArguments, StreamArguments
from align.run.errors import DataError

AT_ONCE = 100  # rows that are encoded together
HEAD = 100  # rows that are checked before a run starts
ENOUGH = 1_000  # rows after which the shares of dropped ones are held to what is allowed

Through = Callable[[Iterator[dict]], Iterator[dict]]


@dataclass
class How:
    """How a stream is read: by how many readers, and from how many examples the next one is drawn."""

    readers: int = 1
    buffer: int = 1_000


def how(stream_args: StreamArguments, args: Any) -> How | None:
    """How a run reads its stream, None where it reads its rows first. Its trainer is told that processes read alone."""
    if not stream_args.dataset_streaming:
        return None
    args.accelerator_config.dispatch_batches = False
    return How(launch.world_size() * max(1, args.dataloader_num_workers), stream_args.shuffle_buffer_size)


@dataclass
class Stream:
    """The rows of a stream, and what is made of them."""

    rows: NormalRows  # over a `datasets.IterableDataset`
    report: Report  # with the most tokens that a row may have
    tokenizer: Any
    args: DataArguments
    how: How
    seed: int
    head: list[dict]  # examples of the first rows
    folder: str  # where each reader leaves its account
    kept: Any = None  # removes the folder with the stream, in the process that made it

    @classmethod
    def of(
        cls, rows: Any, schema: str, report: Report, tokenizer: Any, args: DataArguments, how: How, *, seed: int
    ) -> Stream:
        """The stream of a `datasets.IterableDataset`. Its first rows are checked, as every process does.

        Raises:
            DataError: for a malformed row among them, and where none of them can be used.
        """
        normal = NormalRows(schemas.rename(rows, args.columns), schema, report.source, args.prompt_format)
        if args.preview:
            encoder = preview.document if schema == "text" else encoding.ENCODERS[schema]
            with readable(report.source):
                preview.show(normal, report.source, encoder, tokenizer, report.limit)
        kept = tempfile.TemporaryDirectory(prefix="stream-")
        stream = cls(normal, report, tokenizer, args, how, seed, [], kept.name, kept)
        stream.head, account = next(stream._batches(normal.rows, 1, 1, HEAD), ([], Report("")))
        if not account.rows_in:
            raise DataError(f"{report.source}: the data set is empty")
        if not stream.head:
            stream._hold(account)
        return stream

    def __getstate__(self) -> dict[str, Any]:
        """For workers."""
        return self.__dict__ | {"kept": None}

    def dataset(self, through: Through | None = None) -> Any:
        """What to train on: pass after pass, for `max_steps` ends a run.

        (A Trainer that began the stream anew would wait for ever where one pass has fewer batches than a step takes.)

        Args:
            through: what becomes of the examples that one reader has in one pass.
        """
        from datasets import IterableDataset

        given = {"readers": [*range(self.how.readers)], "stream": self, "through": through}
        return IterableDataset.from_generator(_read, gen_kwargs=given)  # lists are what is shared by processes, workers

    def once(self, reader: int, turn: int, tell: bool) -> Iterator[dict]:
        """The examples that a reader finds in one pass, in random order as far as the buffer reaches.

        Args:
            tell: leave an account of them.
        """
        rows, where, first, step = self._part(reader)
        drawn = random.Random(f"{self.seed}-{reader}-{turn}")
        if self.how.buffer and rows.num_shards > 1:  # the files, or their parts, in another order
            rows = rows.shuffle(seed=drawn.randrange(2**32), buffer_size=1, max_buffer_input_shards=1)
            where += ", files in random order"
        account = Report("")
        told = Path(self.folder) / f"{reader}.json"

        def arrived() -> Iterator[dict]:
            for examples, some in self._batches(rows, first, step, AT_ONCE, where):
                account.add(some)
                if tell:
                    told.with_suffix(".part").write_text(json.dumps(mapped.plain(account)))
                    told.with_suffix(".part").rename(told)
                if account.rows_in >= ENOUGH:
                    self._hold(account)
                yield from examples
            self._hold(account)

        yield from _drawn(arrived(), self.how.buffer, drawn)

    def _part(self, reader: int) -> tuple[Any, str, int, int]:
        """A reader's rows, which they are, the number of the first, and how many numbers further the next one is."""
        rows, readers = self.rows.rows, self.how.readers
        if readers == 1:
            return rows, "", 1, 1
        if rows.num_shards >= readers:
            mine = rows.shard(num_shards=readers, index=reader)
            return mine, f", part {reader + 1} of {readers}", 1, 1
        mine = rows.filter(lambda _, number: number % readers == reader, with_indices=True)
        return mine, "", reader + 1, readers

    def _batches(
        self, rows: Any, first: int, step: int, size: int, where: str = ""
    ) -> Iterator[tuple[list[dict], Report]]:
        """Examples of some rows at once, and the account of those rows. `where` says which rows are counted."""
        here = dataclasses.replace(self.rows, source=self.rows.source + where)
        batches = rows.iter(size)  # `iter(rows)` would share them among a loader's workers once more
        settings: dict[str, Any] = {"max_length": self.report.limit, "step": step}
        for number in itertools.count(first, size * step):
            with readable(f"{here.source} beyond row {max(0, number - step):,}"):
                batch = next(batches, None)
            if batch is None:
                return
            raw = (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))
            numbered = zip(raw, itertools.count(number - 1, step), strict=False)
            normal = [here.made(row, at) for row, at in numbered]
            examples, account = encoding.encode(normal, self.rows.schema, self.tokenizer, first=number, **settings)
            account.not_read, account.matter = list(here.names), list(here.matter)
            yield examples, account

    def _hold(self, account: Report) -> None:
        """Stop where more of the rows read so far were dropped than may be, or none of a whole pass is left."""
        if self.rows.schema != "text" and account.rows_in:
            source = f"{self.report.source}, the {account.rows_in:,} rows read so far"
            check_dropped(dataclasses.replace(account, source=source, limit=self.report.limit), self.args)

    def finish(self) -> None:
        """Put the accounts of all readers into the report, on every process. Rows are counted the first time only."""
        mine = {file.stem: json.loads(file.read_text()) for file in Path(self.folder).glob("*.json")}
        found: dict[str, dict] = {}
        for told in _everyone(mine):  # a trainer looks at a first example before it shares the readers
            for reader, account in told.items():
                found[reader] = max(found.get(reader, account), account, key=lambda one: one["rows_in"])
        for account in found.values():
            self.report.add(mapped.read_account(account))


def _read(readers: list[int], stream: Stream, through: Through | None) -> Iterator[dict]:
    """The generator of some readers' examples, over and over."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads do not survive a fork: a worker would wait for ever
    for turn in itertools.count():
        made = False
        for reader in readers:
            examples = stream.once(reader, turn, tell=turn == 0)
            for one in through(examples) if through else examples:
                made = True
                yield one
        if not made:
            few = f"; {stream.how.readers} processes and workers share it: use fewer" if stream.how.readers > 1 else ""
            raise DataError(f"{stream.rows.source}: not one row to train on{few}")


def _drawn(examples: Iterator[dict], size: int, order: random.Random) -> Iterator[dict]:
    """Examples in random order: each next one is drawn from `size` that wait."""
    waiting: list[dict] = []
    for one in examples:
        if len(waiting) < size:
            waiting.append(one)
            continue
        if not size:
            yield one
            continue
        at = order.randrange(size)
        yield waiting[at]
        waiting[at] = one
    order.shuffle(waiting)
    yield from waiting


def _everyone(mine: dict) -> list[dict]:
    """What each process has."""
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized():
        return [mine]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found
