"""Files of lines into rows: JSON Lines, plain text, CSV, compressed or not, read as a stream.

A row is a text with the other columns, or a problem with the piece of the file that has it. Bytes that are not UTF-8
are read as Windows-1252, byte by byte, which is what they are in most mixed files. Nothing longer than a limit is held.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import orjson

MAGIC = {
    b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"PAR1": "parquet",
    b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16",
    b"PK\x03\x04": "zip", b"%PDF": "pdf",
}  # fmt: skip
_LONG_NUMBER = re.compile(rb"[0-9]{19}")  # may be beyond 64 bits, which orjson reads as a number with a point
# What the readers raise where a file is cut off or its bytes were changed
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError, csv.Error, ValueError, OverflowError, MemoryError)


class Damaged(Exception):
    """A file cannot be read on. The message says what is wrong, without the file's name."""


@dataclass
class Row:
    """One document as it stands in a file, or why there is none (`problem`, with the piece of the file as `text`)."""

    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    repaired: tuple[str, ...] = ()


def magic(head: bytes) -> str:
    """What a file's first bytes say that it is; empty for text."""
    return next((kind for start, kind in MAGIC.items() if head.startswith(start)), "")


def _windows_1252(error: UnicodeError) -> tuple[str, int]:
    """A decoder's error handler: the bytes that are not UTF-8 are Windows-1252, or U+FFFD where that has no letter."""
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error("windows_1252", _windows_1252)


def decode(data: bytes) -> tuple[str, bool]:
    """Bytes as text, and whether some were not UTF-8."""
    try:
        return data.decode(), False
    except UnicodeDecodeError:
        return data.decode("utf-8", "windows_1252"), True


class _Zstd(io.RawIOBase):
    """A Zstandard stream; unlike the library's own reader it notices that a file was cut off.

    It is fed a kilobyte at a time: four bytes may stand for a block of 128 kB, so that is some 30 MB at most.
    """

    def __init__(self, stream: BinaryIO):
        import zstandard

        self.stream, self.new, self.error = stream, zstandard.ZstdDecompressor().decompressobj, zstandard.ZstdError
        self.frame, self.begun = self.new(), False
        self.ready, self.at = b"", 0  # what was decompressed, and how much of it was given away

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self.at == len(self.ready):
            self.ready, self.at = b"", 0
            data = self.stream.read(1 << 10)
            if not data:
                if self.begun:
                    raise EOFError("the compressed stream ends before its end marker")
                return 0
            while data:
                self.begun = True
                try:
                    self.ready += self.frame.decompress(data)
                except self.error as error:
                    raise OSError(str(error)) from error
                data = self.frame.unused_data if self.frame.eof else b""
                if self.frame.eof:
                    self.frame, self.begun = self.new(), False
        part = self.ready[self.at : self.at + len(buffer)]
        self.at += len(part)
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self.stream.close()
        super().close()


def open_bytes(path: Path, compression: str) -> BinaryIO:
    """The file's bytes, decompressed as they are read."""
    if compression == "zst":
        return io.BufferedReader(_Zstd(path.open("rb")), 1 << 18)
    # no larger buffer around these: what it held would be lost where the stream breaks off
    opener: Any = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}.get(compression, open)
    return opener(path, "rb")


def lines(stream: BinaryIO, most: int) -> Iterator[tuple[bytes, bool]]:
    """Lines without their end, and whether the line was longer than `most` bytes (then only its head is given)."""
    while line := stream.readline(most + 1):
        if len(line) <= most or line.endswith(b"\n"):
            yield line.rstrip(b"\r\n"), False
            continue
        yield line[:1000], True
        while line and not line.endswith(b"\n"):
            line = stream.readline(1 << 20)


def _too_long(head: bytes, metadata: dict[str, Any] | None = None) -> Row:
    return Row(decode(head)[0], metadata or {}, problem="too_long")


def jsonl(stream: BinaryIO, column: str, most: int) -> Iterator[Row]:
    """One JSON object a line."""
    for line, cut in lines(stream, most):
        if cut:
            yield _too_long(line)
            continue
        repaired: tuple[str, ...] = ()
        if b"\0" in line:
            line, repaired = line.replace(b"\0", b""), ("nul",)
        line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            row, repaired = _loose_json(line, repaired)
        else:
            row = _loose_json(line, ())[0] if _LONG_NUMBER.search(line) else row
        yield as_row(row, column, repaired, line)


