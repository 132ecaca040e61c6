"""The file behind the labels: SQLite, opened so that nothing confirmed is lost, and its errors in one sentence each.

A rollback journal and not a write-ahead log: when nobody is writing, the one file is everything, and can be copied.
`synchronous=EXTRA` also syncs the folder after the journal is gone, so that a commit outlives a power cut
(https://sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from align.label.store import schema
from align.run import holds
from align.run.errors import DataError, RunError

FILE_NAME = "labels.sqlite"
ENDINGS = (".sqlite", ".sqlite3", ".db")  # of the names that labels files may have
MAKES = "`align label <run of the sample recipe>`"  # in what a user is told where there are no labels


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into sentences.

    Raises:
        RunError: the file is locked, read-only, moved, on a full disk, damaged, or not a database.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            cause = f"{path} is locked by another program; close what holds it open, or wait, and try again"
        elif error.sqlite_errorname == "SQLITE_READONLY_DBMOVED":  # its text says "readonly" as well
            cause = f"{path} was moved or removed while it was open; move it back, or start again with where it is now"
        elif error.sqlite_errorname in ("SQLITE_READONLY_ROLLBACK", "SQLITE_CANTOPEN") and journal(path).exists():
            cause = f"{path} was left in the middle of a write; open it once to mend it: align label {path}"
        elif "readonly" in text or "read-only" in text:
            cause = f"{path} cannot be written: the file or its folder is read-only; copy it to where you may write"
        elif "full" in text:
            cause = f"{path} cannot be written: the disk is full; free space and try again, nothing confirmed is lost"
        elif "unable to open" in text:
            cause = f"{path} cannot be opened; does its folder exist, and may you write there?"
        else:
            cause = f"{path}: {text}"
        raise RunError(cause) from error
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.IntegrityError):
            raise  # ours to avoid, so a bug
        raise RunError(f"{path} is damaged or is not a labels file ({error}); name another, or a copy of it") from error


@contextlib.contextmanager
def as_stored(path: Path) -> Iterator[None]:
    """What is made of stored values inside the block fits our own, which are checked before they are stored.

    Raises:
        RunError: where it does not, as in a file that another program wrote.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise RunError(f"{path} holds values that align does not write ({error}); name another file") from error


def journal(path: Path) -> Path:
    """Where SQLite keeps what a write that did not end had changed."""
    return path.with_name(path.name + "-journal")


def connect(path: Path, *, create: bool = False, timeout: float, read_only: bool = False) -> sqlite3.Connection:
    """Open the labels at `path`, making them where they are not there and `create` says so.

    Raises:
        RunError: nothing there, somebody else's file, a newer version's, locked or unwritable.
    """
    if path.is_dir():
        raise RunError(f"{path} is a folder; name the file in it: {path / FILE_NAME}")
    if not path.exists() and not path.is_symlink():
        if not create:
            raise RunError(f"{path} does not exist; {MAKES} makes one")
        path.parent.mkdir(parents=True, exist_ok=True)
    else:
        schema.check_files(path)
    where = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    with told(path):
        db = sqlite3.connect(where, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)
        db.row_factory = sqlite3.Row
        try:
            _prepare(db, path, read_only)
        except BaseException:
            db.close()
            raise
    return db


