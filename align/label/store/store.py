"""The labels: items, who was asked what in which order, and answers that are only ever added.

    with Store(Path("runs/mine/label/labels.sqlite")) as store:
        store.add(rows, shared_by=2, repeats=0.05)
        ada = store.annotator("Ada")
        while task := store.next(ada):
            store.answer(task.id, ada, ranking=[2, 1, 3])

Every method that writes is one transaction, on disk before it returns. Any number of processes may hold the same file
open: the assignment is made under SQLite's write lock, so two never get the same place.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from align.label.store import answers, assignment, items
from align.label.store.database import Database, as_stored
from align.label.store.items import KINDS, Annotator, Kind, Task
from align.label.store.names import checked, folded
from align.run.errors import DataError, RunError

HOLD = 24 * 3600.0  # seconds after which an item that somebody opened and left may go to another, when nothing else is
RECENT = 30  # answers that the pace is read off
PAUSE = 600.0  # seconds on one task beyond which the annotator was away


class Store(Database):
    """One labels file. A context manager; also closed by `close`. Safe to use from several threads.

    Args:
        path: the file.
        create: make it where it is not there.
        read_only: change nothing, not even the note beside it.
        timeout: seconds to wait for another writer before saying that the file is locked.

    Raises:
        RunError: locked, another program's, damaged or unwritable; from every method.
    """

    def __init__(self, path: Path, *, create: bool = True, timeout: float = 10.0, read_only: bool = False):
        super().__init__(path, create=create and not read_only, timeout=timeout, read_only=read_only)
        self.left_out: Counter[str] = Counter()  # rows that `add` did not take, by reason

    # ------------------------------------------------------------------------------------------------------- items

    def add(
        self, rows: Iterable[Mapping[str, Any]], *, split: str = "train", shared_by: int = 1, repeats: float = 0.0
    ) -> int:
        """Take rows in; a row that is here already adds nothing. Returns how many are new.

        A row whose completions are all the same leaves nothing to rank: it is counted in `left_out`.

        Args:
            rows: `prompt`, `completions` (2 to 9), optional `sources`, `priority`, `split`; the rest is kept as meta.
            split: of rows that name none.
            shared_by: persons wanted for each.
            repeats: share of each person's items that is shown again later, in another order.

        Raises:
            DataError: the first row that cannot be ranked; nothing has been taken in then.
        """
        if shared_by < 1 or not 0 <= repeats <= 1:
            raise DataError(
                f"shared_by={shared_by}, repeats={repeats}: shared_by is 1 or more, repeats a share from 0 to 1"
            )
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
                    (new.id, new.split, new.urgency, new.place, shared_by, repeats),
                )
                if cursor.rowcount:
                    texts = (cursor.lastrowid, new.prompt, new.completions, new.sources, new.meta)
                    self.db.execute("INSERT INTO texts VALUES (?, ?, ?, ?, ?)", texts)
                added += cursor.rowcount
                self.left_out["here already"] += 1 - cursor.rowcount
            assignment.look_again(self)
        self.left_out = +self.left_out
        return added

    def want(self, *, shared_by: int | None = None, repeats: float | None = None) -> None:
        """Change how many persons are wanted for every item, and the share of repeats, from now on."""
        with self.transaction():
            if shared_by is not None:
                self.db.execute("UPDATE items SET overlap = ?", (shared_by,))
                assignment.look_again(self)
            if repeats is not None:
                self.db.execute("UPDATE items SET repeats = ?", (repeats,))

    def settings(self) -> tuple[int, float] | None:
        """How many persons share an item, and the share of repeats, the largest of each; None without items."""
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
        `priority`, `shared_by` (persons wanted), `taken` (persons so far) and `meta` (the row's other columns)."""
        last = 0
        while page := self.all(
            "SELECT * FROM items JOIN texts ON item = number WHERE number > ? ORDER BY number LIMIT 500", last
        ):
            with as_stored(self.path):
                found = [
                    {"item": row["id"], "prompt": json.loads(row["prompt"]),
                     "completions": json.loads(row["completions"]),
                     "sources": json.loads(row["sources"]) if row["sources"] else None, "split": row["split"],
                     "priority": -row["urgency"], "shared_by": row["overlap"], "taken": row["taken"],
                     "meta": json.loads(row["meta"])} for row in page
                ]  # fmt: skip
            yield from found
            last = page[-1]["number"]

    def counts(self) -> dict[str, int]:
        """`items`, those still `wanted` by as many as share them, tasks `in_hand`, and `answers` that hold.

        What somebody left, or has held for too long, is wanted again: whoever asks when nothing else is left gets it.
        """
        held = assignment.held(self, stale=time.time() - HOLD)
        left = {row["item"] for row in held if row["stale"]}
        free = self.count_wanted()
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
        """Who answers; made at the first use. Names differ in more than capitals and blanks; see `store.names`.

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
        done, left = assignment.done_and_left(self, annotator)
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

    # ------------------------------------------------------------------------------------------- tasks and answers

    def next(self, annotator: Annotator) -> Task | None:
        """The task to do: the open one (of several the last) until it is answered, else a repeat that is due, else the
        next item wanted.

        Persons are asked about an item until as many as share it have it; a model or a simulated labeler is asked about
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
        return None if held is None else assignment.read_task(self, held["id"])

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
        return assignment.read_task(self, held["id"])

    def answer(
        self, task_id: int, annotator: Annotator, *, ranking: list[int] | None = None, all_bad: bool = False,
        skip: bool = False, reason: str = "", better: str = "", seconds: float | None = None, mark: str | None = None,
    ) -> None:  # fmt: skip
        """Write one answer down; it is on disk when this returns. The same answer a second time changes nothing.

        Args:
            ranking: ranks in the order shown, 1 is best, ties allowed.
            all_bad: none is acceptable (a ranking may come with it).
            skip: no ranking; another person is asked instead.
            reason: why, in the annotator's words.
            better: an answer that the annotator would have liked better than all.
            seconds: time spent.
            mark: `Task.mark` of what was ranked, where it is known.

        Raises:
            DataError: ranks that do not fit, or none of the three.
            RunError: the task is another's or another one, or was answered otherwise; `undo` first.
        """
        with self.transaction():
            answers.give(
                self, task_id, annotator, ranking=ranking, all_bad=all_bad, skip=skip, reason=reason, better=better,
                seconds=seconds, mark=mark,
            )  # fmt: skip

    def undo(self, annotator: Annotator) -> Task | None:
        """Withdraw the last answer (it stays in the file as history) and open its task again; None without one.

        Raises:
            RunError: it was a skip, and somebody else has the item now.
        """
        with self.transaction():
            task = answers.take_back(self, annotator)
        return None if task is None else assignment.read_task(self, task)

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
        for row in answers.standing(self):
            if (kinds is None or row["kind"] in kinds) and (names is None or folded(row["annotator"]) in names):
                yield row
