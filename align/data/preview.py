"""The first rows as people read them: what a model sees of each, what it learns, and where each part came from."""

from __future__ import annotations

import itertools
import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from align.data import chat, splits
from align.data.chat import Steps
from align.data.encoding import ENCODERS, Encoder
from align.data.forms import beside

ROWS = 3
HEAD, TAIL = 800, 300  # characters of a long piece that are shown
JOINERS = "\u200c\u200d"  # invisible, and part of how Persian, Hindi and emoji are written
OPENING = " ▸"
LEARNT, REJECTED, SPECIAL, FAINT = "32", "31", "36", "2"  # colours of a terminal


class Piece(NamedTuple):
    """Tokens that stand together, and what they are: read, learnt, prompt, chosen, rejected or text."""

    name: str
    ids: list[int]


def show(rows: Any, source: str, encoder: Encoder, tokenizer: Any, limit: int | None) -> None:
    """Print the first rows and end the program: nothing is trained, and no model is loaded.

    Args:
        rows: in one schema, as `align.data.forms` makes them (`NormalRows`).
        encoder: of a row to what is trained on or sampled from (`align.data.encoding`).
        limit: tokens of the longest row that is not left out.
    """
    if os.environ.get("RANK", "0") == "0":

        def encode(row: dict) -> list[dict]:
            return chat.alone(tokenizer, encoder(tokenizer, row))

        page = Preview(tokenizer, colour=coloured())
        lines = [line for number, row in enumerate(itertools.islice(rows, ROWS), 1)
                 for line in page.row(number, row, encode, limit)]  # fmt: skip
        head = f"The first rows of {visible(source)}, as the model gets them."
        taken = splits.taken_for(page.forms) if page.forms else []
        left = [*taken, *map(visible, beside.not_read(rows.names, rows.matter))]
        end = "No model was loaded; leave --preview out to go on."
        print("\n".join([head, *page.legend(), *lines, "", *left, end]), flush=True)
    raise SystemExit(0)


def document(tokenizer: Any, row: dict) -> Steps[list[dict]]:
    """The encoder of a document that shows what is learnt of it."""
    found = yield from ENCODERS["text"](tokenizer, row)
    # nothing in a document predicts its first token
    return [{**one, "labels": [-100, *one["input_ids"][1:]]} for one in found]


