"""The page on which one talks to models, side by side or blind: the small API behind it.

A page asks for what is new about ten times a second, in short requests: an answer that takes minutes would run into
the bound that every connection has (`align.web.connections`), and a page that asks no more is known to be closed.
"""

from __future__ import annotations

import contextlib
import copy
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.label import votes
from align.label.store import names
from align.label.store.items import Annotator
from align.label.store.store import Store
from align.run.errors import ConfigError
from align.talk import speakers
from align.talk.config import SEEDS, ChatConfig
from align.talk.conversation import Conversation
from align.talk.speakers import Speaker
from align.talk.talks import BAD, TIE, Line, Round, Talk
from align.talk.worker import Worker
from align.web.server import Problem, ServeArguments, application, get, post, session

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

PAGE = Path(__file__).parent / "page"
LONGEST = 100_000  # characters of what is said, or of a system message
HOTTEST = 5.0  # temperature; beyond it tokens are all but random
MOST_TOKENS = 8192  # of an answer, where the models name no end
TALKS = 100  # conversations that are kept; of more, the one that was looked at longest ago goes


class Talking:
    """The API: the conversations of all pages, over one set of models. Votes go to `store`, in blind mode."""

    def __init__(self, found: list[Speaker], args: ChatConfig, store: Store | None):
        self.speakers, self.args, self.store = found, args, store
        self.worker = Worker()
        self.talks: dict[str, Talk] = {}
        self.voters: dict[str, Annotator] = {}  # by the key of the talk
        self.lock = threading.Lock()
        rooms = [speaker.room for speaker in found if speaker.room is not None]
        self.most_tokens = max(args.max_new_tokens, min([MOST_TOKENS, *rooms]))

    # ------------------------------------------------------------------------------------------------ what is asked for

    def open(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """A new conversation; to vote, under a name."""
        name = _text(body, "name", names.TYPED).strip()
        if self.store is not None and not name:
            raise Problem(400, "Type your name: it is stored with your votes.", name=True)
        conversation = Conversation(self.speakers, copy.copy(self.args))
        talk = Talk(secrets.token_urlsafe(16), session(request).key, conversation, self.store is not None)
        if self.store is not None:
            self.voters[talk.key] = self.store.annotator(name, "person")
        with self.lock:
            self.talks[talk.key] = talk
            idle = sorted((one for one in self.talks.values() if not one.busy), key=lambda one: one.seen)
            for one in idle[: max(0, len(self.talks) - TALKS)]:
                del self.talks[one.key]
                self.voters.pop(one.key, None)
        return self._state(talk)

    def look(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """What is new: of a page that has the beginnings of these answers (`have`), what comes after them.

        All there is, where nothing is being said or the page has another round.
        """
        values = request.query_params
        talk = self._talk(request, {"key": values.get("key", "")})
        last = next(iter(talk.rounds[-1:]), None)  # the worker may take a round away meanwhile
        if not talk.busy or last is None or values.get("round") != str(last.number):
            return self._state(talk)
        have = values.get("have", "").split(",")
        have += ["0.0"] * (len(last.order) - len(have))
        columns = [_more(last.lines.get(name, Line()), at) for name, at in zip(last.order, have, strict=False)]
        return {"round": last.number, "before": self.worker.before(talk), "columns": columns}

    def say(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Say something; all models will answer."""
        talk, words = self._talk(request, body), _text(body, "words")
        if not words.strip():
            raise Problem(400, "Nothing was said: type something first.")
        with self._idle(talk):
            if talk.due:
                raise Problem(409, "Vote first: the answer that you choose is what all models will have heard.")
            talk.say(words)
        return self._asked(talk)

    def again(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Other answers to the last words: the next draw of the seed."""
        talk = self._talk(request, body)
        with self._idle(talk):
            talk.again()
        return self._asked(talk)

    def stop(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """End the answers; what was said is kept."""
        talk = self._talk(request, body)
        if talk.busy:
            self.worker.stop(talk)
        return self._state(talk)

    def reset(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Begin anew."""
        talk = self._talk(request, body)
        with self._idle(talk):
            talk.reset()
        return self._state(talk)

    def settings(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Change how answers are drawn; another system message begins anew."""
        talk, system = self._talk(request, body), _text(body, "system")
        temperature = _number(body, "temperature", HOTTEST)
        seed, tokens = _whole(body, "seed", 0, SEEDS - 1), _whole(body, "max_new_tokens", 1, self.most_tokens)
        with self._idle(talk):
            mine = talk.conversation.settings
            mine.temperature, mine.seed, mine.max_new_tokens = temperature, seed, tokens
            if system != (mine.system or ""):
                mine.system = system or None
                talk.reset()
        return self._state(talk)

    def save(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """The conversation as JSONL, for the page to hand to its user. In blind mode what all have heard, nameless."""
        talk = self._talk(request, {"key": request.query_params.get("key", "")})
        with self._idle(talk):
            return {"lines": talk.lines()}

    # ------------------------------------------------------------------------------------------------------------ votes

    def vote(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Write a vote down. When this answers, it is on disk."""
        talk, choice = self._talk(request, body), body.get("choice")
        if self.store is None:
            raise Problem(409, "Votes are given where the page was started with --blind.")
        with self._idle(talk):
            last = talk.rounds[-1] if talk.rounds else None
            if last is None or body.get("round") != last.number:
                raise Problem(409, "These answers are no longer the last ones: nothing was saved.")
            chosen = _choice(choice, last)
            if last.choice == chosen:  # the confirmation was lost on the way, and the page tried again
                return self._state(talk)
            if last.choice:
                raise Problem(409, "This was voted on already; take the vote back first (u).")
            task = votes.cast(
                self.store, self.voters[talk.key], talk.row(), shown=talk.shown(), ranks=talk.ranks(chosen),
                seconds=round(time.monotonic() - last.over, 2),
            )  # fmt: skip
            talk.settle(chosen, task)
        return self._state(talk)

    def undo(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        """Take the vote on the last answers back."""
        talk = self._talk(request, body)
        with self._idle(talk):
            last = talk.rounds[-1] if talk.rounds else None
            if self.store is None or last is None or not last.choice:
                raise Problem(409, "There is nothing to take back: a vote can be, until something else is said.")
            if last.task is not None:
                votes.withdraw(self.store, self.voters[talk.key], last.task)
            talk.unsettle()
        return self._state(talk)

    # ----------------------------------------------------------------------------------------------------------- inside

    def _talk(self, request: Request, body: dict[str, Any]) -> Talk:
        talk = self.talks.get(_text(body, "key", 100))
        if talk is None or talk.owner != session(request).key:
            raise Problem(410, "This conversation is over: the server was started anew, or it was long ago.")
        if self.worker.broken:
            raise Problem(500, "The server made a mistake and answers no more; its terminal says more. Start it anew.")
        talk.seen = time.monotonic()
        return talk

    @contextlib.contextmanager
    def _idle(self, talk: Talk) -> Iterator[None]:
        """Hold a talk in which nothing is being said."""
        with talk.lock:
            if talk.busy:
                raise Problem(409, "An answer is on its way: stop it first (Esc).")
            yield

    def _asked(self, talk: Talk) -> dict[str, Any]:
        self.worker.ask(talk)
        return self._state(talk)

    def _state(self, talk: Talk) -> dict[str, Any]:
        """All that a page shows. In blind mode no name stands at an answer that was not voted on."""
        mine, voter = talk.conversation.settings, self.voters.get(talk.key)
        with talk.lock:
            told = {
                "key": talk.key, "blind": talk.blind, "busy": talk.busy, "due": talk.due,
                "problem": talk.problem, "returned": talk.returned,
                "rounds": [self._round(talk, one) for one in talk.rounds],
            }  # fmt: skip
        return told | {
            "before": self.worker.before(talk),
            "settings": {
                "system": mine.system or "", "temperature": mine.temperature, "seed": mine.seed,
                "max_new_tokens": mine.max_new_tokens,
            },
            "draw": talk.conversation.answers,
            "limits": {"temperature": HOTTEST, "seed": SEEDS - 1, "max_new_tokens": self.most_tokens},
            "models": self._models(talk.blind), "notes": speakers.notes(self.speakers),
            "name": voter.name if voter else None,
            "votes": self.store.progress(voter)["done"] if self.store and voter else 0,
        }  # fmt: skip

    def _models(self, blind: bool) -> list[dict[str, Any]]:
        """Who answers, and how; in blind mode in an order that tells nothing."""
        found = [{"name": one.name, "how": speakers.how(one), "goes_on": one.goes_on} for one in self.speakers]
        return sorted(found, key=lambda one: str(one["name"])) if blind else found

    def _round(self, talk: Talk, one: Round) -> dict[str, Any]:
        named = not talk.blind or bool(one.choice)
        columns = [
            {**_more(one.lines.get(name, Line()), ""), "name": name if named else None,
             "chosen": one.choice in (name, TIE), "kept": one.kept == name}
            for name in one.order
        ]  # fmt: skip
        words = {TIE: "a tie", BAD: "all bad"}.get(one.choice, "" if not one.choice else "chosen")
        return {
            "number": one.number, "words": one.words, "columns": columns, "choice": words,
            "saved": one.task is not None,
        }  # fmt: skip

    def application(self, args: ServeArguments) -> Starlette:
        """The page and its API, ready to serve; the worker begins."""
        routes = [
            post("/api/open", self.open), get("/api/look", self.look), post("/api/say", self.say),
            post("/api/again", self.again), post("/api/stop", self.stop), post("/api/reset", self.reset),
            post("/api/settings", self.settings), get("/api/save", self.save), post("/api/vote", self.vote),
            post("/api/undo", self.undo),
        ]  # fmt: skip
        self.worker.start()
        what = self.store.path if self.store else Path(self.args.models[0])
        return application(routes, args, page=PAGE, what=what)


def _more(line: Line, have: str) -> dict[str, Any]:
    """What a column shows, from where the page has it: `have` is edition and characters."""
    edition, _, characters = have.partition(".")
    known = edition == str(line.edition) and characters.isdecimal() and int(characters[:9]) <= len(line.text)
    start = int(characters) if known else 0
    return {
        "edition": line.edition, "start": start, "text": line.text[start:], "thinking": line.thinking,
        "ending": line.ending,
    }  # fmt: skip


def _choice(given: Any, last: Round) -> str:
    """A vote: the name of the chosen column, a tie, or all bad."""
    if given in ("tie", "bad"):
        return TIE if given == "tie" else BAD
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given < len(last.order):
        raise Problem(400, f"choice: a column from 0 to {len(last.order) - 1}, tie, or bad")
    return last.order[given]


def _text(body: dict[str, Any], key: str, longest: int = LONGEST) -> str:
    value = body.get(key, "")
    if not isinstance(value, str) or len(value) > longest:
        raise Problem(400, f"{key}: text of at most {longest:,} characters")
    return value


def _number(body: dict[str, Any], key: str, most: float) -> float:
    value = body.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= most:
        raise ConfigError(f"{key}: a number from 0 to {most:g}")
    return float(value)


def _whole(body: dict[str, Any], key: str, least: int, most: int) -> int:
    value = body.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(f"{key}: a whole number from {least} to {most:,}")
    return value
