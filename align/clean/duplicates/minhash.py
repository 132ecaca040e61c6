"""Exact and near-duplicates by datatrove's blocks: which documents to remove, and how many were alike.

Exact: a 64-bit hash of the text; the first document in input order stays. Near: MinHash with datatrove's pairs and
clusters; of each cluster the first document stays, or those that a reviewer decided to keep. A cluster is transitive
(A like B, B like C), so its ends may be less alike than the setting says; that is FineWeb's rule as well. What people
said of pairs comes in by `align.clean.duplicates.copies`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import (
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.utils.text import TextNormConfig

from align.clean.blocks import Block, Largest, Sink, stopped
from align.clean.config import COPIES, RuleConfig
from align.clean.duplicates import copies
from align.clean.rules.ruling import Ruling
from align.clean.rules.words import tokenizer
from align.clean.tally import Tally

BUFFERED = 4096  # signatures that are read at once; datatrove's default of 5 makes a Python call for every 70 bytes
PIECE = 1024  # shingles hashed at once: 1024 x 112 x 8 bytes stay in the processor's cache


def _text(doc: Document) -> str:
    return doc.text


def _earliest(doc: Document) -> int:
    """datatrove keeps the duplicate of highest priority, 1 to 65,535: earlier shards come first."""
    return max(1, 65_535 - doc.metadata["_rank"])


EXACT = ExactDedupConfig(content_getter=_text, document_priority=_earliest)


def exact_signatures(run: Path, finders: int) -> ExactDedupSignature:
    """Ends a pipeline: writes each document's hash."""
    return ExactDedupSignature(str(run / "work/exact/signatures"), EXACT, finder_workers=finders)


def exact_find(run: Path) -> ExactFindDedups:
    """Merges all shards' hashes and lists the duplicates of each shard."""
    folders = str(run / "work/exact/signatures"), str(run / "work/exact/duplicates")
    return ExactFindDedups(*folders, EXACT, save_cluster_size=True, lines_to_buffer=BUFFERED)


def minhash(rules: RuleConfig) -> MinhashConfig:
    """The setting of MinHash."""
    numbers = TextNormConfig(norm_numbers=not rules.minhash_keep_numbers)
    return MinhashConfig(rules.minhash_ngram, rules.minhash_buckets, rules.minhash_hashes, norm_config=numbers)


class Signatures(MinhashDedupSignature):
    """datatrove's MinHash signatures, of a long document in pieces.

    All at once, the 112 hashes of each of 100,000 words would take 170 MB.
    """

    def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
        """The smallest hashes. `shingles` [N, 1] uint64; a list of `num_buckets` lists of `hashes_per_bucket`."""
        if len(shingles) <= PIECE:
            return super().get_signature(shingles)
        pieces = np.split(shingles, range(PIECE, len(shingles), PIECE))
        least = [MinhashDedupSignature.get_signature(self, piece) for piece in pieces]
        return np.min(least, axis=0).tolist()


def near_signatures(run: Path, rules: RuleConfig) -> MinhashDedupSignature:
    """Ends a pipeline: writes each document's MinHash signature."""
    language = tokenizer(rules.word_tokenizer, rules.languages)
    return Signatures(str(run / "work/near/signatures"), minhash(rules), language=language)


def near_buckets(run: Path, rules: RuleConfig) -> MinhashDedupBuckets:
    """Finds equal signatures, one task for each bucket."""
    folders = str(run / "work/near/signatures"), str(run / "work/near/buckets")
    return MinhashDedupBuckets(*folders, config=minhash(rules), lines_to_buffer=BUFFERED)


def near_clusters(run: Path, rules: RuleConfig) -> list[PipelineStep]:
    """Joins pairs to clusters, then chooses who stays. One task; memory grows with the duplicates, not the corpus."""
    folders = str(run / "work/near/buckets"), str(run / "work/near/clusters")
    options: dict[str, Any] = {"save_cluster_id": True, "save_cluster_size": True, "lines_to_buffer": BUFFERED}
    return [MinhashDedupCluster(*folders, minhash(rules), **options), copies.Choose(run)]


