"""Grades of a cleaning run on a planted corpus (`planted.corpus`): near-duplicates, and every other kind.

What is counted, for near-duplicates. J is the measured Jaccard index of two documents. Documents that another step took
are left out. Inside each planted cluster, documents joined by J >= 0.8 form components; of each component one document
should be left.

  recall     1 - (documents left beyond one a component) / (documents of components less one each)
  precision  of the documents that the step removed, the share with a good reason. Four readings:
             `planted`  it resembles a document that is left: J >= 0.5 with one. Below that nobody would call it a copy.
             `half`     J >= 0.72 with one that is left: where 14 x 8 finds every second pair
             `linked`   J >= 0.8 with any document that came to the step, left or not: it is a near-duplicate
             `strict`   J >= 0.8 with one that is left. Clusters are transitive (A like B, B like C: one is left), so
                        this asks for more than the setting promises
  bands      of the pairs that are a cluster of their own, the share found, beside what the S-curve says.

MinHash has no sharp threshold: P(found) = 1 - (1 - J^8)^14 is 0.92 at J 0.8 and still 0.77 at 0.75. So `linked` and
`strict` say as much about where pairs were planted as about the step: where they lie even from 0.6 to 1, a perfect
MinHash reaches about 0.64. `linked_expected` is what the curve gives for the pairs of this corpus.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from planted.corpus import BANDS, Row

from align import stats

READINGS = {"planted": 0.5, "half": 0.72, "strict": 0.8}
NEAR = 0.8  # Jaccard from which two documents are near-duplicates
KEPT = {"good", "boilerplate", "personal", "mojibake", "cp1252"}  # kinds that come through, some of them changed


def s_curve(j: float, buckets: int = 14, hashes: int = 8) -> float:
    """Probability that MinHash with that many buckets of hashes finds a pair of Jaccard index j."""
    return 1 - (1 - j**hashes) ** buckets


def _components(members: list[str], edges: list[tuple[str, str]]) -> list[set[str]]:
    """The connected components of a small graph, single documents too."""
    found = [{member} for member in members]
    for a, b in edges:
        one = next(group for group in found if a in group)
        other = next(group for group in found if b in group)
        if one is not other:
            one |= other
            found.remove(other)
    return found


def near_duplicate_scores(
    kept: Collection[str], truth: Mapping[str, Any], taken: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Precision, recall and the share found by Jaccard band of near-duplicate removal; see the module's docstring.

    Args:
        kept: Names (`planted`) of the documents that came through.
        truth: From `planted.plant`.
        taken: For documents that did not: which step took them. Those of a step whose name does not begin with `near`
            are not graded here. Without it, every one that is missing counts as removed by the near step, so that
            `kept` must come from that step alone.

    Returns:
        `recall`, `precision` (four readings) and `bands`, estimates with Wilson's 95 % interval, and the counts.
    """
    kept = set(kept)
    documents = truth["documents"]
    other = {name for name, step in (taken or {}).items() if not step.startswith("near")} - kept
    unknown = set() if taken is None else set(documents) - kept - set(taken)  # waiting for people, say
    graded = set(documents) - other - unknown
    closest = dict.fromkeys(graded - kept, 0.0)  # J of each removed document with the nearest one that is left
    linked = dict(closest)  # and with the nearest of all
    expected = beyond = emptied = 0
    pairs: list[tuple[float, bool]] = []
    for cluster in truth["clusters"]:
        members = [name for name in cluster["members"] if name in graded]
        measured = [(a, b, j) for a, b, j in cluster["pairs"] if a in graded and b in graded]
        for a, b, j in measured:
            for gone, other_one in ((a, b), (b, a)):
                if gone in linked:
                    linked[gone] = max(linked[gone], j)
                    closest[gone] = max(closest[gone], j if other_one in kept else 0.0)
        for group in _components(members, [(a, b) for a, b, j in measured if j >= NEAR]):
            expected += len(group) - 1
            beyond += max(0, len(group & kept) - 1)
        emptied += bool(members) and not kept & set(members)
        if len(cluster["members"]) == 2 and len(members) == 2:
            pairs.append((measured[0][2], not {*members} <= kept))
    removed = len(closest)
    precision = {
        name: _rate(sum(j >= least for j in closest.values()), removed) for name, least in READINGS.items()
    } | {"linked": _rate(sum(j >= NEAR for j in linked.values()), removed)}
    found = [s_curve(j) for j, _ in pairs]
    above = sum(p for p, (j, _) in zip(found, pairs, strict=True) if j >= NEAR)
    return {
        "recall": _rate(expected - beyond, expected), "precision": precision,
        "linked_expected": above / sum(found) if found else None, "removed": removed, "expected": expected,
        "clusters_left_empty": emptied, "unlike_anything_left": sum(j < 0.5 for j in closest.values()),
        "not_graded": len(other | unknown), "bands": list(_bands(pairs)),
    }  # fmt: skip


