"""The labels' store: who is asked what, what is kept, and what a kill, a lock or a full disk leaves behind."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time

import pytest
from conftest import ROOT, write_rows

from align.label.config import LabelArguments
from align.label.store import items, names
from align.label.store.answers import GAP
from align.label.store.merging import merge
from align.label.store.rows import take_in
from align.label.store.store import HOLD, Store
from align.run.errors import DataError, RunError


def rows(count, k=3, **more):
    return [
        {"prompt": f"prompt {i}", "completions": [f"{i} {'abcdefghi'[j]}" for j in range(k)], **more}
        for i in range(count)
    ]


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "labels.sqlite", timeout=0.3) as found:
        yield found


def finish(store, annotator, limit=1000):
    """Answer until nothing is left; the tasks in their order."""
    seen = []
    while (task := store.next(annotator)) and len(seen) < limit:
        seen.append(task)
        store.answer(task.id, annotator, ranking=list(range(1, len(task.completions) + 1)))
    return seen


# ------------------------------------------------------------------------------------------------------------- items


def test_rows_come_in_once_and_go_out_as_rankings(store):
    row = {
        "prompt": [{"role": "user", "content": "Hi?"}],
        "completions": ["a", "b", "c"],
        "sources": ["m", "n", "o"],
        "kind": "chat",
        "topic": "x",
    }
    assert store.add([row, row], split="test") == 1 and store.add([row]) == 0
    ada = store.annotator(" Ada  L ")
    task = store.next(ada)
    assert task.completions == [["a", "b", "c"][i] for i in task.order]
    store.answer(task.id, ada, ranking=[1, 5, 5], reason=" short ", better="d", seconds=3.5)
    (out,) = store.rankings()
    expected = [0, 0, 0]
    for index, rank in zip(task.order, [1, 2, 2], strict=True):
        expected[index] = rank
    assert out["ranking"] == expected and out["completions"] == ["a", "b", "c"] and out["shown"] == task.order
    assert (out["annotator"], out["kind"], out["verdict"], out["split"]) == ("Ada L", "person", "ranked", "test")
    assert (out["reason"], out["better"], out["seconds"], out["repeat"]) == ("short", "d", 3.5, False)
    assert out["sources"] == ["m", "n", "o"] and out["topic"] == "x" and out["meta_kind"] == "chat"
    assert out["time"].endswith("+00:00") and out["item"] == task.item
    assert store.next(ada) is None


def test_identical_completions_are_shown_once_and_share_their_rank(store):
    store.add([{"prompt": "p", "completions": ["a", "b", "a", "c"]}, {"prompt": "q", "completions": ["a", "a"]}])
    assert store.left_out == {"with identical completions": 1}
    ada = store.annotator("Ada")
    task = store.next(ada)
    assert sorted(task.completions) == ["a", "b", "c"]
    store.answer(task.id, ada, ranking=[{"a": 2, "b": 1, "c": 3}[c] for c in task.completions])
    assert next(store.rankings())["ranking"] == [2, 1, 2, 3]


def test_reasoning_is_kept_and_neither_shown_nor_ranked(store):
    """Two answers that differ in their thoughts only are one answer, and share its rank; the row keeps the thoughts."""
    said = ["<think>one</think>a cat", "<think>two</think>a cat", "a dog"]
    assert store.add([{"prompt": "what", "completions": said}]) == 1
    (task,) = finish(store, store.annotator("Ada"))
    assert sorted(task.completions) == ["a cat", "a dog"]
    (row,) = store.rankings()
    assert row["completions"] == said
    assert row["ranking"] == ([1, 1, 2] if task.completions[0] == "a cat" else [2, 2, 1])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "p", "completions": ["only"]}, r"row 2.completions: 1 of them; ranking takes 2 to 9"),
        ({"prompt": "p", "completions": [str(i) for i in range(10)]}, "10 of them"),
        ({"prompt": "p", "text": "x"}, "row 2.completions: expected a list"),
        ({"prompt": 3, "completions": ["a", "b"]}, "row 2.prompt"),
        ({"prompt": "p", "completions": ["a", [{"content": "b"}]]}, r"completions\[1\]"),
        ({"prompt": "p", "completions": ["a", "b"], "sources": ["m"]}, "2 completions need as many sources"),
        ({"prompt": "p", "completions": ["a", "b"], "priority": float("nan")}, "priority"),
    ],
)
def test_a_row_that_cannot_be_ranked_is_named_and_nothing_is_taken(store, row, said):
    with pytest.raises(DataError, match=said):
        store.add([*rows(1), row])
    assert store.counts()["items"] == 0


def test_text_that_is_no_valid_unicode_and_nul_come_back_as_they_went_in(store):
    bad = ["half \ud800", "nul \x00 here"]
    store.add([{"prompt": "p", "completions": bad}])
    assert next(store.items())["completions"] == bad


@pytest.mark.parametrize("ranking", [[1, 2], [1, 2, 0], [1, 2, True], "123", [1.0, 2, 3], None])
def test_ranks_that_do_not_fit_are_refused(store, ranking):
    store.add(rows(1))
    ada = store.annotator("Ada")
    with pytest.raises(DataError):
        store.answer(store.next(ada).id, ada, ranking=ranking)


# -------------------------------------------------------------------------------------------------------- assignment


def test_each_item_goes_to_as_many_persons_as_share_it_and_models_count_for_nobody(store):
    store.add(rows(12), shared_by=2)
    model = store.annotator("judge", "model")
    people = [store.annotator(name) for name in ("a", "b", "c")]
    asked = {}
    while any(tasks := [store.next(person) for person in people]):
        for person, task in zip(people, tasks, strict=True):
            if task:
                asked.setdefault(task.item, set()).add(person.name)
                store.answer(task.id, person, ranking=[1, 2, 3])
    assert len(asked) == 12 and all(len(names) == 2 for names in asked.values())
    assert len({task.item for task in finish(store, model)}) == 12
    assert [len(list(store.rankings(kinds=["model"]))), len(list(store.rankings(annotators=["A"])))] == [12, 8]


def test_a_model_may_rank_in_an_order_of_its_own(store):
    store.add(rows(3))
    model, wanted = store.annotator("judge", "model"), list(store.items())[2]["item"]
    task = store.task_of(model, wanted)
    assert task.item == wanted and store.task_of(model, wanted).id == task.id
    store.answer(task.id, model, ranking=[1, 2, 3])
    assert len(finish(store, model)) == 2
    for who, item in ((store.annotator("Ada"), wanted), (model, "nothing")):
        with pytest.raises(DataError):
            store.task_of(who, item)


def test_the_open_task_comes_again_and_priority_comes_first(store):
    store.add(rows(5))
    ada = store.annotator("Ada")
    first = store.next(ada)
    assert store.next(ada) == first
    last = next(item["item"] for item in list(store.items())[::-1] if item["item"] != first.item)
    store.prioritise({last: 2.0})
    store.answer(first.id, ada, all_bad=True)
    assert store.next(ada).item == last
    with pytest.raises(DataError, match="no item"):
        store.prioritise({"nothing": 1.0})


def test_a_skipped_item_goes_to_somebody_else(store):
    store.add(rows(1))
    ada, bob = store.annotator("Ada"), store.annotator("Bob")
    task = store.next(ada)
    assert store.next(bob) is None
    store.answer(task.id, ada, skip=True)
    assert store.next(ada) is None  # not asked twice
    assert store.undo(ada).id == task.id and store.next(bob) is None
    store.answer(task.id, ada, skip=True)
    assert store.next(bob).item == task.item
    with pytest.raises(RunError, match="gone to somebody else"):
        store.undo(ada)


def test_an_item_that_was_left_open_goes_to_another_when_nothing_else_is_left(store, monkeypatch):
    store.add(rows(1))
    ada, bob = store.annotator("Ada"), store.annotator("Bob")
    task = store.next(ada)
    later = time.time() + HOLD + 1
    monkeypatch.setattr("align.label.store.store.time.time", lambda: later)
    assert store.next(bob).item == task.item
    with pytest.raises(RunError, match="no longer yours"):
        store.answer(task.id, ada, skip=True)
    assert store.next(ada) is None


def test_an_item_that_was_undone_and_left_goes_to_another_and_its_history_stays(store):
    store.add(rows(1))
    ada, bob = store.annotator("Ada"), store.annotator("Bob")
    (task,) = finish(store, ada)
    store.undo(ada)
    assert store.next(bob) is None and (store.counts()["wanted"], store.counts()["in_hand"]) == (0, 1)
    store.leave(ada)
    assert (store.counts()["wanted"], store.counts()["in_hand"]) == (1, 0)
    assert [item.item for item in finish(store, bob)] == [task.item] and store.next(ada) is None
    history = sqlite3.connect(store.path).execute("SELECT count(*), count(withdrawn) FROM answers").fetchone()
    assert history == (2, 1) and next(store.items())["taken"] == 1
    assert store.progress(ada)["left"] == 0


def test_who_left_goes_on_where_nobody_took_the_task(store, monkeypatch):
    store.add(rows(3))
    ada, bob = store.annotator("Ada"), store.annotator("Bob")
    task = store.next(ada)
    store.leave(ada)
    assert store.next(bob).item != task.item  # others' items come last
    assert store.next(ada) == task and store.counts()["in_hand"] == 2
    asked = finish(store, bob)
    assert task.item not in {one.item for one in asked}  # being back, she holds it
    store.leave(ada)
    store.want(shared_by=2)
    assert {one.item for one in finish(store, bob)} == {task.item}
    store.answer(task.id, ada, ranking=[1, 2, 3])  # a late answer to a task whose place is free
    assert next(item for item in store.items() if item["item"] == task.item)["taken"] == 2


def test_an_answer_to_a_task_given_up_counts_while_its_place_is_free(store):
    store.add(rows(2))
    ada, bob, cyd = (store.annotator(name) for name in ("Ada", "Bob", "Cyd"))
    first, second = store.next(ada), store.next(bob)
    store.leave(ada), store.leave(bob)
    assert store.next(cyd) is not None and store.counts()["in_hand"] == 1  # Cyd took one; the other is free
    late = [(first, ada), (second, bob)]
    free = [one for one in late if one[0].item != store.next(cyd).item]
    store.answer(free[0][0].id, free[0][1], ranking=[1, 2, 3])
    taken = next(one for one in late if one not in free)
    with pytest.raises(RunError, match="no longer yours"):
        store.answer(taken[0].id, taken[1], ranking=[1, 2, 3])
    finish(store, cyd)
    assert [item["taken"] for item in store.items()] == [1, 1] and store.counts()["wanted"] == 0


def test_a_file_has_an_identity_of_its_own(store, tmp_path):
    assert store.identity() == store.identity()
    with Store(tmp_path / "other.sqlite") as other:
        assert other.identity() != store.identity()
    with Store(store.path) as again:
        assert again.identity() == store.identity()


def test_half_a_surrogate_pair_in_an_answer_is_replaced(store):
    store.add(rows(1))
    ada = store.annotator("Ada")
    task = store.next(ada)
    for _ in range(2):
        store.answer(task.id, ada, ranking=[1, 2, 3], reason="half \ud83d", better="\ude00 whole \U0001f600")
    (row,) = store.rankings()
    assert (row["reason"], row["better"]) == ("half \ufffd", "\ufffd whole \U0001f600")


def test_repeats_are_the_share_asked_for_in_another_order_and_never_directly_after(store):
    store.add(rows(40, k=2), repeats=0.25)
    seen = finish(store, store.annotator("Ada"))
    repeats = [task for task in seen if task.repeat]
    assert len(seen) == 50 and len(repeats) == 10  # a quarter of 40
    first = {task.item: (place, task.order) for place, task in enumerate(seen) if not task.repeat}
    for place, task in enumerate(seen):
        if task.repeat:
            assert task.order != first[task.item][1] and place - first[task.item][0] > 1
    distances = [place - first[task.item][0] for place, task in enumerate(seen[:40]) if task.repeat]
    assert distances and min(distances) > GAP
    assert sum(row["repeat"] for row in store.rankings()) == 10


def test_a_single_item_is_not_repeated_directly_after_itself(store):
    store.add(rows(1), repeats=1.0)
    assert len(finish(store, store.annotator("Ada"))) == 1


def test_orders_differ_between_annotators_and_stay_the_same(store):
    store.add(rows(20, k=5), shared_by=2)
    orders = [[task.order for task in finish(store, store.annotator(name))] for name in ("Ada", "Bob")]
    assert orders[0] != orders[1] and items.shown_order(list("abcde"), "s") == items.shown_order(list("abcde"), "s")
    firsts = [order[0] for order in orders[0] + orders[1]]
    assert len(set(firsts)) == 5  # every completion comes first now and then


# --------------------------------------------------------------------------------------------------- answers, undo


def test_undo_goes_back_step_by_step_and_history_is_kept(store):
    store.add(rows(4), repeats=1.0)
    ada = store.annotator("Ada")
    one, two = finish(store, ada, limit=2)
    assert store.undo(ada).id == two.id and store.undo(ada).id == one.id and store.undo(ada) is None
    assert store.next(ada).id == one.id and list(store.rankings()) == []
    store.answer(one.id, ada, ranking=[3, 2, 1])
    assert store.next(ada).id == two.id
    (row,) = store.rankings()
    assert row["ranking"] == items.original_ranks(row["completions"], one.order, [3, 2, 1])
    history = sqlite3.connect(store.path).execute("SELECT count(*), count(withdrawn) FROM answers").fetchone()
    assert history == (3, 2)


def test_the_same_answer_again_changes_nothing_and_another_is_refused(store):
    store.add(rows(1))
    ada = store.annotator("Ada")
    task = store.next(ada)
    for _ in range(2):
        store.answer(task.id, ada, ranking=[1, 2, 3], reason="r")
    assert store.counts()["answers"] == 1
    with pytest.raises(RunError, match="undo"):
        store.answer(task.id, ada, ranking=[3, 2, 1], reason="r")
    with pytest.raises(RunError, match="no longer yours"):
        store.answer(task.id, store.annotator("Bob"), ranking=[1, 2, 3])


def test_of_two_open_tasks_the_last_is_shown(store):
    """One that was given up and taken up again has a low number; what is taken back comes first all the same."""
    store.add(rows(3))
    ada = store.annotator("Ada")
    first, second = finish(store, ada, limit=2)
    for task, opened in ((first, time.time() - 9), (second, time.time())):
        store.db.execute("UPDATE answers SET withdrawn = 'undo' WHERE task = ?", (task.id,))
        store.db.execute("UPDATE tasks SET open = 1, opened = ? WHERE id = ?", (opened, task.id))
    assert store.next(ada).id == second.id > first.id


def test_an_answer_about_something_else_is_refused(store):
    store.add(rows(2))
    ada = store.annotator("Ada")
    task = store.next(ada)
    store.db.execute("UPDATE tasks SET item = 3 - item")
    with pytest.raises(RunError, match="about something else by now"):
        store.answer(task.id, ada, ranking=[1, 2, 3], mark=task.mark)
    other = store.next(ada)
    assert other.id == task.id and other.mark != task.mark
    store.answer(other.id, ada, ranking=[1, 2, 3], mark=other.mark)


def test_names(store):
    ada = store.annotator("Ada")
    assert store.annotator("ADA ") == ada
    with pytest.raises(RunError, match="is a person's"):
        store.annotator("ada", "simulated")
    joined = "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627"  # Ali-Reza: the non-joiner keeps the letters apart
    assert store.annotator(joined).name == joined
    assert store.annotator(joined.replace("\u200c", "")).name == joined  # nobody sees the difference
    assert store.annotator("\u0915\u094d\u200d\u0937").name == "\u0915\u094d\u200d\u0937"  # after a mark
    for name in (
        "",
        "  ",
        "x" * 81,
        "a\x00b",
        "\u200ca",
        "a\u200d",
        "a \u200cb",
        "a\u200c\u200cb",
        "a\u202eb",
        "a\ud800",
    ):
        with pytest.raises(DataError):
            store.annotator(name)


@pytest.mark.parametrize(
    "unseen", ["\ufe0f", "\u034f", "\u180b", "\u115f", "\u3164", "\u17b4", "\U000e0100", "\u200d", "\u2800"]
)
def test_what_nobody_sees_makes_no_second_person(store, unseen):
    ada = store.annotator("Ada L")
    assert store.annotator(f"A{unseen}da L") == store.annotator("\uff21da L") == ada  # the A of full width
    for name in (unseen, unseen * 3, f"{unseen} {unseen}"):
        with pytest.raises(DataError, match="printable"):
            store.annotator(name)
    assert len(store.annotators()) == 1


def test_a_name_is_measured_before_it_is_brought_into_order(store):
    start = time.perf_counter()
    for name in ("a" + "\u0301\u0316" * 25_000, "e\u0301" * 50_000, " " * 1_000_000 + "a"):
        with pytest.raises(DataError, match="1 to 80"):
            store.annotator(name)
        assert names.folded(name) == name  # of a file that somebody else wrote
    assert time.perf_counter() - start < 0.5
    assert store.annotator("e\u0301" * 80).name == "\u00e9" * 80  # composed it is short enough


@pytest.mark.parametrize(
    ("one", "other", "like"),
    [
        ("Ada", "\u0410da", True),  # a Cyrillic A
        ("OPA", "\u039f\u03a1\u0391", True),  # Greek capitals
        ("Ian", "lan", True),
        ("Bob1", "Bobl", True),
        ("Bernd", "Bemd", True),
        ("Ada", "Ida", False),
        ("Ana", "An\u00e1", False),
        ("\u0418\u0432\u0430\u043d", "Ivan", False),  # transcribed, not drawn alike
    ],
)
def test_names_that_look_alike_are_told_to_the_manager_and_stay_two(store, one, other, like):
    assert store.annotator(one) != store.annotator(other)
    said = [line for line in names.alike([one, other, "Zoe"]) if "look alike" in line]
    assert [one in line and other in line and "Zoe" not in line for line in said] == [True] * like


def test_a_name_of_several_scripts_is_told_and_one_of_any_script_is_not():
    assert names.alike(["Ada", "\u0410da"]) == [
        "Ada (Latin) and \u0410da (Cyrillic, Latin) look alike, and are kept apart."
    ]
    assert names.alike(["P\u0430ul"]) == ["P\u0430ul has letters of several scripts: Cyrillic, Latin."]
    assert (
        names.alike(
            [
                "\u041f\u0430\u0432\u0435\u043b 2",
                "\u0395\u03bb\u03ad\u03bd\u03b7",
                "Zo\u00eb",
                "\u674e \u96f7",
                "x" * 10**6,
            ]
        )
        == []
    )


def test_names_differ_in_more_than_capitals_in_every_script_and_merging_knows_it(store, tmp_path):
    store.add(rows(1))
    first = store.annotator("\u00c9lan")
    assert store.annotator("\u00e9LAN") == store.annotator("e\u0301lan") == first
    with Store(tmp_path / "other.sqlite") as other:
        other.annotator("\u00e9lan")
        other.annotator("Bob")
    assert merge(store, tmp_path / "other.sqlite")["annotators"] == 1
    assert [one.name for one in store.annotators()] == ["\u00c9lan", "Bob"]


def test_what_is_wanted_is_counted_once_and_stays_right(store):
    """Whatever is done, by this process and another, the number that is kept is the number that there is."""
    store.add(rows(12), shared_by=2, repeats=0.3)
    rng = random.Random(0)
    with Store(store.path) as other:
        people = [(one, one.annotator(name)) for one in (store, other) for name in ("Ada", "Bob", "Cyd")]
        for step in range(150):
            one, person = rng.choice(people)
            task = one.next(person)
            what = rng.choice(["rank", "rank", "rank", "skip", "undo", "leave", "want", "fail"])
            with contextlib.suppress(RunError):
                if what == "undo":
                    one.undo(person)
                elif what == "leave":
                    one.leave(person)
                elif what == "want":
                    one.want(shared_by=rng.choice([1, 2, 3]))
                elif what == "fail":
                    with one.transaction():
                        one.next(person)
                        raise RunError("rolled back")
                elif task is not None:
                    ranking = None if what == "skip" else [1, 2, 3]
                    one.answer(task.id, person, ranking=ranking, skip=what == "skip")
            for each in (store, other):
                assert each.count_wanted() == each.one("SELECT count(*) FROM items WHERE taken < overlap")[0], (
                    step,
                    what,
                )
    counted = []
    store.db.set_trace_callback(lambda sql: counted.append(sql) if "count(*) FROM items WHERE" in sql else None)
    store.want(shared_by=9)
    for _ in range(5):
        ada = store.annotator("Ada")
        if task := store.next(ada):
            store.answer(task.id, ada, ranking=[1, 2, 3])
        store.progress(ada)
    assert len(counted) == 1


def test_a_repeat_that_nothing_can_come_before_is_given_up_and_not_counted_as_left(store):
    store.add(rows(1), repeats=1.0)
    ada = store.annotator("Ada")
    store.answer(store.next(ada).id, ada, ranking=[1, 2, 3])
    assert store.next(ada) is None and store.progress(ada)["left"] == 0


def test_progress(store):
    store.add(rows(10), shared_by=2, repeats=0.1)
    ada = store.annotator("Ada")
    assert store.progress(ada) == {"done": 0, "left": 10, "total": 10, "per_hour": None, "seconds_left": None}
    for _ in range(5):
        store.answer(store.next(ada).id, ada, ranking=[1, 2, 3], seconds=30.0)
    # the fifth of 0.1 is due as the first repeat: int(0.5 + 0.5)
    assert store.progress(ada) == {"done": 5, "left": 6, "total": 11, "per_hour": 120.0, "seconds_left": 180.0}
    bob = store.annotator("Bob")
    store.next(bob)
    assert store.progress(bob)["total"] == 10


def test_a_transaction_is_all_or_nothing(store):
    store.add(rows(3))
    model = store.annotator("rm", "model")
    with pytest.raises(KeyError), store.transaction():
        store.answer(store.next(model).id, model, ranking=[1, 2, 3])
        raise KeyError
    assert store.counts()["answers"] == 0
    with store.transaction():
        assert len(finish(store, model)) == 3
    assert store.counts()["answers"] == 3


# ------------------------------------------------------------------------------------------------------------- merge


def test_merging_is_a_union_that_knows_its_duplicates(tmp_path):
    with Store(tmp_path / "a.sqlite") as a, Store(tmp_path / "b.sqlite") as b:
        a.add(rows(4), shared_by=2)
        b.add(rows(6), shared_by=2)
        ada = a.annotator("Ada")
        finish(a, ada, limit=2)
        assert merge(b, a.path) == {"items": 0, "annotators": 1, "answers": 2, "duplicates": 0, "superseded": {}}
        assert merge(b, a.path) == {"items": 0, "annotators": 0, "answers": 0, "duplicates": 2, "superseded": {}}
        assert len(finish(b, b.annotator("Ada"))) == 4  # the two that she had in the other file do not come again
        finish(a, ada)
        counts = merge(b, a.path)
        assert counts["answers"] == 2 and counts["superseded"] == {"Ada": 2} and b.counts()["answers"] == 6
        held = {row["item"]: row["time"] for row in b.rankings()}
        for row in a.rankings():  # of two answers to one task the later holds
            assert held[row["item"]] >= row["time"]
        assert [item["taken"] for item in b.items()] == [1] * 6
        b.annotator("x", "model"), a.annotator("x")
        with pytest.raises(RunError, match="not the same annotator"):
            merge(b, a.path)
        with pytest.raises(RunError, match="the file itself"):
            merge(b, b.path)


def test_an_answer_taken_back_in_the_other_file_no_longer_holds(tmp_path):
    with Store(tmp_path / "a.sqlite") as a, Store(tmp_path / "b.sqlite") as b:
        a.add(rows(2))
        ada = a.annotator("Ada")
        finish(a, ada)
        merge(b, a.path)
        a.undo(ada)
        merge(b, a.path)
        assert len(list(b.rankings())) == 1 and sum(item["taken"] for item in b.items()) == 2
        assert b.next(b.annotator("Ada")) is not None


def test_a_place_that_was_given_up_stays_free_in_a_merged_file(tmp_path):
    """Ada takes her answer back and leaves, Bob gets the item: merged, its one place is Bob's."""
    with Store(tmp_path / "a.sqlite") as a, Store(tmp_path / "b.sqlite") as b:
        a.add(rows(1))
        ada, bob = a.annotator("Ada"), a.annotator("Bob")
        finish(a, ada)
        a.undo(ada)
        a.leave(ada)
        finish(a, bob)
        assert a.counts()["answers"] == 1
        merge(b, a.path)
        assert [item["taken"] for item in b.items()] == [1] and b.next(b.annotator("Ada")) is None


