"""`align review runs/mine/clean`: people decide what the rules are unsure of, one document at a time, by keyboard.

The page shows a document with the reason in words and the marked passages. A decision is on the disk before the page
says so; it is in the decisions file of the run, wins over the rules when the run is made again, and counts in the
rules' precision and recall, which the page shows as they grow.
"""

from __future__ import annotations

import getpass
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.clean.review.decisions import Decisions
from align.clean.review.grades import quality
from align.clean.review.queue import Queue
from align.run.errors import RunError
from align.run.parse import parse
from align.web.server import Problem, ServeArguments, application, get, post
from align.web.serving import serve

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

PAGE = Path(__file__).parent / "page"
RECENT = 600.0  # seconds over which the pace is measured
NOTE = 2000  # characters of a note
NAMED = 500  # characters of an id, or of a rule's name


@dataclass
class ReviewArguments(ServeArguments):
    """Which run's queue is shown, and whose decisions they are."""

    source: str | None = field(default=None, metadata={"help": "The output_dir of a finished cleaning run."})
    reviewer: str = field(default="", metadata={"help": "Name for the decisions file; the login name by default."})
    decisions: str | None = field(
        default=None, metadata={"help": "Another decisions file than the run's own, <run>-decisions.jsonl beside it."}
    )


class Review:
    """The queue, the decisions, and where one reviewer stands. Its methods may be called from several threads."""

    def __init__(self, queue: Queue, decisions: Decisions, reviewer: str):
        self.queue = queue
        self.decisions = decisions
        self.reviewer = reviewer
        self.lock = threading.Lock()
        self.times: deque[float] = deque(maxlen=200)  # of this session's decisions

    def next(self, rule: str = "", why: str = "", after: str = "") -> dict[str, Any] | None:
        """The next undecided document of the filter behind `after`, then from the beginning; None if there is none."""
        with self.lock:
            self.decisions.refresh()
            left = [document for document in self.queue.ids(rule, why) if self.decisions.of(document) is None]
        if not left:
            return None
        order = self.queue.order
        behind = [document for document in left if order[document] > order.get(after, -1)]
        return self.document((behind or left)[0])

    def document(self, document: str) -> dict[str, Any]:
        """A document by its id, with what was decided about it."""
        self._known(document)
        return {**self.queue.show(document), "decision": self.decisions.of(document)}

    def part(self, document: str, start: int, end: int, beside: bool) -> list[dict[str, Any]]:
        """More of a long document; see `Queue.part`."""
        self._known(document)
        return self.queue.part(document, start, end, beside)

    def decide(self, document: str, decision: Any, note: str = "") -> None:
        """Write a decision down; it is on the disk when this returns."""
        self._known(document)
        if decision not in ("keep", "drop"):
            raise Problem(400, f"a decision is keep or drop, got {str(decision)[:40]!r}")
        row = self.queue.documents[document][0]
        with self.lock:
            self.decisions.add(
                document, decision, reviewer=self.reviewer, rule=row["rule"], reason=str(row.get("reason") or ""),
                note=note, text=self.queue.text(document),
            )  # fmt: skip
            self.times.append(time.monotonic())

    def undo(self) -> str | None:
        """Take back this reviewer's last decision on a document of this queue. Its id; None where there is none."""
        with self.lock:
            self.decisions.refresh()
            for document, row in reversed(self.decisions.rows.items()):
                if row.get("reviewer") == self.reviewer and document in self.queue.documents:
                    self.decisions.undo(document, reviewer=self.reviewer)
                    if self.times:
                        self.times.pop()
                    return document
        return None

    def state(self, rule: str = "", why: str = "") -> dict[str, Any]:
        """Progress within the filter, pace, and the rules against the reviewers."""
        with self.lock:
            self.decisions.refresh()
            said = [self.decisions.of(document) for document in self.queue.ids(rule, why)]
            rules = quality(self.queue.rows(), self.decisions)
            now = time.monotonic()
            recent = [at for at in self.times if now - at < RECENT]
        # from the first of the recent decisions to now; one alone says nothing about pace
        minutes = (now - recent[0]) / 60 if len(recent) > 1 else 0.0
        pace = (len(recent) - 1) / minutes if minutes > 0 else None
        left = said.count(None)
        return {
            "run": str(self.queue.run),
            "reviewer": self.reviewer,
            "file": str(self.decisions.path),
            "total": len(said),
            "kept": said.count("keep"),
            "dropped": said.count("drop"),
            "per_minute": pace,
            "seconds_left": 60 * left / pace if pace else None,
            "filters": self.queue.counts(),
            "rules": rules,
        }

    def _known(self, document: str) -> None:
        if document not in self.queue.documents:
            raise Problem(400, "this document is not in the queue; load the page again")


