"""What there is to read: inputs into files, files into tasks, and all that is wrong with them, before any work."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from align.clean.config import CleanConfig
from align.clean.read import columnar, formats
from align.clean.read.formats import DAMAGE, Damaged, Row
from align.run.lineage import parent_problem, run_directory
from align.run.lineage import parents as lineage
from align.run.received import outside

KINDS = {
    ".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".txt": "text", ".text": "text", ".md": "text",
    ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".arrow": "arrow",
}  # fmt: skip
MOST = 20  # problems that are told
NAMED = 8  # files that are named of those that are not read
HEAD = 20  # rows that are looked at before any work: one may lack its text, not all of them
PACKED = {".gz": "gz", ".zst": "zst", ".bz2": "bz2", ".xz": "xz"}
READABLE = f"kinds: {', '.join(KINDS)}, text also with .gz .zst .bz2 .xz"


@dataclass(frozen=True)
class Input:
    """One file, or one hub data set; of kind `others`, what of a folder is not read."""

    path: str  # as it is shown: names may have bytes that are no text
    kind: str  # jsonl, text, csv, tsv, parquet, arrow, hub, others
    compression: str = ""  # gz, zst, bz2, xz
    name: str = ""  # the `source` of documents that have no column of that name
    bytes: int = 0
    problem: str = ""  # what is wrong with the file, where --on_damaged skip lets the run go on
    file: Path = Path()


def find(args: CleanConfig) -> tuple[list[Input], list[str]]:
    """Every file of every input, in order, looked at.

    Returns:
        What there is to read; and the problems: inputs that are not there, files of an unknown kind, broken ones, and
        those that are not what their names say.
    """
    problems: list[str] = []
    found: list[Input] = []
    for name in args.input:
        path = Path(name).expanduser()
        if shown(name) != name:
            problems.append(f"{shown(name)}: a name that is not UTF-8; name the folder that it lies in, or rename it")
            continue
        if not path.exists():
            problem = parent_problem(name, allow_hub=True)
            problems += [problem] if problem else []
            found += [] if problem else [Input(name, "hub", name=name)]
            continue
        if run_directory(path) and (problem := parent_problem(name, allow_hub=False)):
            problems.append(problem)
            continue
        if path.is_dir() and any(
            made.resolve().is_relative_to(path.resolve())
            for made in (Path(str(args.output_dir)), args.decisions_path())
        ):
            problems.append(
                f"{name} holds the output_dir {args.output_dir} or the decisions {args.decisions_path()}: the next run "
                "would read what this one wrote; name an output_dir outside of it"
            )
            continue
        files, others = ([path], []) if path.is_file() else _files(path, args.split)
        if not files:
            but = f", but {_named(others)}" if others else ""
            problems.append(f"{name}: no file that can be read{but}; {READABLE}")
        found += [_look(file, path if path.is_dir() else path.parent, args) for file in files]
        if others:
            found.append(Input(shown(path), "others", problem=_named(others), file=path))
    times = Counter(entry.name for entry in found)
    found = [replace(entry, name=entry.path) if times[entry.name] > 1 else entry for entry in found]
    problems += _refused(found, args)
    if not problems and not any(entry.bytes or entry.kind == "hub" for entry in found):
        problems.append(f"{', '.join(args.input)}: every file is empty")
    more = [f"… and {len(problems) - MOST:,} more files"] if len(problems) > MOST else []
    return found, problems[:MOST] + more


def _refused(found: list[Input], args: CleanConfig) -> Iterator[str]:
    """Of the files' problems those that stop the run: all, or without --on_damaged stop a wrong column."""
    for entry in found:
        column = entry.problem.startswith("there is no column")
        if entry.kind != "others" and entry.problem and (args.on_damaged == "stop" or column):
            skips = "" if column else "; or leave it out: --on_damaged skip"
            yield f"{entry.path} {entry.problem}{skips}"


def _files(folder: Path, split: str) -> tuple[list[Path], list[Path]]:
    """The readable files below a folder; of a run its data's split, of a saved data set its Arrow files' split.

    Also what else a folder holds that is neither a run nor a saved data set: nobody is to believe that it was read.
    """
    if (folder / "run.json").is_file():
        folder = folder / "data"
    below = _below(folder)
    named = [path for path in below if path.is_file() and _kind(path)[0] and not path.name.startswith((".", "_"))]
    if (folder / "dataset_dict.json").is_file():
        return [path for path in named if path.suffix == ".arrow" and path.relative_to(folder).parts[0] == split], []
    if (folder / "state.json").is_file():
        return [path for path in named if path.suffix == ".arrow"], []
    if (folder.parent / "run.json").is_file():
        return [path for path in named if path.name.startswith(split)] or named, []
    described = ("dataset_info.json", "state.json")  # of saved data sets further down
    read = [path for path in named if path.name not in described]
    taken = set(read)
    return read, [path for path in below if path not in taken and path.name not in described]


def _below(folder: Path) -> list[Path]:
    """All files below a folder, in order; links to folders in it are followed, each folder once.

    Raises:
        DataError: for a link that leads out of the folder.
    """
    found: list[Path] = []
    seen: set[str] = set()
    for at, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(at)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        outside.check_inside(folder, [Path(at, name) for name in (*folders, *files) if Path(at, name).is_symlink()])
        folders.sort()
        found += [Path(at, file) for file in files]
    return sorted(found)


def _named(files: list[Path]) -> str:
    """`3 other files (a, b, …)`, those that look like data first."""
    names = [shown(file.name) for file in sorted(files, key=lambda file: (file.name.startswith((".", "_")), file))]
    listed = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
    return f"{len(names):,} other file{'s' if len(names) > 1 else ''} ({listed})"


