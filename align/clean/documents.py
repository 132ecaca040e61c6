"""What there is to read: inputs into files, files into tasks, and all that is wrong with them, before any work."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from align.clean import formats
from align.clean.config import CleanConfig
from align.clean.formats import DAMAGE, Damaged, Row
from align.record import lineage, parent_problem, run_directory

KINDS = {
    ".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".txt": "text", ".text": "text", ".md": "text",
    ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".arrow": "arrow",
}  # fmt: skip
MOST = 20  # problems that are told
HEAD = 20  # rows that are looked at before any work: one may lack its text, not all of them
PACKED = {".gz": "gz", ".zst": "zst", ".bz2": "bz2", ".xz": "xz"}


@dataclass(frozen=True)
class Source:
    """One file, or one hub data set."""

    path: str
    kind: str  # jsonl, text, csv, tsv, parquet, arrow, hub
    compression: str = ""  # gz, zst, bz2, xz
    name: str = ""  # the `source` of documents that have no column of that name
    bytes: int = 0
    problem: str = ""  # what is wrong with the file, where --on_damaged skip lets the run go on


def find(args: CleanConfig) -> tuple[list[Source], list[str]]:
    """Every file of every input, in order, looked at.

    Returns:
        The sources; and the problems: inputs that are not there, files of an unknown kind, broken ones, and those that
        are not what their names say.
    """
    problems: list[str] = []
    found: list[Source] = []
    for name in args.input:
        path = Path(name).expanduser()
        if not path.exists():
            problem = parent_problem(name, allow_hub=True)
            problems += [problem] if problem else []
            found += [] if problem else [Source(name, "hub", name=name)]
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
        files = [path] if path.is_file() else _files(path, args.split)
        if not files:
            problems.append(f"{name}: no file that can be read; kinds: {', '.join(KINDS)}, also with .gz .zst .bz2 .xz")
        found += [_look(file, path if path.is_dir() else path.parent, args) for file in files]
    for source in found:
        if source.problem and (args.on_damaged == "stop" or source.problem.startswith("there is no column")):
            skips = "" if source.problem.startswith("there is no column") else "; or leave it out: --on_damaged skip"
            problems.append(f"{source.path} {source.problem}{skips}")
    if not problems and not any(source.bytes or source.kind == "hub" for source in found):
        problems.append(f"{', '.join(args.input)}: every file is empty")
    more = [f"… and {len(problems) - MOST:,} more files"] if len(problems) > MOST else []
    return found, problems[:MOST] + more


def _files(folder: Path, split: str) -> list[Path]:
    """The readable files below a folder; of a run its data's split, of a saved data set its Arrow files' split."""
    if (folder / "run.json").is_file():
        folder = folder / "data"
    named = sorted(p for p in folder.rglob("*") if p.is_file() and _kind(p)[0] and not p.name.startswith((".", "_")))
    if (folder / "dataset_dict.json").is_file():
        return [path for path in named if path.suffix == ".arrow" and path.relative_to(folder).parts[0] == split]
    if (folder / "state.json").is_file():
        return [path for path in named if path.suffix == ".arrow"]
    if (folder.parent / "run.json").is_file():
        return [path for path in named if path.name.startswith(split)] or named
    return [path for path in named if path.name not in ("dataset_info.json", "state.json")]


def _kind(path: Path) -> tuple[str, str]:
    """Kind and compression by the file's name; empty where the name says nothing."""
    compression = PACKED.get(path.suffix.lower(), "")
    inner = path.with_suffix("") if compression else path
    return KINDS.get(inner.suffix.lower(), ""), compression


