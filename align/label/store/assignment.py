"""Who is asked what: inside a transaction, so that no two are given the same place.

An item is wanted while fewer persons have it than are to share it (the column `overlap`). Models and simulated labelers
are asked about every item and take nobody's place. What an annotator has been through is remembered (`at_urgency`,
`at_place`), so that the next item is found without walking past all earlier ones.
"""

from __future__ import annotations

import json
import time
from typing import Any

from align.data.chat import reasoning
from align.label.store import items
from align.label.store.database import Database, as_stored
from align.label.store.items import Annotator, Task

HAD = "(open OR EXISTS (SELECT 1 FROM answers WHERE task = tasks.id AND withdrawn IS NULL))"  # of a task: not given up


def open_next(db: Database, annotator: Annotator, *, stale: float) -> Any:
    """Open a task: a repeat that is due, else the next item wanted, else a repeat, else what others left open.

    Args:
        stale: a person's task that was opened before this time and has no answer may go to another.

    Returns:
        A row with the task's `id`; None where nothing is left.
    """
    number = annotator.number
    found = _repeat(db, number, due=True) or _wanted(db, annotator) or _repeat(db, number, due=False)
    if not found and annotator.kind == "person" and _release(db, stale):
        found = _wanted(db, annotator)
    if not found:
        # all that can be left is the repeat of the item answered last: nothing comes between, so it is given up
        db.db.execute("DELETE FROM again WHERE annotator = ?", (number,))
    return found


def look_again(db: Database, other_than: int = 0) -> None:
    """Items are wanted again, or in another order: the annotators' places in the list no longer hold."""
    db.wanted = None
    db.db.execute("UPDATE annotators SET at_urgency = NULL WHERE number != ?", (other_than,))


def open_task(db: Database, annotator: int, item: Any, *, repeat: bool, order: list[int] | None = None) -> Any:
    """A task with its order: a shuffle by item, annotator and repeat, or the one in which it was shown already.

    One that was given up is the same task again, in its own order.
    """
    name = db.one("SELECT name FROM annotators WHERE number = ?", annotator)[0]
    before = None
    if repeat:
        sql = "SELECT shown FROM tasks WHERE annotator = ? AND item = ? AND repeat = 0"
        before = json.loads(db.one(sql, annotator, item["number"])[0])
    completions = db.one("SELECT completions FROM texts WHERE item = ?", item["number"])[0]
    with as_stored(db.path):
        told = json.loads(completions)
    order = order or items.shown_order(told, f"{item['id']} {name.casefold()} {repeat:d}", before)
    values = (item["number"], annotator, int(repeat), items.as_json(order), time.time())
    return db.db.execute(
        "INSERT INTO tasks (item, annotator, repeat, shown, opened) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (annotator, item, repeat) DO UPDATE SET open = 1, opened = excluded.opened RETURNING id", values,
    ).fetchone()  # fmt: skip


def open_seen(db: Database, annotator: Annotator, item: str, order: list[int]) -> int:
    """The task of an item that a person has before the eyes already, in the order shown: in the caller's transaction.

    Persons are given their tasks by `Store.next`, so that each item goes to as many as share it. Answers that are voted
    on as they come were made for the one who votes: nothing is left to assign, and the place is one more than wanted.
    """
    row = db.one("SELECT * FROM items WHERE id = ?", item)
    sql = f"SELECT id FROM tasks WHERE annotator = ? AND item = ? AND repeat = 0 AND {HAD}"
    held = db.one(sql, annotator.number, row["number"])
    if held is None:
        db.wanted = None
        db.db.execute("UPDATE items SET taken = taken + 1 WHERE number = ?", (row["number"],))
        held = open_task(db, annotator.number, row, repeat=False, order=order)
    return held["id"]


def _repeat(db: Database, annotator: int, *, due: bool) -> Any:
    """Open the repeat that has waited longest, but never that of the item answered last."""
    row = db.one(
        "SELECT items.* FROM again JOIN items ON items.number = again.item WHERE again.annotator = ?1 "
        "AND (NOT ?2 OR due <= (SELECT done FROM annotators WHERE number = ?1)) "
        "AND item IS NOT (SELECT item FROM tasks WHERE id = (SELECT task FROM answers WHERE annotator = ?1 "
        "AND withdrawn IS NULL ORDER BY id DESC LIMIT 1)) ORDER BY due, item LIMIT 1", annotator, due,
    )  # fmt: skip
    if row is None:
        return None
    db.db.execute("DELETE FROM again WHERE annotator = ? AND item = ?", (annotator, row["number"]))
    return open_task(db, annotator, row, repeat=True)


