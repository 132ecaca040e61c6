"""The rows of a source, each brought into one schema as it is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from align.data import arrow, pairs
from align.data.forms import beside, schemas
from align.data.pairs import ALL, Pairing
from align.data.splits import Report
from align.run.errors import DataError


@dataclass
class NormalRows:
    """Rows in one schema, made when they are read."""

    rows: Any
    schema: str
    source: str
    prompt_format: str = "auto"
    names: list[str] = field(default_factory=list)  # columns and keys of messages that a row read so far left unread
    matter: list[str] = field(default_factory=list)  # those of them that are often part of what is learnt

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.made(row, number) for number, row in enumerate(self.rows))

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.made(self.rows[number], number)

    def made(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        """A raw row in the schema; `number` counts from 0."""
        made = schemas.MAKERS[self.schema](row, f"{self.source}, row {number + 1}", self.prompt_format)
        for known, part in ((self.names, "unread"), (self.matter, "matter")):
            known += [name for name in made["origin"].pop(part, []) if name not in known]
        return made


def normalise(
    rows: Any, schema: str, source: str, columns: list[str], pairing: Pairing = ALL, report: Report | None = None,
    *, prompt_format: str = "auto",
) -> NormalRows:  # fmt: skip
    """Bring every row into `schema`. A row that may be dropped carries its reason in the column `drop`.

    Where rankings become pairs, `pairing` says how, and `report` learns what gave none.

    Raises:
        DataError: for an empty source, missing columns, and the first malformed row, named with its field; the first
            row is looked at here, the others when they are read.
    """
    rows = schemas.rename(rows, columns)
    head = next(iter(rows), None)
    if head is None:
        raise DataError(f"{source}: the data set is empty")
    unread: list[str] = []
    if schema == "preference" and "ranking" in head and head.get("chosen") is None:
        read = [schemas.ranking(row, f"{source}, row {n}", prompt_format) for n, row in enumerate(rows, 1)]
        made, counts = pairs.of_rankings(read, source, pairing)
        if report is not None:
            report.rankings = counts
        unread = list(dict.fromkeys(name for row in read for name in row["unread"]))
        rows = arrow.of_rows({k: v for k, v in pair.items() if k != "group"} for pair in made)
    normal = NormalRows(rows, schema, source, prompt_format, unread, [n for n in unread if beside.matters(n, None)])
    next(iter(normal))
    return normal
