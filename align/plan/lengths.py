"""How long a run's rows are: read where that is cheap, the longest that the settings allow elsewhere."""

from __future__ import annotations

import contextlib
import functools
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from align.data import arrow, prepare
from align.models import checkpoints
from align.run.arguments import DataArguments, PairArguments

CHEAP = 32 * 2**20  # bytes of files that are tokenised for a plan: some seconds
SCHEMAS = {
    "sft": "sft",
    "reward": "preference",
    "dpo": "preference",
    "ppo": "prompt",
    "sample": "prompt",
    "eval": "prompt",
}


@dataclass(frozen=True)
class Lengths:
    """Tokens of rows. Of pairs both sides count, each with its prompt."""

    said: str  # where this is from
    known: bool
    count: int  # rows to train on, or to answer
    tokens: tuple[int, ...]  # of the longest rows first
    longest: int  # of one sequence
    prompt: int  # of the longest prompt
    answer: int  # of the longest answer that rows come with
    learnt: float  # the part of the tokens that a loss is taken of
    mean: float
    held_out: int = 0  # rows
    held_out_longest: int = 0

    def fullest(self, rows: int, padded: bool) -> int:
        """Tokens of the largest micro-batch of so many rows."""
        if padded:
            sides = 2 if self.tokens and self.tokens[0] > self.longest else 1
            return rows * sides * self.longest
        some = [self.tokens[min(i, len(self.tokens) - 1)] for i in range(rows)]
        return sum(some)


def assumed(stage: str, limit: int, why: str) -> Lengths:
    """Every row as long as the settings allow."""
    sides = 2 if stage in ("reward", "dpo") else 1
    half = limit if SCHEMAS[stage] == "prompt" else limit // 2
    return Lengths(f"every row taken to have {limit:,} tokens, {why}", False, 0, (sides * limit,), limit, half, half,
                   1.0, sides * limit, 0, limit)  # fmt: skip


def read(stage: str, args: Any, data: DataArguments, pairing: PairArguments | None, source: str, limit: int) -> Lengths:
    """The rows of a run, as its recipe would prepare them, where that takes no more than seconds.

    Args:
        args: the recipe's main arguments.
        source: the checkpoint whose tokenizer reads them.
        limit: tokens of the longest that is not left out.
    """
    why = _dear(data, source)
    if why:
        return assumed(stage, limit, why)
    key = (stage, repr(data), repr(pairing), source, limit, args.seed)
    if key not in _read:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            tokenizer = checkpoints.load_tokenizer(source, date=data.template_date)
            rows = prepare.rows(
                data, SCHEMAS[stage], tokenizer, max_length=limit, seed=args.seed, pairing=pairing,
                answers_only=stage == "reward",
            )  # fmt: skip
        _read[key] = _of_splits(stage, rows, data.dataset_name or "a mixture")
    return _read[key]


_read: dict[tuple, Lengths] = {}


def _dear(data: DataArguments, source: str) -> str:
    """Why rows are not read; nothing where they are."""
    if not data.dataset_name and not data.datasets:
        return "the most that the settings allow, since no rows are named"
    paths = [data.dataset_name, *(entry.get("path") for entry in data.datasets)]
    places = [Path(str(path)) for path in paths if path]
    if any(not place.exists() for place in places):
        return "the most that the settings allow: rows on the hub are not fetched for a plan"
    if sum(_size(place) for place in places) > CHEAP:
        return f"the most that the settings allow: rows of more than {CHEAP >> 20} MiB are not read for a plan"
    owner = Path(checkpoints.tokenizer_source(source)[0])
    if not any((owner / name).is_file() for name in checkpoints.TOKENIZER_FILES):
        return f"the most that the settings allow: {source} has no tokenizer here that could read the rows"
    return ""


@functools.cache
def _size(place: Path) -> int:
    files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _of_splits(stage: str, rows: Any, name: str) -> Lengths:
    train = rows.train
    if stage == "eval" and rows.test is not None:
        train = rows.test
    tokens, longest, prompt, answer, learnt = _measured(stage, train)
    held = _measured(stage, rows.test)[1] if rows.test is not None and len(rows.test) else 0
    ordered = tuple(int(n) for n in np.sort(tokens)[::-1][:4096])
    return Lengths(f"{len(train):,} rows of {name}, the longest of {longest:,} tokens", True, len(train), ordered,
                   longest, prompt, answer, learnt, float(tokens.mean()),
                   len(rows.test) if held else 0, held)  # fmt: skip


def _measured(stage: str, rows: Any) -> tuple[np.ndarray, int, int, int, float]:
    """Tokens of each row; of the longest sequence, prompt and answer; the part that is learnt."""
    if stage in ("reward", "dpo"):
        before = arrow.lengths(rows, "prompt_ids")
        sides = [arrow.lengths(rows, name) for name in ("chosen_ids", "rejected_ids")]
        tokens, answers = 2 * before + sides[0] + sides[1], np.maximum(*sides)
        return (
            tokens,
            int((before + answers).max()),
            int(before.max()),
            int(answers.max()),
            float((sides[0] + sides[1]).sum() / tokens.sum()),
        )
    tokens = arrow.lengths(rows, "input_ids")
    if stage != "sft":
        return tokens, int(tokens.max()), int(tokens.max()), 0, 1.0
    learnt = np.array([sum(label != -100 for label in row) for row in rows["labels"]])
    first = np.array([next((at for at, label in enumerate(row) if label != -100), len(row)) for row in rows["labels"]])
    return tokens, int(tokens.max()), int(first.max()), int(learnt.max()), float(learnt.sum() / tokens.sum())
