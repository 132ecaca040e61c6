"""Files of JSON and of comma- or tab-separated values into a data set in which every value is as it was written.

`datasets`' own readers merge objects with different keys and fill what is missing with nulls, read the text "6" as a
number where another row has a list, and take "None" and "NA" in a table for nothing at all.
"""

from __future__ import annotations

import csv
import itertools
import json
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetInfo, Features, List, Value
from datasets.features.features import register_feature

from align.data.folders import suffix
from align.run.errors import DataError

CHUNK = 2_000  # rows that are held as Python objects at once


@dataclass
class Written:
    """A column of `datasets` for whatever JSON can say, each value kept by itself as JSON text."""

    decode: bool = True
    id: str | None = field(default=None, repr=False)
    pa_type: ClassVar[Any] = pa.string()
    _type: str = field(default="Written", init=False, repr=False)

    def __call__(self) -> Any:
        """The column's type in Arrow."""
        return self.pa_type

    def encode_example(self, value: Any) -> str | None:
        """A value as text."""
        return None if value is None else json.dumps(value, ensure_ascii=False)

    def decode_example(self, value: str | None, token_per_repo_id: Any = None) -> Any:
        """A value from its text."""
        return None if value is None else json.loads(value)


with warnings.catch_warnings(action="ignore"):  # that registering is experimental
    register_feature(Written, "Written")
_IDS = pa.list_(pa.int64())
_SCALARS = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}


def write(rows: Iterable[dict], file: Path) -> None:
    """Rows as JSON lines. `Dataset.to_json` writes what a column holds, which of a `Written` one is JSON text."""
    with file.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


# ------------------------------------------------------------------------------------------------------------- reading


def read(files: list[Path], words: Collection[str]) -> Dataset:
    """All rows of some files. Of tables, numbers are read as such where all of a column are and it is none of `words`.

    Raises:
        DataError: with the file, and the line or row that cannot be read.
    """
    try:
        rows = of_rows(rows_of(files))
    except UnicodeEncodeError as error:
        raise DataError(f"{files[0]}: holds half a character ({error.object[error.start]!a})") from error
    if suffix(files[0]) not in (".csv", ".tsv"):
        return rows
    found = {name: (rows.features[name], rows.data.column(name)) for name in rows.column_names}
    return _dataset({name: one if name in words else _numbers(*one) for name, one in found.items()})


def of_rows(rows: Iterable[dict[str, Any]]) -> Dataset:
    """Rows as a data set that holds the columns of all of them; a row without one has nothing (None) there."""
    stream = iter(rows)
    chunks: list[tuple[int, dict[str, Any]]] = []
    while some := list(itertools.islice(stream, CHUNK)):
        names = dict.fromkeys(name for row in some for name in row)
        chunks.append((len(some), {name: _typed([row.get(name) for row in some]) for name in names}))
    names = dict.fromkeys(name for _, chunk in chunks for name in chunk)
    return _dataset({name: _one_kind([chunk.get(name, pa.nulls(n)) for n, chunk in chunks]) for name in names})


def _dataset(table: dict[str, tuple[Any, pa.ChunkedArray]]) -> Dataset:
    features = Features({name: feature for name, (feature, _) in table.items()})
    columns = pa.table({name: column for name, (_, column) in table.items()}, schema=features.arrow_schema)
    return Dataset(columns, info=DatasetInfo(features=features))


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
    lines = enumerate(stream, 1)
    begun, first = next(((number, line) for number, line in lines if line.strip()), (0, ""))
    if not first:
        return
    try:
        whole = first.lstrip()[0] == "[" or not isinstance(json.loads(first), dict)
    except json.JSONDecodeError:
        whole = True
    if not whole:
        for number, line in itertools.chain([(begun, first)], lines):
            if line.strip():
                yield _object(line, f"{file}, line {number}")
        return
    text = "\n" * (begun - 1) + first + "".join(line for _, line in lines)
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        line = text.splitlines()[error.lineno - 1].strip() if text.splitlines() else ""
        raise DataError(
            f"{file}, line {error.lineno}: not JSON ({error.msg}): {line[:60]!r}; one object a line, or a list of them"
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


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
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


# -------------------------------------------------------------------------------------------------------------- typing


def _typed(values: list[Any]) -> Any:
    """One column of a chunk: text, numbers or truth values as such, all else as JSON text (a tuple says so)."""
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pa.nulls(len(values))
    kind = _SCALARS.get(next(iter(kinds))) if len(kinds) == 1 else pa.float64() if kinds == {int, float} else None
    if kinds == {list} and all(type(item) is int for value in values for item in value or ()):
        kind = _IDS
    if kind is not None:
        try:
            return pa.array(values, kind)
        except OverflowError:  # a whole number beyond 64 bits
            pass
    return (_as_text(values),)


def _one_kind(parts: list[Any]) -> tuple[Any, pa.ChunkedArray]:
    """The chunks of one column as a whole; where they are of several kinds, all become JSON text."""
    kinds = {"written" if isinstance(part, tuple) else part.type for part in parts} - {pa.null()}
    if len(kinds) == 1 and "written" not in kinds:
        (kind,) = kinds
        feature = List(Value("int64")) if kind == _IDS else Value(str(kind).replace("double", "float64"))
        return feature, pa.chunked_array([part.cast(kind) for part in parts])
    if not kinds:
        return Value("string"), pa.chunked_array([part.cast(pa.string()) for part in parts])
    texts = [part[0] if isinstance(part, tuple) else _as_text(part.to_pylist()) for part in parts]
    return Written(), pa.chunked_array(texts)


def _as_text(values: Iterable[Any]) -> pa.Array:
    return pa.array(map(Written().encode_example, values), pa.string())


def _numbers(feature: Any, column: pa.ChunkedArray) -> tuple[Any, pa.ChunkedArray]:
    """A table's column as numbers where each of its cells is one or empty."""
    filled = pc.if_else(pc.equal(column, ""), None, column)
    for kind, name in ((pa.int64(), "int64"), (pa.float64(), "float64")):
        try:
            if filled.null_count < len(filled):
                return Value(name), filled.cast(kind)
        except pa.ArrowInvalid:
            continue
    return feature, column


def alike(parts: list[Dataset]) -> list[Dataset]:
    """Data sets in which a column is of the same kind in each that has it: what differs is kept as JSON text."""
    for name in dict.fromkeys(name for part in parts for name in part.column_names):
        if len({repr(part.features[name]) for part in parts if name in part.column_names}) > 1:
            parts = [rewritten(part, name) if name in part.column_names else part for part in parts]
    return parts


def rewritten(part: Dataset, name: str, change: Callable[[Any], Any] = lambda value: value) -> Dataset:
    """A data set of which one column is kept as JSON text, each value changed where that is asked for."""
    texts, beside = _as_text(map(change, part[name])), f"{name} as text"
    wider = part.add_column(beside, texts, feature=Written())  # first: a table without columns forgets its rows
    return wider.remove_columns(name).rename_column(beside, name)