def _look(path: Path, base: Path, args: CleanConfig) -> Source:
    """One file: what it is, and whether it begins as it should."""
    kind, compression = _kind(path)
    name = str(path.relative_to(base)) if path != base else path.name
    size = path.stat().st_size
    if not kind:
        problem = f"is of an unknown kind; kinds: {', '.join(KINDS)}, also with .gz .zst .bz2 .xz"
        return Source(str(path), "", compression, name, size, problem)
    source = Source(str(path), kind, compression, name, size)
    if size == 0:
        return source
    problem = _wrong_name(path, kind, compression)
    if not problem:
        try:
            problem = _wrong_start(source, args)
        except Damaged as error:  # where damage is skipped, the file is read up to it
            problem = "" if args.on_damaged == "skip" else str(error)
    return Source(str(path), kind, compression, name, size, problem)


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


def _wrong_start(source: Source, args: CleanConfig) -> str:
    """Can the first rows be read, and have they the column that holds the text?"""
    if source.kind in ("jsonl", "csv", "tsv"):
        with closing(rows(source, args)) as found:
            head = list(islice(found, HEAD))
        if head and head[0].problem == "not_json":
            array = head[0].text.lstrip().startswith("[")
            return "is one JSON array; write one object a line" if array else "is not JSON Lines: see its first line"
        without = head and all(row.problem == "no_text" for row in head)
        return _no_column(head[0].text, args) if without else ""
    if source.kind in ("parquet", "arrow"):
        try:
            batch = next(formats._batches(Path(source.path), source.kind), None)
        except DAMAGE as error:
            raise Damaged(f"is damaged: {_first_line(error)}") from error
        names = batch.schema.names if batch is not None else [args.text_column]
        return "" if args.text_column in names else _no_column(", ".join(names), args)
    with closing(rows(source, args)) as found:
        next(found, None)
    return ""


def _no_column(shown: str, args: CleanConfig) -> str:
    return f"there is no column {args.text_column} ({shown[:200]}); name the one that holds the text: --text_column …"


def rows(source: Source, args: CleanConfig) -> Generator[Row, None, None]:
    """The rows of one source, as a stream.

    Raises:
        Damaged: where the file cannot be read on.
    """
    try:
        yield from _rows(source, args)
    except Damaged:
        raise
    except DAMAGE as error:
        raise Damaged(f"is damaged: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    """What a library says of a damaged file, as part of a sentence of ours; its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _rows(source: Source, args: CleanConfig) -> Iterator[Row]:
    path, most = Path(source.path), args.max_line_bytes
    if source.kind == "hub":
        yield from formats.hub(source.path, args.hub_config, args.split, args.text_column, most)
        return
    if source.kind in ("parquet", "arrow"):
        yield from formats.columnar(path, source.kind, args.text_column, most)
        return
    with formats.open_bytes(path, source.compression) as stream:
        if source.kind == "jsonl":
            yield from formats.jsonl(stream, args.text_column, most)
        elif source.kind in ("csv", "tsv"):
            yield from formats.table(stream, args.text_column, most, "," if source.kind == "csv" else "\t")
        else:
            read = {"paragraph": formats.paragraphs, "line": formats.text_lines, "file": formats.whole}
            yield from read[args.text_documents](stream, most)


def tasks(sources: list[Source], shard_bytes: int) -> list[list[Source]]:
    """Neighbouring small files together, so that a folder of a million of them is not a million tasks."""
    groups: list[list[Source]] = []
    held = 0
    for source in sources:
        if not groups or held + source.bytes > shard_bytes:
            groups.append([])
            held = 0
        groups[-1].append(source)
        held += source.bytes
    return groups


def parents(args: CleanConfig, sources: list[Source]) -> dict[str, Any]:
    """Lineage: each input with its hash. Files are hashed as a stream: they may be larger than the memory."""
    found: dict[str, Any] = {}
    for number, name in enumerate(args.input):
        role = "data" if len(args.input) == 1 else f"data_{number}"
        path = Path(name).expanduser()
        if not path.exists() or run_directory(path):
            found |= lineage({role: name})
            continue
        digest = hashlib.sha256()
        for source in sources:
            if Path(source.path) == path or Path(source.path).is_relative_to(path):
                digest.update(source.name.encode())
                with open(source.path, "rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        found[role] = {"path": name, "hash": digest.hexdigest()}
    return found