def _loose_json(line: bytes, repaired: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """A line that strict JSON refuses: bytes that are not UTF-8, NaN, half surrogate pairs. None if it is no JSON."""
    import json

    text, mixed = decode(line)
    try:
        whole = json.loads(text, parse_constant=lambda _: None)
        halves = json.dumps(whole, ensure_ascii=False).encode("utf-16", "surrogatepass")
        clean = json.loads(halves.decode("utf-16", "replace"))
    except (ValueError, RecursionError):
        return None, repaired
    return clean, (*repaired, "undecodable_bytes") if mixed else repaired


def as_row(row: Any, column: str, repaired: tuple[str, ...], line: bytes = b"") -> Row:
    """A row's mapping as a `Row`; `line` is shown where it cannot be one."""
    if not isinstance(row, dict):
        return Row(decode(line[:1000])[0], problem="not_json")
    text = row.pop(column, None)
    if not isinstance(text, str):
        shown = decode(line[:1000])[0] or str(row)[:1000]
        return Row(shown, problem="no_text" if text is None else "text_is_no_string")
    # datatrove's reader between the stages passes over an empty text without counting it
    return Row(text, row, repaired=repaired, problem="" if text else "empty")


def text_lines(stream: BinaryIO, most: int) -> Iterator[Row]:
    """Every line that is not empty."""
    for line, cut in lines(stream, most):
        if cut:
            yield _too_long(line)
        elif line.strip():
            text, mixed = decode(line.removeprefix(codecs.BOM_UTF8))
            yield Row(text, repaired=("undecodable_bytes",) if mixed else ())


def paragraphs(stream: BinaryIO, most: int) -> Iterator[Row]:
    """Blocks of lines with empty lines between them."""
    block: list[bytes] = []
    held, long = 0, False
    for line, cut in lines(stream, most):
        if not line.strip():
            if block:
                yield _too_long(block[0][:1000]) if long else _block(block)
            block, held, long = [], 0, False
            continue
        held += len(line) + 1
        long = long or cut or held > most
        if not long or not block:
            block.append(line)
    if block:
        yield _too_long(block[0][:1000]) if long else _block(block)


def _block(block: list[bytes]) -> Row:
    text, mixed = decode(b"\n".join(block).removeprefix(codecs.BOM_UTF8))
    return Row(text, repaired=("undecodable_bytes",) if mixed else ())


def whole(stream: BinaryIO, most: int) -> Iterator[Row]:
    """The file as one document."""
    data = stream.read(most + 1)
    if len(data) > most:
        yield _too_long(data[:1000])
    elif data.strip():
        yield _block([data])


def table(stream: BinaryIO, column: str, most: int, separator: str) -> Iterator[Row]:
    """Comma-separated values with a header line, quoted as RFC 4180 says; tab-separated ones have no quoting."""
    csv.field_size_limit(most)
    repaired: list[bool] = []

    def decoded() -> Iterator[str]:
        for line, cut in lines(stream, most):
            if cut:
                raise Damaged(f"a line is longer than {most:,} bytes (--max_line_bytes)")
            text, mixed = decode(line.replace(b"\0", b"").removeprefix(codecs.BOM_UTF8))
            repaired.append(mixed)
            yield text + "\n"

    quoting: Any = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    reader = csv.DictReader(decoded(), delimiter=separator, quoting=quoting, strict=True)
    if reader.fieldnames is None:
        return
    while True:
        begun = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise Damaged(
                f"is damaged in the row that begins in line {begun:,}: {error}; a field that holds a quote is quoted, "
                "and the quotes in it are written twice"
            ) from error
        extra = row.pop(None, None)  # the key of surplus fields
        mixed = any(repaired)
        repaired.clear()
        if extra is not None:
            yield Row(str(row)[:1000], problem="too_many_fields")
        else:
            yield as_row(row, column, ("undecodable_bytes",) if mixed else ())


def within(row: Row, most: int) -> Row:
    """The row, or its head where its text is longer than `most` bytes: it came whole, but goes no further."""
    too_long = len(row.text) > most or 4 * len(row.text) > most and len(row.text.encode("utf-8", "replace")) > most
    return replace(row, text=row.text[:1000], problem="too_long") if too_long else row
