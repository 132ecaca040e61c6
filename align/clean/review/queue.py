"""The review queue of a cleaning run, read: which documents wait for people, and what the page shows of each.

A document may be there several times, once for each rule that had something to say about it. Documents come in a
shuffled order that is the same every time: what was reviewed so far is a random sample of all that waits.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from align.clean.config import COPIES
from align.clean.review.decisions import Decisions
from align.report.untrusted import apart, encodable, merge
from align.run.errors import RunError, recipe
from align.run.lineage import read_record
from align.run.received import files

WHOLE = 6_000  # characters: a document up to here, two pages, is shown whole
LEAD = 200  # of a longer one: characters from its beginning,
AROUND = 600  # and on either side of a marked span, so that the mark is on the screen
PARTS = 20  # marked regions that are shown at once
STEP = 20_000  # characters that one click on a gap brings


def rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON lines, as a stream: of the queue, or of what the tasks left for it."""
    import orjson  # of the extra `clean`; the page does without

    with file.open("rb") as stream:
        yield from map(orjson.loads, stream)


def counts(path: Path, decisions: Decisions) -> tuple[int, int, int]:
    """How many of the queue's documents are without a decision because a rule was unsure of them, how many as a sample,
    and how many have one. Copies of a document are one: a decision is about a text."""
    found = {"unsure": 0, "audit": 0, "decided": 0}
    for row in rows(path):
        found["decided" if decisions.of(row["id"]) is not None else row["why"]] += 1
    return found["unsure"], found["audit"], found["decided"]


class Queue:
    """The rows of `<run>/review/*.jsonl`. Texts stay on the disk; the rest is held by document."""

    def __init__(self, run: str | Path):
        """
        Raises:
            RunError: for a folder that is no finished cleaning run, and for a line that cannot be read.
        """
        self.run = Path(run)
        record = read_record(self.run)
        if record is None:
            raise RunError(f"{run} is no run (no run.json); name the output_dir of {recipe('clean')}")
        if record.get("recipe") != "clean" or record.get("status") != "complete":
            told = f"it is a {record.get('recipe')} run, {record.get('status')}"
            raise RunError(f"{run} is no finished cleaning run: {told}; run {recipe('clean')} to its end")
        recorded = (record.get("config") or {}).get("decisions")
        self.elsewhere = recorded if recorded and Path(str(recorded)) != self.beside else None  # said, and never opened
        self.documents: dict[str, list[dict[str, Any]]] = {}
        for file in sorted((self.run / "review").glob("*.jsonl")):
            self._index(file)
        # not by the id itself: samples of what is kept are drawn by it, and would come first
        self.documents = dict(
            sorted(self.documents.items(), key=lambda item: hashlib.sha256(item[0].encode()).digest())
        )
        self.order = {document: place for place, document in enumerate(self.documents)}
        self.rules = Counter(row["rule"] for rows in self.documents.values() for row in rows if row["rule"])

    @property
    def beside(self) -> Path:
        """The run's own file of decisions, `<run>-decisions.jsonl`. What the record says of another is what whoever
        made the run says, and decides nothing."""
        return Path(f"{self.run.resolve()}-decisions.jsonl")

    def decisions(self, given: str | None = None) -> Decisions:
        """The decisions in the file that the user names, or else in the run's own beside it.

        Raises:
            RunError: where that file holds something else, or lacks decisions that the run was made with.
        """
        found = Decisions(Path(given).resolve() if given else self.beside)
        own = self.run / "decisions.jsonl"
        if lacking := len(Decisions(own).seen - found.seen) if not given and own.exists() else 0:
            path = self.beside
            back = f"cp {own} {path}" if not path.exists() else f"cat {own} {path} > all.jsonl"
            raise RunError(
                f"{path} lacks {lacking:,} of the decisions that {self.run} was made with: was it or the run moved? "
                f"Name the file that has them, --decisions …, or take the run's copy: {back}"
            )
        return found

    def _index(self, file: Path) -> None:
        with io.BufferedReader(files.opened(file)) as stream:
            at = 0
            for number, line in enumerate(stream, 1):
                try:
                    row = files.parsed(line)
                    text, beside = row.pop("text"), row.pop("beside", None)
                    merge(row.get("spans") or (), len(f"{text:s}"))  # whoever sent the run wrote them
                    if beside and not all(isinstance(beside[key], str) for key in ("id", "source", "text")):
                        raise TypeError("what is beside it is no document")
                    row.update(length=len(text), rule=str(row.get("rule") or ""), why=str(row["why"]), _at=(file, at))
                    self.documents.setdefault(f"{row['id']:s}", []).append(row)
                except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
                    raise RunError(
                        f"{file}, line {number} is no row of a review queue ({error!r}); clean again"
                    ) from error
                at += len(line)

    def __len__(self) -> int:
        return len(self.documents)

    def rows(self) -> list[dict[str, Any]]:
        """All rows, without their texts."""
        return [row for rows in self.documents.values() for row in rows]

    def ids(self, rule: str = "", why: str = "") -> list[str]:
        """Documents that a rule flagged (all without one), of one kind (`unsure`, `audit`; both without)."""
        return [
            document
            for document, rows in self.documents.items()
            if any(rule in ("", row["rule"]) and why in ("", row["why"]) for row in rows)
        ]

    def counts(self) -> list[dict[str, Any]]:
        """How many documents each rule has in the queue, for the page's filter."""
        return [{"rule": rule, "documents": count} for rule, count in sorted(self.rules.items())]

    def text(self, document: str) -> str:
        """The text of a document, as the rule saw it."""
        return str(self._stored(document)["text"])

    def _stored(self, document: str) -> dict[str, Any]:
        file, at = self.documents[document][0]["_at"]
        with file.open("rb") as stream:
            stream.seek(at)
            return dict(json.loads(stream.readline()))

    def _texts(self, document: str) -> list[tuple[str, list[Any]]]:
        """The text and its marked ranges; then those of the document beside it, where there is one. Of a pair the
        words are marked that the other one does not have."""
        row = self._stored(document)
        texts = [row["text"], *([row["beside"]["text"]] if row.get("beside") else ())]
        spans = [span for row in self.documents[document] for span in row.get("spans") or ()]
        return list(zip(texts, apart(*texts) if len(texts) == 2 else [spans], strict=True))

    def show(self, document: str) -> dict[str, Any]:
        """What the page needs of a document: its id and its name, which are the same unless it is one of a pair, where
        it is from, the reasons in words, the text in pieces; the same of the document `beside` it, or None."""
        rows, beside = self.documents[document], self._stored(document).get("beside")
        shown = [{"length": len(text), "pieces": pieces(text, spans)} for text, spans in self._texts(document)]
        reasons = [
            {
                "rule": row["rule"],
                "reason": str(row.get("reason") or "").replace("_", " "),
                "detail": str(row.get("detail") or ""),
                "score": row.get("score"),
                "why": row["why"],
                "verdict": row.get("verdict"),
                "told": ruling_in_words(row),
                "others": max(0, self.rules[row["rule"]] - 1),
            }
            for row in rows
        ]
        name = document.partition("-")[0]
        head = {"id": document, "name": name, "source": str(rows[0].get("source") or ""), "reasons": reasons}
        other = {"name": beside["id"], "source": str(beside["source"])} | shown[1] if beside else None
        return encodable(head | shown[0] | {"beside": other})

    def part(self, document: str, start: int, end: int, beside: bool = False) -> list[dict[str, Any]]:
        """More of a long document, or of the one beside it: its pieces from `start`, at most `STEP` characters, and the
        gap that is left.

        Raises:
            IndexError: where nothing is beside it.
        """
        text, spans = self._texts(document)[beside]
        start, end = max(0, start), min(end, len(text))
        stop = min(end, start + STEP)
        found = _cut(text, merge(spans, len(text)), start, stop)
        if stop < end:
            found.append({"gap": [stop, end]})
        return encodable(found)


