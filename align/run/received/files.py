"""Files in folders that others may have made: read and written without following a link that was planted there.

A link at a name that we write leads what is written to a file of its maker's choice, and so does a second name of such
a file (a hard link). A link at a name that we read brings a file of the user's into what is sent back.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from io import FileIO
from pathlib import Path
from typing import Any

from align.run.errors import RunError

LARGEST = 1 << 28  # bytes of a JSON file that is read whole
CLOSED = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)


def opened(path: Path) -> FileIO:
    """A file to read.

    Raises:
        OSError: nothing there, or nothing that may be read.
        RunError: a link, or no file of bytes (a pipe, say, which would never end).
    """
    handle = _open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise RunError(f"{path} cannot be read: it is no file; take it away")
    return os.fdopen(handle, "rb", buffering=0)


def appended(path: Path) -> FileIO:
    """A file to add to, made where it is not there.

    Raises:
        OSError: it cannot be written.
        RunError: a link, a file that has another name as well, or no file.
    """
    handle = _open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK)
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(handle)
        raise RunError(f"{path} is another file's second name, so it is not written to; make it a copy of its own")
    return os.fdopen(handle, "ab+", buffering=0)


def made(path: Path, content: str | bytes, mode: int = 0o666) -> bool:
    """Write a new file. False, and nothing written, where something of that name is there."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | CLOSED, mode)
    except FileExistsError:
        return False
    with os.fdopen(handle, "wb") as stream:
        stream.write(content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace"))
        stream.flush()
        os.fsync(stream.fileno())
    return True


def replace(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Put a file in the place of another in one step; on disk when this returns. A link there goes, not its target."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    if not made(part, content, mode):
        raise FileExistsError(errno.EEXIST, "another program is writing it", str(part))
    try:
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def text(path: Path, most: int = LARGEST) -> str:
    """A whole file as text; what is not UTF-8 is replaced.

    Raises:
        OSError: it is not there, or cannot be read.
        RunError: a link, no file, or more than `most` bytes.
    """
    with opened(path) as stream:
        if (size := os.fstat(stream.fileno()).st_size) > most:
            raise RunError(f"{path} has {size:,} bytes, and {most:,} are read at most; name another file")
        return stream.readall().decode("utf-8-sig", "replace")


def parsed(content: str | bytes) -> Any:
    """A value from JSON.

    Raises:
        ValueError: it is none, or is nested more deeply than can be read, or holds a number that is too long.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # Python's limit on digits, and bytes that are no UTF-8
        if "digits" in str(error):
            raise ValueError("it holds a number of more than 4,300 digits") from None
        raise


def leaving(folder: Path) -> list[Path]:
    """The links in a folder, at any depth, that lead out of it."""
    home = folder.resolve()
    found = []
    for at, folders, names in os.walk(folder):
        links = [Path(at, name) for name in (*folders, *names) if os.path.islink(os.path.join(at, name))]
        found += [link for link in links if not link.resolve().is_relative_to(home)]
    return sorted(found)


def _open(path: Path, how: int) -> int:
    try:
        return os.open(path, how | CLOSED, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP or path.is_symlink():
            raise RunError(f"{path} is a link, and links are not followed here; put the file itself there") from error
        raise
