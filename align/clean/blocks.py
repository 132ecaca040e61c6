"""Blocks of a datatrove pipeline: read, repair, rule, mask, write. Each counts what it does and why.

A block is a step of one task; a task's shard goes through all blocks of a stage document by document. What a block
keeps about a document while it is under way is in the metadata under names with an underscore.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

from align.clean.rules.ruling import Ruling

DECISION = "_decision"  # a reviewer's: keep or drop
FLAGGED = "_flagged"  # a rule has said drop or review of a document that a reviewer has decided on
COLUMNS = "columns"  # a row's columns but the text, as JSON, exactly as they were: nothing of ours is among them
COUNTED = "_counted"  # the source under which the card counts a document


def as_dict(_: Any, doc: Document) -> dict[str, Any]:
    """A document as one line between stages (datatrove's own goes through `dataclasses.asdict`, a deep copy)."""
    return {"text": doc.text, "id": doc.id, "metadata": doc.metadata}


class Sink:
    """Lines of JSON into a file that is made at the first one; gzip without a time stamp, so that equal is equal."""

    def __init__(self, path: Path):
        self.path = path
        self.stream: Any = None
        self.raw: Any = None
        self.size = 0  # bytes, before they are packed

    def write(self, row: dict[str, Any]) -> None:
        """Add a line."""
        if self.stream is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.raw = self.stream = self.path.open("wb")
            if self.path.suffix == ".gz":
                self.stream = gzip.GzipFile(filename="", mode="wb", compresslevel=4, fileobj=self.raw, mtime=0)
        self.size += self.stream.write(orjson.dumps(row, default=str, option=orjson.OPT_APPEND_NEWLINE))

    def __enter__(self) -> Sink:
        # What an interrupted task left here is not this task's: it may have had more to write
        self.path.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.stream is not None:
            self.stream.close()
            self.raw.close()


class Largest:
    """The rows with the largest ids of all that are offered, and how many were: a random sample, for an id is a hash.

    It is the same for any order and any number of tasks, and it keeps its members when documents are added elsewhere.
    The smallest ids are the test split's.
    """

    def __init__(self, most: int, path: Path):
        self.most, self.path = most, path
        self.rows: dict[str, dict[str, Any]] = {}
        self.smallest = ""
        self.offered = 0

    def offer(self, row: dict[str, Any]) -> None:
        """Count a row, and hold it while it is among the largest."""
        self.offered += 1
        if row["id"] > self.smallest and self.most:
            self.rows[row["id"]] = row
            if len(self.rows) > self.most:
                del self.rows[min(self.rows)]
            if len(self.rows) == self.most:
                self.smallest = min(self.rows)

    def save(self) -> None:
        """Write how many were offered, then the rows."""
        with Sink(self.path) as sink:
            sink.write({"offered": self.offered})
            for key in sorted(self.rows):
                sink.write(self.rows[key])


class Block(PipelineStep):
    """A block that counts: `step` names it in the card and `counts` is the folder of its tallies."""

    type = "cleaning"

    def __init__(self, step: str, run: Path):
        self.name = step
        super().__init__()
        self.step = step
        self.folder = run
        self.counts = run / "work" / "counts"

    def dropped(self, rank: int) -> Sink:
        """Where this task's dropped documents go."""
        return Sink(self.folder / "dropped" / self.step / f"{rank:05d}.jsonl.gz")

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """See `PipelineStep`; each block has its own."""
        raise NotImplementedError


def stopped(doc: Document, step: str, ruling: Ruling, **more: Any) -> dict[str, Any]:
    """A document that was dropped, or is for people to decide on, as a line of `dropped/` or of the review queue."""
    row = {"id": doc.id, "text": doc.text, "source": doc.metadata.get("source", ""), "rule": step}
    row |= {"reason": ruling.reason, "detail": ruling.detail, "spans": ruling.spans, "score": ruling.score}
    return row | more


def reader(folder: Path, names: Path) -> JsonlReader:
    """datatrove's reader of the shards that the file `names` lists, one to a task."""
    return JsonlReader(str(folder), str(names), compression=None, add_file_path=False)


class Shards(JsonlWriter):
    """datatrove's writer between stages. A task that keeps nothing leaves an empty file: shards are known by number."""

    def __init__(self, folder: Path):
        super().__init__(str(folder), "${rank}.jsonl", None, as_dict)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write and pass on."""
        self.output_mg.get_file(f"{rank:05d}.jsonl")
        yield from super().run(data, rank, world_size)
