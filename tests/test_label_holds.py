"""The note beside a labels file: it says in time that people's work is in it, also for files of earlier versions."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
import time

import pytest
from conftest import write_rows

from align.judge.cache import Cache
from align.label import agreement
from align.label.store.merging import main as merge_main
from align.label.store.merging import merge
from align.label.store.store import Store
from align.run import holds, record
from align.run.errors import RunError

# What version 0.1 wrote (its schema without the comments), as `sqlite3 labels.sqlite .dump` gives it: three answers by
# Ada, of which one was taken back
EARLIER = """
PRAGMA application_id = 1095519820;
PRAGMA user_version = 1;
CREATE TABLE again (annotator INTEGER NOT NULL REFERENCES annotators (number),
  item INTEGER NOT NULL REFERENCES items (number), due INTEGER NOT NULL, PRIMARY KEY (annotator, item));
INSERT INTO again VALUES (1,2,11);
CREATE TABLE annotators (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE COLLATE NOCASE, kind TEXT NOT NULL,
  at_urgency REAL, at_place INTEGER, answered INTEGER NOT NULL DEFAULT 0, done INTEGER NOT NULL DEFAULT 0);
INSERT INTO annotators VALUES (1,'Ada','{kind}',0.0,916265982549750719,2,2);
CREATE TABLE answers (id INTEGER PRIMARY KEY AUTOINCREMENT, task INTEGER NOT NULL REFERENCES tasks (id),
  annotator INTEGER NOT NULL REFERENCES annotators (number), verdict TEXT NOT NULL, ranking TEXT, reason TEXT NOT NULL,
  better TEXT NOT NULL, seconds REAL, time TEXT NOT NULL, withdrawn TEXT);
INSERT INTO answers VALUES (1,1,1,'ranked','[1, 2, 2]','r','',NULL,'2026-11-26T23:14:18.600795+00:00',NULL);
INSERT INTO answers VALUES (2,2,1,'all_bad',NULL,'','x',2.5,'2026-11-26T23:14:18.609084+00:00',NULL);
INSERT INTO answers VALUES (3,3,1,'ranked','[1, 2, 2]','','',NULL,'2026-11-26T23:14:18.617696+00:00','2026-11-26 undo');
CREATE TABLE items (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, split TEXT NOT NULL, urgency REAL NOT NULL,
  place INTEGER NOT NULL, overlap INTEGER NOT NULL, repeats REAL NOT NULL, taken INTEGER NOT NULL DEFAULT 0);
INSERT INTO items VALUES (1,'3793b97e61248093','train',0.0,594140159310946001,2,0.5,1);
INSERT INTO items VALUES (2,'105c8c3d71b075fa','train',0.0,34148189834063399,2,0.5,1);
INSERT INTO items VALUES (3,'17b679e5e57d5492','train',0.0,924962506875265247,2,0.5,0);
INSERT INTO items VALUES (4,'fc7979830224e1ac','train',0.0,916265982549750719,2,0.5,1);
CREATE TABLE tasks (id INTEGER PRIMARY KEY AUTOINCREMENT, item INTEGER NOT NULL REFERENCES items (number),
  annotator INTEGER NOT NULL REFERENCES annotators (number), repeat INTEGER NOT NULL, shown TEXT NOT NULL,
  opened REAL NOT NULL, open INTEGER NOT NULL DEFAULT 1, UNIQUE (annotator, item, repeat));
INSERT INTO tasks VALUES (1,2,1,0,'[2, 0, 1]',{now},0);
INSERT INTO tasks VALUES (2,1,1,0,'[1, 0, 2]',{now},0);
INSERT INTO tasks VALUES (3,4,1,0,'[2, 1, 0]',{now},1);
CREATE TABLE texts (item INTEGER PRIMARY KEY REFERENCES items (number), prompt TEXT NOT NULL,
  completions TEXT NOT NULL, sources TEXT, meta TEXT NOT NULL);
