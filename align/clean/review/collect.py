"""Fill the review queue: what the rules are unsure of, and random samples of what they dropped and of what they kept.

One line for each document, the unsure ones first. The samples' weights are one over the probability of being drawn, so
that precision and recall over the whole corpus can be estimated from what people decided. A near-duplicate comes with
the document that was kept in its place, as the corpus has it. Exact duplicates leave nothing to decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from align.clean.blocks import Sink
from align.clean.config import REVIEWED
from align.clean.duplicates import copies
from align.clean.review.queue import rows


def collect(run: Path, audit: int) -> Path:
    """Write `review/queue.jsonl` from what the tasks left."""
    path = run / "review" / "queue.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    work = run / "work" / "queue"
    seen: set[str] = set()
    with Sink(path) as sink:
        for step in REVIEWED:
            for file in sorted((work / step).glob("unsure-*.jsonl")):
                for row in rows(file):
                    if row["id"] not in seen:
                        seen.add(row["id"])
                        sink.write(row)
        for step in (*REVIEWED, "near", "kept"):
            sample = _sample(sorted((work / step).glob("audit-*.jsonl")), audit)
            for row in _beside(run, sample) if step == "near" else sample:
                if row["id"] not in seen:
                    seen.add(row["id"])
                    sink.write(row)
    path.touch()
    return path


def _sample(files: list[Path], most: int) -> list[dict[str, Any]]:
    """The largest ids of all tasks' samples, with their weight."""
    offered = 0
    drawn: dict[str, dict[str, Any]] = {}
    for file in files:
        found = rows(file)
        offered += next(found)["offered"]
        drawn |= {row["id"]: row for row in found}
        drawn = {key: drawn[key] for key in sorted(drawn, reverse=True)[:most]}
    return [row | {"weight": offered / len(drawn)} for row in drawn.values()]


def _beside(run: Path, sample: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Near-duplicates as pairs: each beside the document that it was removed for, or was said to be no copy of. None is
    put beside its own text, which `--skip exact` leaves several times."""
    found, said = kept(run, {row["cluster"] for row in sample}), copies.Said(run)
    for row in sample:
        own = row["id"]
        apart, alike = said.apart.get(own, set()), said.alike.get(own, set())
        places, stays = found.get(row.pop("cluster"), []), row.pop("stays")
        others = [place for place in places if place["id"] != own and (place["id"] in apart) == stays]
        for place in sorted(others, key=lambda place: place["id"] not in alike)[:1]:
            with (run / "data" / place["file"]).open("rb") as stream:
                stream.seek(place["at"])
                other = orjson.loads(stream.readline())
            beside = {key: other[key] for key in ("id", "source", "text")}
            yield row | {"id": copies.pair(own, place["id"]), "beside": beside}


def kept(run: Path, clusters: set[int]) -> dict[int, list[dict[str, Any]]]:
    """Of each of these clusters of near-duplicates the documents that stayed: `id`, `file` in `data/`, and where in
    there (`at`, in bytes)."""
    found: dict[int, list[dict[str, Any]]] = {}
    for path in sorted((run / "work" / "clusters").glob("*.jsonl")):
        for row in rows(path):
            if row["cluster"] in clusters:
                found.setdefault(row["cluster"], []).append(row)
    return found
