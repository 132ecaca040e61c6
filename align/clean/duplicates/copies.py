"""People on near-duplicates: of a pair, is the one a copy of the other? And which documents of a cluster stay.

A reviewer sees a document that was removed beside the one that stayed. What is decided is about the two: the decision's
id is `<removed>-<kept>`, and nothing else follows from it for either. `keep`: they are no copies, so neither is removed
for the other. `drop`: they are, so one is removed for the other, also where the rule does not find them, or where both
were kept as documents. A document stays as long as nothing that it is a copy of stays.
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
from align.clean.review.decisions import Decisions
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


class _Staying:
    """The documents that have been found to stay so far."""

    def __init__(self, said: Said):
        self.said = said
        self.of: dict[int | None, list[str]] = {}  # by cluster: their ids, "" for one that nobody has named
        self.named: set[str] = set()

    def without(self, name: str, cluster: int | None, wanted: bool) -> bool:
        """Is a document removed, for one that stays? If not, it stays as well.

        Args:
            wanted: people decided to keep it, so it goes for nothing but what they called it a copy of.
        """
        others = self.of.setdefault(cluster, []) if cluster is not None else []
        apart, alike = self.said.apart.get(name, set()), self.said.alike.get(name, set())
        if alike & self.named or (not wanted and any(other not in apart for other in others)):
            return True
        others.append(name)
        self.named |= {name} - {""}
        return False


class Choose(Block):
    """Replaces datatrove's choice of who stays (the union-find's root) by the first document of each cluster in input
    order, or all that a reviewer decided to keep; besides those that are no copies of them, by what people said."""

    def __init__(self, run: Path):
        super().__init__("clusters", run)

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Rewrite the `.remove` files."""
        folder = self.folder / "work/near/clusters"
        folder.mkdir(parents=True, exist_ok=True)
        names, wanted = self._named()
        shards = sorted({int(file.stem) for file in folder.glob("*.clusters")} | {shard for shard, _ in names})
        sizes: Counter[int] = Counter()
        home: dict[Place, int] = {}  # the clusters of those that people decided to keep
        for at, cluster in _clustered(folder, shards):
            sizes[cluster] += 1
            home |= {at: cluster} if at in wanted else {}
        staying = _Staying(Said(self.folder))
        copies = {at for at in sorted(wanted) if staying.without(names[at], home.get(at), wanted=True)}
        for shard in shards:
            clusters = dict(_clustered(folder, [shard]))
            others = sorted({*clusters, *(at for at in names if at[0] == shard)} - wanted)
            gone = {at for at in others if staying.without(names.get(at, ""), clusters.get(at), wanted=False)}
            gone |= {at for at in copies if at[0] == shard}
            for kind in ("clusters", "sizes"):  # the filter wants them all where there is one
                (folder / f"{shard:06d}.{kind}").touch()
            (folder / f"{shard:06d}.remove").write_bytes(b"".join(struct.pack("<I", doc) for _, doc in sorted(gone)))
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
