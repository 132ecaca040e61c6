"""One page's conversation: its rounds, what is being said just now, and what a vote makes of it.

In blind mode all models hear the same: after a vote, the chosen answer is the history of every one. Otherwise the next
answers would be to different prompts, and no ranking could compare them.
"""

from __future__ import annotations

import json
import random
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from align.models.generate import Completion
from align.run.errors import ConfigError, in_words
from align.talk.conversation import Conversation, ending
from align.talk.speakers import Turns

CLOSED = 5.0  # seconds without a word from a page, which asks ten times a second: then it counts as closed
TIE, BAD = "/tie", "/bad"  # what a vote can be beside a name: no model's is one of these


@dataclass(frozen=True)
class Line:
    """What a column shows of an answer. In one `edition` the text only grows."""

    text: str = ""
    edition: int = 0
    thinking: bool = False
    ending: str = ""


@dataclass
class Round:
    """What was said to all, and what each answered."""

    number: int
    words: str
    before: Turns  # that the first model had heard until then, and in blind mode every one
    order: list[str]  # names, as the columns show them
    said: dict[str, Completion] = field(default_factory=dict)
    lines: dict[str, Line] = field(default_factory=dict)  # each is replaced whole: pages read while the worker writes
    over: float = 0.0  # when the answers were there, by the clock that only runs on
    choice: str = ""  # of a vote: a name, TIE or BAD
    kept: str = ""  # whose answer is the history; "" for none
    task: int | None = None  # of the vote in the store