def app(review: Review, args: ServeArguments) -> Starlette:
    """The page and its API over `review`."""

    def filters(values: Mapping[str, Any]) -> tuple[str, str]:
        return _text(values, "rule"), _text(values, "why")

    def following(request: Request, _: dict[str, Any]) -> dict[str, Any]:
        values = request.query_params
        return {"document": review.next(*filters(values), _text(values, "after"))}

    def state(request: Request, _: dict[str, Any]) -> dict[str, Any]:
        return review.state(*filters(request.query_params))

    def part(request: Request, _: dict[str, Any]) -> dict[str, Any]:
        values = request.query_params
        try:
            start, end = int(values["start"]), int(values["end"])
        except (KeyError, ValueError):
            raise Problem(400, "start and end are numbers of characters") from None
        try:
            return {"pieces": review.part(_text(values, "id"), start, end, values.get("beside") == "true")}
        except IndexError:
            raise Problem(400, "nothing is beside this document; load the page again") from None

    def decide(_: Request, body: dict[str, Any]) -> dict[str, Any]:
        document, wanted = _text(body, "id"), filters(body)
        review.decide(document, body.get("decision"), _text(body, "note", NOTE))
        return {"document": review.next(*wanted, document)}

    def undo(_: Request, body: dict[str, Any]) -> dict[str, Any]:
        undone = review.undo()
        document = review.document(undone) if undone else review.next(*filters(body))
        return {"undone": undone, "document": document}

    routes = [get("/api/next", following), get("/api/state", state), get("/api/part", part)]
    routes += [post("/api/decide", decide), post("/api/undo", undo)]
    return application(routes, args, page=PAGE, what=review.decisions.path)


def _text(values: Mapping[str, Any], key: str, longest: int = NAMED) -> str:
    value = values.get(key, "")
    if not isinstance(value, str) or len(value) > longest:
        raise Problem(400, f"{key}: text of at most {longest:,} characters")
    return value


def main(argv: list[str]) -> None:
    """Serve the review page until Ctrl-C.

    Raises:
        ConfigError: for arguments that cannot work.
        RunError: for a folder without a queue, a decisions file that cannot be read, a port that is taken.
    """
    (args,) = parse(ReviewArguments, nano=None, required=("source",), argv=argv)
    queue = Queue(str(args.source))
    if not len(queue):
        raise RunError(
            f"{args.source}: nothing waits for review; its rules were sure, and --audit 0 asked for no samples"
        )
    decisions = queue.decisions(args.decisions)
    if queue.elsewhere and not args.decisions:
        print(f"note: the run was made with the decisions in {queue.elsewhere}; if they are yours, give --decisions")
    review = Review(queue, decisions, args.reviewer or _login())
    left = sum(decisions.of(document) is None for document in queue.documents)
    told = f"{left:,} of {len(queue):,} documents wait; {review.reviewer}'s decisions go to {decisions.path}"
    serve(app(review, args), args, lambda url: print(f"{told}\n{url}  (Ctrl-C ends it)", flush=True))


def _login() -> str:
    """The login name; a process without one (a container's number) is a reviewer all the same."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "reviewer"
