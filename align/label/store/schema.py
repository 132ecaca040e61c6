"""The tables of a labels file, and what a file that somebody sent may be: these tables and nothing else.

SQLite keeps programs in its files: triggers change what others write, views and indexes over expressions compute, and
a journal beside a file is played back into it, and may name files to delete. None of ours has any of that, so a file
that has is not opened.
"""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path

from align.run import holds
from align.run.errors import RunError

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
SETTINGS = "CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)"  # see Database.identity
LARGEST = 1 << 26  # bytes of one value: a conversation has thousands
CHECKED = 1 << 26  # bytes of a file up to which all of its pages are looked at when it is opened
# https://sqlite.org/fileformat.html: 1.3.3, the versions that say whether there is a write-ahead log; 3, the journal
LOG_AT, LOG = 18, b"\x02"
JOURNAL = bytes.fromhex("d9d505f920a163d7")  # begins one, and ends it where it names a journal over several files


def check_files(path: Path) -> None:
    """Look at a labels file and what lies beside it before SQLite does.

    Raises:
        RunError: a link, a file of several names, a log or a journal that is none of ours.
    """
    beside = [path.with_name(path.name + ending) for ending in ("-journal", "-wal", "-shm")]
    for file in (path, *beside):
        if file.is_symlink():
            raise RunError(f"{file} is a link, and links are not followed here; name the file itself, or a copy of it")
    if not path.is_file():
        raise RunError(f"{path} is no file; name one")
    with path.open("rb") as stream:
        head = stream.read(LOG_AT + 2)
    if LOG in (head[LOG_AT : LOG_AT + 1], head[LOG_AT + 1 :]) or any(file.exists() for file in beside[1:]):
        raise RunError(f"{path} has a write-ahead log, and labels files have none; name another file")
    if beside[0].is_file():
        with beside[0].open("rb") as stream:
            stream.seek(-min(len(JOURNAL), beside[0].stat().st_size), os.SEEK_END)
            if stream.read() == JOURNAL:
                raise RunError(f"{beside[0]} speaks of other files, and a labels file's journal does not; take it away")


def check(db: sqlite3.Connection, path: Path) -> None:
    """Compare the tables of an open labels file with ours.

    Raises:
        RunError: for a trigger, a view, any other table or index, and for one of ours that is built otherwise.
    """
    ours = sqlite3.connect(":memory:")
    try:
        ours.executescript(SCHEMA + SETTINGS)
        wanted = _built(ours)
    finally:
        ours.close()
    found = _built(db)
    found.pop(("table", "sqlite_stat1"), None)  # what SQLite's own ANALYZE leaves
    lacking = wanted.keys() - found.keys() - {("table", "settings"), ("index", "sqlite_autoindex_settings_1")}
    odd = [name for name in found if found[name] != wanted.get(name)] + sorted(lacking)
    if odd:
        kind, name = odd[0]
        raise RunError(
            f"{path} is no labels file as align writes them: its {kind} {name!a} is not ours, so it is not opened (a "
            "trigger or a view would change what is stored); ask for what align merge makes of it"
        )
    if path.stat().st_size <= CHECKED and (said := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise RunError(f"{path} is damaged ({said}); name another, or a copy of it")


def _built(db: sqlite3.Connection) -> dict[tuple[str, str], str]:
    """How each table and index is made, without comments and spaces, which differ between versions."""
    rows = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    bare = ("".join(re.sub(r"--[^\n]*", "", str(row[3])).split()).replace("IFNOTEXISTS", "") for row in rows)
    return {(str(row[0]), str(row[1])): f"{row[2]} {sql}" for row, sql in zip(rows, bare, strict=True)}
