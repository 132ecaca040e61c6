"""The prompts of rows in any schema as plain text, to compare sets by (`align.data.overlap.overlaps`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from align.data import text
from align.data.forms import asked, schemas
from align.data.overlap import overlaps
from align.run.errors import DataError


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
    rows = schemas.rename(rows, [pair for pair in columns or [] if pair.partition("=")[0] in rows.column_names])
    useful = [name for name in rows.column_names if name in asked.COLUMNS]  # completions, mostly, need not be read
    texts: list[str] = []
    of_row: list[int] = []
    for number, row in enumerate(rows.select_columns(useful) if useful else rows):
        try:
            read = schemas.prompt(row, f"{source}, row {number + 1}")
        except schemas.NoForm:
            raise DataError(
                f"{source}, row {number + 1}: has the columns {', '.join(row)} and no prompt; what is compared are "
                f"rows with {schemas.NEEDED['prompt']}. Map yours with --columns theirs=ours"
            ) from None
        turns = read["prompt"]
        cuts = [len(turns)]  # the last answer is cut off already
        if "messages" in read["origin"] and row.get("chosen") is None:
            cuts = [at for at in range(1, len(turns)) if turns[at]["role"] == "assistant"] + cuts
        for cut in cuts:
            texts.append(text.user_side(turns[:cut]))
            of_row.append(number)
    return Prompts(texts, np.array(of_row, np.int64), len(rows))


def within(train: Any, test: Any, source: str, columns: list[str] | None = None) -> dict[str, Any]:
    """Prompts of a test split that the train split beside it has too: for a line of a training run and its record.

    Reported and never refused: a training run's test split shows whether it learns and when it over-fits, and sets of
    demonstrations or rankings ask the same thing of several people on purpose. What a model is measured on is checked
    where it is measured (`align.evaluate.held_out`).

    Args:
        train, test: `datasets.Dataset`s in any schema, raw or normalised.

    Returns:
        `prompts` different ones in test, of which `exact` and `near` are in train; `rows` of test that have them, of
        `of_rows`; and `line`, the sentence to print.
    """
    known, asked = prompts_of(train, source, columns), prompts_of(test, source, columns)
    (found,) = overlaps.find({"train": known.texts, "test": asked.texts})
    counts: dict[str, Any] = {"prompts": found.prompts[1], "exact": found.exact, "near": found.near[1]}
    counts |= {"rows": int(asked.rows(found.rows[1]).sum()), "of_rows": asked.count}
    line = "no prompt of the test split is in the train split"
    if counts["rows"]:
        line = (
            f"{counts['exact'] + counts['near']:,} of the {counts['prompts']:,} prompts of the test split are in the "
            f"train split too ({counts['exact']:,} exactly, {counts['near']:,} nearly)"
        )
    return {**counts, "line": line}