INSERT INTO texts VALUES (1,'"p0"','["a", "b", "c"]',NULL,'{}');
INSERT INTO texts VALUES (2,'"p1"','["a", "b", "c"]',NULL,'{}');
INSERT INTO texts VALUES (3,'"p2"','["a", "b", "c"]',NULL,'{}');
INSERT INTO texts VALUES (4,'"p3"','["a", "b", "c"]',NULL,'{}');
CREATE INDEX items_asked ON items (urgency, place);
CREATE INDEX items_wanted ON items (urgency, place) WHERE taken < overlap;
CREATE INDEX tasks_open ON tasks (annotator, id) WHERE open;
CREATE INDEX tasks_of_item ON tasks (item);
CREATE UNIQUE INDEX answers_hold ON answers (task) WHERE withdrawn IS NULL;
CREATE INDEX answers_last ON answers (annotator, id) WHERE withdrawn IS NULL;
"""


def earlier(path, kind="person"):
    """A labels file as an earlier version left it, without a note."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as db:
        db.executescript(EARLIER.replace("{kind}", kind).replace("{now}", str(time.time())))
    db.close()
    return path


def note(path):
    said = json.loads((path.parent / f"{path.name}.holds").read_text())
    return {"people": said["people"]}


def finished(folder):
    with record.start("sample", str(folder), {}) as run:
        run.finish("complete")
    return folder


def overwrite(folder):
    with record.start("sample", str(folder), {}, overwrite=True) as run:
        run.finish("complete")


def answer(store, name="Ada", kind="person"):
    annotator = store.annotator(name, kind)
    store.answer(store.next(annotator).id, annotator, ranking=[1, 2])


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "labels.sqlite", timeout=0.3) as found:
        found.add([{"prompt": f"p{i}", "completions": ["a", "b"]} for i in range(3)], shared_by=2)
        yield found


def test_the_note_says_people_from_the_first_answer_of_a_person_on(store):
    assert note(store.path) == {"people": False}
    answer(store, "robot", "simulated")
    answer(store, "judge", "model")
    store.annotator("Ada")
    assert note(store.path) == {"people": False}
    answer(store)
    assert note(store.path) == {"people": True}
    store.undo(store.annotator("Ada"))
    with Store(store.path):
        assert note(store.path) == {"people": True}  # what was taken back is people's work as well


def test_the_note_is_on_disk_before_the_answer_is(store, monkeypatch):
    """Where the note cannot be written, nothing is; where the answer then fails, the note says more than there is."""

    def full(file, people):
        raise RunError("no space")

    before = holds.tell
    monkeypatch.setattr(holds, "tell", full)
    with pytest.raises(RunError, match="no space"):
        answer(store)
    assert store.counts()["answers"] == 0 and note(store.path) == {"people": False}
    monkeypatch.setattr(holds, "tell", before)
    seen = []
    store.db.set_trace_callback(lambda sql: seen.append((sql.split()[0], note(store.path)["people"])))
    answer(store)
    assert ("INSERT", True) in seen and ("COMMIT", True) in seen and ("INSERT", False) not in seen


def test_whoever_opens_the_file_waits_for_a_first_answer_on_its_way(store):
    """The note says people, the file not yet: it is not set back while another holds the lock."""
    with store.transaction():
        store.note_people()
        with pytest.raises(RunError, match="locked"):
            Store(store.path, timeout=0.1)
        opened = []
        other = threading.Thread(target=lambda: opened.append(Store(store.path, timeout=10)))
        other.start()
        answer(store)
    other.join()
    opened[0].close()
    assert note(store.path) == {"people": True}
    with store.transaction(), Store(store.path, timeout=0.1):
        pass  # the note was right, so there was nothing to wait for


def test_a_note_that_is_wrong_or_gone_is_put_right(store):
    for text in ('{"people": true}', "{", None):
        file = store.path.with_name("labels.sqlite.holds")
        file.unlink() if text is None else file.write_text(text)
        assert holds.people(store.path) is (None if text is None else True)
        Store(store.path).close()
        assert note(store.path) == {"people": False}


