"""Two labels files into one: the union of items, annotators and answers; the same answer is recognised.

    align merge a.sqlite b.sqlite --output c.sqlite
    align merge a.sqlite b.sqlite --output c.sqlite --rename b.sqlite:Anna=Anna-2    # two people of one name
    align merge runs/mine/label --output backup.sqlite                               # one alone is copied

Files are read as they are at one moment, so people may go on answering meanwhile; a copy that another program makes can
have half an answer in it.

An item is the same by its id, an answer by annotator, item and time. Where one annotator answered one item in both
files, the later answer holds and the earlier one stays as history, like an answer that was taken back. What judges
said (`judges/` beside the files) is joined beside the output.
"""

from __future__ import annotations

import contextlib
import shlex
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.label.store import assignment
from align.label.store.database import ENDINGS, FILE_NAME, connect, told
from align.label.store.names import folded
from align.label.store.notes import join_notes
from align.label.store.source import stored
from align.label.store.store import Store
from align.run import holds
from align.run.errors import RunError, fail
from align.run.parse import parse
from align.run.received import files

# What follows from tasks and answers, counted again.
RECOUNT = (
    "UPDATE tasks SET open = open AND NOT EXISTS (SELECT 1 FROM answers WHERE task = tasks.id AND withdrawn IS NULL)",
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
    output: str | None = field(
        default=None, metadata={"help": "The file to write, or a folder for one; it must not be there yet."}
    )
    rename: list[str] = field(
        default_factory=list,
        metadata={"help": "FILE:NAME=NEW, a person of that file under another name: where two people share one."},
    )


@contextlib.contextmanager
def _snapshot(path: Path, copy: str | Path = ":memory:") -> Iterator[sqlite3.Connection]:
    """A copy of the labels at `path` as they are now: whoever has the page open may go on answering."""
    with (
        contextlib.closing(connect(path, read_only=True, timeout=10.0)) as original,
        contextlib.closing(sqlite3.connect(copy)) as found,
        told(path),
    ):
        found.row_factory = sqlite3.Row
        original.backup(found, sleep=0.01)  # seconds to wait for whoever writes just now
        yield found


def merge(into: Store, other: Path, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Take the items, annotators and answers of the labels file `other` into a store.

    Args:
        names: what people of `other` are called here, by their (folded) names there; all the others keep theirs.

    Returns:
        New `items`, `annotators` and `answers`; `duplicates` that were here already; and by name `superseded`, the
        number of answers of which the other file had a later one for the same task (or this one).

    Raises:
        RunError: `other` cannot be read, is the same file, or one name is a person here and a model there.
    """
    if other.exists() and into.path.exists() and other.samefile(into.path):
        raise RunError(f"{other} is the file itself; name another one to merge")
    with into.transaction(), _snapshot(other) as theirs:
        db = into.db
        counts: Counter[str] = Counter(items=0, annotators=0, answers=0, duplicates=0)
        superseded: Counter[str] = Counter()
        numbers = _items(db, theirs, counts), _annotators(db, theirs, counts, other, names or {})
        tasks = _tasks(db, theirs, *numbers, other)
        called = {row["number"]: row["name"] for row in db.execute("SELECT number, name FROM annotators")}
        for answer in theirs.execute("SELECT * FROM answers ORDER BY id"):
            annotator = numbers[1][answer["annotator"]]
            found = _answer(db, answer, tasks[answer["task"]], annotator)
            superseded[called[annotator]] += found.pop("superseded", 0)
            counts.update(found)
        for row in theirs.execute("SELECT * FROM again"):
            values = (numbers[1][row["annotator"]], numbers[0][row["item"]], row["due"])
            db.execute("INSERT OR IGNORE INTO again VALUES (?, ?, ?)", values)
        for statement in RECOUNT:
            db.execute(statement)
        assignment.look_again(into)
        if into.answered_by_people():
            into.note_people()
    return {**counts, "superseded": dict(+superseded)}


def _items(db: sqlite3.Connection, theirs: sqlite3.Connection, counts: Counter[str]) -> dict[int, int]:
    """Items by their ids; number there -> number here. One is shared by as many as the file says that says more."""
    columns = "id, split, urgency, place, overlap, repeats"
    texts = "prompt, completions, sources, meta"
    numbers = {}
    for row in theirs.execute(f"SELECT number, {columns} FROM items ORDER BY number"):
        sql = f"INSERT OR IGNORE INTO items ({columns}) VALUES (?, ?, ?, ?, ?, ?)"
        added = db.execute(sql, tuple(row)[1:]).rowcount
        counts["items"] += added
        number = db.execute("SELECT number FROM items WHERE id = ?", (row["id"],)).fetchone()[0]
        if added:
            long = theirs.execute(f"SELECT {texts} FROM texts WHERE item = ?", (row["number"],)).fetchone()
            db.execute(f"INSERT INTO texts (item, {texts}) VALUES (?, ?, ?, ?, ?)", (number, *long))
        else:
            db.execute("UPDATE items SET overlap = max(overlap, ?) WHERE number = ?", (row["overlap"], number))
        numbers[row["number"]] = number
    return numbers


def _annotators(
    db: sqlite3.Connection, theirs: sqlite3.Connection, counts: Counter[str], other: Path, names: Mapping[str, str]
) -> dict[int, int]:
    """Annotators by their names; returns number there -> number here."""
    numbers = {}
    known = {folded(row["name"]): row for row in db.execute("SELECT number, name, kind FROM annotators")}
    for row in theirs.execute("SELECT number, name, kind FROM annotators ORDER BY number"):
        name = names.get(folded(row["name"]), row["name"])
        if folded(name) not in known:
            sql = "INSERT INTO annotators (name, kind) VALUES (?, ?) RETURNING number, kind"
            known[folded(name)] = db.execute(sql, (name, row["kind"])).fetchone()
            counts["annotators"] += 1
        mine = known[folded(name)]
        if mine["kind"] != row["kind"]:
            raise RunError(
                f"{row['name']} is a {mine['kind']} in one file and a {row['kind']} in {other}; these are not the "
                "same annotator, so the files cannot be merged"
            )
        numbers[row["number"]] = mine["number"]
    return numbers


def _tasks(
    db: sqlite3.Connection, theirs: sqlite3.Connection, items: dict[int, int], people: dict[int, int], other: Path
) -> dict[int, int]:
    """Tasks that were ever answered; returns id there -> id here."""
    found = {}
    sql = "SELECT * FROM tasks WHERE EXISTS (SELECT 1 FROM answers WHERE task = tasks.id) ORDER BY id"
    for row in theirs.execute(sql):
        key = (items[row["item"]], people[row["annotator"]], row["repeat"])
        db.execute(
            "INSERT INTO tasks (item, annotator, repeat, shown, opened, open) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET open = open OR excluded.open",
            (*key, row["shown"], row["opened"], row["open"]),
        )
        sql = "SELECT id, shown FROM tasks WHERE item = ? AND annotator = ? AND repeat = ?"
        mine = db.execute(sql, key).fetchone()
        if mine["shown"] != row["shown"]:  # made from item, name and repeat: the same, unless Python's shuffle changes
            raise RunError(
                f"{other} showed an item in another order than the file before it: they were written by two versions "
                "of Python, or two people were given one name by --rename"
            )
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


def _annotators_of(path: Path) -> list[sqlite3.Row]:
    with contextlib.closing(connect(path, read_only=True, timeout=10.0)) as db, told(path):
        return db.execute("SELECT name, kind FROM annotators ORDER BY number").fetchall()


def _renamed(args: MergeArguments, inputs: list[Path]) -> list[dict[str, str]]:
    """For each input, people's new names by their (folded) old ones.

    Raises:
        ConfigError: not written as it should be, nobody of that name in the file, or another one of the new name.
    """
    known = [_annotators_of(path) for path in inputs]  # all are readable before anything is written
    found: list[dict[str, str]] = [{} for _ in inputs]
    problems = []
    for given in args.rename:
        file = max((name for name in args.inputs if given.startswith(f"{name}:")), key=len, default="")
        old, _, new = (part.strip() for part in given.removeprefix(f"{file}:").partition("="))
        if not (file and old and new):
            problems.append(f"--rename {given}: write FILE:NAME=NEW, with a FILE of {', '.join(args.inputs)}")
            continue
        at = args.inputs.index(file)
        people = {folded(row["name"]): row["name"] for row in known[at] if row["kind"] == "person"}
        taken = {folded(name) for name in (*(row["name"] for row in known[at]), *found[at].values())}
        if folded(old) not in people:
            problems.append(f"--rename {given}: no person is called {old} there; there are {list(people.values())}")
        elif folded(new) in taken:
            problems.append(f"--rename {given}: {file} has a {new} already; give another name")
        else:
            found[at][folded(old)] = new
    if problems:
        fail(problems)
    return found


def _join(store: Store, name: str, path: Path, renamed: dict[str, str]) -> None:
    """Merge the input that was given as `name`, and print what became of it."""
    before = len(store.annotators())
    counts = merge(store, path, {old: store.annotator(new).name for old, new in renamed.items()})
    kinds = {one.name: one.kind for one in store.annotators()}
    twice = counts["superseded"]
    counts |= {"annotators": len(kinds) - before, "superseded": sum(twice.values())}
    print(f"{name}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
    for who, count in twice.items():
        tasks = f"{count:,} task{'s' * (count != 1)}"
        print(f"  {who} has answers to {tasks} both here and in a file before; the later ones hold")
        if kinds[who] == "person":
            print(f"  if these are two people: --rename {shlex.quote(f'{name}:{who}={who}-2')}")


def main(argv: list[str]) -> None:
    """`align merge`: copy one file, or take several into a new one.

    Raises:
        ConfigError: no input, one without labels, no output, a name that nobody has.
        RunError: the output is there already.
    """
    (args,) = parse(MergeArguments, nano=None, required=("inputs", "output"), argv=argv)
    inputs = [stored(name) for name in args.inputs]
    output = Path(args.output)
    output = output if output.suffix in ENDINGS else output / FILE_NAME
    for path in (output, output.parent):
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is there already; name a new file")
    renamed = _renamed(args, inputs)
    judges = output.parent / "judges"
    notes = join_notes(list(dict.fromkeys([judges, *(path.parent / "judges" for path in inputs)])))
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(output.name + ".part")
    part.unlink(missing_ok=True)
    try:
        if len(inputs) == 1 and not args.rename:
            with _snapshot(inputs[0], part):
                print(f"{args.inputs[0]}: copied as it is")
        else:
            with Store(part) as store:
                for name, path, names in zip(args.inputs, inputs, renamed, strict=True):
                    _join(store, name, path, names)
        with Store(part, create=False) as store:
            total, people = store.counts(), store.answered_by_people()
        holds.tell(output, people)  # before the file itself: never people's work without it
        part.replace(output)
        holds.tell(output, people)  # and after it: of this file
    finally:
        part.unlink(missing_ok=True)
        holds.forget(part)
    if notes:
        judges.mkdir(exist_ok=True)
    for name, lines in notes.items():
        files.replace(judges / name, lines)
    print(f"{output}: {total['items']:,} items, {total['answers']:,} answers that hold")