def _bands(pairs: list[tuple[float, bool]]) -> Iterator[dict[str, Any]]:
    for low, high in zip(BANDS, BANDS[1:], strict=False):
        inside = [(j, hit) for j, hit in pairs if low <= j < high]
        if inside:
            curve = sum(s_curve(j) for j, _ in inside) / len(inside)
            found = _rate(sum(hit for _, hit in inside), len(inside))
            yield {"from": low, "to": high, "found": found, "curve": curve}


def _rate(right: float, n: int) -> dict[str, Any] | None:
    """A share with its interval, as JSON holds it."""
    found = stats.rate(right, n)
    return found and found.as_dict()


def rule_scores(
    kept: Mapping[str, str], taken: Mapping[str, str], truth: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What became of every kind, and what every step took.

    Args:
        kept: Text of each document that came through, by name.
        taken: The step that took each other one; a document in neither waits for review.

    Returns:
        By kind: `documents`, `kept`, `waiting`, `steps` (counts by step), `recall` (of kinds that should go: the share
        that is not in the output; of kinds that should stay: the share of what had to be changed that was), `spared`
        (the share of look-alikes left as they were). By step: `taken`, `kinds`, `precision` (the share of what it took
        that is no good document; near and exact duplicates are graded as pairs instead).
    """
    kinds: dict[str, Any] = {}
    steps: dict[str, Counter[str]] = {}
    for name, fact in truth["documents"].items():
        row = kinds.setdefault(fact["kind"], {"documents": 0, "kept": 0, "waiting": 0, "steps": Counter()})
        row["documents"] += 1
        if name in kept:
            row["kept"] += 1
            text = kept[name].replace("\u2019", "'")
            for key in ("gone", "stays"):
                for part in fact.get(key, ()):
                    right = (part in text) == (key == "stays")
                    row.setdefault(key, []).append(right)
        elif name in taken:
            row["steps"][taken[name]] += 1
            steps.setdefault(taken[name], Counter())[fact["kind"]] += 1
        else:
            row["waiting"] += 1
    for kind, row in kinds.items():
        gone, stays = row.pop("gone", []), row.pop("stays", [])
        if kind in KEPT:
            row["recall"] = _rate(sum(gone), len(gone))
            row["spared"] = _rate(sum(stays), len(stays))
        elif kind == "excused":
            row["recall"] = _rate(row["waiting"], row["documents"])
        elif kind == "exact":
            row["recall"] = _exact(kept, truth)
        elif kind != "near":
            row["recall"] = _rate(row["documents"] - row["kept"] - row["waiting"], row["documents"])
        row["steps"] = dict(row["steps"].most_common())
    graded = {}
    for step, counts in steps.items():
        total, wrong = sum(counts.values()), sum(counts[kind] for kind in KEPT)
        pairwise = step.startswith(("near", "exact"))
        graded[step] = {
            "taken": total, "kinds": dict(counts.most_common()),
            "precision": None if pairwise else _rate(total - wrong, total),
        }  # fmt: skip
    return kinds, graded


def _exact(kept: Mapping[str, str], truth: Mapping[str, Any]) -> Any:
    """Of the exact duplicates: the share of which no second one is in the output. A copy may be left, not two."""
    groups: dict[str, list[str]] = {}
    for name, fact in truth["documents"].items():
        if fact["kind"] == "exact":
            groups.setdefault(fact["of"], [fact["of"]]).append(name)
    copies = sum(len(group) - 1 for group in groups.values())
    beyond = sum(max(0, sum(name in kept for name in group) - 1) for group in groups.values())
    return _rate(copies - beyond, copies)


def outcome(folder: Path, rows: list[Row]) -> tuple[dict[str, str], dict[str, str]]:
    """Read a clean run: the text of every planted document that came through, and the step that took each other one.

    Dropped documents are known by the column `planted`, or, where the run did not keep it, by their text in `rows`
    (of several with the same text, any that did not come through). Rows of other inputs are passed over.
    """
    kept, taken = {}, {}
    for file in sorted((folder / "data").glob("*.jsonl*")):
        for row in _rows(file):
            if "planted" in row:
                kept[row["planted"]] = row["text"]
    names: dict[str, list[str]] = {}
    for row in rows:
        if row["planted"] not in kept:
            names.setdefault(row["text"], []).append(row["planted"])
    for file in sorted((folder / "dropped").rglob("*.jsonl*")):
        step = file.relative_to(folder / "dropped").parts[0]
        for row in _rows(file):
            known = [row["planted"]] if "planted" in row else [n for n in names.get(row["text"], ()) if n not in taken]
            if known:
                taken[known[0]] = step
    return kept, taken


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file, gzipped or not; datatrove's nested metadata brought to the top."""
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as stream:
        for line in stream:
            row = json.loads(line)
            other = row.get("metadata") or {}  # JSON text in data/
            yield {**(json.loads(other) if isinstance(other, str) else other), **row}