def pieces(text: str, spans: Iterable[Any]) -> list[dict[str, Any]]:
    """A text in order as `{"text", "marked"}` and, where a long one leaves something out, `{"gap": [start, end]}`.

    Characters, not bytes or UTF-16 units: the page never counts, it only joins.
    """
    held = merge(spans, len(text))
    if len(text) <= WHOLE:
        return _cut(text, held, 0, len(text))
    windows = merge(
        [(0, LEAD if held else WHOLE), *((s - AROUND, min(e, s + STEP) + AROUND) for s, e in held[:PARTS])], len(text)
    )
    found: list[dict[str, Any]] = []
    at = 0
    for start, end in windows:
        if start > at:
            found.append({"gap": [at, start]})
        found += _cut(text, held, start, end)
        at = end
    if at < len(text):
        found.append({"gap": [at, len(text)]})
    return found


def _cut(text: str, spans: list[tuple[int, int]], start: int, end: int) -> list[dict[str, Any]]:
    """`text[start:end]` as pieces, marked where a span is."""
    found: list[dict[str, Any]] = []
    for low, high in spans:
        low, high = max(low, start), min(high, end)
        if low < high:
            if start < low:
                found.append({"text": text[start:low], "marked": False})
            found.append({"text": text[low:high], "marked": True})
            start = high
    if start < end:
        found.append({"text": text[start:end], "marked": False})
    return found


def ruling_in_words(row: Mapping[str, Any]) -> str:
    """What the rule would do by itself, and why people are asked."""
    if row.get("rule") == COPIES:
        return (
            "The rule drops it and keeps the other one. Is it a copy? Drop: yes. Keep: no, neither goes for the other."
        )
    if row.get("why") == "unsure":
        return "The rule is unsure. Until somebody decides, the document is left out."
    if row.get("verdict") == "drop":
        return "The rule drops it. You check a sample of what it drops."
    return "Every rule keeps it. You check a sample of what is kept."
