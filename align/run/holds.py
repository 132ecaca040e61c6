"""Whether a file holds people's work: a note beside it, for whoever is about to empty the folder.

The note of `labels.sqlite` is `labels.sqlite.holds`, JSON: `{"people": true}`. Who writes the file writes the note, at
the latest just before people's first work is in it; who empties folders reads the note, and need not know the file.
A note that says `false` has the file's size and time with it: another file laid in its place is not what it speaks of.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from align.run.errors import RunError
from align.run.received import files

ENDING = ".holds"
MARK = b"ALNL"  # of a labels file: its application id (SQLite's header, byte 68). A judge's cache has none
MARK_AT = 68


def people(file: Path) -> bool | None:
    """What the note beside `file` says; None where there is no note, or one that says `false` of another file.

    A note that cannot be read counts as people's.
    """
    try:
        said = files.parsed(files.text(_note(file), 1 << 16))
        if said["people"] is not False:
            return True
        return False if said["file"] == _state(file) else None
    except FileNotFoundError:
        return None
    except (OSError, RunError, ValueError, KeyError, TypeError):
        return True


def tell(file: Path, people: bool) -> None:
    """Write the note beside `file`. It is on disk when this returns; two writers at once are the caller's to prevent.

    Raises:
        RunError: it cannot be written.
    """
    note = _note(file)
    try:
        files.replace(note, json.dumps({"people": people, "file": _state(file)}) + "\n")
        folder = os.open(note.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise RunError(f"{note} cannot be written: {error.strerror}; nothing was changed in {file.name}") from error


def forget(file: Path) -> None:
    """Remove the note, together with its file or before it."""
    _note(file).unlink(missing_ok=True)


def refusal(folder: Path) -> str | None:
    """Why `folder` must not be emptied, in a sentence that says what to do; None where nothing of people is in it.

    A note whose file is gone says nothing any more. A labels file without a note is an earlier version's, or a copy:
    nobody knows what is in it before it has been opened once.
    """
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".part"):
        said = people(file)
        if not (said or (said is None and _is_labels(file))):
            continue
        first = f"copy them to another place first (align merge {file} --output …), then remove that file"
        if said:
            return f"{file} holds people's rankings, and making {folder} anew would delete them; {first}"
        return (
            f"{file} may hold people's rankings, and making {folder} anew would delete them: nothing beside it says "
            f"whose they are. Open it once (align label {file}) and try again; or {first}"
        )
    return None


def _state(file: Path) -> list[int] | None:
    """Size and time of a file; None where it is not there."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _note(file: Path) -> Path:
    return file.with_name(file.name + ENDING)


def _is_labels(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(MARK_AT + len(MARK))[MARK_AT:] == MARK
    except OSError:
        return False
