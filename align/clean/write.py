"""The last blocks: personal data masked, the corpus written; and the fingerprint of what was written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
from datatrove.data import Document

from align.clean.blocks import COLUMNS, COUNTED, Block, Sink
from align.clean.config import CleanConfig, RuleConfig
from align.clean.tally import Tally, size
from align.data import splits


class Mask(Block):
    """Personal data into words, `<email>`: in the text, in the source and in the strings of all other columns."""

    def __init__(self, run: Path, rules: RuleConfig):
        super().__init__("personal", run)
        self.kinds = rules.personal_kinds

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Pass everything on."""
        from align.clean.rules import personal

        tally, kinds = Tally(self.step), tuple(self.kinds) or personal.KINDS
        for doc in data:
            tally.enter(doc)
            start = time.perf_counter()
            before = doc.text
            doc.text, counts = personal.mask(before, kinds)
            for kind, count in counts.items():
                tally.change(kind, doc, before, doc.text)  # a page with two kinds counts under both
                tally.add("masked", kind, count)
            source, columns = doc.metadata["source"], doc.metadata[COLUMNS]
            doc.metadata["source"] = personal.mask(source, kinds)[0]
            doc.metadata[COLUMNS] = personal.mask_json(columns, kinds)
            if (source, columns) != (doc.metadata["source"], doc.metadata[COLUMNS]):
                tally.add("changed", "other_columns")
            tally.timed(start)
            tally.leave(doc)
            yield doc
        tally.save(self.counts, rank)


class Final(Block):
    """The corpus: `data/train-<rank>.jsonl` and `data/test-<rank>.jsonl`. Counts tokens. Passes nothing on."""

    def __init__(self, run: Path, args: CleanConfig):
        super().__init__("write", run)
        self.test = args.test_split_size
        self.tokenizer = args.tokenizer

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Write."""
        tally, count = Tally(self.step), _counter(self.tokenizer)
        train, test = (Sink(self.folder / "data" / f"{name}-{rank:05d}.jsonl") for name in ("train", "test"))
        clusters = Sink(self.folder / "work" / "clusters" / f"{rank:05d}.jsonl")
        with train, test, clusters:
            for doc in data:
                tally.enter(doc)
                start = time.perf_counter()
                counted = doc.metadata[COUNTED]
                # one column of JSON text, as datatrove's readers take it: files have different columns
                row = {"text": doc.text, "id": doc.id, "source": doc.metadata["source"]}
                row["metadata"] = doc.metadata[COLUMNS]
                held_out = int(doc.id, 16) < self.test * 2**64
                sink = test if held_out else train
                if doc.metadata.get("minhash_cluster_size", 1) > 1:
                    at = {"file": sink.path.name, "at": sink.size}
                    clusters.write({"cluster": doc.metadata["minhash_cluster_id"], "id": doc.id, **at})
                sink.write(row)
                words = len(doc.text.split())
                tally.add("totals", "tokens_out", count(doc.text) if count else words)
                tally.add("totals", "test_documents", int(held_out))
                tally.add("sources_out", counted)
                tally.add("source_bytes_out", counted, size(doc.text))
                tally.length("lengths_out", words)
                tally.timed(start)
                tally.leave(doc)
        tally.add("totals", "tokens_out", 0)  # also where nothing came
        tally.save(self.counts, rank)


def _counter(name: str | None) -> Callable[[str], int] | None:
    if not name:
        return None
    from align.clean.rules.words import token_counter

    return token_counter(name)


def fingerprint(folder: Path) -> dict[str, dict[str, Any]]:
    """Rows and fingerprint of each split: the fingerprint that a training run records of the texts it reads."""
    found = {}
    for split in ("train", "test"):
        texts = _Texts(sorted((folder / "data").glob(f"{split}-*.jsonl")))
        digest = splits.fingerprint(texts)
        if texts.count:
            found[split] = {"rows_out": texts.count, "fingerprint": digest}
    return found


class _Texts:
    """The texts of JSONL files, one at a time, counted as they go by."""

    def __init__(self, paths: list[Path]):
        self.paths, self.count = paths, 0

    def __iter__(self) -> Iterator[str]:
        for path in self.paths:
            with path.open("rb") as stream:
                for row in map(orjson.loads, stream):
                    self.count += 1
                    yield row["text"]
