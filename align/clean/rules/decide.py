"""The blocks that say keep, drop or review: what each asks, the reviewers' decisions, boilerplate lines.

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
from align.clean.rules.verdict import KEEP, Verdict
from align.clean.tally import Tally

Asked = Callable[[list[Document]], list[Verdict | None]]  # documents to verdicts; None where the rule failed on one
Maker = Callable[[], Asked]
WORST = ("drop", "review", "keep")
EMPTIED = Verdict("drop", "only_boilerplate", "no line is left")
REVIEWER = Verdict("drop", "reviewer", "a reviewer decided to drop it")


def block(step: str, run: Path, args: CleanConfig, rules: RuleConfig) -> Block:
    """The block of one judging step."""
    if step == "boilerplate":
        return Lines(run, rules, args.audit)
    if step == "classifier":
        return Judge(step, run, partial(_classifier, rules), args.audit, batch=64)
    makers: dict[str, Maker] = {
        "lists": partial(_lists, tuple(rules.lists)),
        "decontamination": partial(_index, str(run / "work" / "decontaminate.npz")),
    }
    return Judge(step, run, makers.get(step, partial(_rules, step, rules, args.review_margin)), args.audit)


def _worst(verdicts: list[Verdict]) -> Verdict:
    """The first drop, else the first review, else keep."""
    return min(verdicts, key=lambda verdict: WORST.index(verdict.action), default=KEEP)


def _each(judge: Callable[[Document], Verdict]) -> Asked:
    return lambda docs: [judge(doc) for doc in docs]


def _rules(step: str, config: RuleConfig, margin: float) -> Asked:
    from align.clean.rules.filters import build

    rules = build(step, config, margin)

    def judge(doc: Document) -> Verdict:
        found = []
        for rule in rules:
            found.append(rule.judge(doc))
            if found[-1].action == "drop":
                break
        return _worst(found)

    return _each(judge)


def _lists(names: tuple[str, ...]) -> Asked:
    lists = _word_lists(names)
    return _each(lambda doc: _worst([words.judge(doc.text) for words in lists]))


@lru_cache(1)
def _word_lists(names: tuple[str, ...]) -> list[Any]:
    from align.clean.rules.lists import WordList

    return [WordList.load(name) for name in names]


def _index(path: str) -> Asked:
    index = _load_index(path)
    return _each(lambda doc: index.judge(doc.text))


@lru_cache(1)
def _load_index(path: str) -> Any:
    from align.clean.rules.decontaminate import Index

    return Index.load(path)


def _classifier(rules: RuleConfig) -> Asked:
    low, high = rules.classifier_review
    classifier = _load_classifier(
        str(rules.classifier_path), rules.classifier_label, rules.classifier_threshold, low, high
    )
    return lambda docs: classifier.judge([doc.text for doc in docs])


@lru_cache(1)
def _load_classifier(path: str, label: str | None, threshold: float, low: float, high: float) -> Any:
    import torch

    from align.clean.rules.classifier import Classifier

    torch.set_num_threads(1)  # one core a worker; and sums in the same order for any number of workers
    return Classifier(path, label=label, threshold=threshold, review=(low, high))


class Judge(Block):
    """One step that says keep, drop or review.

    A document that a reviewer has decided on is asked about as well, and passes: what the rule says of it is noted, so
    that rules can be measured against the decisions.

    Args:
        make: makes the function from texts' documents to verdicts, in the process that uses it. None as a verdict
            means that the rule failed on that document: it goes to review, and is counted.
        batch: documents judged together.
    """

    def __init__(self, step: str, run: Path, make: Maker, audit: int, batch: int = 1):
        super().__init__(step, run)
        self.make = make
        self.audit = audit
        self.batch = batch

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Pass on what is kept."""
        tally, judge = Tally(self.step), self.make()
        folder = self.folder / "work" / "queue" / self.step
        with self.dropped(rank) as dropped, Sink(folder / f"unsure-{rank:05d}.jsonl") as unsure:
            audit = Largest(self.audit, folder / f"audit-{rank:05d}.jsonl")
            for docs in batched(data, self.batch):
                start = time.perf_counter()
                asked = [doc for doc in docs if FLAGGED not in doc.metadata]
                verdicts = dict(zip(map(id, asked), judge(asked) if asked else (), strict=True))
                tally.timed(start)
                for doc in docs:
                    tally.enter(doc)
                    verdict = verdicts.get(id(doc), KEEP)
                    if verdict is None:
                        verdict = Verdict("review", f"{self.step}_failed", "the rule failed on this document")
                    if verdict.action == "drop":
                        audit.offer(stopped(doc, self.step, verdict, why="audit", verdict="drop"))
                    elif verdict.action == "review":
                        unsure.write(stopped(doc, self.step, verdict, why="unsure", verdict="review", weight=1.0))
                    if verdict.action == "keep" or DECISION in doc.metadata:
                        doc.metadata |= {} if verdict.action == "keep" else {FLAGGED: True}
                        tally.leave(doc)
                        yield doc
                        continue
                    tally.stop(doc, verdict)
                    if verdict.action == "drop":
                        dropped.write(stopped(doc, self.step, verdict, metadata=doc.metadata))
            audit.save()
        tally.save(self.counts, rank)


class Decide(Block):
    """Marks the documents that reviewers have decided on. Every rule is asked about them and none stops them."""

    def __init__(self, run: Path, path: Path):
        super().__init__("decide", run)
        self.path = path

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Pass everything on."""
        from align.clean.review.decisions import Decisions

        decisions = Decisions(self.path)
        for doc in data:
            if decision := decisions.of(doc.id):
                doc.metadata[DECISION] = decision
            yield doc


class Decisions(Block):
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
