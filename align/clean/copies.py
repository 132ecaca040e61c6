"""People on near-duplicates: of a pair, is the one a copy of the other? And which documents of a cluster stay.

A reviewer sees a document that was removed beside the one that stayed. What is decided is about the two: the decision's
id is `<removed>-<kept>`, and nothing else follows from it for either. `keep`: they are no copies, so neither is removed
for the other. `drop`: they are, so one is removed for the other, also where the rule does not find them. A document
stays as long as nothing that it is a copy of stays.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document

from align.clean.blocks import DECISION, Block, Sink
from align.clean.decisions import Decisions
from align.clean.tally import Tally

Place = tuple[int, int]  # shard, and number of the document in it, as datatrove knows documents


def pair(removed: str, kept: str) -> str:
    """The id of a pair in the queue and among the decisions."""
    return f"{removed}-{kept}"


class Said:
    """What people said of pairs of documents, by the id of either: `apart` are no copies, `alike` are. `spared` are
    those that the rule had removed for one that they are no copy of."""

    def __init__(self, run: Path):
        self.apart: dict[str, set[str]] = {}
        self.alike: dict[str, set[str]] = {}
        self.spared: set[str] = set()
        for key, row in Decisions(run / "decisions.jsonl").rows.items():
            one, found, other = key.partition("-")
            if found:
                table = self.apart if row["decision"] == "keep" else self.alike
                table.setdefault(one, set()).add(other)
                table.setdefault(other, set()).add(one)
                self.spared |= {one} if table is self.apart else set()

    def __contains__(self, document: str) -> bool:
        return document in self.apart or document in self.alike


class Named(Block):
    """Notes where the documents are, by their place in the shard, that people have decided on or compared."""

    def __init__(self, run: Path):
        super().__init__("named", run)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Pass everything on."""
        said = Said(self.folder)
        with Sink(self.folder / "work/near/named" / f"{rank:05d}.jsonl") as sink:
            for index, doc in enumerate(data):
                keep = doc.metadata.get(DECISION) == "keep"
                if keep or doc.id in said:
                    sink.write({"index": index, "id": doc.id, "keep": keep})
                yield doc


class Choose(Block):
    """Replaces datatrove's choice of who stays (the union-find's root) by the first document of each cluster in input
    order, or all that a reviewer decided to keep; besides those that are no copies of them, by what people said."""

    def __init__(self, run: Path):
        super().__init__("clusters", run)

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Rewrite the `.remove` files."""
        folder = self.folder / "work/near/clusters"
        folder.mkdir(parents=True, exist_ok=True)
        said, names, wanted = Said(self.folder), *self._named()
        shards = sorted({int(file.stem) for file in folder.glob("*.clusters")} | {shard for shard, _ in names})
        stays: dict[int, list[str]] = {}  # by cluster: the ids of those that stay, "" where nobody has named one
        staying = {names[at] for at in wanted}  # of those that have been compared
        sizes: Counter[int] = Counter()
        for at, cluster in _clustered(folder, shards):
            sizes[cluster] += 1
            if at in wanted:
                stays.setdefault(cluster, []).append(names[at])
        for shard in shards:
            clusters = dict(_clustered(folder, [shard]))
            gone = []
            for at in sorted({*clusters, *(at for at in names if at[0] == shard)} - wanted):
                name = names.get(at, "")
                others = stays.setdefault(clusters[at], []) if at in clusters else []
                apart, alike = said.apart.get(name, set()), said.alike.get(name, set())
                if alike & staying or any(other not in apart for other in others):
                    gone.append(at[1])
                else:
                    others.append(name)
                    staying |= {name} if name else set()
            for kind in ("clusters", "sizes"):  # the filter wants them all where there is one
                (folder / f"{shard:06d}.{kind}").touch()
            (folder / f"{shard:06d}.remove").write_bytes(b"".join(struct.pack("<I", doc) for doc in gone))
        tally = Tally(self.step)
        for size, count in Counter(sizes.values()).items():
            tally.add("sizes", str(size), count)
        tally.save(self.counts, rank)

    def _named(self) -> tuple[dict[Place, str], set[Place]]:
        """The ids of documents that were decided on or compared, and those that people decided to keep."""
        names, wanted = {}, set()
        for file in sorted((self.folder / "work/near/named").glob("*.jsonl")):
            for row in map(json.loads, file.read_text().splitlines()):
                at = int(file.stem), row["index"]
                names[at] = row["id"]
                wanted |= {at} if row["keep"] else set()
        return names, wanted


def _clustered(folder: Path, shards: list[int]) -> Iterator[tuple[Place, int]]:
    """Where the documents are that are like others, in input order, and in which cluster each is."""
    for shard in shards:
        file = folder / f"{shard:06d}.clusters"
        for doc, cluster in struct.iter_unpack("<2I", file.read_bytes() if file.exists() else b""):
            yield (shard, doc), cluster