def _wanted(db: Database, annotator: Annotator) -> Any:
    """Open the first item in line that this annotator has not had, or has given up."""
    at = db.one("SELECT at_urgency, at_place FROM annotators WHERE number = ?", annotator.number)
    wanted = "taken < overlap AND " if annotator.kind == "person" else ""
    row = db.one(
        f"SELECT * FROM items WHERE {wanted}(urgency, place) > (?, ?) AND NOT EXISTS (SELECT 1 FROM tasks "
        f"WHERE annotator = ? AND item = items.number AND repeat = 0 AND {HAD}) ORDER BY urgency, place LIMIT 1",
        -float("inf") if at["at_urgency"] is None else at["at_urgency"], at["at_place"] or 0, annotator.number,
    )  # fmt: skip
    if row is None:
        return None
    sql = "UPDATE annotators SET at_urgency = ?, at_place = ? WHERE number = ?"
    db.db.execute(sql, (row["urgency"], row["place"], annotator.number))
    if annotator.kind == "person":
        db.db.execute("UPDATE items SET taken = taken + 1 WHERE number = ?", (row["number"],))
        if db.wanted is not None and row["taken"] + 1 >= row["overlap"]:
            db.wanted -= 1
    return open_task(db, annotator.number, row, repeat=False)


def held(db: Database, stale: float) -> list[Any]:
    """Places that persons hold with a task they have not answered, and whether they left it before `stale`."""
    return db.all(
        "SELECT tasks.id, item, opened < ? AS stale FROM tasks JOIN annotators ON annotators.number = annotator "
        "WHERE open AND repeat = 0 AND kind = 'person'", stale,
    )  # fmt: skip


def take_back(db: Database, item: int) -> bool:
    """Take a place of an item where one is free: for an answer to a task that was given up, and that nobody took."""
    db.wanted = None
    sql = "UPDATE items SET taken = taken + 1 WHERE number = ? AND taken < overlap"
    return bool(db.db.execute(sql, (item,)).rowcount)


def _release(db: Database, stale: float) -> bool:
    """Give up what persons left, or opened long ago, and have not answered. Was there any?"""
    rows = [row for row in held(db, stale) if row["stale"]]
    for row in rows:
        db.db.execute("UPDATE tasks SET open = 0 WHERE id = ?", (row["id"],))  # kept: answers taken back belong to it
        db.db.execute("UPDATE items SET taken = taken - 1 WHERE number = ?", (row["item"],))
    if rows:
        look_again(db)
    return bool(rows)


def read_task(db: Database, task: int) -> Task:
    """A task as its annotator sees it."""
    row = db.one(
        "SELECT repeat, shown, items.id, texts.* FROM tasks JOIN items ON items.number = tasks.item "
        "JOIN texts ON texts.item = tasks.item WHERE tasks.id = ?", task,
    )  # fmt: skip
    with as_stored(db.path):
        completions, order = json.loads(row["completions"]), json.loads(row["shown"])
        answers = [reasoning.answer_of(completions[i]) for i in order]  # what was thought before them is not ranked
        return Task(
            id=task, item=row["id"], prompt=json.loads(row["prompt"]), completions=answers,
            order=order, repeat=bool(row["repeat"]), meta=json.loads(row["meta"]),
        )  # fmt: skip


def done_and_left(db: Database, annotator: Annotator) -> tuple[int, int]:
    """Answers that hold, and what this annotator can still be asked: items wanted or open, and repeats to come."""
    number = annotator.number
    done = db.one("SELECT done FROM annotators WHERE number = ?", number)[0]
    opened = db.one("SELECT count(*) FROM tasks WHERE annotator = ? AND open", number)[0]
    again = db.one("SELECT count(*) FROM again WHERE annotator = ?", number)[0]
    if annotator.kind == "person":
        free = db.count_wanted()
        had = db.one(
            "SELECT count(*) FROM items JOIN tasks ON tasks.item = items.number "
            f"WHERE taken < overlap AND annotator = ? AND repeat = 0 AND {HAD}", number,
        )[0]  # fmt: skip
    else:
        free = db.one("SELECT count(*) FROM items")[0]
        had = db.one("SELECT count(*) FROM tasks WHERE annotator = ? AND repeat = 0", number)[0]
    return done, opened + again + free - had
