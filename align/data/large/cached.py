"""What is made of large data, kept in the folder `align` of the datasets' cache: never beside a user's rows.

An entry is a folder. It appears under its name when it is whole: what a killed program leaves has another name, and is
cleaned away. Its name knows the code that made it (all of `align.data`, and the libraries that it calls), so no entry
holds what other code would make.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from align.data.chat import batches
from align.run import launch, lineage
from align.run.errors import DataError

UNUSED = 30 * 86_400  # seconds after which an entry that nobody read is cleaned away
DONE = "done.json"  # an entry's files and their sizes
LIBRARIES = ("datasets", "pyarrow", "transformers", "tokenizers", "jinja2", "regex")


def root() -> Path:
    """Where entries are; emptied by deleting it."""
    from datasets import config

    return Path(config.HF_DATASETS_CACHE) / "align"


@functools.cache
def code() -> str:
    """A digest of the code that reads, normalises and encodes rows."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.parent.rglob("*.py")):
        digest.update(f"{file.name}\0".encode() + file.read_bytes())
    return lineage.digest([digest.hexdigest(), *map(importlib.metadata.version, LIBRARIES)])


def kept(parts: Any, make: Callable[[Path], Any]) -> Path:
    """The folder of what `make` writes into one, made once. Of several processes the first makes it, the others wait.

    Args:
        parts: all that it depends on but for the code, as JSON.

    Raises:
        DataError: where the disk is full, or the folder is not one to write to.
    """
    entry = root() / lineage.digest([parts, code()])[:32]
    with _first():
        if not _is_whole(entry):
            _make(entry, make)
        with contextlib.suppress(OSError):  # a cache that others keep may only be read
            (entry / DONE).touch()  # read now
    return entry


def _is_whole(entry: Path) -> bool:
    """Is an entry there, each of its files as long as it was?"""
    try:
        known = json.loads((entry / DONE).read_text())
        return all((entry / name).stat().st_size == size for name, size in known.items())
    except (OSError, ValueError):
        return False


def _make(entry: Path, make: Callable[[Path], Any]) -> None:
    _clean()
    part = entry.with_name(f"{entry.name}.{socket.gethostname()}.{os.getpid()}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        make(part)
        sizes = {str(file.relative_to(part)): file.stat().st_size for file in part.rglob("*") if file.is_file()}
        (part / DONE).write_text(json.dumps(sizes))
        if entry.exists() and not _is_whole(entry):
            shutil.rmtree(entry)
        with contextlib.suppress(OSError):  # another program was as fast, and made the same
            part.rename(entry)
        assert _is_whole(entry), entry
    except OSError as error:
        if error.errno not in (*launch.DISK, errno.EACCES, errno.EPERM):
            raise
        raise DataError(
            f"{root()}: {error.strerror or error}, and prepared rows go there; free space, or name a folder elsewhere "
            "that you may write to: HF_DATASETS_CACHE=/large/cache"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _clean() -> None:
    """Remove what programs that are no more left half-made, and what nobody has read for long."""
    import psutil

    for entry in root().glob("*"):
        try:
            if entry.suffix == ".part":
                host, pid = entry.name.split(".", 1)[1].removesuffix(".part").rsplit(".", 1)
                left = host == socket.gethostname() and not psutil.pid_exists(int(pid))
                stale = left or time.time() - entry.stat().st_mtime > UNUSED
            else:
                stale = time.time() - (entry / DONE).stat().st_mtime > UNUSED
            if stale:
                shutil.rmtree(entry, ignore_errors=True)
        except (OSError, ValueError, IndexError):  # gone meanwhile, or none of ours
            continue


@contextlib.contextmanager
def _first() -> Iterator[None]:
    """Of the processes of one machine the main one goes first; when it is done, or has failed, the others follow."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    from accelerate import PartialState

    state = PartialState()
    if not state.is_local_main_process:
        state.wait_for_everyone()
    try:
        yield
    finally:
        if state.is_local_main_process:
            state.wait_for_everyone()


# ---------------------------------------------------------------------------------------------------- what rows are


def contents(rows: Any) -> str:
    """A digest of a data set's columns and values, as Arrow holds them."""
    digest = hashlib.sha256(repr(rows.features).encode())
    tables = [rows.data] if rows._indices is None else [rows.data, rows._indices]
    for table in tables:
        for name in table.column_names:
            for chunk in table.column(name).chunks:
                digest.update(f"{name} {chunk.type} {chunk.offset} {len(chunk)}".encode())
                if "dictionary" in str(chunk.type):
                    digest.update(repr(chunk.to_pylist()).encode())
                for buffer in chunk.buffers():
                    digest.update(b"-" if buffer is None else buffer)
    return digest.hexdigest()


def tokens(tokenizer: Any) -> str:
    """A digest of what a tokenizer makes of texts and messages."""
    if tokenizer is None:
        return ""
    return lineage.digest([
        type(tokenizer).__name__, batches.backend(tokenizer).to_str(), tokenizer.chat_template,
        getattr(tokenizer, "split_special_tokens", False),
        {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        sorted((number, str(token), token.special) for number, token in tokenizer.added_tokens_decoder.items()),
    ])  # fmt: skip