def _prepare(db: sqlite3.Connection, path: Path, read_only: bool) -> None:
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, schema.LARGEST)
    for setting in ("foreign_keys = ON", "trusted_schema = OFF", "cell_size_check = ON"):
        db.execute(f"PRAGMA {setting}")
    application = db.execute("PRAGMA application_id").fetchone()[0]
    if application == 0 and not read_only and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("BEGIN IMMEDIATE")
        if db.execute("PRAGMA application_id").fetchone()[0] == 0:  # else another process was first
            for statement in schema.SCHEMA.split(";\n"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {schema.VERSION}")
        db.execute("COMMIT")
    elif application != schema.APPLICATION_ID:
        raise RunError(f"{path} is a database of another program; name another file, or a new one")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != schema.VERSION:
        raise RunError(
            f"{path} was written by version {version} of the labels, this one reads {schema.VERSION}; update align"
        )
    schema.check(db, path)
    if not read_only:
        db.execute("PRAGMA synchronous = EXTRA")


class Database:
    """An open labels file: a connection, a lock for the threads of this process, and transactions.

    Raises:
        RunError: locked, another program's, damaged or unwritable; from every method.
    """

    def __init__(self, path: Path, *, create: bool, timeout: float, read_only: bool = False):
        self.path, self.read_only = Path(path), read_only
        self.db = connect(self.path, create=create, timeout=timeout, read_only=read_only)
        self.lock = threading.RLock()
        self._depth = 0
        self.wanted: int | None = None  # see `count_wanted`
        self._counted = 0  # data version when it was counted
        try:
            self._keep_note()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was answered is on disk already. The note beside it is of the file as it is left."""
        with self.lock:
            with contextlib.suppress(RunError):  # a note that is out of date is safe: the file has to be opened once
                self._keep_note()
            self.db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Many writes, one commit: all of them or none. For programs; a person's answer is a commit of its own."""
        with self.lock, told(self.path):
            if self._depth == 0:
                self.db.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
            except BaseException:
                self._depth -= 1
                self.wanted = None
                if self._depth == 0 and self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise
            self._depth -= 1
            if self._depth == 0:
                try:
                    self.db.execute("COMMIT")
                except sqlite3.Error:
                    self.wanted = None
                    if self.db.in_transaction:
                        self.db.execute("ROLLBACK")
                    raise

    def count_wanted(self) -> int:
        """Items that fewer persons have than are to share them.

        Counting takes longer the more items there are, and everyone is told after each answer. So the number is kept:
        who gives out a place lowers it, who changes places otherwise sets it to None, and so does another process's
        commit (https://sqlite.org/pragma.html#pragma_data_version).
        """
        with self.lock:
            version = self.one("PRAGMA data_version")[0]
            if self.wanted is None or version != self._counted:
                self.wanted = self.one("SELECT count(*) FROM items WHERE taken < overlap")[0]
                self._counted = version
            return self.wanted

    def answered_by_people(self) -> bool:
        """Has a person ever answered? An answer that was taken back is people's work as well."""
        sql = (
            "SELECT 1 FROM annotators WHERE kind = 'person' "
            "AND EXISTS (SELECT 1 FROM answers WHERE annotator = annotators.number)"
        )
        return self.one(sql) is not None

    def note_people(self) -> None:
        """Say beside the file that it holds people's work: in a transaction, before a person's answer is committed.

        Raises:
            RunError: the note cannot be written; then the answer must not be.
        """
        assert self._depth, "outside a transaction, another process may write the note at once"
        if holds.people(self.path) is not True:
            holds.tell(self.path, True)

    def _keep_note(self) -> None:
        """Bring the note beside the file (`align.run.holds`) into step with what is in it."""
        writable = os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK)
        if self.read_only or not writable or holds.people(self.path) == self.answered_by_people():
            return
        with self.transaction():  # asked again under the lock, which whoever brings people's first answer holds
            holds.tell(self.path, self.answered_by_people())

    def identity(self) -> str:
        """A random word that tells this file from every other, made when it is first asked for; copies share it."""
        with self.transaction():
            self.db.execute(schema.SETTINGS)
            self.db.execute("INSERT OR IGNORE INTO settings VALUES ('id', lower(hex(randomblob(8))))")
            return self.one("SELECT value FROM settings WHERE name = 'id'")[0]

    def one(self, sql: str, *values: Any) -> Any:
        """The first row, or None."""
        with self.lock, told(self.path):
            return self.db.execute(sql, values).fetchone()

    def all(self, sql: str, *values: Any) -> list[Any]:
        """All rows."""
        with self.lock, told(self.path):
            return self.db.execute(sql, values).fetchall()