# ------------------------------------------------------------------------------------------------------ bad weather


def test_a_foreign_file_is_left_alone(tmp_path):
    path = tmp_path / "x.sqlite"
    path.write_bytes(b"not a database at all, but long enough to look like one " * 30)
    with pytest.raises(RunError, match="not a labels file"):
        Store(path)
    other = tmp_path / "y.sqlite"
    sqlite3.connect(other).executescript("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
    before = other.read_bytes()
    with pytest.raises(RunError, match="another program"):
        Store(other)
    assert other.read_bytes() == before
    with Store(tmp_path / "z.sqlite") as store:
        store.db.execute("PRAGMA user_version = 99")
    with pytest.raises(RunError, match="version 99"):
        Store(tmp_path / "z.sqlite")
    with pytest.raises(RunError, match="does not exist"):
        Store(tmp_path / "none.sqlite", create=False)
    with pytest.raises(RunError, match="is a folder"):
        Store(tmp_path)


def test_a_locked_file_ends_in_a_sentence_and_nothing_is_half_done(store):
    store.add(rows(1))
    ada = store.annotator("Ada")
    task = store.next(ada)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    start = time.time()
    with pytest.raises(RunError, match="locked by another program"):
        store.answer(task.id, ada, ranking=[1, 2, 3])
    assert time.time() - start < 30
    other.execute("ROLLBACK")
    store.answer(task.id, ada, ranking=[1, 2, 3])
    assert store.counts()["answers"] == 1


def test_a_file_that_was_moved_away_is_said_to_be(store):
    store.add(rows(1))
    away = store.path.with_name("away.sqlite")
    store.path.rename(away)
    with pytest.raises(RunError, match="was moved or removed"):
        store.annotator("Ada")
    away.rename(store.path)
    assert store.annotator("Ada").name == "Ada"


def test_a_full_file_system_ends_in_a_sentence_and_the_rest_is_kept(store):
    store.add(rows(3))
    ada = store.annotator("Ada")
    finish(store, ada, limit=1)
    pages = store.db.execute("PRAGMA page_count").fetchone()[0]
    store.db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite says "database or disk is full" from here on
    with pytest.raises(RunError, match="disk is full"):
        store.add(rows(500))
    assert store.counts()["items"] == 3 and store.counts()["answers"] == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_ends_in_a_sentence(tmp_path):
    with Store(tmp_path / "d" / "labels.sqlite") as store:
        store.add(rows(1))
    (tmp_path / "d").chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(RunError, match="read-only"), Store(tmp_path / "d" / "labels.sqlite") as store:
        store.annotator("Ada")


def test_a_read_only_database_ends_in_a_sentence(store):
    store.db.execute("PRAGMA query_only = 1")  # the same error as of a read-only file, also for root
    with pytest.raises(RunError, match="read-only"):
        store.annotator("Ada")


WRITER = """
import sys
from pathlib import Path
from align.label.store.store import Store
with Store(Path(sys.argv[1])) as store:
    me = store.annotator(sys.argv[2])
    print("ready", flush=True)
    while task := store.next(me):
        store.answer(task.id, me, ranking=[1, 2, 3])
        print(task.item, flush=True)
"""


def writer(path, name):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


@pytest.mark.slow
def test_a_kill_in_the_middle_loses_nothing_confirmed(tmp_path):
    path = tmp_path / "labels.sqlite"
    with Store(path) as store:
        store.add(rows(5000))
    confirmed = []
    for attempt in range(4):
        process = writer(path, "Ada")
        assert process.stdout.readline() == "ready\n"
        confirmed += [process.stdout.readline().strip() for _ in range(3 + 11 * attempt)]
        time.sleep(0.013 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        confirmed += [line.strip() for line in process.stdout if line.endswith("\n")]
        process.wait()
    with Store(path) as store:
        kept = [row["item"] for row in store.rankings()]
        assert store.db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert set(confirmed) <= set(kept) and len(kept) == len(set(kept)) and len(confirmed) > 50
    assert len(kept) - len(confirmed) <= 4  # at most one a kill was written and not yet confirmed


@pytest.mark.slow
def test_processes_that_ask_at_once_never_get_the_same_place(tmp_path):
    path = tmp_path / "labels.sqlite"
    with Store(path) as store:
        store.add(rows(60), shared_by=2)
    processes = [writer(path, f"person {i}") for i in range(4)]
    said = [process.communicate()[0].split("\n")[1:-1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sum(map(len, said)) == 120 and all(len(set(items)) == len(items) for items in said)
    with Store(path) as store:
        assert all(item["taken"] == 2 for item in store.items()) and store.counts()["wanted"] == 0


def test_the_same_person_in_two_processes_gets_one_task_at_a_time(tmp_path):
    with Store(tmp_path / "l.sqlite") as one, Store(tmp_path / "l.sqlite") as two:
        one.add(rows(5))
        assert one.next(one.annotator("Ada")) == two.next(two.annotator("Ada"))


def test_the_file_can_be_copied_between_answers(store, tmp_path):
    store.add(rows(3))
    finish(store, store.annotator("Ada"))
    # no journal beside it
    assert sorted(path.name for path in store.path.parent.iterdir()) == ["labels.sqlite", "labels.sqlite.holds"]
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(store.path.read_bytes())
    with Store(copy) as other:
        assert [row["time"] for row in other.rankings()] == [row["time"] for row in store.rankings()]


def test_next_is_fast_with_ten_thousand_items(tmp_path):
    with Store(tmp_path / "labels.sqlite") as store:
        store.add(rows(10_000), shared_by=2)
        ada = store.annotator("Ada")
        spent = []
        with store.transaction():  # one commit: the disk's time is not what is measured here
            for _ in range(300):
                start = time.process_time()
                task = store.next(ada)
                spent.append(time.process_time() - start)
                store.answer(task.id, ada, ranking=[1, 2, 3])
        assert sorted(spent)[150] < 0.02, sorted(spent)[150]  # 1 ms on an idle core; wide, for busy machines


def test_align_merge(tmp_path, capsys):
    from align.label.store.merging import main

    for name in ("a", "b"):
        with Store(tmp_path / f"{name}.sqlite") as store:
            store.add(rows(2), shared_by=2)
            finish(store, store.annotator(name))
    paths = [str(tmp_path / "a.sqlite"), str(tmp_path / "b.sqlite")]
    out = str(tmp_path / "c.sqlite")
    main(["--inputs", *paths, "--output", out])
    assert "2 items, 4 answers that hold" in capsys.readouterr().out
    with pytest.raises(RunError, match="there already"):
        main(["--inputs", *paths, "--output", out])
    with pytest.raises(ValueError, match="inputs is needed"):
        main(["--output", str(tmp_path / "d.sqlite")])
    with Store(tmp_path / "c.sqlite") as store:
        assert json.dumps(sorted(row["annotator"] for row in store.rankings())) == '["a", "a", "b", "b"]'


def test_one_file_alone_is_copied_whole_while_somebody_writes(tmp_path, capsys):
    """The writer's half-made commit is not in the copy; nothing else is lost, the open task and the undone neither."""
    from align.label.store.merging import main

    with Store(tmp_path / "a" / "labels.sqlite") as store:
        store.add(rows(3), shared_by=2)
        ada = store.annotator("Ada")
        finish(store, ada, limit=2)
        store.undo(ada)
        with store.transaction():
            store.annotator("Bob")
            main(["--inputs", str(tmp_path / "a"), "--output", str(tmp_path / "copy")])
        assert [one.name for one in store.annotators()] == ["Ada", "Bob"]
        open_task = store.next(ada)
    assert capsys.readouterr().out.endswith(f"{tmp_path}/copy/labels.sqlite: 3 items, 1 answers that hold\n")
    with Store(tmp_path / "copy" / "labels.sqlite", create=False) as copy:
        assert [one.name for one in copy.annotators()] == ["Ada"] and copy.next(ada) == open_task
        assert copy.one("SELECT count(*) FROM answers WHERE withdrawn IS NOT NULL")[0] == 1
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["labels.sqlite", "labels.sqlite.holds"]


@pytest.mark.parametrize("output", ["merged", "merged/x.sqlite", "merged/", "one.v2"])
def test_what_merge_writes_is_read_by_its_name(tmp_path, output):
    from align.label.store.merging import main
    from align.label.store.source import stored

    with Store(tmp_path / "a.sqlite") as store:
        store.add(rows(1))
    main(["--inputs", *[str(tmp_path / "a.sqlite")] * 2, "--output", str(tmp_path / output)])
    with Store(stored(str(tmp_path / output)), create=False) as store:
        assert store.counts()["items"] == 1
    with pytest.raises(RunError, match="there already"):
        main(["--inputs", str(tmp_path / "a.sqlite"), "--output", str(tmp_path / output)])
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="file is there already; name a new file"):
        main(["--inputs", str(tmp_path / "a.sqlite"), "--output", str(tmp_path / "file")])


def test_two_people_of_one_name_are_said_and_can_be_told_apart(tmp_path, capsys):
    from align.label.store.merging import main

    for name, ranking in (("a", [1, 2, 3]), ("b", [3, 2, 1])):
        with Store(tmp_path / f"{name}.sqlite") as store:
            store.add(rows(4), shared_by=2)
            anna, judge = store.annotator("Anna K"), store.annotator("rm", "model")
            for _ in range(4 if name == "a" else 3):
                task = store.next(anna)
                store.answer(task.id, anna, ranking=[ranking[place] for place in task.order])
            store.answer(store.next(judge).id, judge, ranking=[1, 2, 3])
    a, b = str(tmp_path / "a.sqlite"), str(tmp_path / "b.sqlite")
    main(["--inputs", a, b, "--output", str(tmp_path / "c.sqlite")])
    out = capsys.readouterr().out
    assert "Anna K has answers to 3 tasks both here and in a file before; the later ones hold" in out
    assert out.count("if these are two people") == 1 and "rm has answers to 1 task both" in out
    hint = f"{b}:Anna K=Anna K-2"
    assert f"--rename '{hint}'" in out
    main(["--inputs", a, b, "--output", str(tmp_path / "d.sqlite"), "--rename", hint.replace("Anna K=", "ANNA k= ")])
    assert f"{b}: 0 items, 1 annotators, 4 answers, 0 duplicates, 1 superseded" in capsys.readouterr().out
    with Store(tmp_path / "d.sqlite") as store:
        held = [(row["annotator"], row["ranking"]) for row in store.rankings(kinds=["person"])]
    assert sorted(held) == [("Anna K", [1, 2, 3])] * 4 + [("Anna K-2", [3, 2, 1])] * 3
    for given, said in (
        ("c.sqlite:Anna K=X", "write FILE:NAME=NEW, with a FILE of"),
        (f"{b}:Anna K", "write FILE:NAME=NEW"),
        (f"{b}:Eve=X", r"no person is called Eve there; there are \['Anna K'\]"),
        (f"{b}:rm=X", "no person is called rm"),
        (f"{b}:Anna K=RM", "has a RM already"),
    ):
        with pytest.raises(ValueError, match=said):
            main(["--inputs", a, b, "--output", str(tmp_path / "e.sqlite"), "--rename", given])
    with pytest.raises(DataError, match="1 to 80 printable"):
        main(["--inputs", a, b, "--output", str(tmp_path / "e.sqlite"), "--rename", f"{b}:Anna K={'x' * 81}"])
    assert not list(tmp_path.glob("e.sqlite*"))


def test_align_merge_joins_what_judges_said(tmp_path):
    from align.label.store.merging import main

    for name, item in (("a", "1"), ("b", "2")):
        with Store(tmp_path / name / "labels.sqlite") as store:
            store.add(rows(2))
        write_rows(tmp_path / name / "judges/rm.jsonl", [{"judge": "rm", "identity": "x"}, {"item": item}])
    inputs = ["--inputs", str(tmp_path / "a"), str(tmp_path / "b")]
    main([*inputs, "--output", str(tmp_path / "a" / "both.sqlite")])
    joined = [json.loads(line) for line in (tmp_path / "a/judges/rm.jsonl").read_text().splitlines()]
    assert joined == [{"judge": "rm", "identity": "x"}, {"item": "1"}, {"item": "2"}]
    write_rows(tmp_path / "b/judges/rm.jsonl", [{"judge": "rm", "identity": "y"}])
    with pytest.raises(RunError, match="another judge"):
        main([*inputs, "--output", str(tmp_path / "c.sqlite")])
    assert not (tmp_path / "c.sqlite").exists()


# ---------------------------------------------------------------------------------------------------- what is ranked


@pytest.mark.parametrize(
    ("source_rows", "said"),
    [
        ([{"prompt": "p", "completions": ["a"]}], "rows.jsonl, train, row 1.completions: 1 of them; ranking takes 2 to 9"),
        ([{"prompt": "p", "chosen": "a", "rejected": "b"}], "has the columns prompt, chosen, rejected; ranking needs prompt and completions"),
        ([], "the file is empty"),
        (None, "rows.jsonl does not exist"),
    ],
)  # fmt: skip
def test_a_source_that_cannot_be_ranked_ends_in_a_sentence_and_leaves_nothing(tmp_path, source_rows, said):
    from align.label.program import main

    source = tmp_path / "rows.jsonl"
    if source_rows is not None:
        write_rows(source, source_rows)
    with pytest.raises(ValueError, match=said):
        main(["--source", str(source)])
    assert not (tmp_path / "label-rows").exists()


def test_a_run_a_folder_and_a_labels_file_are_sources(tmp_path, monkeypatch, capsys):
    from align.label import program

    served = []
    monkeypatch.setattr(program, "_serve", lambda store, file, web: served.append((file, store.counts()["items"])))
    run = tmp_path / "run" / "sample"
    write_rows(run / "data" / "train.jsonl", [{**row, "kind": "x", "stopped": [True] * 3} for row in rows(4)])
    write_rows(run / "data" / "test.jsonl", rows(6)[4:])
    (run / "run.json").write_text('{"status": "running", "command": "python recipes/sample.py"}')
    with pytest.raises(ValueError, match="did not finish"):
        program.main(["--source", str(run)])
    (run / "run.json").write_text('{"status": "complete"}')
    file = tmp_path / "run" / "label" / "labels.sqlite"
    program.main(["--source", str(run), "--overlap", "2", "--repeats", "0.5"])
    program.main(["--source", str(run)])  # again: nothing new, and the overlap stays
    program.main(["--source", str(file.parent)])
    program.main(["--source", str(file), "--overlap", "3"])
    assert served == [(file, 6)] * 4 and "6 prompts" in capsys.readouterr().out
    with Store(file) as store:
        assert [(item["split"], item["shared_by"]) for item in store.items()] == [("train", 3)] * 4 + [("test", 3)] * 2
        assert next(store.items())["meta"] == {"kind": "x", "stopped": [True] * 3}
    for argv, said in (
        ([], "source is needed"),
        ([str(run), "--overlap", "0"], "overlap=0"),
        ([str(run), "--prot", "1"], "did you mean port"),
    ):
        with pytest.raises(ValueError, match=said):
            program.main(["--source", *argv] if argv else argv)


def test_files_of_one_folder_have_labels_of_their_own_and_what_else_is_there_is_said(tmp_path, monkeypatch, capsys):
    from align.label import program

    monkeypatch.setattr(program, "_serve", lambda store, file, web: None)
    write_rows(tmp_path / "math.jsonl", rows(5))
    (tmp_path / "chat.jsonl.gz").write_bytes(gzip.compress(json.dumps(rows(6)[5]).encode()))
    for name, count in (("math.jsonl", 5), ("chat.jsonl.gz", 1)):
        program.main(["--source", str(tmp_path / name)])
        with Store(tmp_path / f"label-{name.split('.')[0]}" / "labels.sqlite", create=False) as store:
            assert store.counts()["items"] == count
    both = ["--output_dir", str(tmp_path / "label-math")]
    capsys.readouterr()
    program.main(["--source", str(tmp_path / "math.jsonl")])
    assert "other items" not in capsys.readouterr().out
    program.main(["--source", str(tmp_path / "chat.jsonl.gz"), *both])
    assert f"1 new\n{tmp_path}/label-math/labels.sqlite holds 5 other items, which are asked" in capsys.readouterr().out


def test_the_command_line(capsys, monkeypatch):
    from align import cli

    assert cli.arguments("source", ["runs/x", "--port", "1"]) == ["--source", "runs/x", "--port", "1"]
    assert cli.arguments("inputs", ["a", "b", "--output", "c"]) == ["--inputs", "a", "b", "--output", "c"]
    assert cli.arguments("source", ["--source", "x"]) == ["--source", "x"]
    for words in ([], ["--help"]):
        monkeypatch.setattr(sys, "argv", ["align", *words])
        cli.main()
        out = capsys.readouterr().out
        assert all(f"  align {name} " in out for name in cli.COMMANDS) and max(map(len, out.splitlines())) < 100
    monkeypatch.setattr(sys, "argv", ["align", "exprot"])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert "did you mean align export?" in capsys.readouterr().err
    for name in cli.COMMANDS:
        assert callable(cli.find(name)[0])


def test_rows_that_join_later_are_wanted_as_often_as_those_that_are_here(store):
    assert store.settings() is None
    store.add(rows(1), shared_by=3, repeats=0.2)
    later = store.path.with_name("later.jsonl")
    write_rows(later, [{"prompt": "later", "completions": ["a", "b"]}])
    take_in(store, str(later), LabelArguments())
    assert store.settings() == (3, 0.2) and [item["shared_by"] for item in store.items()] == [3, 3]


def test_a_model_has_no_repeats_to_come(store):
    store.add(rows(3), repeats=1.0)
    judge = store.annotator("judge", "model")
    for item in list(store.items()):
        store.answer(store.task_of(judge, item["item"]).id, judge, ranking=[1, 2, 3])
    assert store.progress(judge)["total"] == 3 and store.next(judge) is None
