"""The rows of a source, each brought into one schema as it is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from align.data import pairs
from align.data.forms import schemas
from align.data.pairs import ALL, Pairing
from align.data.splits import Report
from align.run.errors import DataError


@dataclass
class NormalRows:
    """Rows in one schema. They are made when they are read, so no cache can hold what older code made of them."""

    rows: Any
    schema: str
    source: str
    names: list[str]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self._made(row, number) for number, row in enumerate(self.rows))

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self._made(self.rows[number], number)

    def _made(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        where = f"{self.source}, row {number + 1}"
        try:
            return {"drop": "", **schemas.MAKERS[self.schema](row, where)}
        except KeyError:
            raise DataError(
                f"{where}: has the columns {', '.join(self.names)}; this recipe needs {schemas.NEEDED[self.schema]}. "
                "Map yours with --columns theirs=ours"
            ) from None


def normalise(
    rows: Any, schema: str, source: str, columns: list[str], pairing: Pairing = ALL, report: Report | None = None
) -> NormalRows:
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
    if schema == "preference" and "ranking" in head:
        made, counts = pairs.of_rankings(rows, source, pairing)
        if report is not None:
            report.rankings = counts
        rows = [{k: v for k, v in pair.items() if k != "group"} for pair in made]
        head = rows[0]
    normal = NormalRows(rows, schema, source, list(head))
    next(iter(normal))
    return normal
