"""A judge's replies on disk, so that no question is asked twice."""

from __future__ import annotations

import datetime
import json
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from align.run.errors import RunError


class Cache:
    """Replies by request, in one SQLite file. Every reply is a transaction, so a killed process leaves whole ones.

    What was read from a reply stands in the column `verdict`: earlier files have it, and must still open.
    """

    def __init__(self, path: Path):
        self.path = path
        self.lock = threading.Lock()
        for file in (path, *(path.with_name(path.name + ending) for ending in ("-journal", "-wal", "-shm"))):
            if file.is_symlink():
                raise RunError(
                    f"the judge's cache {file} is a link, and links are not followed here; name another file"
                )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            odd = self.db.execute("SELECT name FROM sqlite_master WHERE type IN ('trigger', 'view')").fetchone()
            if odd:  # it would change what is kept
                self.db.close()
                raise RunError(f"the judge's cache {path} holds {odd[0]!a}, which is not ours; name another file")
            self.db.execute(
                "CREATE TABLE IF NOT EXISTS replies "
                "(request TEXT PRIMARY KEY, model TEXT, verdict TEXT, reply TEXT, usage TEXT, time TEXT)"
            )
        except (OSError, sqlite3.Error) as error:
            raise RunError(f"the judge's cache {path} cannot be used: {error}; name another file") from error

    def known(self, keys: Iterable[str]) -> dict[str, str]:
        """What was read from the replies that are there. Malformed replies (kept to be read by people) are not."""
        found = {}
        with self.lock:
            for key in keys:
                row = self.db.execute("SELECT verdict FROM replies WHERE request = ?", (key,)).fetchone()
                if row and row[0]:
                    found[key] = row[0]
        return found

    def answered(self, model: str) -> bool:
        """Has this model given a usable reply before?"""
        sql = "SELECT 1 FROM replies WHERE model = ? AND verdict IS NOT NULL LIMIT 1"
        with self.lock:
            return self.db.execute(sql, (model,)).fetchone() is not None

    def keep(self, key: str, model: str, read: str | None, reply: str, usage: dict[str, Any]) -> None:
        """Write one reply through to the disk, with what was read from it (None: it was malformed)."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        # JSON can hold half surrogate pairs, SQLite cannot
        texts = (text and text.encode(errors="replace").decode() for text in (read, reply))
        row = (key, model, *texts, json.dumps(usage), now)
        try:
            with self.lock:
                self.db.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            raise RunError(f"the judge's cache {self.path} cannot be written: {error}") from error
