"""Files of JSON and of comma- or tab-separated values into a data set in which every value is as it was written.

`datasets`' own readers merge objects with different keys and fill what is missing with nulls, read the text "6" as a
number where another row has a list, and take "None" and "NA" in a table for nothing at all. How values are held is
`arrow`'s matter.
"""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
from datasets import Dataset

from align.data import arrow
from align.data.folders import suffix
from align.data.large import cached
from align.run.errors import DataError
from align.run.received import files as received

LONGEST = 1 << 28  # characters of a line: a list of rows without a line's end may have as many
SMALL = 1 << 23  # bytes of files whose rows are simply held in memory


def write(rows: Iterable[dict], file: Path) -> None:
    """Rows as JSON lines. `Dataset.to_json` writes what a column holds, which of a `Written` one is JSON text."""
    with file.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


# ------------------------------------------------------------------------------------------------------------- reading


def read(files: list[Path], words: Collection[str]) -> Dataset:
    """All rows of some files. Of tables, numbers are read as such where all of a column are and it is none of `words`.

    What is large is written to the cache as it is read, and mapped into memory; and read there the next time.

    Raises:
        DataError: with the file, and the line or row that cannot be read.
    """
    tabular = suffix(files[0]) in (".csv", ".tsv")

    def make(folder: Path | None) -> Dataset:
        try:
            return arrow.of_rows(rows_of(files), folder, lambda name: tabular and name not in words)
        except UnicodeEncodeError as error:
            raise DataError(f"{files[0]}: holds half a character ({error.object[error.start]!a})") from error

    told = [file.stat() for file in files]
    if sum(one.st_size for one in told) < SMALL:
        return make(None)
    # another file under the same name and date (rsync, cp -p, tar) differs in ctime
    known = [[str(file.resolve()), one.st_size, one.st_ctime_ns] for file, one in zip(files, told, strict=True)]
    folder = cached.kept(["read", known, sorted(words)], make)
    pa.default_memory_pool().release_unused()  # before processes are forked, each of which would hold it too
    return arrow.opened(folder)


def rows_of(files: list[Path]) -> Iterator[dict[str, Any]]:
    """The rows of some files, one after the other."""
    for file in files:
        try:
            with fsspec.open(file, "rt", compression="infer", encoding="utf-8-sig", newline="") as stream:
                yield from (_tabular if suffix(Path(file)) in (".csv", ".tsv") else _json)(stream, Path(file))
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not UTF-8 text at byte {error.start}; save it as UTF-8") from error
        except (EOFError, OSError) as error:
            raise DataError(f"{file} cannot be read: {error}") from error
        except ValueError as error:
            if isinstance(error, DataError) or "ompression" not in str(error):
                raise
            raise DataError(f"{file}: its compression needs a package: pip install zstandard") from error


def _json(stream: Any, file: Path) -> Iterator[dict[str, Any]]:
    """One object a line, a list of objects, or one object of columns of the same length."""
    lines = enumerate(_limited(stream, file), 1)
    begun, first = next(((number, line) for number, line in lines if line.strip()), (0, ""))
    if not first:
        return
    try:
        whole = first.lstrip()[0] == "[" or not isinstance(received.parsed(first), dict)
    except ValueError:
        whole = True
    if not whole:
        for number, line in itertools.chain([(begun, first)], lines):
            if line.strip():
                yield _object(line, f"{file}, line {number}")
        return
    text = "\n" * (begun - 1) + first + "".join(line for _, line in lines)
    try:
        found = received.parsed(text)
    except ValueError as error:
        number, why = (error.lineno, error.msg) if isinstance(error, json.JSONDecodeError) else (begun, str(error))
        line = text.splitlines()[number - 1].strip() if text.splitlines() else ""
        raise DataError(
            f"{file}, line {number}: not JSON ({why}): {line[:60]!r}; one object a line, or a list of them"
        ) from error
    if isinstance(found, dict):
        lengths = {len(value) if isinstance(value, list) else -1 for value in found.values()}
        if lengths == {-1} or len(lengths) > 1:
            raise DataError(f"{file}: one JSON object; write a row a line, or a list of rows")
        found = [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            raise DataError(f"{file}, row {number}: expected an object with columns, got {str(row)[:60]!r}")
        yield row


def _limited(stream: Any, file: Path) -> Iterator[str]:
    """The lines of a file, none of them so long that it fills the memory: a small compressed file may hold such."""
    while line := stream.readline(LONGEST):
        if len(line) >= LONGEST:
            raise DataError(f"{file}: a line of over {LONGEST >> 20} million characters; write one object a line")
        yield line


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = received.parsed(line)
    except ValueError as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f"{where}: not JSON ({why}): {line.strip()[:60]!r}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object with columns, got {line.strip()[:60]!r}")
    return row


def _tabular(stream: Any, file: Path) -> Iterator[dict[str, Any]]:
    """Rows of a table whose first line names its columns; every cell is text."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.DictReader(stream, delimiter="\t" if suffix(file) == ".tsv" else ",")
    try:
        names = reader.fieldnames or []
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(
                f"{file}: more than one column is called {', '.join(map(repr, twice))}; give each its own name"
            )
        for row in reader:
            if None in row:
                raise DataError(
                    f"{file}, line {reader.line_num}: more cells than columns ({len(reader.fieldnames or [])})"
                )
            yield row
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: {error}") from error
