"""Answers: written down, taken back, and read as rows; and what follows from one for its item and its annotator."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterator
from typing import Any

from align.label.store import assignment, items
from align.label.store.database import Database, as_stored
from align.label.store.items import Annotator
from align.run.errors import DataError, RunError

GAP = 10  # answers between an item and its repeat: enough to forget the order, few enough to happen in a short sitting


def now() -> str:
    """The time as ISO 8601 in UTC, to the microsecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


def give(
    db: Database, task_id: int, annotator: Annotator, *, ranking: list[int] | None, all_bad: bool, skip: bool,
    reason: str, better: str, seconds: float | None, mark: str | None,
) -> None:  # fmt: skip
    """Write one answer down, in the caller's transaction; see `Store.answer`."""
    row = db.one("SELECT * FROM tasks WHERE id = ? AND annotator = ?", task_id, annotator.number)
    sql = "SELECT verdict, ranking, reason, better FROM answers WHERE task = ? AND withdrawn IS NULL"
    holds = db.one(sql, task_id)
    if row is None or not (row["open"] or holds or assignment.take_back(db, row["item"])):
        raise RunError("this task is no longer yours: it was left, and has gone to somebody else since")
    if mark not in (None, assignment.read_task(db, task_id).mark):
        raise RunError("this task is about something else by now (was a copy put back?): nothing was saved")
    if skip == (ranking is not None or all_bad):
        raise DataError("an answer is a ranking, all_bad (with or without a ranking), or skip")
    given = None if ranking is None else items.as_json(items.dense(ranking, len(json.loads(row["shown"]))))
    verdict = "skip" if skip else "all_bad" if all_bad else "ranked"
    values = (verdict, given, items.whole(reason.strip()), items.whole(better.strip()))
    if holds:
        if tuple(holds) == values:
            return  # the confirmation was lost on the way, and the page tried again
        raise RunError("this task has an answer already; take it back first (undo), then answer again")
    if annotator.kind == "person":
        db.note_people()
    db.db.execute(
        "INSERT INTO answers (task, annotator, verdict, ranking, reason, better, seconds, time) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (task_id, annotator.number, *values, seconds, now()),
    )  # fmt: skip
    db.db.execute("UPDATE tasks SET open = 0 WHERE id = ?", (task_id,))
    _account(db, annotator, row, verdict, 1)


def take_back(db: Database, annotator: Annotator, task: int | None = None) -> int | None:
    """Withdraw the annotator's last answer, or that to `task`, in the caller's transaction; see `Store.undo`.

    Returns:
        Its task; None where there is none.
    """
    row = db.one(
        "SELECT answers.id AS answer, verdict, tasks.* FROM answers JOIN tasks ON tasks.id = task WHERE "
        "answers.annotator = ?1 AND withdrawn IS NULL AND (?2 IS NULL OR task = ?2) ORDER BY answers.id DESC LIMIT 1",
        annotator.number, task,
    )  # fmt: skip
    if row is None:
        return None
    if row["verdict"] == "skip" and not row["repeat"] and annotator.kind == "person":
        item = db.one("SELECT taken, overlap FROM items WHERE number = ?", row["item"])
        if item["taken"] >= item["overlap"]:
            raise RunError("the task that you skipped has gone to somebody else; the skip stays")
    db.db.execute("UPDATE answers SET withdrawn = ? WHERE id = ?", (f"{now()} undo", row["answer"]))
    db.db.execute("UPDATE tasks SET open = 1, opened = ? WHERE id = ?", (time.time(), row["id"]))
    _account(db, annotator, row, row["verdict"], -1)
    return row["id"]


def _account(db: Database, annotator: Annotator, task: Any, verdict: str, sign: int) -> None:
    """What an answer (sign 1) or its withdrawal (-1) changes: counters, the item's place, the repeat to come."""
    answered = int(not task["repeat"] and verdict != "skip")
    before = db.one("SELECT answered, done FROM annotators WHERE number = ?", annotator.number)
    sql = "UPDATE annotators SET answered = answered + ?, done = done + ? WHERE number = ?"
    db.db.execute(sql, (sign * answered, sign, annotator.number))
    if verdict == "skip" and not task["repeat"] and annotator.kind == "person":
        db.db.execute("UPDATE items SET taken = taken - ? WHERE number = ?", (sign, task["item"]))
        assignment.look_again(db, other_than=annotator.number)
    if answered and sign < 0:
        db.db.execute("DELETE FROM again WHERE annotator = ? AND item = ?", (annotator.number, task["item"]))
    elif answered and annotator.kind != "model":  # a judge goes by `task_of`, and is asked once
        share = db.one("SELECT repeats FROM items WHERE number = ?", task["item"])[0]
        count = before["answered"] + 1  # every 1/share-th item is repeated, the first after half of that
        if int(count * share + 0.5) > int((count - 1) * share + 0.5):
            db.db.execute(
                "INSERT OR IGNORE INTO again SELECT ?1, ?2, ?3 WHERE NOT EXISTS (SELECT 1 FROM tasks "
                "WHERE annotator = ?1 AND item = ?2 AND repeat = 1)",
                (annotator.number, task["item"], before["done"] + 1 + GAP),
            )  # fmt: skip


def standing(db: Database) -> Iterator[dict[str, Any]]:
    """The answers that hold as `rankings` rows, in the order in which they were given; see `Store.rankings`."""
    last = 0
    while page := db.all(
        "SELECT answers.*, shown, repeat, name, kind, items.id AS key, prompt, completions, sources, split, meta "
        "FROM answers JOIN tasks ON tasks.id = task JOIN items ON items.number = tasks.item JOIN texts "
        "ON texts.item = tasks.item JOIN annotators ON annotators.number = answers.annotator "
        "WHERE withdrawn IS NULL AND answers.id > ? ORDER BY answers.id LIMIT 500", last,
    ):  # fmt: skip
        last = page[-1]["id"]
        with as_stored(db.path):
            rows = [_ranking_row(row) for row in page]
        yield from rows


def _ranking_row(row: Any) -> dict[str, Any]:
    completions, shown = json.loads(row["completions"]), json.loads(row["shown"])
    ranking = None if row["ranking"] is None else json.loads(row["ranking"])
    ours = {
        "prompt": json.loads(row["prompt"]), "completions": completions,
        "ranking": None if ranking is None else items.original_ranks(completions, shown, ranking),
        "annotator": row["name"], "kind": row["kind"], "time": row["time"], "split": row["split"],
        "verdict": row["verdict"], "reason": row["reason"], "better": row["better"], "seconds": row["seconds"],
        "shown": shown, "repeat": bool(row["repeat"]), "item": row["key"],
        "sources": json.loads(row["sources"]) if row["sources"] else None,
        "written": False,  # whatever an earlier round's export says: all these completions were shown
    }  # fmt: skip
    meta = json.loads(row["meta"])
    return ours | {f"meta_{key}" if key in ours or key == "votes" else key: value for key, value in meta.items()}
