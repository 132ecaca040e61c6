"""Counts of one step: documents and bytes in and out, why documents went, what was changed, and samples of each.

A task writes its tally as one small file; tasks' tallies are added in task order, so that the sums and the samples are
the same however many processes worked.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.clean.rules.personal import veil
from align.clean.rules.ruling import Ruling
from align.run.device import peak_resident_bytes

SAMPLES = 5  # of each reason and of each kind of change, the first in document order; personal data veiled
SHOWN = 600  # characters of a sample
SOURCES = 1_000  # that a task counts by themselves; a source may be an address of its own for each document
OTHERS = ""  # what the rest are counted under
EDGES = [0, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000]  # words


def size(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def excerpt(text: str, spans: tuple[tuple[int, int], ...] = (), limit: int = SHOWN) -> tuple[str, list[list[int]]]:
    """At most `limit` characters, so chosen that the first span is among them, and the spans within the excerpt."""
    start = 0
    if spans and spans[0][1] > limit:
        start = max(0, spans[0][0] - limit // 3)
    part = text[start : start + limit]
    inside = [[max(0, a - start), min(len(part), b - start)] for a, b in spans]
    return part, [span for span in inside if span[0] < span[1]][:50]


class Tally:
    """Counts of one step in one task. Reasons and kinds are short keys: `gopher_short_doc`."""

    def __init__(self, step: str):
        self.step = step
        self.counts: Counter[str] = Counter(documents_in=0, documents_out=0, bytes_in=0, bytes_out=0)
        self.tables: dict[str, Counter[str]] = {}
        self.samples: dict[str, list[dict[str, Any]]] = {}
        self.changes: dict[str, list[dict[str, Any]]] = {}
        self.seconds = 0.0
        self.peak = 0  # bytes of memory; known when it is saved

    def table(self, name: str) -> Counter[str]:
        """A named table; an empty one where nothing was counted."""
        return self.tables.get(name, Counter())

    def add(self, table: str, key: str, count: int = 1) -> None:
        """Count something in a named table: `dropped`, `review`, `changed`, `sources`, …"""
        self.tables.setdefault(table, Counter())[key] += count

    def named(self, table: str, key: str) -> str:
        """What to count `key` under: itself, or `OTHERS` where the table has as many keys as it may."""
        known = self.tables.setdefault(table, Counter())
        return key if key in known or len(known) < SOURCES else OTHERS

    def enter(self, doc: Any) -> None:
        """A document comes in."""
        self.counts["documents_in"] += 1
        self.counts["bytes_in"] += size(doc.text)

    def leave(self, doc: Any) -> None:
        """A document goes on."""
        self.counts["documents_out"] += 1
        self.counts["bytes_out"] += size(doc.text)

    def entering(self, data: Any) -> Iterator[Any]:
        """Count a stream's documents as they come in."""
        for doc in data:
            self.enter(doc)
            yield doc

    def stop(self, doc: Any, ruling: Ruling) -> None:
        """A document is dropped, or waits for a reviewer."""
        self.add("dropped" if ruling.action == "drop" else "review", ruling.reason)
        samples = self.samples.setdefault(ruling.reason, [])
        if len(samples) < SAMPLES:
            text, spans = excerpt(veil(doc.text), ruling.spans)
            sample = {"reason": ruling.reason, "detail": ruling.detail, "id": doc.id}
            sample |= {"source": veil(doc.metadata.get("source", "")), "text": text, "spans": spans}
            cluster = doc.metadata.get("minhash_cluster_id")
            samples.append(sample | ({} if cluster is None else {"cluster": cluster}))

    def change(self, kind: str, doc: Any, before: str, after: str) -> None:
        """A document's text was changed."""
        self.add("changed", kind)
        samples = self.changes.setdefault(kind, [])
        if len(samples) < SAMPLES:
            at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
            start = max(0, at - SHOWN // 3)
            cut = {"before": veil(before)[start : start + SHOWN], "after": veil(after)[start : start + SHOWN]}
            samples.append({"id": doc.id, "what": kind, **cut})

    def length(self, table: str, words: int) -> None:
        """Count a document in the histogram of lengths, by the index of its edge."""
        self.add(table, str(sum(words >= edge for edge in EDGES) - 1))

    def timed(self, start: float) -> None:
        """Add the time since `start` (of `time.perf_counter`)."""
        self.seconds += time.perf_counter() - start

    def save(self, folder: Path, rank: int) -> None:
        """Write `<folder>/<step>/<rank>.json`."""
        path = folder / self.step / f"{rank:05d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.peak = peak_resident_bytes()
        found = {k: v for k, v in self.__dict__.items() if k != "step"}
        path.write_text(json.dumps(found, ensure_ascii=False))


def merged(folder: Path, step: str) -> Tally | None:
    """All tasks' tallies of a step, added in task order; None where the step did not run."""
    paths = sorted((folder / step).glob("*.json"))
    if not paths:
        return None
    total = Tally(step)
    for path in paths:
        part = json.loads(path.read_text())
        total.counts.update(part["counts"])
        total.seconds += part["seconds"]
        total.peak = max(total.peak, part["peak"])
        for table, counts in part["tables"].items():
            total.tables.setdefault(table, Counter()).update(counts)
        for mine, theirs in ((total.samples, part["samples"]), (total.changes, part["changes"])):
            for key, found in theirs.items():
                mine[key] = (mine.get(key, []) + found)[:SAMPLES]
    return total
