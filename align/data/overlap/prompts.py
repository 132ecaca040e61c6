"""The prompts of rows in any schema as plain text, to compare sets by (`align.data.overlap.overlaps`)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from align.data import text
from align.data.forms import asked, schemas
from align.data.large import cached, mapped, pace
from align.data.overlap import overlaps
from align.run.errors import DataError

PART = 5_000  # rows that are compared at once


@dataclass
class Prompts:
    """The prompts of a set. A conversation has one for each of its answers."""

    texts: list[str]
    of_row: np.ndarray  # which row each text is of
    count: int  # rows

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        """[count] bool: the rows of which a chosen text is ([len(texts)] bool)."""
        found = np.zeros(self.count, bool)
        found[self.of_row[chosen]] = True
        return found


def prompts_of(rows: Any, source: str, columns: list[str] | None = None) -> Prompts:
    """The prompts of a `datasets.Dataset` in any schema that a recipe takes.

    One a row; of a conversation (`messages`), which trains on every answer, one for each answer, all turns before it;
    a preference row has one. Of `columns` (`theirs=ours`), those that the rows have are renamed.

    Raises:
        DataError: where rows have no prompt, as plain text has none, and for the first malformed one.
    """
    texts: list[str] = []
    of_row: list[int] = []
    for number, row in enumerate(_useful(rows, columns)):
        found = _texts(row, f"{source}, row {number + 1}")
        texts += found
        of_row += [number] * len(found)
    return Prompts(texts, np.array(of_row, np.int64), len(rows))


def _useful(rows: Dataset, columns: list[str] | None) -> Dataset:
    """Rows with the columns that a prompt may be made of: completions, mostly, need not be read."""
    rows = schemas.rename(rows, [pair for pair in columns or [] if pair.partition("=")[0] in rows.column_names])
    useful = [name for name in rows.column_names if name in asked.COLUMNS]
    return rows.select_columns(useful) if useful else rows


def _texts(row: dict[str, Any], where: str) -> list[str]:
    """The prompts of one row."""
    try:
        read = schemas.prompt(row, where)
    except schemas.NoForm:
        raise DataError(
            f"{where}: has the columns {', '.join(row)} and no prompt; what is compared are rows with "
            f"{schemas.NEEDED['prompt']}. Map yours with --columns theirs=ours"
        ) from None
    turns = read["prompt"]
    cuts = [len(turns)]  # the last answer is cut off already
    if "messages" in read["origin"] and row.get("chosen") is None:
        cuts = [at for at in range(1, len(turns)) if turns[at]["role"] == "assistant"] + cuts
    return [text.user_side(turns[:cut]) for cut in cuts]


def within(
    train: Any, test: Any, source: str, columns: list[str] | None = None, processes: int | None = None
) -> dict[str, Any]:
    """Prompts of a test split that the train split beside it has too: for a line of a training run and its record.

    Reported and never refused: a training run's test split shows whether it learns and when it over-fits, and sets of
    demonstrations or rankings ask the same thing of several people on purpose. What a model is measured on is checked
    where it is measured (`align.evaluate.held_out`).

    Args:
        train, test: `datasets.Dataset`s in any schema, raw or normalised. The test split is held in memory, the other
            is read part by part.
        processes: that read it; by default as many as prepare it.

    Returns:
        `prompts` different ones in test, of which `exact` and `near` are in train; `rows` of test that have them, of
        `of_rows`; and `line`, the sentence to print.
    """
    asked = prompts_of(test, source, columns)
    look = _Look(overlaps.Asked.of(asked.texts), source)
    if len(train) <= mapped.FEW:
        look.asked.look(prompts_of(train, source, columns).texts)
    else:
        parts = ["shared", cached.contents(train), cached.contents(test), columns]
        rows, count = _useful(train, columns), mapped.shared_by(len(train), processes)
        folder = cached.kept(parts, lambda part: look.everywhere(rows, count, part))
        look.take_in(folder)
    shared, exact = look.asked.exact | look.asked.near, int(look.asked.exact.sum())
    counts: dict[str, Any] = {"prompts": len(shared), "exact": exact, "near": int(shared.sum()) - exact}
    counts |= {"rows": int(asked.rows(look.asked.read.rows(shared)).sum()), "of_rows": asked.count}
    line = "no prompt of the test split is in the train split"
    if counts["rows"]:
        line = (
            f"{counts['exact'] + counts['near']:,} of the {counts['prompts']:,} prompts of the test split are in the "
            f"train split too ({counts['exact']:,} exactly, {counts['near']:,} nearly)"
        )
    return {**counts, "line": line}


@dataclass
class _Look:
    """What a process does with a part of the train split; it is sent to each."""

    asked: overlaps.Asked
    source: str
    folder: Path | None = None

    def everywhere(self, train: Any, processes: int, folder: Path) -> None:
        """Look into all of the train split; what each process has found goes into the folder."""
        self.folder = folder
        with (
            mapped.one_thread(),
            pace.told(f"comparing prompts of {self.source}", len(train), self._done),
            mapped.causes(),
        ):
            train.map(
                self, batched=True, batch_size=PART, with_indices=True, with_rank=True,
                num_proc=processes if processes > 1 else None, new_fingerprint="align",
            )  # fmt: skip

    def __call__(self, batch: Any, numbers: list[int], rank: int | None) -> None:
        """What `datasets.map` asks for; it changes nothing."""
        mapped.leave_interrupts(rank)
        rows = (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))
        found = (_texts(row, f"{self.source}, row {number + 1}") for number, row in zip(numbers, rows, strict=True))
        self.asked.look([*itertools.chain.from_iterable(found)])
        assert self.folder is not None
        np.save(self.folder / f"{rank or 0:05}.npy", [self.asked.exact, self.asked.near])
        with (self.folder / f"{rank or 0:05}.count").open("ab") as file:
            file.write(b"." * len(numbers))

    def _done(self) -> int:
        assert self.folder is not None
        return sum(file.stat().st_size for file in self.folder.glob("*.count"))

    def take_in(self, folder: Path) -> None:
        """What all processes have found."""
        for file in folder.glob("*.npy"):
            exact, near = np.load(file)
            self.asked.exact |= exact
            self.asked.near |= near
