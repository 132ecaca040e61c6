"""Two labels files into one: the union of items, annotators and answers; the same answer is recognised.

    align merge a.sqlite b.sqlite --output c.sqlite

An item is the same by its id, an answer by annotator, item and time. Where one annotator answered one item in both
files, the later answer holds and the earlier one stays as history, like an answer that was taken back. What judges
said (`judges/` beside the files) is joined beside the output.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.config import fail, parse
from align.label.database import connect, told
from align.label.notes import join_notes
from align.record import RunError

# What follows from tasks and answers, counted again.
RECOUNT = (
    "UPDATE tasks SET open = NOT EXISTS (SELECT 1 FROM answers WHERE task = tasks.id AND withdrawn IS NULL)",
    "UPDATE items SET taken = (SELECT count(*) FROM tasks JOIN annotators ON annotators.number = tasks.annotator "
    "LEFT JOIN answers ON answers.task = tasks.id AND withdrawn IS NULL "
    "WHERE tasks.item = items.number AND repeat = 0 AND kind = 'person' AND (open OR verdict != 'skip'))",
    "UPDATE annotators SET (done, answered) = (SELECT count(*), coalesce(sum(repeat = 0 AND verdict != 'skip'), 0) "
    "FROM answers JOIN tasks ON tasks.id = task WHERE answers.annotator = annotators.number AND withdrawn IS NULL)",
    "DELETE FROM again WHERE EXISTS (SELECT 1 FROM tasks WHERE tasks.annotator = again.annotator "
    "AND tasks.item = again.item AND repeat = 1)",
)


@dataclass
class MergeArguments:
    """What `align merge` takes."""

    inputs: list[str] = field(default_factory=list, metadata={"help": "Labels files, or folders that hold one."})
    output: str | None = field(default=None, metadata={"help": "The file to write; it must not be there yet."})


def merge(db: sqlite3.Connection, other: Path, here: Path) -> dict[str, int]:
    """Take `other` into `db`, inside the caller's transaction.

    Returns:
        New `items`, `annotators` and `answers`; `duplicates` that were here already; `superseded` answers, of which the
        other file had a later one for the same task (or this one).

    Raises:
        RunError: `other` cannot be read, is the same file, or one name is a person here and a model there.
    """
    if other.exists() and here.exists() and other.samefile(here):
        raise RunError(f"{other} is the file itself; name another one to merge")
    source = connect(other, create=False, timeout=10.0)
    try:
        with told(other):
            counts: Counter[str] = Counter(items=0, annotators=0, answers=0, duplicates=0, superseded=0)
            numbers = _items(db, source, counts), _annotators(db, source, counts, other)
            tasks = _tasks(db, source, *numbers, other)
            for answer in source.execute("SELECT * FROM answers ORDER BY id"):
                counts.update(_answer(db, answer, tasks[answer["task"]], numbers[1][answer["annotator"]]))
            for row in source.execute("SELECT * FROM again"):
                values = (numbers[1][row["annotator"]], numbers[0][row["item"]], row["due"])
                db.execute("INSERT OR IGNORE INTO again VALUES (?, ?, ?)", values)
            for statement in RECOUNT:
                db.execute(statement)
    finally:
        source.close()
    return dict(counts)


def _items(db: sqlite3.Connection, source: sqlite3.Connection, counts: Counter[str]) -> dict[int, int]:
    """Items by their ids; returns number there -> number here. Of two overlaps the larger holds."""
    columns = "id, split, urgency, place, overlap, repeats"
    texts = "prompt, completions, sources, meta"
    numbers = {}
    for row in source.execute(f"SELECT number, {columns} FROM items ORDER BY number"):
        sql = f"INSERT OR IGNORE INTO items ({columns}) VALUES (?, ?, ?, ?, ?, ?)"
        added = db.execute(sql, tuple(row)[1:]).rowcount
        counts["items"] += added
        number = db.execute("SELECT number FROM items WHERE id = ?", (row["id"],)).fetchone()[0]
        if added:
            long = source.execute(f"SELECT {texts} FROM texts WHERE item = ?", (row["number"],)).fetchone()
            db.execute(f"INSERT INTO texts (item, {texts}) VALUES (?, ?, ?, ?, ?)", (number, *long))
        else:
            db.execute("UPDATE items SET overlap = max(overlap, ?) WHERE number = ?", (row["overlap"], number))
        numbers[row["number"]] = number
    return numbers


def _annotators(
    db: sqlite3.Connection, source: sqlite3.Connection, counts: Counter[str], other: Path
) -> dict[int, int]:
    numbers = {}
    known = {row["name"].casefold(): row for row in db.execute("SELECT number, name, kind FROM annotators")}
    for row in source.execute("SELECT number, name, kind FROM annotators ORDER BY number"):
        if row["name"].casefold() not in known:
            sql = "INSERT INTO annotators (name, kind) VALUES (?, ?) RETURNING number, kind"
            known[row["name"].casefold()] = db.execute(sql, (row["name"], row["kind"])).fetchone()
            counts["annotators"] += 1
        mine = known[row["name"].casefold()]
        if mine["kind"] != row["kind"]:
            raise RunError(
                f"{row['name']} is a {mine['kind']} in one file and a {row['kind']} in {other}; these are not the "
                "same annotator, so the files cannot be merged"
            )
        numbers[row["number"]] = mine["number"]
    return numbers


def _tasks(
    db: sqlite3.Connection, source: sqlite3.Connection, items: dict[int, int], people: dict[int, int], other: Path
) -> dict[int, int]:
    """Tasks that were ever answered; returns id there -> id here."""
    found = {}
    sql = "SELECT * FROM tasks WHERE EXISTS (SELECT 1 FROM answers WHERE task = tasks.id) ORDER BY id"
    for row in source.execute(sql):
        key = (items[row["item"]], people[row["annotator"]], row["repeat"])
        db.execute(
            "INSERT OR IGNORE INTO tasks (item, annotator, repeat, shown, opened) VALUES (?, ?, ?, ?, ?)",
            (*key, row["shown"], row["opened"]),
        )
        sql = "SELECT id, shown FROM tasks WHERE item = ? AND annotator = ? AND repeat = ?"
        mine = db.execute(sql, key).fetchone()
        if mine["shown"] != row["shown"]:  # made from item, name and repeat: the same, unless Python's shuffle changes
            raise RunError(f"{other} showed an item in another order than this file: two versions of Python wrote them")
        found[row["id"]] = mine["id"]
    return found


def _answer(db: sqlite3.Connection, answer: sqlite3.Row, task: int, annotator: int) -> Counter[str]:
    """One answer in; what became of it."""
    same = db.execute("SELECT id FROM answers WHERE task = ? AND time = ?", (task, answer["time"])).fetchone()
    if same:
        if answer["withdrawn"]:
            sql = "UPDATE answers SET withdrawn = coalesce(withdrawn, ?) WHERE id = ?"
            db.execute(sql, (answer["withdrawn"], same["id"]))
        return Counter(duplicates=1)
    withdrawn, counts = answer["withdrawn"], Counter(answers=1)
    holding = db.execute("SELECT id, time FROM answers WHERE task = ? AND withdrawn IS NULL", (task,)).fetchone()
    if holding and withdrawn is None:
        counts["superseded"] = 1
        if holding["time"] < answer["time"]:
            sql = "UPDATE answers SET withdrawn = ? WHERE id = ?"
            db.execute(sql, (f"{answer['time']} merge", holding["id"]))
        else:
            withdrawn = f"{holding['time']} merge"
    columns = ("verdict", "ranking", "reason", "better", "seconds", "time")
    db.execute(
        "INSERT INTO answers (task, annotator, verdict, ranking, reason, better, seconds, time, withdrawn) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (task, annotator, *(answer[name] for name in columns), withdrawn),
    )
    return counts


def main(argv: list[str]) -> None:
    """`align merge`: copy the first file, take the others in.

    Raises:
        ConfigError: fewer than two inputs, one without labels, no output.
        RunError: the output is there already.
    """
    from align.label.source import stored
    from align.label.store import Store

    (args,) = parse(MergeArguments, nano=None, required=("output",), argv=argv)
    if len(args.inputs) < 2:
        fail(["merge takes two files or more: align merge a.sqlite b.sqlite --output c.sqlite"])
    inputs = [stored(name) for name in args.inputs]
    output = Path(args.output)
    if output.exists():
        raise RunError(f"{output} is there already; name a new file")
    for path in inputs:
        connect(path, create=False, timeout=10.0).close()  # all are readable before anything is written
    judges = output.parent / "judges"
    notes = join_notes(list(dict.fromkeys([judges, *(path.parent / "judges" for path in inputs)])))
    part = output.with_name(output.name + ".part")
    part.unlink(missing_ok=True)
    with Store(part) as store:
        for path in inputs:
            counts: dict[str, Any] = store.merge(path)
            print(f"{path}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
        total = store.counts()
    part.replace(output)
    if notes:
        judges.mkdir(exist_ok=True)
    for name, lines in notes.items():
        (judges / name).write_text(lines)
    print(f"{output}: {total['items']:,} items, {total['answers']:,} answers that hold")