class Talk:
    """A conversation and the page that has it. Its methods may be called from several threads."""

    def __init__(self, key: str, owner: str, conversation: Conversation, blind: bool):
        self.key, self.owner, self.conversation, self.blind = key, owner, conversation, blind
        self.rounds: list[Round] = []
        self.lock = threading.RLock()
        self.seen = time.monotonic()
        self.busy = self.stop = False
        self.problem = ""  # why the last words were not answered, or not to the end
        self.returned = ""  # words without an answer, for the person to say again
        self.started = 0  # rounds, those that were replaced included
        self._answers: Iterator[dict[str, Completion]] = iter(())
        self._earlier: tuple[list[Round], dict[str, Turns]] = ([], {})  # as it was before the round under way

    @property
    def due(self) -> bool:
        """Is a vote wanted before anything else is said?"""
        return self.blind and not self.busy and bool(self.rounds) and not self.rounds[-1].choice

    # ---------------------------------------------------------------------------------------------------- what is said

    def say(self, words: str) -> None:
        """Begin the next round; `answer` draws it."""
        self._remember()
        self._begin(words, self.conversation.ask(words))

    def again(self) -> None:
        """Begin other answers to the last words, in place of those that were given.

        Raises:
            ConfigError: where nothing was said yet.
        """
        if not self.rounds:
            raise ConfigError("nothing was said yet that could be answered again")
        self._remember()
        last = self.rounds.pop()
        if self.blind:  # a vote has put one answer in the place of all, or taken the words back
            self._lay(last.before)
            self._begin(last.words, self.conversation.ask(last.words))
        else:
            self._begin(last.words, self.conversation.again())

    def reset(self) -> None:
        """Begin anew."""
        self.conversation.reset()
        self.rounds, self.problem, self.returned = [], "", ""

    def _remember(self) -> None:
        turns = {name: list(turns) for name, turns in self.conversation.turns.items()}
        self._earlier = list(self.rounds), turns

    def _begin(self, words: str, answers: Iterator[dict[str, Completion]]) -> None:
        order = self.names()
        if self.blind:
            # by no seed that a page knows: names are told after a vote, and the next order must not follow from them
            secrets.SystemRandom().shuffle(order)
        self.started += 1
        before = list(self.conversation.turns[order[0]]) if self.blind else []
        self.rounds.append(Round(self.started, words, before, order))
        self.problem = self.returned = ""
        self.busy, self.stop, self._answers = True, False, answers

    def names(self) -> list[str]:
        """The models' names, in the order in which they were given."""
        return [speaker.name for speaker in self.conversation.speakers]

    def _lay(self, history: Turns) -> None:
        self.conversation.turns = {name: list(history) for name in self.names()}

    def lines(self) -> str:
        """The conversation as JSONL; in blind mode the history that all share, without answers that wait for a vote.

        Raises:
            ConfigError: where nothing was said yet.
        """
        if not self.blind:
            return self.conversation.lines()
        history = self.rounds[-1].before if self.due else self.conversation.turns[self.names()[0]]
        if all(turn["role"] == "system" for turn in history):
            raise ConfigError("nothing was said and voted on yet that could be saved")
        return json.dumps({"messages": history}, ensure_ascii=False) + "\n"

    # --------------------------------------------------------------------------------------------- for the worker alone

    def answer(self) -> None:
        """Draw the last round's answers, until they end, `stop` is set, or the page is closed."""
        now = self.rounds[-1]
        try:
            for said in self._answers if self._wanted() else ():
                self._hear(now, said)
                if not self._wanted():
                    break
        except (ValueError, RuntimeError, OSError, MemoryError) as error:  # no room, no memory, a template's refusal
            self.problem = in_words(error)
        finally:
            self._answers.close()  # type: ignore[attr-defined]
            self.answered()

    def answered(self) -> None:
        """Nothing more will be said in this round. Words without any answer were not said."""
        with self.lock:
            now = self.rounds[-1]
            if not now.said:
                self.returned = now.words if len(self._earlier[0]) < len(self.rounds) else ""  # else they stand
                self.rounds, self.conversation.turns = self._earlier
            now.over = time.monotonic()
            now.lines = {name: replace(line, ending=self._ending(now.said[name])) for name, line in now.lines.items()}
            self.busy = False

    def _wanted(self) -> bool:
        if time.monotonic() - self.seen > CLOSED:
            self.problem = "The page was closed, so the answers were stopped."
            self.stop = True
        return not self.stop

    def _hear(self, now: Round, said: dict[str, Completion]) -> None:
        for name, answer in said.items():
            old, end = now.lines.get(name, Line()), self._ending(answer) if self._whole(answer) else ""
            # a character's bytes may be spread over several tokens
            text = answer.text if self._whole(answer) else answer.text.rstrip("\ufffd")
            edition = old.edition + (not text.startswith(old.text))
            now.lines[name] = Line(text, edition, bool(answer.reasoning) and not text, end)
        now.said = said

    def _whole(self, answer: Completion) -> bool:
        return answer.stopped or len(answer.ids) >= self.conversation.settings.max_new_tokens

    def _ending(self, answer: Completion) -> str:
        return ending(answer) if self._whole(answer) else " … (stopped)"

    # ------------------------------------------------------------------------------------------------------------ votes

    def row(self) -> dict[str, Any]:
        """The last round as a row to rank: completions in the order in which the models were given."""
        now = self.rounds[-1]
        said = [now.said[name].text for name in self.names()]
        if all(speaker.goes_on for speaker in self.conversation.speakers):  # then nothing but the words was read
            return {"prompt": now.words, "completions": said, "sources": self.names()}
        completions = [[{"role": "assistant", "content": text}] for text in said]
        prompt = [*now.before, {"role": "user", "content": now.words}]
        return {"prompt": prompt, "completions": completions, "sources": self.names()}

    def ranks(self, choice: str) -> list[int] | None:
        """What a vote says of the models' answers: 1 for the chosen one, 2 for others; None where all are bad."""
        return None if choice == BAD else [1 if choice in (TIE, name) else 2 for name in self.names()]

    def shown(self) -> list[int]:
        """Which model's answer stands in each column."""
        return [self.names().index(name) for name in self.rounds[-1].order]

    def settle(self, choice: str, task: int | None) -> None:
        """After a vote: one answer is what every model will have heard; of a tie one at random; of bad ones none."""
        now = self.rounds[-1]
        now.choice, now.task = choice, task
        drawn = random.Random(f"{self.conversation.settings.seed} {now.number}").choice(self.names())
        now.kept = {TIE: drawn, BAD: ""}.get(choice, choice)
        self.returned = "" if now.kept else now.words
        self._lay(self._heard(now, now.kept) if now.kept else now.before)

    def unsettle(self) -> None:
        """The last vote was taken back: the round waits for another."""
        now = self.rounds[-1]
        now.choice, now.kept, now.task, self.returned = "", "", None, ""
        self.conversation.turns = {name: self._heard(now, name) for name in self.names()}

    def _heard(self, now: Round, name: str) -> Turns:
        said = {"role": "assistant", "content": now.said[name].text}
        return [*now.before, {"role": "user", "content": now.words}, said]
