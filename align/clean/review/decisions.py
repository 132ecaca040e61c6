"""Reviewers' decisions: a file of JSON lines that is only ever added to, each line on the disk before it counts.

The last line for a document wins; a line with `"decision": null` takes the earlier ones back. A line that a kill cut is
no decision (nobody was told that it was saved) and goes at the next addition. The file can be kept in git and merged
line by line; several programs may add to it at once.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any, Literal

from align.clean.rules.personal import veil
from align.run.errors import RunError
from align.run.received import files

Decision = Literal["keep", "drop"]
HEAD = 200  # characters of a document that its decision repeats, so that the file can be read by itself
PATIENCE = 5.0  # seconds to wait for another program's addition, which takes milliseconds


class Decisions:
    """The decisions that hold, in memory, and the file behind them. A file that is not there yet holds none.

    A file that holds anything else is never written to: it must be new, or have a line that is a decision.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.rows: dict[str, dict[str, Any]] = {}  # by document, the line that holds
        self.seen: set[str] = set()  # documents with any line, also where it was taken back
        self._read = 0  # bytes
        self._line = 0
        self._file = 0
        self.refresh()

    def of(self, document: str) -> Decision | None:
        """What was decided about a document; None where nothing was, or where it was taken back."""
        row = self.rows.get(document)
        return row["decision"] if row else None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def version(self) -> str:
        """SHA-256 of the decisions that hold: the same whatever the order, and whatever was taken back."""
        held = sorted((document, row["decision"]) for document, row in self.rows.items())
        return hashlib.sha256(json.dumps(held).encode()).hexdigest()

    def refresh(self) -> None:
        """Read what others have added since.

        Raises:
            RunError: where the file cannot be read, or a line in it is no decision.
        """
        try:
            with files.opened(self.path) as stream:
                found = os.fstat(stream.fileno())
                if found.st_size < self._read or found.st_ino != self._file:  # new, or replaced by a merge or by hand
                    self._forget(found.st_ino)
                if found.st_size == self._read:
                    return
                stream.seek(self._read)
                whole, _, cut = stream.readall().rpartition(b"\n")
        except FileNotFoundError:
            if self.path.is_symlink():
                raise RunError(f"decisions {self.path}: a link to nothing; take it away") from None
            return self._forget(0)
        except OSError as error:
            raise RunError(f"decisions {self.path} cannot be read: {error.strerror}") from error
        for line in whole.split(b"\n") if whole else []:
            self._line += 1
            self._take(line)
            self._read += len(line) + 1
        row = _parse(cut)  # written by hand, without the last line's end; read again when it has one
        if row is not None:
            self._hold(row)
        if not self.seen:
            raise RunError(
                f"{self.path} holds no decision, so it is not a file of decisions and nothing is written to it; name "
                "another, or take it away"
            )

    def _forget(self, file: int) -> None:
        self.rows, self.seen, self._read, self._line, self._file = {}, set(), 0, 0, file

    def add(
        self,
        document: str,
        decision: Decision | None,
        *,
        reviewer: str,
        rule: str = "",
        reason: str = "",
        note: str = "",
        text: str = "",
    ) -> None:
        """Write a decision down; it is on the disk when this returns. None takes the earlier one back.

        Args:
            rule, reason: of the queue's row that was shown.
            text: the document; its first characters are kept, personal data as dots: this file outlives the raw corpus.

        Raises:
            RunError: where it cannot be written (full or read-only disk, locked file); nothing has been decided then.
        """
        assert decision in ("keep", "drop", None), decision
        row = {
            "id": document,
            "decision": decision,
            "reviewer": reviewer,
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "rule": rule,
            "reason": reason,
            "note": note,
            "text": " ".join(veil(text[: 4 * HEAD]).split())[:HEAD],
        }
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = not self.path.exists()
            if not new:
                self.refresh()  # what is there by now is looked at before it is opened for writing
            with files.appended(self.path) as stream, _locked(stream, self.path):
                _repair(stream)
                start = stream.seek(0, os.SEEK_END)
                try:
                    while line:
                        line = line[stream.write(line) :]
                    os.fsync(stream.fileno())
                except OSError:
                    with contextlib.suppress(OSError):  # half a line is ignored, and goes at the next addition
                        os.ftruncate(stream.fileno(), start)
                    raise
            if new:
                _sync_folder(self.path.parent)
        except OSError as error:
            raise RunError(
                f"the decision was not saved: {self.path} cannot be written ({error.strerror}); "
                "make room or make it writable, and decide again"
            ) from error
        self.refresh()

    def undo(self, document: str, *, reviewer: str, note: str = "") -> None:
        """Take back what was decided about a document. Its earlier lines stay in the file."""
        held = self.rows.get(document, {})
        rule, text = held.get("rule", ""), held.get("text", "")
        self.add(document, None, reviewer=reviewer, rule=rule, note=note, text=text)

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        row = _parse(line)
        if row is None:
            hint = "a merge left its marks there" if line.startswith((b"<<<<<<<", b"=======", b">>>>>>>")) else ""
            raise RunError(
                f"{self.path}, line {self._line}: {line[:60]!r} is no decision{f' ({hint})' if hint else ''}; "
                'a line is {"id": …, "decision": "keep", "drop" or null}. Mend it or take it out'
            )
        self._hold(row)

    def _hold(self, row: dict[str, Any]) -> None:
        self.seen.add(row["id"])
        self.rows.pop(row["id"], None)  # so that the order is that of the last lines
        if row["decision"] is not None:
            self.rows[row["id"]] = row


def _parse(line: bytes) -> dict[str, Any] | None:
    """A line as a decision; None where it is none."""
    try:
        row = files.parsed(line)
    except ValueError:  # not JSON, or not UTF-8
        return None
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        return None
    return row if row.get("decision", "") in ("keep", "drop", None) else None


def _repair(stream: FileIO) -> None:
    """End the file with a whole line: a cut one goes, a whole one without its end gets it. Called under the lock."""
    size = stream.seek(0, os.SEEK_END)
    tail, at = b"", size
    while at and b"\n" not in tail:
        at = max(0, at - 65536)
        stream.seek(at)
        tail = stream.read(size - at)
    cut = tail.rpartition(b"\n")[2]
    if not cut:
        return
    if _parse(cut) is None:
        os.ftruncate(stream.fileno(), size - len(cut))
    else:
        stream.seek(0, os.SEEK_END)
        stream.write(b"\n")


@contextlib.contextmanager
def _locked(stream: FileIO, path: Path) -> Iterator[None]:
    """Hold the file against other programs' additions."""
    import fcntl

    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > until:
                raise RunError(
                    f"the decision was not saved: {path} is locked by another program; end that one, or wait for it"
                ) from None
            time.sleep(0.02)
    try:
        yield
    finally:
        fcntl.flock(stream, fcntl.LOCK_UN)


def _sync_folder(folder: Path) -> None:
    """A new file's name is safe once its folder is on the disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
