"""Rows as Arrow, every value as it was written: columns typed chunk by chunk, in memory or in a folder's files.

What differs in kind between rows is kept as JSON text (`Written`), so that nothing is merged, filled or cast.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetInfo, Features, List, Value, concatenate_datasets
from datasets.features.features import register_feature

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
Kind = Any  # of a column so far: a type of Arrow, null where nothing was said yet, or "written"
_NOTHING = pa.null()


def of_rows(rows: Iterable[dict[str, Any]], folder: Path | None = None, numbers: Any = None) -> Dataset:
    """Rows as a data set that holds the columns of all of them; a row without one has nothing (None) there.

    Args:
        folder: where their files go, to be read by `opened`; by default the rows stay in memory.
        numbers: of which names a column of text becomes one of numbers, if each of its cells is one or empty.
    """
    stream, parts = iter(rows), _Parts(folder)
    while some := list(itertools.islice(stream, CHUNK)):
        names = dict.fromkeys(name for row in some for name in row)
        parts.add({name: _typed([row.get(name) for row in some]) for name in names}, len(some))
    return parts.done(numbers or (lambda name: False))


def of_ids(rows: Iterable[dict[str, list[int]]], names: Collection[str], folder: Path | None = None) -> Dataset:
    """Rows of token ids as a data set, held in 32 bits, in memory or in a file of a folder."""
    features = Features(dict.fromkeys(names, List(Value("int32"))))
    schema, stream = features.arrow_schema, iter(rows)
    chunks = iter(lambda: list(itertools.islice(stream, CHUNK // 8)), [])
    batches = (pa.record_batch([[row[name] for row in some] for name in names], schema=schema) for some in chunks)
    if folder is None:
        return Dataset(pa.Table.from_batches(batches, schema), info=DatasetInfo(features=features))
    with pa.ipc.new_stream(str(folder / "00000.arrow"), schema) as file:
        for batch in batches:
            file.write_batch(batch)
    keep_features(folder, features)
    return opened(folder)


def opened(folder: Path) -> Dataset:
    """The rows that a folder holds, as files that are mapped into memory."""
    features = Features.from_dict(json.loads((folder / "features.json").read_text()))
    files = sorted(folder.glob("*.arrow"))
    parts = [Dataset.from_file(str(file), info=DatasetInfo(features=features)) for file in files]
    return concatenate_datasets(parts) if parts else Dataset.from_dict({})


def keep_features(folder: Path, features: Features) -> None:
    """Write what `opened` reads of a folder beside its files."""
    (folder / "features.json").write_text(json.dumps(features.to_dict()))


class _Parts:
    """Rows as Arrow while they come. As long as the columns keep their kinds they go into one part (a file).

    When a column is new, or is of another kind than before, a new part begins; in the end the earlier ones are
    rewritten, chunk by chunk, if they have to be. Few are: a column is nothing, then of one kind, then written.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.kinds: dict[str, Kind] = {}
        self.parts: list[tuple[dict[str, Kind], Any]] = []  # kinds, and batches or the file that has them
        self.stream: Any = None

    def add(self, chunk: dict[str, Any], count: int) -> None:
        kinds = {**self.kinds}
        for name, column in chunk.items():
            kinds[name] = _joined(kinds.get(name, _NOTHING), "written" if isinstance(column, tuple) else column.type)
        if kinds != self.kinds or not self.parts:
            self.kinds = kinds
            self._begin(kinds)
        nothing = pa.nulls(count)
        columns = [_as_kind(chunk.get(name, nothing), kind) for name, kind in kinds.items()]
        put = self.parts[-1][1].append if self.stream is None else self.stream.write_batch
        put(pa.record_batch(columns, _schema(kinds)))

    def _begin(self, kinds: dict[str, Kind]) -> None:
        self._end()
        if self.folder is None:
            return self.parts.append((kinds, []))
        file = self.folder / f"{len(list(self.folder.glob('*.arrow'))):05}.arrow"
        self.parts.append((kinds, file))
        self.stream = pa.ipc.new_stream(str(file), _schema(kinds))

    def _end(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def done(self, numbers: Callable[[str], bool]) -> Dataset:
        """All parts as one data set of the same columns."""
        self._end()
        final = dict(self.kinds)
        for name, kind in self.kinds.items():
            if numbers(name) and kind == pa.string():
                final[name] = self._number(name) or kind
        for at, (kinds, held) in enumerate(self.parts):
            if any(_changes(kinds.get(name), kind) for name, kind in final.items()):
                self.parts[at] = (final, self._rewritten(kinds, held, final))
        features = Features({name: _feature(kind) for name, kind in final.items()})
        if self.folder is not None:
            keep_features(self.folder, features)
            return opened(self.folder)
        table = pa.Table.from_batches([batch for _, held in self.parts for batch in held], _schema(final))
        return Dataset(table.cast(features.arrow_schema), info=DatasetInfo(features=features))

    def _rewritten(self, kinds: dict[str, Kind], held: Any, final: dict[str, Kind]) -> Any:
        made: Iterator[pa.RecordBatch] = (_recast(batch, kinds, final) for batch in _batches(held))
        if self.folder is None:
            return list(made)
        part = held.with_suffix(".part")
        with pa.ipc.new_stream(str(part), _schema(final)) as stream:
            for batch in made:
                stream.write_batch(batch)
        return part.replace(held)

    def _number(self, name: str) -> Kind:
        """The kind of number that all of a table's cells are, where they are; empty ones are none."""
        fit, seen = [pa.int64(), pa.float64()], False
        for kinds, held in self.parts:
            for batch in _batches(held) if name in kinds else ():
                filled = pc.if_else(pc.equal(batch.column(name), ""), None, batch.column(name))
                seen = seen or filled.null_count < len(filled)
                fit = [kind for kind in fit if _casts(filled, kind)]
        return fit[0] if fit and seen else None


def _batches(held: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(held, list):
        yield from held
    else:
        with pa.memory_map(str(held)) as source:
            yield from pa.ipc.open_stream(source)


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
        except (OverflowError, pa.ArrowInvalid):  # whole numbers beyond 64 bits, or beside fractions beyond 53
            pass
    return (as_text(values),)


def _joined(known: Kind, new: Kind) -> Kind:
    """The kind of a column that was of one kind and has values of another."""
    if known == new or new == _NOTHING:
        return known
    return new if known == _NOTHING else "written"


def _as_kind(column: Any, kind: Kind) -> pa.Array:
    """A chunk's column as Arrow holds its kind. Nothing and JSON text are both held as text."""
    if isinstance(column, tuple):
        return column[0]
    if kind == "written":
        return as_text(column.to_pylist())
    return column.cast(_held(kind))


def _recast(batch: pa.RecordBatch, kinds: dict[str, Kind], final: dict[str, Kind]) -> pa.RecordBatch:
    columns = []
    for name, kind in final.items():
        was = kinds.get(name, _NOTHING)
        column = pa.nulls(batch.num_rows) if was == _NOTHING else batch.column(name)
        if kind == was or was == _NOTHING:
            columns.append(column.cast(_held(kind)))
        elif kind == "written":
            columns.append(as_text(column.to_pylist()))
        else:
            columns.append(pc.if_else(pc.equal(column, ""), None, column).cast(kind))
    return pa.record_batch(columns, _schema(final))


def _changes(was: Kind, kind: Kind) -> bool:
    """Is a column of one kind held otherwise than as another?"""
    if was is None or was == _NOTHING:
        return was is None or _held(kind) != pa.string()
    return was != kind


def _held(kind: Kind) -> pa.DataType:
    return pa.string() if kind == "written" or kind == _NOTHING else kind


def _schema(kinds: dict[str, Kind]) -> pa.Schema:
    return pa.schema([(name, _held(kind)) for name, kind in kinds.items()])


def _feature(kind: Kind) -> Any:
    if kind == "written":
        return Written()
    return List(Value("int64")) if kind == _IDS else Value(str(_held(kind)).replace("double", "float64"))


def _casts(column: pa.Array, kind: pa.DataType) -> bool:
    try:
        column.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def as_text(values: Iterable[Any]) -> pa.Array:
    """Values as a column of JSON text."""
    return pa.array(map(Written().encode_example, values), pa.string())


# -------------------------------------------------------------------------------------------------------------- changes


def alike(parts: list[Dataset]) -> list[Dataset]:
    """Data sets in which a column is of the same kind in each that has it: what differs is kept as JSON text."""
    for name in dict.fromkeys(name for part in parts for name in part.column_names):
        if len({repr(part.features[name]) for part in parts if name in part.column_names}) > 1:
            parts = [rewritten(part, name) if name in part.column_names else part for part in parts]
    return parts


def rewritten(part: Dataset, name: str, change: Callable[[Any], Any] = lambda value: value) -> Dataset:
    """A data set of which one column is kept as JSON text, each value changed where that is asked for."""
    texts, beside = as_text(map(change, part[name])), f"{name} as text"
    wider = part.add_column(beside, texts, feature=Written())  # first: a table without columns forgets its rows
    return wider.remove_columns(name).rename_column(beside, name)


def values(rows: Dataset, name: str) -> pa.ChunkedArray:
    """A column as Arrow has it, in the order of the rows: without an object for each value."""
    return rows.select_columns([name]).with_format("arrow")[:].column(name)


def numbered(column: Any) -> np.ndarray:
    """[rows] the values of a column as numbers from 0 on, in the order in which they first come."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return whole.dictionary_encode().indices.to_numpy()


def lengths(rows: Dataset, *names: str) -> np.ndarray:
    """[rows] how many items each row has in some columns of lists together."""
    total = np.zeros(len(rows), np.int64)
    for name in names:
        some = rows.select_columns([name]).with_format("arrow").iter(CHUNK)
        parts = [pc.list_value_length(table.column(name)).to_numpy() for table in some]
        total += np.concatenate([np.zeros(0, np.int64), *parts])
    return total
