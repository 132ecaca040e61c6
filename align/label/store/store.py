"""The labels: items, who was asked what in which order, and answers that are only ever added.

    with Store(Path("runs/nano/label/labels.sqlite")) as store:
        store.add(rows, overlap=2, repeats=0.05)
        ada = store.annotator("Ada")
        while task := store.next(ada):
            store.answer(task.id, ada, ranking=[2, 1, 3])

Every method that writes is one transaction, on disk before it returns. Any number of processes may hold the same file
open: the assignment is made under SQLite's write lock, so two never get the same place.
"""

from __future__ import annotations

import datetime
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from align.label.store import assignment, items, merging
from align.label.store.database import FILE_NAME, Database
from align.label.store.items import KINDS, Annotator, Kind, Task
from align.label.store.names import checked, folded
from align.run.errors import DataError, RunError

__all__ = ["FILE_NAME", "Annotator", "Store", "Task", "now"]

HOLD = 24 * 3600.0  # seconds after which an item that somebody opened and left may go to another, when nothing else is
GAP = 10  # answers between an item and its repeat: enough to forget the order, few enough to happen in a short sitting
RECENT = 30  # answers that the pace is read off
PAUSE = 600.0  # seconds on one task beyond which the annotator was away


class Store(Database):
    """One labels file. A context manager; also closed by `close`. Safe to use from several threads.

    Args:
        path: the file.
        create: make it where it is not there.
        timeout: seconds to wait for another writer before saying that the file is locked.

    Raises:
        RunError: locked, another program's, damaged or unwritable; from every method.
    """

    def __init__(self, path: Path, *, create: bool = True, timeout: float = 10.0):
        super().__init__(path, create=create, timeout=timeout)
        self.left_out: Counter[str] = Counter()  # rows that `add` did not take, by reason

    # ------------------------------------------------------------------------------------------------------- items

    def add(
        self, rows: Iterable[Mapping[str, Any]], *, split: str = "train", overlap: int = 1, repeats: float = 0.0
    ) -> int:
        """Take rows in; a row that is here already adds nothing. Returns how many are new.

        A row whose completions are all the same leaves nothing to rank: it is counted in `left_out`.

        Args:
            rows: `prompt`, `completions` (2 to 9), optional `sources`, `priority`, `split`; the rest is kept as meta.
            split: of rows that name none.
            overlap: persons wanted for each.
            repeats: share of each person's items that is shown again later, in another order.

        Raises:
            DataError: the first row that cannot be ranked; nothing has been taken in then.
        """
        if overlap < 1 or not 0 <= repeats <= 1:
            raise DataError(f"overlap={overlap}, repeats={repeats}: overlap is 1 or more, repeats a share from 0 to 1")
        added, self.left_out = 0, Counter()
        with self.transaction():
            for number, row in enumerate(rows, 1):
                new = items.item(row, f"row {number}", split)
                if new.differ < 2:
                    self.left_out["with identical completions"] += 1
                    continue
                cursor = self.db.execute(
                    "INSERT OR IGNORE INTO items (id, split, urgency, place, overlap, repeats) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (new.id, new.split, new.urgency, new.place, overlap, repeats),
                )
                if cursor.rowcount:
                    texts = (cursor.lastrowid, new.prompt, new.completions, new.sources, new.meta)
                    self.db.execute("INSERT INTO texts VALUES (?, ?, ?, ?, ?)", texts)
                added += cursor.rowcount
                self.left_out["here already"] += 1 - cursor.rowcount
            assignment.look_again(self)
        self.left_out = +self.left_out
        return added

    def want(self, *, overlap: int | None = None, repeats: float | None = None) -> None:
        """Change how many persons are wanted for every item, and the share of repeats, from now on."""
        with self.transaction():
            if overlap is not None:
                self.db.execute("UPDATE items SET overlap = ?", (overlap,))
                assignment.look_again(self)
            if repeats is not None:
                self.db.execute("UPDATE items SET repeats = ?", (repeats,))

    def settings(self) -> tuple[int, float] | None:
        """The overlap and the share of repeats of the items that are here, the largest of each; None without items."""
        row = self.one("SELECT max(overlap), max(repeats) FROM items")
        return None if row[0] is None else (row[0], row[1])

    def prioritise(self, priorities: Mapping[str, float]) -> None:
        """Set items' priorities by id: higher is asked first; 0 is the default. Unknown ids are a mistake.

        Raises:
            DataError: an id that no item has; nothing is changed then.
        """
        with self.transaction():
            for key, priority in priorities.items():
                if not self.db.execute("UPDATE items SET urgency = ? WHERE id = ?", (-priority, key)).rowcount:
                    raise DataError(f"{self.path} has no item {key!r}; store.items() lists them")
            assignment.look_again(self)

    def items(self) -> Iterator[dict[str, Any]]:
        """Every item in the order in which they came: `item` (its id), `prompt`, `completions`, `sources`, `split`,
        `priority`, `overlap`, `taken` (persons so far) and `meta` (the row's other columns)."""
        last = 0
        while page := self.all(
            "SELECT * FROM items JOIN texts ON item = number WHERE number > ? ORDER BY number LIMIT 500", last
        ):
            for row in page:
                yield {
                    "item": row["id"], "prompt": json.loads(row["prompt"]),
                    "completions": json.loads(row["completions"]),
                    "sources": json.loads(row["sources"]) if row["sources"] else None, "split": row["split"],
                    "priority": -row["urgency"], "overlap": row["overlap"], "taken": row["taken"],
                    "meta": json.loads(row["meta"]),
                }  # fmt: skip
            last = page[-1]["number"]

    def counts(self) -> dict[str, int]:
        """`items`, those still `wanted` by the overlap, tasks `in_hand`, and `answers` that hold.

        What somebody left, or has held for too long, is wanted again: whoever asks when nothing else is left gets it.
        """
        held = assignment.held(self, stale=time.time() - HOLD)
        left = {row["item"] for row in held if row["stale"]}
        free = self.one("SELECT count(*) FROM items WHERE taken < overlap")[0]
        full = sum(self.one("SELECT taken >= overlap FROM items WHERE number = ?", item)[0] for item in left)
        return {
            "items": self.one("SELECT count(*) FROM items")[0],
            "wanted": free + full,
            "in_hand": sum(not row["stale"] for row in held),
            "answers": self.one("SELECT count(*) FROM answers WHERE withdrawn IS NULL")[0],
        }

    def last_change(self) -> int:
        """A number that differs whenever other answers hold than before."""
        row = self.one("SELECT coalesce(max(id), 0), count(*) FROM answers WHERE withdrawn IS NULL")
        return row[0] * 1_000_000_000 + row[1]

    # -------------------------------------------------------------------------------------------------- annotators

    def annotator(self, name: str, kind: Kind = "person") -> Annotator:
        """Who answers; made at the first use. Names differ in more than capitals and blanks; see `align.label.store.names`.

        Raises:
            DataError: an empty or overlong name, an unknown kind.
            RunError: the name belongs to another kind of annotator.
        """
        name = checked(name)
        if kind not in KINDS:
            raise DataError(f"annotator {name}: unknown kind {kind!r}; allowed: {', '.join(KINDS)}")
        row = self._named(name)
        if row is None:
            with self.transaction():
                if (row := self._named(name)) is None:  # asked again under the lock
                    self.db.execute("INSERT INTO annotators (name, kind) VALUES (?, ?)", (name, kind))
                    row = self._named(name)
        if row["kind"] != kind:
            raise RunError(f"the name {row['name']} is a {row['kind']}'s in {self.path}; choose another for a {kind}")
        return Annotator(row["number"], row["name"], row["kind"])

    def _named(self, name: str) -> Any:
        """The annotator of that name, whatever its capitals (SQLite's NOCASE knows those of ASCII only), or None."""
        rows = self.all("SELECT * FROM annotators ORDER BY number")
        return next((row for row in rows if folded(row["name"]) == folded(name)), None)

    def annotators(self) -> list[Annotator]:
        """Everyone who has ever been asked, in the order of their coming."""
        rows = self.all("SELECT * FROM annotators ORDER BY number")
        return [Annotator(row["number"], row["name"], row["kind"]) for row in rows]

    def progress(self, annotator: Annotator) -> dict[str, Any]:
        """`done`, `left` and `total` answers, `per_hour` and `seconds_left` (None at first), read off the last ones."""
        done, left = self._progress(annotator)
        rows = self.all(
            "SELECT seconds FROM answers WHERE annotator = ? AND withdrawn IS NULL ORDER BY id DESC LIMIT ?",
            annotator.number, RECENT,
        )  # fmt: skip
        spent = [min(row["seconds"], PAUSE) for row in rows if row["seconds"]]
        mean = sum(spent) / len(spent) if spent else None
        return {
            "done": done, "left": left, "total": done + left,
            "per_hour": 3600 / mean if mean else None, "seconds_left": mean * left if mean else None,
        }  # fmt: skip

    def _progress(self, annotator: Annotator) -> tuple[int, int]:
        """Answers that hold, and what this annotator can still be asked: items wanted or open, and repeats to come."""
        number = annotator.number
        done = self.one("SELECT done FROM annotators WHERE number = ?", number)[0]
        opened = self.one("SELECT count(*) FROM tasks WHERE annotator = ? AND open", number)[0]
        again = self.one("SELECT count(*) FROM again WHERE annotator = ?", number)[0]
        if annotator.kind == "person":
            free = self.one("SELECT count(*) FROM items WHERE taken < overlap")[0]
            had = self.one(
                "SELECT count(*) FROM items JOIN tasks ON tasks.item = items.number "
                f"WHERE taken < overlap AND annotator = ? AND repeat = 0 AND {assignment.HAD}", number,
            )[0]  # fmt: skip
        else:
            free = self.one("SELECT count(*) FROM items")[0]
            had = self.one("SELECT count(*) FROM tasks WHERE annotator = ? AND repeat = 0", number)[0]
        return done, opened + again + free - had

    # ------------------------------------------------------------------------------------------------------- tasks

    def next(self, annotator: Annotator) -> Task | None:
        """The task to do: the open one (of several the last) until it is answered, else a repeat that is due, else the
        next item wanted.

        Persons are asked about an item until `overlap` of them have it; a model or a simulated labeler is asked about
        every item, and counts for nobody. None where nothing is left.
        """
        sql = "SELECT id, opened FROM tasks WHERE annotator = ? AND open ORDER BY opened DESC, id LIMIT 1"
        held, stale = self.one(sql, annotator.number), time.time() - HOLD
        if held is None or held["opened"] < stale:
            with self.transaction():
                # asked again under the lock: the same name may be at work in another process
                held = self.one(sql, annotator.number)
                if held is None:
                    held = assignment.open_next(self, annotator, stale=stale)
                else:  # whoever had left is back
                    self.db.execute("UPDATE tasks SET opened = ? WHERE id = ?", (time.time(), held["id"]))
        return None if held is None else self._task(held["id"])

    def leave(self, annotator: Annotator) -> None:
        """Stop for now: the open task stays this annotator's only until nothing else is left for somebody else."""
        with self.transaction():
            self.db.execute("UPDATE tasks SET opened = 0 WHERE annotator = ? AND open", (annotator.number,))

    def task_of(self, annotator: Annotator, item: str) -> Task:
        """The task of a named item, opened where it is not yet: for models, which may rank in an order of their own.

        Raises:
            DataError: no such item, or the annotator is a person: those are given their tasks by `next`.
        """
        row = self.one("SELECT number, id FROM items WHERE id = ?", item)
        if row is None or annotator.kind == "person":
            raise DataError(f"{self.path}: no item {item!r} for {annotator.name}, a {annotator.kind}")
        with self.transaction():
            sql = "SELECT id FROM tasks WHERE annotator = ? AND item = ? AND repeat = 0"
            held = self.one(sql, annotator.number, row["number"])
            held = held or assignment.open_task(self, annotator.number, row, repeat=False)
        return self._task(held["id"])

    def _task(self, task: int) -> Task:
        row = self.one(
            "SELECT repeat, shown, items.id, texts.* FROM tasks JOIN items ON items.number = tasks.item "
            "JOIN texts ON texts.item = tasks.item WHERE tasks.id = ?", task,
        )  # fmt: skip
        completions, order = json.loads(row["completions"]), json.loads(row["shown"])
        return Task(
            id=task, item=row["id"], prompt=json.loads(row["prompt"]), completions=[completions[i] for i in order],
            order=order, repeat=bool(row["repeat"]), meta=json.loads(row["meta"]),
        )  # fmt: skip

    # ----------------------------------------------------------------------------------------------------- answers

    def answer(
        self, task_id: int, annotator: Annotator, *, ranking: list[int] | None = None, all_bad: bool = False,
        skip: bool = False, reason: str = "", better: str = "", seconds: float | None = None, mark: str | None = None,
    ) -> None:  # fmt: skip
        """Write one answer down; it is on disk when this returns. The same answer a second time changes nothing.

        Args:
            ranking: ranks in the order shown, 1 is best, ties allowed.
            all_bad: none is acceptable (a ranking may come with it).
            skip: no judgement; another person is asked instead.
            reason: why, in the annotator's words.
            better: an answer that the annotator would have liked better than all.
            seconds: time spent.
            mark: `Task.mark` of what was ranked, where it is known.

        Raises:
            DataError: ranks that do not fit, or no verdict.
            RunError: the task is another's or another one, or was answered otherwise; `undo` first.
        """
        with self.transaction():
            row = self.one("SELECT * FROM tasks WHERE id = ? AND annotator = ?", task_id, annotator.number)
            sql = "SELECT verdict, ranking, reason, better FROM answers WHERE task = ? AND withdrawn IS NULL"
            holds = self.one(sql, task_id)
            if row is None or not (row["open"] or holds or assignment.take_back(self, row["item"])):
                raise RunError("this task is no longer yours: it was left, and has gone to somebody else since")
            if mark not in (None, self._task(task_id).mark):
                raise RunError("this task is about something else by now (was a copy put back?): nothing was saved")
            if skip == (ranking is not None or all_bad):
                raise DataError("an answer is a ranking, all_bad (with or without a ranking), or skip")
            given = None if ranking is None else items.text(items.dense(ranking, len(json.loads(row["shown"]))))
            verdict = "skip" if skip else "all_bad" if all_bad else "ranked"
            values = (verdict, given, items.whole(reason.strip()), items.whole(better.strip()))
            if holds:
                if tuple(holds) == values:
                    return  # the confirmation was lost on the way, and the page tried again
                raise RunError("this task has an answer already; take it back first (undo), then answer again")
            self.db.execute(
                "INSERT INTO answers (task, annotator, verdict, ranking, reason, better, seconds, time) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (task_id, annotator.number, *values, seconds, now()),
            )  # fmt: skip
            self.db.execute("UPDATE tasks SET open = 0 WHERE id = ?", (task_id,))
            self._account(annotator, row, verdict, 1)

    def _account(self, annotator: Annotator, task: Any, verdict: str, sign: int) -> None:
        """What an answer (sign 1) or its withdrawal (-1) changes: counters, the item's place, the repeat to come."""
        judged = int(not task["repeat"] and verdict != "skip")
        before = self.one("SELECT answered, done FROM annotators WHERE number = ?", annotator.number)
        sql = "UPDATE annotators SET answered = answered + ?, done = done + ? WHERE number = ?"
        self.db.execute(sql, (sign * judged, sign, annotator.number))
        if verdict == "skip" and not task["repeat"] and annotator.kind == "person":
            self.db.execute("UPDATE items SET taken = taken - ? WHERE number = ?", (sign, task["item"]))
            assignment.look_again(self, other_than=annotator.number)
        if judged and sign < 0:
            self.db.execute("DELETE FROM again WHERE annotator = ? AND item = ?", (annotator.number, task["item"]))
        elif judged and annotator.kind != "model":  # a judge goes by `task_of`, and is asked once
            share = self.one("SELECT repeats FROM items WHERE number = ?", task["item"])[0]
            count = before["answered"] + 1  # every 1/share-th item is repeated, the first after half of that
            if int(count * share + 0.5) > int((count - 1) * share + 0.5):
                self.db.execute(
                    "INSERT OR IGNORE INTO again SELECT ?1, ?2, ?3 WHERE NOT EXISTS (SELECT 1 FROM tasks "
                    "WHERE annotator = ?1 AND item = ?2 AND repeat = 1)",
                    (annotator.number, task["item"], before["done"] + 1 + GAP),
                )  # fmt: skip

    def undo(self, annotator: Annotator) -> Task | None:
        """Withdraw the last answer (it stays in the file as history) and open its task again; None without one.

        Raises:
            RunError: it was a skip, and somebody else has the item now.
        """
        with self.transaction():
            row = self.one(
                "SELECT answers.id AS answer, verdict, tasks.* FROM answers JOIN tasks ON tasks.id = task WHERE "
                "answers.annotator = ? AND withdrawn IS NULL ORDER BY answers.id DESC LIMIT 1", annotator.number,
            )  # fmt: skip
            if row is None:
                return None
            if row["verdict"] == "skip" and not row["repeat"] and annotator.kind == "person":
                item = self.one("SELECT taken, overlap FROM items WHERE number = ?", row["item"])
                if item["taken"] >= item["overlap"]:
                    raise RunError("the task that you skipped has gone to somebody else; the skip stays")
            self.db.execute("UPDATE answers SET withdrawn = ? WHERE id = ?", (f"{now()} undo", row["answer"]))
            self.db.execute("UPDATE tasks SET open = 1, opened = ? WHERE id = ?", (time.time(), row["id"]))
            self._account(annotator, row, row["verdict"], -1)
        return self._task(row["id"])

    def rankings(
        self, *, kinds: Iterable[str] | None = None, annotators: Iterable[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The answers that hold, one row each in the `rankings` schema, in the order in which they were given.

        `prompt`, `completions`, `ranking` (of the original order; None for a skip, or all bad without ranks),
        `annotator`, `kind`, `time`, `split`, `verdict`, `reason`, `better`, `seconds`, `shown`, `repeat`, `item`,
        `sources`, and the row's other columns; one of those with a name of ours comes as `meta_<name>`.

        Args:
            kinds: only these kinds of annotators.
            annotators: only these names.
        """
        kinds = None if kinds is None else set(kinds)
        names = None if annotators is None else set(map(folded, annotators))
        last = 0
        while page := self.all(
            "SELECT answers.*, shown, repeat, name, kind, items.id AS key, prompt, completions, sources, split, meta "
            "FROM answers JOIN tasks ON tasks.id = task JOIN items ON items.number = tasks.item JOIN texts "
            "ON texts.item = tasks.item JOIN annotators ON annotators.number = answers.annotator "
            "WHERE withdrawn IS NULL AND answers.id > ? ORDER BY answers.id LIMIT 500", last,
        ):  # fmt: skip
            last = page[-1]["id"]
            for row in page:
                if (kinds is None or row["kind"] in kinds) and (names is None or folded(row["name"]) in names):
                    yield _ranking_row(row)

    def merge(self, other: Path, names: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Take in the items, annotators and answers of another labels file; see `align.label.store.merging`."""
        with self.transaction():
            found = merging.merge(self.db, Path(other), self.path, names or {})
            assignment.look_again(self)
        return found


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


def now() -> str:
    """The time as ISO 8601 in UTC, to the microsecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