@pytest.mark.parametrize("kind", ["person", "simulated"])
@pytest.mark.parametrize("name", ["labels.sqlite", "other.db"])
def test_labels_of_an_earlier_version_open_and_are_protected(tmp_path, kind, name):
    run = finished(tmp_path / "run")
    file = earlier(run / "label" / name, kind)
    with pytest.raises(RunError, match=rf"{name} may hold people's rankings.*Open it once \(align label .*{name}\)"):
        overwrite(run)
    agreement.main(["--source", str(file)])
    assert holds.people(file) is None  # what only reads writes nothing
    with Store(file, create=False) as store:
        assert store.counts() == {"items": 4, "wanted": 4, "in_hand": int(kind == "person"), "answers": 2}
        assert store.settings() == (2, 0.5) and store.annotators()[0].name == "Ada"
        rows = [(row["prompt"], row["ranking"], row["verdict"], row["better"]) for row in store.rankings()]
        assert rows == [("p1", [2, 2, 1], "ranked", ""), ("p0", None, "all_bad", "x")]
        task = store.next(store.annotator("Ada", kind))
        assert task is not None and task.prompt == "p3"  # the one that was taken back
    assert note(file) == {"people": kind == "person"}
    if kind == "person":
        with pytest.raises(RunError, match=rf"{name} holds people's rankings, and making"):
            overwrite(run)
        merge_main(["--inputs", str(file), "--output", str(tmp_path / "safe.sqlite")])
        file.unlink()  # as the message says; the note that is left says nothing any more
    overwrite(run)
    assert not (run / "label").exists()


def test_labels_that_cannot_be_written_are_read_without_a_note(tmp_path, monkeypatch):
    """On a medium that is read-only there is nothing to protect, and no way to write."""
    file = earlier(tmp_path / "labels.sqlite")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with Store(file, create=False) as store:
        assert len(list(store.rankings())) == 2
    assert holds.people(file) is None


def test_only_labels_are_labels(tmp_path):
    """A judge's cache is SQLite too, and what merge leaves when it is killed is a copy of what is elsewhere."""
    run = finished(tmp_path / "run")
    Cache(run / "judges" / "replies.sqlite").db.close()
    (run / "labels.sqlite").write_text("not a database")
    earlier(run / "x.sqlite.part")
    (run / "broken.sqlite").symlink_to(run / "nowhere")
    overwrite(run)
    assert [path.name for path in run.iterdir()] == ["run.json"]


def test_what_people_ranked_is_noted_beside_what_merge_writes(tmp_path, store):
    answer(store)
    with Store(tmp_path / "into.sqlite") as into:
        into.add([{"prompt": "p0", "completions": ["a", "b"]}], shared_by=2)
        assert note(into.path) == {"people": False}
        merge(into, store.path)
        assert note(into.path) == {"people": True}
    for inputs in ([store.path], [store.path, into.path]):
        output = tmp_path / f"out-{len(inputs)}"
        merge_main(["--inputs", *map(str, inputs), "--output", str(output)])
        assert sorted(path.name for path in output.iterdir()) == ["labels.sqlite", "labels.sqlite.holds"]
        assert note(output / "labels.sqlite") == {"people": True}


def test_rows_that_cannot_be_ranked_leave_no_note(tmp_path):
    from align.label.program import main

    write_rows(tmp_path / "rows.jsonl", [{"prompt": "p", "completions": ["a"]}])
    with pytest.raises(ValueError, match="ranking takes 2 to 9"):
        main(["--source", str(tmp_path / "rows.jsonl")])
    assert not (tmp_path / "label-rows").exists()


def test_a_copy_put_in_another_place_has_to_be_opened_once(tmp_path, store):
    answer(store)
    run = finished(tmp_path / "run")
    shutil.copy(store.path, run / "labels.sqlite")
    with pytest.raises(RunError, match="may hold people's rankings"):
        overwrite(run)


def test_a_note_speaks_of_the_file_that_it_was_written_for(tmp_path):
    """A person's labels laid over a simulated labeler's: the note beside them says `false` of another file."""
    run = finished(tmp_path / "run")
    for folder, kind in ((run, "simulated"), (tmp_path / "ada", "person")):
        with Store(folder / "label/labels.sqlite") as store:
            store.add([{"prompt": "p", "completions": ["a", "b"]}])
            who = store.annotator("ada", kind)
            store.answer(store.next(who).id, who, ranking=[1, 2])
    assert holds.refusal(run) is None
    shutil.copy(tmp_path / "ada/label/labels.sqlite", run / "label/labels.sqlite")
    assert "may hold people's rankings" in str(holds.refusal(run))
    Store(run / "label/labels.sqlite").close()
    assert "holds people's rankings" in str(holds.refusal(run))
