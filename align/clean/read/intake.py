"""The first blocks: files into documents, documents repaired and given their ids."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.writers import JsonlWriter

from align.clean.blocks import COLUMNS, COUNTED, Block, Sink, as_dict, stopped
from align.clean.config import CleanConfig, RuleConfig
from align.clean.read import inputs, repair
from align.clean.read.formats import Damaged, Row, decode
from align.clean.read.inputs import Input
from align.clean.rules.personal import veil
from align.clean.rules.ruling import Ruling
from align.clean.tally import Tally, size
from align.run.errors import DataError


class Read(Block):
    """Files into shards of documents of a bounded size: `<rank>-<part>.jsonl`. Writes; passes nothing on."""

    def __init__(self, run: Path, groups: list[list[Input]], args: CleanConfig):
        super().__init__("read", run)
        self.groups = groups
        self.args = args

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Read this task's files."""
        tally, part, held = Tally(self.step), 0, 0
        start = time.perf_counter()
        writer = JsonlWriter(str(self.folder / "work" / "read"), "${rank}-${part}.jsonl", None, as_dict)
        with writer, self.dropped(rank) as dropped:
            for doc in self._documents(self.groups[rank], tally, dropped):
                writer.write(doc, rank, part=f"{part:05d}")
                held += size(doc.text)
                if held >= self.args.shard_megabytes * 1_000_000:
                    writer.close_file(f"{rank:05d}-{part:05d}.jsonl")
                    part, held = part + 1, 0
        tally.timed(start)
        tally.save(self.counts, rank)

    def _documents(self, group: list[Input], tally: Tally, dropped: Sink) -> Iterator[Document]:
        for entry in group:
            if entry.kind == "others":
                tally.add("others", f"Not read in {entry.path}: {entry.problem}")
                continue
            if entry.problem or entry.bytes == 0 and entry.kind != "hub":
                self._skip(entry, entry.problem or "is empty", 0, tally)
                continue
            count = 0
            try:
                for row in inputs.rows(entry, self.args):
                    doc, problem = _document(row, entry.name)
                    tally.enter(doc)
                    if problem:
                        ruling = Ruling("drop", problem, f"{entry.name}: {problem.replace('_', ' ')}")
                        tally.stop(doc, ruling)
                        dropped.write(stopped(doc, self.step, ruling, metadata=doc.metadata))
                        continue
                    count += 1
                    tally.leave(doc)
                    if row.repaired:
                        doc.metadata["_repaired"] = row.repaired
                    yield doc
            except Damaged as error:
                self._skip(entry, str(error), count, tally)

    def _skip(self, entry: Input, problem: str, count: int, tally: Tally) -> None:
        if problem != "is empty" and self.args.on_damaged == "stop":
            raise DataError(
                f"{entry.path} {problem.rstrip('.')}, after {count:,} documents. Mend it or take it out, or keep what "
                "was read before: --on_damaged skip"
            )
        before = "" if problem == "is empty" else f", {count:,} documents read before"
        tally.add("files", f"{entry.path} {problem.rstrip('.')}{before}")


def _document(row: Row, source: str) -> tuple[Document, str]:
    """A row as a document, and why it cannot be one. Its columns stay together, apart from what is ours."""
    given = row.metadata.get("source")
    metadata = {"source": given if isinstance(given, str) and given else source}
    try:
        return Document(row.text, "", metadata=metadata | {COLUMNS: _columns(row.metadata)}), row.problem
    except RecursionError:
        return Document(row.text, "", metadata=metadata | {COLUMNS: "{}"}), row.problem or "nested_too_deep"


def _columns(found: dict[str, Any]) -> str:
    """A row's columns but the text, as JSON: exact for numbers of any size, dates and the like as text."""
    try:
        return json.dumps(found, default=_as_text, allow_nan=False)
    except ValueError:  # a number that is none, or endless: JSON has no word for it
        return json.dumps(json.loads(json.dumps(found, default=_as_text), parse_constant=lambda _: None))


def _as_text(value: Any) -> str:
    return decode(value)[0] if isinstance(value, bytes) else str(value)


class Repair(Block):
    """Encoding repair and normalisation; gives each document its id, which is a hash of its text from here on."""

    def __init__(self, run: Path, rules: RuleConfig, on: bool):
        super().__init__("repair", run)
        self.form = rules.unicode_form
        self.on = on

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Pass on what is not empty."""
        tally, steps = Tally(self.step), repair.steps(self.form) if self.on else repair.steps("none")[:1]
        with self.dropped(rank) as dropped:
            for doc in data:
                tally.enter(doc)
                start = time.perf_counter()
                changes = [(kind, "", "") for kind in doc.metadata.pop("_repaired", ())]
                for kind, change in steps:
                    before = doc.text
                    doc.text = change(before)
                    if doc.text != before:
                        changes.append((kind, before, doc.text))
                doc.text = doc.text.strip()
                doc.id = identify(doc.text)
                doc.metadata["_rank"] = rank
                for kind, before, after in changes:
                    tally.change(kind, doc, before, after) if before else tally.add("changed", kind)
                doc.metadata[COUNTED] = counted = tally.named("sources_in", veil(doc.metadata["source"]))
                tally.add("sources_in", counted)
                tally.add("source_bytes_in", counted, size(doc.text))
                tally.length("lengths_in", len(doc.text.split()))
                tally.timed(start)
                if doc.text:
                    tally.leave(doc)
                    yield doc
                else:
                    tally.stop(doc, Ruling("drop", "empty", "no text"))
                    dropped.write(stopped(doc, self.step, Ruling("drop", "empty", "no text")))
        tally.save(self.counts, rank)


def identify(text: str) -> str:
    """A document's id: 16 hexadecimal digits of a BLAKE2b hash of its text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
