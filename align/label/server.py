"""The page on which people rank completions: the small API behind it.

Not Gradio (6.31.0 looked at): no component of it ranks and none takes a key, its own way to keys is JavaScript in the
page's head (gradio pull request 6952), so the page would be our own code anyway, and without a content policy that
forbids inline scripts. It would also bring pandas, pillow, pydub and some 25 more packages, and telemetry that is on
until it is turned off; Starlette and a page without a build step need neither.
"""

from __future__ import annotations

import contextlib
import threading
import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.label import agreement, figures
from align.label.store import names
from align.label.store.items import Annotator, Task
from align.label.store.store import Store
from align.run.errors import RunError
from align.run.received import files
from align.web.server import Problem, ServeArguments, answer, application, get, post, session

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from align.web.sessions import Entry

PAGE = Path(__file__).parent / "page"
ALIVE = 120.0  # seconds since a browser was last heard of; its page says so every half minute
NAME_HEADER = "x-align-annotator"  # percent-encoded: headers are Latin-1
LONGEST = 100_000  # characters of a reason, a better answer or the guidelines


@dataclass
class Seat:
    """One browser, by its session, in which somebody works under a name."""

    annotator: Annotator
    seen: float


class Labelling:
    """The API: who is at work in which browser, and what their pages ask for. One instance serves one labels file."""

    def __init__(self, store: Store, folder: Path, export: str):
        self.store, self.guidelines, self.export = store, folder / "guidelines.md", export
        self.labels = store.identity()
        self.entry: Entry | None = None  # the sessions, once there is an application
        self.seats: dict[str, Seat] = {}
        self.lock = threading.Lock()
        self.measured: tuple[int, Any, float] = (-1, None, 0.0)  # of which answers, the figures, not again before

    # ---------------------------------------------------------------------------------------------------- who it is

    def login(self, request: Request, body: dict[str, Any]) -> dict[str, Any] | Response:
        """Work under a name. A name at work in another browser is refused, unless `take_over` is said."""
        annotator = self.store.annotator(_text(body, "name", names.TYPED), "person")
        with self.lock:
            now, mine = time.monotonic(), session(request).key
            assert self.entry is not None, "a request came without an application"
            self.seats = {key: seat for key, seat in self.seats.items() if self.entry.holds(key)}
            others = [key for key, seat in self.seats.items() if seat.annotator == annotator and key != mine]
            alive = [key for key in others if now - self.seats[key].seen < ALIVE]
            if alive and body.get("take_over") is not True:
                ago = round(now - max(self.seats[key].seen for key in alive))
                return answer(
                    {"error": f"{annotator.name} is at work in another browser (heard of {ago} s ago). If that is "
                     "you, take the name over; if not, choose another name.", "in_use": True}, 409,
                )  # fmt: skip
            for key in others:
                del self.seats[key]
            self.seats[mine] = Seat(annotator, now)
        return self._state(request, annotator)

    def logout(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Give the name free, and the task for others to take. Whoever else has logged in here meanwhile stays."""
        with self.lock:
            key = session(request).key
            seat = self.seats.get(key)
            if seat is None or _other(request, seat.annotator):
                return {}
            del self.seats[key]
        self.store.leave(seat.annotator)
        return {}

    def _annotator(self, request: Request) -> Annotator:
        """Whose browser it is.

        Raises:
            Problem: nobody's, or not that of the annotator whom the page names: another tab has logged in since.
        """
        with self.lock:
            seat = self.seats.get(session(request).key)
            if seat is None:
                raise Problem(401, "Type your name to go on; what you saved is kept.")
            if name := _other(request, seat.annotator):
                raise Problem(
                    409, f"{seat.annotator.name} works in this browser now: nothing was done for {name}. Type your "
                    "name to go on here; to work side by side, use another browser or a private window.", other=True,
                )  # fmt: skip
            seat.seen = time.monotonic()
            return seat.annotator

    # ---------------------------------------------------------------------------------------------------- the work

    def state(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """The annotator's task and progress; no name where nobody has logged in here."""
        try:
            return self._state(request, self._annotator(request))
        except Problem as problem:
            if problem.status != 401:
                raise
            return {"name": None}

    def alive(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """The page is still open."""
        return {"name": self._annotator(request).name}

    def _state(self, request: Request, annotator: Annotator) -> dict[str, Any]:
        task = self.store.next(annotator)
        return {
            "name": annotator.name, "manager": session(request).role == "manager", "labels": self.labels,
            "task": _shown(task), "progress": self.store.progress(annotator),
        }  # fmt: skip

    def answer(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Write one answer down. When this answers, the ranking is on disk."""
        annotator, task = self._annotator(request), body.get("task")
        self._check_labels(body)
        if not isinstance(task, int) or isinstance(task, bool) or not 0 < task < 1 << 63:
            raise Problem(400, "task: the number of a task is needed, as /api/state gives it")
        seconds = body.get("seconds")
        if not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e7:
            seconds = None
        try:
            with self.store.transaction():  # one commit for the answer and for what is asked next
                self.store.answer(
                    task, annotator, ranking=body.get("ranking"), all_bad=body.get("all_bad") is True,
                    skip=body.get("skip") is True, reason=_text(body, "reason"), better=_text(body, "better"),
                    seconds=None if seconds is None else round(seconds, 2), mark=_text(body, "mark", 100) or None,
                )  # fmt: skip
                return {"saved": task, **self._state(request, annotator)}
        except RunError as error:
            current = self.store.next(annotator)
            # answered in another tab, left open too long, or another task of that number
            if current is None or current.id != task or current.mark != body.get("mark", current.mark):
                raise Problem(410, str(error)) from error
            raise

    def undo(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Take the last answer back and show its task again."""
        annotator = self._annotator(request)
        self._check_labels(body)
        if self.store.undo(annotator) is None:
            raise Problem(409, "There is nothing to take back.")
        return self._state(request, annotator)

    def _check_labels(self, body: dict[str, Any]) -> None:
        """Every labels file counts its tasks from 1: what a page says must be about those of this one."""
        if body.get("labels", self.labels) != self.labels:
            raise Problem(410, "Other labels are served here by now than when this page was opened: nothing was done.")

    # -------------------------------------------------------------------------------------------------- guidelines

    def read_guidelines(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """The guidelines, as Markdown."""
        with contextlib.suppress(FileNotFoundError):
            return {"text": files.text(self.guidelines, 4 * LONGEST)}
        return {"text": ""}

    def write_guidelines(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Replace the guidelines in one step, unless somebody else has since they were read (`before`)."""
        _manager(request)
        text, before = _text(body, "text"), _text(body, "before")
        with self.lock:
            if self.read_guidelines(request, {})["text"] != before:
                raise Problem(409, "The guidelines were changed meanwhile: copy your text, reload, and put it in.")
            try:
                files.replace(self.guidelines, text.encode())
            except (OSError, UnicodeEncodeError) as error:
                raise Problem(409, f"{self.guidelines} cannot be written ({error}); copy your text") from error
        return {"text": text}

    # ----------------------------------------------------------------------------------------------------- manager

    def manage(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Everyone's progress, and how good the rankings are."""
        _manager(request)
        with self.lock:
            now = time.monotonic()
            live = {seat.annotator.number for seat in self.seats.values() if now - seat.seen < ALIVE}
        people = [
            {"name": a.name, "kind": a.kind, "live": a.number in live, **self.store.progress(a)}
            for a in self.store.annotators()
        ]
        counts = self.store.counts()
        assert self.entry is not None, "a request came without an application"
        return {"counts": counts, "annotators": people, "quality": self._quality(counts), "export": self.export,
                "file": str(self.store.path), "alike": names.alike([one["name"] for one in people]),
                "token": self.entry.tokens.get("visitor")}  # fmt: skip

    def renew(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """New tokens, and an end to every session but the manager's own. Answers with the tokens by role."""
        _manager(request)
        assert self.entry is not None, "a request came without an application"
        if not self.entry.tokens:
            raise Problem(409, "This page was started with --no_token: everyone on this machine can open it.")
        self.entry.renew(session(request))
        return self.entry.tokens

    def _quality(self, counts: dict[str, int]) -> dict[str, Any] | None:
        """Measures as rows of words, made again only when there are other answers than last time."""
        last, start = self.store.last_change(), time.monotonic()
        if self.measured[0] != last and start >= self.measured[2]:
            rows = list(self.store.rankings())
            summary = agreement.summary(rows) if rows else None
            found = {"lines": figures.lines(summary), "table": figures.table(summary)} if summary else None
            self.measured = (last, found, start + 10 * (time.monotonic() - start))  # a tenth of the time at most
        return self.measured[1]

    def application(self, args: ServeArguments) -> Starlette:
        """The page and its API, ready to serve."""
        routes = [
            post("/api/login", self.login), post("/api/logout", self.logout), get("/api/state", self.state),
            post("/api/alive", self.alive), post("/api/answer", self.answer), post("/api/undo", self.undo),
            get("/api/guidelines", self.read_guidelines), post("/api/guidelines", self.write_guidelines),
            get("/api/manage", self.manage), post("/api/renew", self.renew),
        ]  # fmt: skip
        app = application(routes, args, page=PAGE, manager=True, what=self.store.path)
        self.entry = app.state.entry
        return app


def _other(request: Request, annotator: Annotator) -> str:
    """The name that the page works under, where that is not this annotator's; empty where it is, or names none."""
    name = urllib.parse.unquote(request.headers.get(NAME_HEADER, "")[: 12 * names.LONGEST])  # %-encoded UTF-8
    return name if name != annotator.name else ""


def _manager(request: Request) -> None:
    if session(request).role != "manager":
        raise Problem(403, "This page is the manager's: open it by the link that was printed for the manager.")


def _text(body: dict[str, Any], key: str, longest: int = LONGEST) -> str:
    value = body.get(key, "")
    if not isinstance(value, str) or len(value) > longest:
        raise Problem(400, f"{key}: text of at most {longest:,} characters")
    return value


def _shown(task: Task | None) -> dict[str, Any] | None:
    """What an annotator may know of a task: not where completions are from, nor that it comes a second time."""
    if task is None:
        return None
    return {"id": task.id, "mark": task.mark, "prompt": task.prompt, "completions": task.completions}
