"""Rows of files that hold columns, Parquet and Arrow, and of hub data sets; `formats` has what a row is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from align.clean.read.formats import Damaged, Row, as_row, decode, within

ROWS = 256  # at once


def stored(path: Path, kind: str, column: str, most: int) -> Iterator[Row]:
    """The rows of a Parquet or Arrow file, a few hundred at a time."""
    for batch in batches(path, kind):
        for row in _values(batch):
            mixed = isinstance(row.get(column), bytes) and decode(row[column])[1]
            repaired = ("undecodable_bytes",) if mixed else ()
            yield within(as_row({key: _plain(value) for key, value in row.items()}, column, repaired), most)


def _values(batch: Any) -> list[dict[str, Any]]:
    """A record batch as rows; strings as bytes where one is not UTF-8 (whoever wrote the file did not look), times as
    numbers where one is beyond the years of Python's calendar or in a zone that nobody knows."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        changed = _changed(batch, _bytes)
    except (ValueError, OverflowError, KeyError):
        changed = _changed(batch, _number)
    try:
        return list(changed.to_pylist())
    except (ValueError, OverflowError, KeyError):
        return list(_changed(_changed(batch, _bytes), _number).to_pylist())


def _changed(batch: Any, change: Callable[[Any], Any]) -> Any:
    """A record batch whose columns are read as other types of the same size."""
    import pyarrow as pa

    def inside(kind: Any) -> Any:
        if pa.types.is_list(kind):
            return pa.list_(inside(kind.value_type))
        if pa.types.is_struct(kind):
            return pa.struct([(field.name, inside(field.type)) for field in kind])
        return change(kind)

    columns = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in batch.columns]
    return pa.RecordBatch.from_arrays([column.view(inside(column.type)) for column in columns], batch.schema.names)


def _bytes(kind: Any) -> Any:
    """The bytes of strings as they are, for `decode`."""
    import pyarrow as pa

    return {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(kind, kind)


def _number(kind: Any) -> Any:
    """Days, or units since the epoch."""
    import pyarrow as pa

    if not pa.types.is_temporal(kind) or pa.types.is_interval(kind):
        return kind
    return pa.int64() if kind.bit_width == 64 else pa.int32()


def _plain(value: Any) -> Any:
    """A value without bytes in it: they are decoded."""
    if isinstance(value, bytes):
        return decode(value)[0]
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return {key: _plain(part) for key, part in value.items()} if isinstance(value, dict) else value


def batches(path: Path, kind: str) -> Iterator[Any]:
    """Record batches of at most `ROWS` rows, as the file has them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if kind == "parquet":
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=ROWS)
        return
    with pa.memory_map(str(path)) as source:
        try:
            reader = pa.ipc.open_file(source)
            found = (reader.get_batch(i) for i in range(reader.num_record_batches))
        except pa.ArrowInvalid:  # what save_to_disk writes is the stream format
            source.seek(0)
            found = iter(pa.ipc.open_stream(source))
        for batch in found:
            yield from (batch.slice(i, ROWS) for i in range(0, batch.num_rows, ROWS))


def hub(name: str, config: str | None, split: str, column: str, most: int) -> Iterator[Row]:
    """The rows of a hub data set, streamed."""
    import datasets

    try:
        rows = datasets.load_dataset(name, config, split=split, streaming=True)
    except Exception as error:  # the hub client raises many kinds; each means that the rows cannot be had
        raise Damaged(f"is neither here nor to be had from the hub: {error}") from error
    for row in rows:
        yield within(as_row(dict(row), column, ()), most)
