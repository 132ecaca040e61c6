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

from align.run import holds
from align.run.errors import RunError

FILE_NAME = "labels.sqlite"
ENDINGS = (".sqlite", ".sqlite3", ".db")  # of the names that labels files may have
# says whose file this is (https://sqlite.org/pragma.html#pragma_application_id)
APPLICATION_ID = int.from_bytes(holds.MARK)
VERSION = 1

SCHEMA = """
CREATE TABLE items (
  number INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,              -- hash of prompt and completions
  split TEXT NOT NULL,
  urgency REAL NOT NULL,                -- minus the priority: lower is asked first
  place INTEGER NOT NULL,               -- a shuffle that stays, among equals
  overlap INTEGER NOT NULL,             -- how many persons are wanted to rank it
  repeats REAL NOT NULL,                -- share of a person's items that are asked twice
  taken INTEGER NOT NULL DEFAULT 0      -- persons who have ranked it, called it all bad, or hold it open
);
CREATE TABLE texts (                    -- apart: a row is rewritten whole, and these are long
  item INTEGER PRIMARY KEY REFERENCES items (number),
  prompt TEXT NOT NULL, completions TEXT NOT NULL, sources TEXT, meta TEXT NOT NULL  -- JSON
);
CREATE INDEX items_asked ON items (urgency, place);
CREATE INDEX items_wanted ON items (urgency, place) WHERE taken < overlap;
CREATE TABLE annotators (
  number INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE COLLATE NOCASE,
  kind TEXT NOT NULL,
  at_urgency REAL, at_place INTEGER,    -- nothing up to here is left for this annotator; NULL: look from the start
  answered INTEGER NOT NULL DEFAULT 0,  -- items not skipped, repeats not counted
  done INTEGER NOT NULL DEFAULT 0       -- answers that hold, of every sort
);
CREATE TABLE tasks (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  item INTEGER NOT NULL REFERENCES items (number),
  annotator INTEGER NOT NULL REFERENCES annotators (number),
  repeat INTEGER NOT NULL,
  shown TEXT NOT NULL,                  -- JSON: the original index of each completion, in the order shown
  opened REAL NOT NULL,
  open INTEGER NOT NULL DEFAULT 1,
  UNIQUE (annotator, item, repeat)
);
CREATE INDEX tasks_open ON tasks (annotator, id) WHERE open;
CREATE INDEX tasks_of_item ON tasks (item);
CREATE TABLE again (                    -- repeats to come: once the annotator has `due` answers
  annotator INTEGER NOT NULL REFERENCES annotators (number),
  item INTEGER NOT NULL REFERENCES items (number),
  due INTEGER NOT NULL,
  PRIMARY KEY (annotator, item)
);
CREATE TABLE answers (                  -- never changed but for `withdrawn`
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  task INTEGER NOT NULL REFERENCES tasks (id),
  annotator INTEGER NOT NULL REFERENCES annotators (number),
  verdict TEXT NOT NULL,
  ranking TEXT,                         -- JSON, in the order shown; 1 is best
  reason TEXT NOT NULL, better TEXT NOT NULL,
  seconds REAL,
  time TEXT NOT NULL,
  withdrawn TEXT                        -- when and why it no longer holds
);
CREATE UNIQUE INDEX answers_hold ON answers (task) WHERE withdrawn IS NULL;
CREATE INDEX answers_last ON answers (annotator, id) WHERE withdrawn IS NULL;
"""
MAKES = "`align label <run of the sample recipe>`"  # in what a user is told where there are no labels
SETTINGS = "CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)"  # see Database.identity


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


def connect(path: Path, *, create: bool, timeout: float) -> sqlite3.Connection:
    """Open the labels at `path`, making them where they are not there and `create` says so.

    Raises:
        RunError: nothing there, somebody else's file, a newer version's, locked or unwritable.
    """
    if path.is_dir():
        raise RunError(f"{path} is a folder; name the file in it: {path / FILE_NAME}")
    if not path.exists():
        if not create:
            raise RunError(f"{path} does not exist; {MAKES} makes one")
        path.parent.mkdir(parents=True, exist_ok=True)
    with told(path):
        db = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
        db.row_factory = sqlite3.Row
        try:
            _prepare(db, path)
        except BaseException:
            db.close()
            raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    db.execute("PRAGMA foreign_keys = ON")
    application = db.execute("PRAGMA application_id").fetchone()[0]
    if application == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("BEGIN IMMEDIATE")
        if db.execute("PRAGMA application_id").fetchone()[0] == 0:  # else another process was first
            for statement in SCHEMA.split(";\n"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    elif application != APPLICATION_ID:
        raise RunError(f"{path} is a database of another program; name another file, or a new one")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        raise RunError(f"{path} was written by version {version} of the labels, this one reads {VERSION}; update align")
    db.execute("PRAGMA synchronous = EXTRA")


class Database:
    """An open labels file: a connection, a lock for the threads of this process, and transactions.

    Raises:
        RunError: locked, another program's, damaged or unwritable; from every method.
    """

    def __init__(self, path: Path, *, create: bool, timeout: float):
        self.path = Path(path)
        self.db = connect(self.path, create=create, timeout=timeout)
        self.lock = threading.RLock()
        self._depth = 0
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
                if self._depth == 0 and self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise
            self._depth -= 1
            if self._depth == 0:
                try:
                    self.db.execute("COMMIT")
                except sqlite3.Error:
                    if self.db.in_transaction:
                        self.db.execute("ROLLBACK")
                    raise

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
        if not writable or holds.people(self.path) == self.answered_by_people():
            return
        with self.transaction():  # asked again under the lock, which whoever brings people's first answer holds
            holds.tell(self.path, self.answered_by_people())

    def identity(self) -> str:
        """A random word that tells this file from every other, made when it is first asked for; copies share it."""
        with self.transaction():
            self.db.execute(SETTINGS)
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
