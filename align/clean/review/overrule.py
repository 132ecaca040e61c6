"""The blocks round the rules: reviewers' decisions are noted before them, and win over them afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document

from align.clean.blocks import DECISION, FLAGGED, Block, Largest, stopped
from align.clean.review.decisions import Decisions
from align.clean.rules.ruling import KEEP, Ruling
from align.clean.tally import Tally

REVIEWER = Ruling("drop", "reviewer", "a reviewer decided to drop it")


class Note(Block):
    """Notes what reviewers have decided on a document. Every rule is asked about it all the same, and none stops it."""

    def __init__(self, run: Path, path: Path):
        super().__init__("note", run)
        self.path = path

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Pass everything on."""
        decisions = Decisions(self.path)
        for doc in data:
            if decision := decisions.of(doc.id):
                doc.metadata[DECISION] = decision
            yield doc


class Overrule(Block):
    """What reviewers have decided wins over the rules before it: drops what they dropped, keeps what they kept."""

    def __init__(self, run: Path, audit: int):
        super().__init__("decisions", run)
        self.audit = audit

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Pass on what was not dropped; offer what no rule has flagged to the reviewers' sample."""
        tally = Tally(self.step)
        audit = Largest(self.audit, self.folder / "work" / "queue" / "kept" / f"audit-{rank:05d}.jsonl")
        with self.dropped(rank) as dropped:
            for doc in data:
                tally.enter(doc)
                if FLAGGED not in doc.metadata:
                    audit.offer(stopped(doc, "", KEEP, why="audit", verdict="keep"))
                decision = doc.metadata.get(DECISION)
                if decision == "drop":
                    tally.stop(doc, REVIEWER)
                    dropped.write(stopped(doc, self.step, REVIEWER, metadata=doc.metadata))
                    continue
                if decision == "keep":
                    tally.add("changed", "kept_by_a_reviewer")
                tally.leave(doc)
                yield doc
            audit.save()
        tally.save(self.counts, rank)