def shown(path: str | Path) -> str:
    """A path as text: bytes in it that are not UTF-8 as `\\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _kind(path: Path) -> tuple[str, str]:
    """Kind and compression by the file's name; empty where the name says nothing."""
    compression = PACKED.get(path.suffix.lower(), "")
    inner = path.with_suffix("") if compression else path
    return KINDS.get(inner.suffix.lower(), ""), compression


def _look(path: Path, base: Path, args: CleanConfig) -> Input:
    """One file: what it is, and whether it begins as it should."""
    kind, compression = _kind(path)
    name = shown(path.relative_to(base))
    size = path.stat().st_size
    entry = Input(shown(path), kind, compression, name, size, file=path)
    if not kind:
        return replace(entry, problem=f"is of an unknown kind; {READABLE}")
    if compression and kind in ("parquet", "arrow"):
        problem = f"is a {kind} file packed with {compression}, which cannot be read as it is; unpack it first"
        return replace(entry, problem=problem)
    if size == 0:
        return entry
    problem = _wrong_name(path, kind, compression)
    if not problem:
        try:
            problem = _wrong_start(entry, args)
        except Damaged as error:  # where damage is skipped, the file is read up to it
            problem = "" if args.on_damaged == "skip" else str(error)
    return replace(entry, problem=problem)


def _wrong_name(path: Path, kind: str, compression: str) -> str:
    """Do the first bytes say something else than the name?"""
    with path.open("rb") as stream:
        seen = formats.magic(stream.read(8))
    expected = compression or (kind if kind in ("parquet", "arrow") else "")
    if seen == expected or (expected == "arrow" and not seen):  # an old Arrow stream has no mark
        return ""
    if expected and not seen:
        return f"is not a {expected} file, whatever its name says: it begins like text; rename it"
    if seen == "utf-16":
        return "is UTF-16; convert it: iconv -f UTF-16 -t UTF-8"
    return f"is a {seen} file, not {expected or 'text'}; rename it"


def _wrong_start(entry: Input, args: CleanConfig) -> str:
    """Can the first rows be read, and have they the column that holds the text?"""
    if entry.kind in ("jsonl", "csv", "tsv"):
        with closing(rows(entry, args)) as found:
            head = list(islice(found, HEAD))
        objects = [row for row in head if row.problem != "not_json"]
        if head and not objects:
            array = head[0].text.lstrip().startswith("[")
            return "is one JSON array; write one object a line" if array else "is not JSON Lines: see its first line"
        without = objects and all(row.problem == "no_text" for row in objects)
        return no_column(objects[0].text, args) if without else ""
    if entry.kind in ("parquet", "arrow"):
        try:
            batch = next(columnar.batches(entry.file, entry.kind), None)
        except DAMAGE as error:
            raise Damaged(f"is damaged: {_first_line(error)}") from error
        names = batch.schema.names if batch is not None else [args.text_column]
        return "" if args.text_column in names else no_column(", ".join(names), args)
    with closing(rows(entry, args)) as found:
        next(found, None)
    return ""


def no_column(shown: str, args: CleanConfig) -> str:
    """What is wrong with a file whose rows, of which one is `shown`, lack the column with the text."""
    return f"there is no column {args.text_column} ({shown[:200]}); name the one that holds the text: --text_column …"


def rows(entry: Input, args: CleanConfig) -> Generator[Row, None, None]:
    """The rows of one file or hub data set, as a stream.

    Raises:
        Damaged: where the file cannot be read on.
    """
    try:
        yield from _rows(entry, args)
    except Damaged:
        raise
    except DAMAGE as error:
        raise Damaged(f"is damaged: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    """What a library says of a damaged file, as part of a sentence of ours; its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _rows(entry: Input, args: CleanConfig) -> Iterator[Row]:
    path, most = entry.file, args.max_line_bytes
    if entry.kind == "others":
        return
    if entry.kind == "hub":
        yield from columnar.hub(entry.path, args.hub_config, args.split, args.text_column, most)
        return
    if entry.kind in ("parquet", "arrow"):
        yield from columnar.stored(path, entry.kind, args.text_column, most)
        return
    with formats.open_bytes(path, entry.compression) as stream:
        if entry.kind == "jsonl":
            yield from formats.jsonl(stream, args.text_column, most)
        elif entry.kind in ("csv", "tsv"):
            yield from formats.table(stream, args.text_column, most, "," if entry.kind == "csv" else "\t")
        else:
            read = {"paragraph": formats.paragraphs, "line": formats.text_lines, "file": formats.whole}
            yield from read[args.text_documents](stream, most)


def tasks(entries: list[Input], shard_bytes: int) -> list[list[Input]]:
    """Neighbouring small files together, so that a folder of a million of them is not a million tasks."""
    groups: list[list[Input]] = []
    held = 0
    for entry in entries:
        if not groups or held + entry.bytes > shard_bytes:
            groups.append([])
            held = 0
        groups[-1].append(entry)
        held += entry.bytes
    return groups


def parents(args: CleanConfig, entries: list[Input]) -> dict[str, Any]:
    """Lineage: each input with its hash. Files are hashed as a stream: they may be larger than the memory."""
    found: dict[str, Any] = {}
    for number, name in enumerate(args.input):
        role = "data" if len(args.input) == 1 else f"data_{number}"
        path = Path(name).expanduser()
        if not path.exists() or run_directory(path):
            found |= lineage({role: name})
            continue
        digest = hashlib.sha256()
        for entry in entries:
            if entry.kind not in ("hub", "others") and (entry.file == path or entry.file.is_relative_to(path)):
                digest.update(entry.name.encode())
                with entry.file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        found[role] = {"path": name, "hash": digest.hexdigest()}
    return found