class Distinct(Block):
    """Removes duplicates through one of datatrove's filters, which is given this task's stream, and counts.

    Args:
        quiet: count and write nothing: the same documents were removed, and counted, in an earlier stage.
        audit: how many near-duplicates the reviewers' sample takes.
    """

    def __init__(self, step: str, run: Path, remove: PipelineStep, quiet: bool = False, audit: int = 0):
        super().__init__(step, run)
        self.remove: Any = remove
        self.quiet = quiet
        self.audit = audit

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Pass on what is left."""
        if self.quiet:
            yield from self.remove.run(data, rank, world_size)
            return
        tally = Tally(self.step)
        audit = Largest(self.audit, self.folder / "work" / "queue" / self.step / f"audit-{rank:05d}.jsonl")
        spared = copies.Said(self.folder).spared if self.step == "near" else ()
        with self.dropped(rank) as dropped:
            self.remove.exclusion_writer = excluded = _Excluded(tally, dropped, audit)
            start = time.perf_counter()
            for doc in self.remove.run(tally.entering(data), rank, world_size):
                if doc.id in spared:  # no copy by a reviewer's word: the rule is graded all the same
                    excluded.offer(doc, stays=True)
                tally.leave(doc)
                if self.step == "exact" and (count := doc.metadata["duplicate_count"]):
                    tally.add("sizes", str(count + 1))
                tally.timed(start)
                yield doc
                start = time.perf_counter()
            self.remove.exclusion_writer = None
            if self.step == "near":
                audit.save()
        tally.save(self.counts, rank)


class _Excluded:
    """What datatrove's filters take for an exclusion writer."""

    def __init__(self, tally: Tally, sink: Sink, audit: Largest):
        self.tally, self.sink, self.audit = tally, sink, audit

    def __enter__(self) -> _Excluded:
        return self

    def __exit__(self, *_: object) -> None:
        """The sink is closed by the block that has opened it."""

    def write(self, doc: Document, rank: int = 0) -> None:
        """A duplicate."""
        self.offer(doc)
        ruling = self._ruling(doc)
        self.tally.stop(doc, ruling)
        cluster = {"cluster": doc.metadata["minhash_cluster_id"]} if self.tally.step == "near" else {}
        self.sink.write(stopped(doc, self.tally.step, ruling, metadata=doc.metadata, **cluster))

    def offer(self, doc: Document, stays: bool = False) -> None:
        """A near-duplicate that the rule has found, to the reviewers' sample."""
        if doc.metadata.get("minhash_cluster_size", 1) > 1:
            found = {"cluster": doc.metadata["minhash_cluster_id"], "stays": stays}
            self.audit.offer(stopped(doc, COPIES, self._ruling(doc), why="audit", verdict="drop", **found))

    def _ruling(self, doc: Document) -> Ruling:
        if self.tally.step == "exact":
            return Ruling("drop", "exact_duplicate", "the same text as an earlier document")
        size = doc.metadata["minhash_cluster_size"]
        if size == 1:
            return Ruling("drop", "reviewer", "a reviewer decided that it is a copy")
        return Ruling("drop", "near_duplicate", f"like an earlier document, in a cluster of {size:,}")


def exact_filter(run: Path, quiet: bool = False) -> Distinct:
    """Removes exact duplicates."""
    return Distinct("exact", run, ExactDedupFilter(str(run / "work/exact/duplicates"), EXACT), quiet)


def near_filter(run: Path, audit: int = 0) -> Distinct:
    """Removes near-duplicates; reviewers see `audit` of them beside what stays."""
    options: dict[str, Any] = {"load_cluster_ids": True, "load_cluster_sizes": True, "lines_to_buffer": BUFFERED}
    return Distinct("near", run, MinhashDedupFilter(str(run / "work/near/clusters"), **options), audit=audit)
