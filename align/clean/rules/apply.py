"""The blocks that apply the rules: each asks its rule about every document, and stops what is not to be kept.

What a block asks is made in the process that uses it: a model or a filter is not sent from one to another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.utils.batching import batched

from align.clean.blocks import DECISION, FLAGGED, Block, Largest, Sink, stopped
from align.clean.config import CleanConfig, RuleConfig
from align.clean.rules.ruling import KEEP, Ruling
from align.clean.tally import Tally

Asked = Callable[[list[Document]], list[Ruling | None]]  # documents to rulings; None where the rule failed on one
Maker = Callable[[], Asked]
WORST = ("drop", "review", "keep")
EMPTIED = Ruling("drop", "only_boilerplate", "no line is left")


def block(step: str, run: Path, args: CleanConfig, rules: RuleConfig) -> Block:
    """The block of one step that rules."""
    if step == "boilerplate":
        return Lines(run, rules, args.audit)
    if step == "classifier":
        return Apply(step, run, partial(_classifier, rules), args.audit, batch=64)
    makers: dict[str, Maker] = {
        "lists": partial(_lists, tuple(rules.lists)),
        "decontamination": partial(_index, str(run / "work" / "decontaminate.npz")),
    }
    return Apply(step, run, makers.get(step, partial(_rules, step, rules, args.review_margin)), args.audit)


def _worst(rulings: list[Ruling]) -> Ruling:
    """The first drop, else the first review, else keep."""
    return min(rulings, key=lambda ruling: WORST.index(ruling.action), default=KEEP)


def _each(rule: Callable[[Document], Ruling]) -> Asked:
    return lambda docs: [rule(doc) for doc in docs]


def _rules(step: str, config: RuleConfig, margin: float) -> Asked:
    from align.clean.rules.filters import build

    twins = build(step, config, margin)

    def rule(doc: Document) -> Ruling:
        found = []
        for one in twins:
            found.append(one.rule(doc))
            if found[-1].action == "drop":
                break
        return _worst(found)

    return _each(rule)


def _lists(names: tuple[str, ...]) -> Asked:
    lists = word_lists(names)
    return _each(lambda doc: _worst([words.rule(doc.text) for words in lists]))


@lru_cache(1)
def word_lists(names: tuple[str, ...]) -> list[Any]:
    """The word lists of these names, read once.

    Raises:
        ConfigError: for a missing or empty list, and for a line that cannot be read.
    """
    from align.clean.rules.lists import WordList

    return [WordList.load(name) for name in names]


def _index(path: str) -> Asked:
    index = _load_index(path)
    return _each(lambda doc: index.rule(doc.text))


@lru_cache(1)
def _load_index(path: str) -> Any:
    from align.clean.rules.decontaminate import Index

    return Index.load(path)


def _classifier(rules: RuleConfig) -> Asked:
    low, high = rules.classifier_review
    classifier = _load_classifier(
        str(rules.classifier_path), rules.classifier_label, rules.classifier_threshold, low, high
    )
    return lambda docs: classifier.rule([doc.text for doc in docs])


@lru_cache(1)
def _load_classifier(path: str, label: str | None, threshold: float, low: float, high: float) -> Any:
    import torch

    from align.clean.rules.classifier import Classifier

    torch.set_num_threads(1)  # one core a worker; and sums in the same order for any number of workers
    return Classifier(path, label=label, threshold=threshold, review=(low, high))


class Apply(Block):
    """One step that rules: keep, drop or review.

    A document that a reviewer has decided on is asked about as well, and passes: what the rule says of it is noted, so
    that rules can be measured against the decisions.

    Args:
        make: makes the function from texts' documents to rulings, in the process that uses it. None as a ruling
            means that the rule failed on that document: it goes to review, and is counted.
        batch: documents that the rule is asked about together.
    """

    def __init__(self, step: str, run: Path, make: Maker, audit: int, batch: int = 1):
        super().__init__(step, run)
        self.make = make
        self.audit = audit
        self.batch = batch

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Pass on what is kept."""
        tally, ask = Tally(self.step), self.make()
        folder = self.folder / "work" / "queue" / self.step
        with self.dropped(rank) as dropped, Sink(folder / f"unsure-{rank:05d}.jsonl") as unsure:
            audit = Largest(self.audit, folder / f"audit-{rank:05d}.jsonl")
            for docs in batched(data, self.batch):
                start = time.perf_counter()
                asked = [doc for doc in docs if FLAGGED not in doc.metadata]
                rulings = dict(zip(map(id, asked), ask(asked) if asked else (), strict=True))
                tally.timed(start)
                for doc in docs:
                    tally.enter(doc)
                    ruling = rulings.get(id(doc), KEEP)
                    if ruling is None:
                        ruling = Ruling("review", f"{self.step}_failed", "the rule failed on this document")
                    if ruling.action == "drop":
                        audit.offer(stopped(doc, self.step, ruling, why="audit", verdict="drop"))
                    elif ruling.action == "review":
                        unsure.write(stopped(doc, self.step, ruling, why="unsure", verdict="review", weight=1.0))
                    if ruling.action == "keep" or DECISION in doc.metadata:
                        doc.metadata |= {} if ruling.action == "keep" else {FLAGGED: True}
                        tally.leave(doc)
                        yield doc
                        continue
                    tally.stop(doc, ruling)
                    if ruling.action == "drop":
                        dropped.write(stopped(doc, self.step, ruling, metadata=doc.metadata))
            audit.save()
        tally.save(self.counts, rank)


class Lines(Block):
    """C4's rules for lines: takes boilerplate out of the text. What a reviewer has decided on passes all the same; as
    it is, where nothing would be left."""

    def __init__(self, run: Path, rules: RuleConfig, audit: int = 0):
        super().__init__("boilerplate", run)
        self.rules = rules
        self.audit = audit

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Pass on what still has text."""
        from align.clean.rules.explain import removed_line
        from align.clean.rules.filters import boilerplate

        tally, cleaner = Tally(self.step), boilerplate(self.rules)
        audit = Largest(self.audit, self.folder / "work" / "queue" / self.step / f"audit-{rank:05d}.jsonl")
        with self.dropped(rank) as dropped:
            for doc in data:
                tally.enter(doc)
                start = time.perf_counter()
                text, gone = _without_boilerplate(doc, cleaner)
                tally.timed(start)
                if not text and FLAGGED not in doc.metadata:
                    audit.offer(stopped(doc, self.step, EMPTIED, why="audit", verdict="drop"))
                if text or DECISION in doc.metadata:
                    doc.metadata |= {} if text else {FLAGGED: True}
                    if gone and text:
                        before, doc.text = doc.text, text
                        tally.change(removed_line(gone, self.rules), doc, before, text)
                    tally.leave(doc)
                    yield doc
                    continue
                tally.stop(doc, EMPTIED)
                dropped.write(stopped(doc, self.step, EMPTIED, metadata=doc.metadata))
            audit.save()
        tally.save(self.counts, rank)


def _without_boilerplate(doc: Document, cleaner: Any) -> tuple[str, str]:
    """The text without its lines of boilerplate, and the first of those; the text as it is where there are none.

    The filter strips every line, drops empty ones and writes all ends as one, so its text only says which lines stay.
    """
    copy = Document(doc.text, doc.id)
    cleaner.filter(copy)
    kept = set(copy.text.splitlines())
    lines = doc.text.splitlines(keepends=True)
    gone = [line.strip() for line in lines if line.strip() and line.strip() not in kept]
    if not gone:
        return doc.text, ""
    return "".join(line for line in lines if not line.strip() or line.strip() in kept).strip(), gone[0]
