"""`align chat`: talk to models in the terminal. One answers as it thinks; several answer side by side."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from align.models.generate import Completion
from align.run.errors import ConfigError, RunError
from align.run.received.screen import plain
from align.talk import speakers
from align.talk.config import ChatConfig
from align.talk.conversation import Conversation, ending
from align.talk.speakers import Speaker

HELP = """  /system TEXT      a system message, and begin anew; without TEXT: none
  /temperature 0.7  of sampling; 0 takes the most likely token
  /retry            another answer to your last words
  /reset            begin anew
  /save FILE        write the conversation as rows of messages (JSONL)
  /quit             or Ctrl-D; Ctrl-C stops an answer, and what was said of it is kept"""
NARROWEST = 28  # characters of a column
GAP = "  "


def begin(args: ChatConfig) -> None:
    """Load the models, then read, answer, read …"""
    conversation = Conversation(speakers.load(args), args)
    for line in opening(conversation.speakers):
        print(line)
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  arrows and history in `input`
    talk(conversation)


def opening(found: list[Speaker]) -> list[str]:
    """What is said at the start: who answers, how, and where help is."""
    lines = [f"{speaker.name} {speakers.how(speaker)}" for speaker in found] + speakers.notes(found)
    return [*lines, "/help lists the commands, Ctrl-D ends", ""]


def talk(conversation: Conversation) -> None:
    """Until Ctrl-D or /quit."""
    mark = "text> " if all(speaker.goes_on for speaker in conversation.speakers) else "you> "
    while True:
        try:
            words = input(mark)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n(Ctrl-D ends)")
            continue
        try:
            if words.startswith("/"):
                if not command(conversation, words):
                    return
            elif words.strip():
                show(conversation, conversation.ask(words), words)
        except (ConfigError, RunError, OSError) as error:
            print(f"error: {error}\n")


def command(conversation: Conversation, words: str) -> bool:
    """Do what a line with a slash says. False: the conversation is over.

    Raises:
        ConfigError: for one that does not exist, or without what it needs.
    """
    name, _, rest = words[1:].strip().partition(" ")
    rest = rest.strip()
    if name in ("quit", "exit"):
        return False
    if name == "help":
        print(HELP)
    elif name == "reset":
        conversation.reset()
        print("begun anew\n")
    elif name == "system":
        conversation.settings.system = rest or None
        conversation.reset()
        print("begun anew, " + ("with that system message\n" if rest else "without a system message\n"))
    elif name == "temperature":
        conversation.settings.temperature = _temperature(rest)
        print(f"temperature {conversation.settings.temperature:g}\n")
    elif name == "retry":
        show(conversation, conversation.again(), "")
    elif name == "save":
        if not rest:
            raise ConfigError("/save needs a file: /save talk.jsonl")
        rows = conversation.save(Path(rest).expanduser())
        print(f"{rows} {'row' if rows == 1 else 'rows'} in {rest}\n")
    else:
        raise ConfigError(f"/{name} is no command; there are\n{HELP}")
    return True


def _temperature(said: str) -> float:
    try:
        value = float(said)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(f"/temperature {said}: a number, 0 (the most likely token) or more: /temperature 0.7")
    return value


# ------------------------------------------------------------------------------------------------------------ answers


def show(conversation: Conversation, answers: Iterator[dict[str, Completion]], words: str) -> None:
    """Print answers as they come (one model) or when all are there (several). Ctrl-C stops them."""
    try:
        if len(conversation.speakers) == 1:
            _as_it_comes(conversation.speakers[0], answers, words)
        else:
            _side_by_side(conversation, answers)
    except KeyboardInterrupt:
        print("\n(stopped)")
    finally:
        answers.close()  # type: ignore[attr-defined]
    print()


def _as_it_comes(speaker: Speaker, answers: Iterator[dict[str, Completion]], words: str) -> None:
    """One answer, each piece once it can change no more: a character's bytes may be spread over several tokens."""
    shown, thinking = "", False
    if speaker.goes_on:
        print(words, end="", flush=True)
    last = None
    for said in answers:
        last = said[speaker.name]
        if last.reasoning and not last.text and not thinking:
            print("(thinking …)", flush=True)
            thinking = True
        whole = plain(last.text).rstrip("\ufffd")
        if not whole.startswith(shown):
            continue
        print(whole[len(shown) :], end="", flush=True)
        shown = whole
    if last is not None:
        print(plain(last.text)[len(shown) :] + ending(last))


def _side_by_side(conversation: Conversation, answers: Iterator[dict[str, Completion]]) -> None:
    """All answers in columns, where the terminal is wide enough, else below each other."""
    last: dict[str, Completion] = {}
    terminal = sys.stdout.isatty()
    for step, said in enumerate(answers, 1):
        last = said
        if terminal:
            print(f"\r{step} tokens", end="", flush=True)
    if terminal:
        print("\r" + " " * 16, end="")
        print("\r", end="")
    texts = {name: plain(answer.text).strip() + ending(answer) for name, answer in last.items()}
    names = [speaker.name for speaker in conversation.speakers if speaker.name in texts]
    print(columns([(name, texts[name]) for name in names], shutil.get_terminal_size((100, 24)).columns))


def columns(texts: list[tuple[str, str]], width: int) -> str:
    """Texts under their names, next to each other in `width` characters; below each other where that is too narrow."""
    if not texts:
        return ""
    each = (width - len(GAP) * (len(texts) - 1)) // len(texts)
    if each < NARROWEST:
        return "\n\n".join(f"{name}:\n{text}" for name, text in texts)
    cells = [[name[:each], "-" * min(each, len(name)), *wrapped(text, each)] for name, text in texts]
    height = max(map(len, cells))
    lines = [[cell[at] if at < len(cell) else "" for cell in cells] for at in range(height)]
    return "\n".join(GAP.join(part.ljust(each) for part in line).rstrip() for line in lines)


def wrapped(text: str, width: int) -> list[str]:
    """A text's lines, none wider than `width`."""
    return [piece for line in text.split(os.linesep) for piece in textwrap.wrap(line, width) or [""]]