def coloured() -> bool:
    """May the output have colours?"""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def visible(text: str) -> str:
    """Text without anything that a terminal would obey or hide: such characters as their escapes."""
    return "".join(
        letter
        if letter in "\n\t" + JOINERS or unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


class Preview:
    """The lines of a preview, with colours for a terminal or brackets for a file."""

    def __init__(self, tokenizer: Any, *, colour: bool):
        self.tokenizer, self.colour = tokenizer, colour
        self.kinds: set[str] = set()  # of pieces that were shown
        self.forms: Counter[str] = Counter()  # what the prompts that were shown were taken for: text, chat
        added = tokenizer.added_tokens_decoder.items()
        self.special = {*tokenizer.all_special_ids, *(token_id for token_id, token in added if token.special)}

    def legend(self) -> list[str]:
        """What the marks mean, of those that were used."""
        marks = []
        if "learnt" in self.kinds:
            marks.append(f"{self._marked('like this', LEARNT)}: learnt; all else is only read")
        if "chosen" in self.kinds:
            mine, other = self._paint("chosen", LEARNT), self._paint("rejected", REJECTED)
            marks.append(f"the two answers, {mine} and {other}" + ("" if self.colour else ", are in ⟦ ⟧"))
        if "prompt" in self.kinds and "chosen" not in self.kinds:
            marks.append(f"{OPENING.strip()}: here the model goes on")
        return [f"  {mark}" for mark in [*marks, "↵: a line break; before each piece: its number of tokens"]]

    def row(self, number: int, row: dict, encode: Callable[[dict], list[dict]], limit: int | None) -> list[str]:
        """One row: its title, where it came from, its pieces."""
        origin = _columns(row.get("origin", {}))
        told = [self._paint(f"  from {visible(', '.join(origin))}", FAINT)] if origin else []
        reason, examples = row["drop"], []
        if not reason:
            try:
                examples = encode(row)
            except chat.TemplateError as error:
                reason = f"unusable ({error})"
        if reason:
            return ["", f"row {number}: left out, {visible(reason)}", *told]
        if "text" not in row:
            self.forms["text" if isinstance(row.get("prompt"), str) else "chat"] += 1
        lines = []
        for index, one in enumerate(examples, 1):
            title = f"row {number}" + (f", example {index} of {len(examples)}" if len(examples) > 1 else "")
            lines += self.example(title, one, told, limit)
        return lines

    def example(self, title: str, example: dict, told: Sequence[str] = (), limit: int | None = None) -> list[str]:
        """What is trained on, or sampled from: its title, where it came from, its pieces."""
        pieces = list(_pieces(example))
        self.kinds |= {piece.name for piece in pieces}
        length = _length(pieces)
        long = f", more than {limit}: left out" if limit is not None and length > limit else ""
        lines = ["", f"{title}: {length} tokens{long}", *told]
        return lines + [
            line for start, piece in _starts(pieces) for line in self._lines(piece, start, alone=len(pieces) == 1)
        ]

    def _lines(self, piece: Piece, before: list[int], alone: bool) -> list[str]:
        """A piece behind its number of tokens and its name, line by line."""
        colour = {"learnt": LEARNT, "chosen": LEARNT, "rejected": REJECTED}.get(piece.name)
        runs, seen = [], len(before)
        ids = before + piece.ids
        for special, group in itertools.groupby(piece.ids, self.special.__contains__):
            end = seen + len(list(group))
            known, text = self._decode(ids[:seen]), self._decode(ids[:end])
            text = text[len(known) :] if text.startswith(known) else self._decode(ids[seen:end])
            runs.append((_shortened(visible(text)), colour or (SPECIAL if special else "")))
            seen = end
        told = "".join(self._paint_lines(text, code) for text, code in runs).removesuffix("\n")
        told = told if self.colour or colour is None else f"⟦{told}⟧"
        told += OPENING if piece.name == "prompt" and alone else ""
        head, *rest = told.split("\n")
        gutter = f"  {len(piece.ids):>6} {piece.name:<8} │ "
        return [gutter + head, *(" " * (len(gutter) - 2) + "│ " + line for line in rest)]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _paint_lines(self, text: str, code: str) -> str:
        return "↵\n".join(self._paint(line, code) for line in text.split("\n"))

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and code and text else text

    def _marked(self, text: str, code: str) -> str:
        return self._paint(text, code) if self.colour else f"⟦{text}⟧"


def _pieces(example: dict) -> Iterator[Piece]:
    """What was tokenised, cut where learning begins and ends."""
    if "chosen_ids" in example:
        for name in ("prompt", "chosen", "rejected"):
            yield Piece(name, example[f"{name}_ids"])
        return
    ids = list(example["input_ids"])
    if "labels" not in example:
        yield Piece("prompt", ids)
        return
    for learnt, group in itertools.groupby(zip(ids, example["labels"], strict=True), lambda pair: pair[1] != -100):
        yield Piece("learnt" if learnt else "read", [token for token, _ in group])


def _starts(pieces: list[Piece]) -> Iterator[tuple[list[int], Piece]]:
    """Each piece with the tokens before it, in which its own are read: of a pair, both answers follow the prompt."""
    before: list[int] = []
    for piece in pieces:
        yield before, piece
        before = before if piece.name in ("chosen", "rejected") else before + piece.ids


def _length(pieces: list[Piece]) -> int:
    lengths = {piece.name: len(piece.ids) for piece in pieces}
    if "chosen" in lengths:
        return lengths["prompt"] + max(lengths["chosen"], lengths["rejected"])
    return sum(len(piece.ids) for piece in pieces)


def _shortened(text: str) -> str:
    left_out = len(text) - HEAD - TAIL
    return text if left_out <= TAIL else f"{text[:HEAD]} … {left_out:,} characters … {text[-TAIL:]}"


def _columns(origin: dict[str, Any]) -> list[str]:
    """Each column that was read, and which part of the row it is where that has another name."""
    parts: dict[str, list[str]] = {}
    for part, columns in origin.items():
        for column in [columns] if isinstance(columns, str) else columns:
            parts.setdefault(column, []).append(part)
    return [column if found == [column] else f"{column} ({' and '.join(found)})" for column, found in parts.items()]
