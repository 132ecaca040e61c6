"""What was said so far, with whom, and the words that steer it: no screen, no page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from align.models.generate import Completion
from align.run.errors import ConfigError, RunError
from align.run.received import files
from align.talk.config import ChatConfig
from align.talk.speakers import Speaker, Turns


@dataclass
class Conversation:
    """With one model or several: each hears the same words of the user's, and its own answers."""

    speakers: list[Speaker]
    settings: ChatConfig
    turns: dict[str, Turns] = field(default_factory=dict)  # by the speaker's name
    answers: int = 0  # that were drawn from the seed

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew, with the system message if there is one."""
        first = [{"role": "system", "content": self.settings.system}] if self.settings.system else []
        self.turns = {speaker.name: list(first) for speaker in self.speakers}
        self.answers = 0

    def begun(self) -> bool:
        """Has anything been said?"""
        return any(turn["role"] != "system" for turns in self.turns.values() for turn in turns)

    def ask(self, words: str) -> Iterator[dict[str, Completion]]:
        """The user says something; the answers by name, again and again as they grow, one token each in turn.

        Whoever stops listening has heard what is kept.

        Raises:
            ConfigError: where a model cannot take the conversation; then nothing was said.
        """
        for turns in self.turns.values():
            turns.append({"role": "user", "content": words})
        yield from self._answered()

    def again(self) -> Iterator[dict[str, Completion]]:
        """Other answers to what the user said last.

        Raises:
            ConfigError: where nothing was said yet.
        """
        if not self.begun():
            raise ConfigError("nothing was said yet that could be answered again")
        for turns in self.turns.values():
            if turns[-1]["role"] == "assistant":
                turns.pop()
        yield from self._answered()

    def _answered(self) -> Iterator[dict[str, Completion]]:
        drawn = {
            speaker.name: speaker.answer(
                self.turns[speaker.name], temperature=self.settings.temperature,
                max_new_tokens=self.settings.max_new_tokens, seed=self.settings.seed, number=self.answers,
            )
            for speaker in self.speakers
        }  # fmt: skip
        said: dict[str, Completion] = {}
        try:
            while drawn:
                grown = {name: next(tokens, None) for name, tokens in drawn.items()}
                drawn = {name: drawn[name] for name, answer in grown.items() if answer is not None}
                said |= {name: answer for name, answer in grown.items() if answer is not None}
                if drawn:
                    yield dict(said)
        except ConfigError:
            said.clear()
            raise
        finally:
            for tokens in drawn.values():
                tokens.close()  # type: ignore[attr-defined]
            self.answers += 1
            for name, turns in self.turns.items():
                if name in said:
                    turns.append({"role": "assistant", "content": said[name].text})
                else:
                    turns.pop()  # words without an answer were not said: two turns of the user's in a row are refused

    def save(self, file: Path) -> int:
        """Write it as rows of `messages`, which SFT reads: one for each model, under its name.

        Raises:
            ConfigError: where nothing was said yet.
            RunError: for a file that is there.
        """
        if not files.made(file, self.lines().encode()):
            raise RunError(f"{file} is there already; name another file")
        return len(self.turns)

    def lines(self) -> str:
        """It as JSONL, one line for each model.

        Raises:
            ConfigError: where nothing was said yet.
        """
        if not self.begun():
            raise ConfigError("nothing was said yet that could be saved")
        rows = [{"messages": turns, "model": name} for name, turns in self.turns.items()]
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def ending(answer: Completion) -> str:
    """What stands behind an answer that did not end by itself."""
    if answer.stopped:
        return "" if answer.text else "(no words)"
    return " … (cut at the longest answer)" if answer.text or not answer.reasoning else "(never ended its thought)"
