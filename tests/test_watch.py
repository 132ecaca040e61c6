"""What `align watch` reads and says: curves of bounded length, files that grow and are replaced, who runs, when it ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT, write_rows

from align.follow import curves, pulse, samples
from align.follow.curves import Curve, Curves, Growing
from align.follow.server import Watch, WatchArguments, app, main
from align.follow.tree import Node
from align.run import record
from align.run.errors import ConfigError, RunError

SCRIPT = '<img src=x onerror="window.hurt=1">'


def write(folder, rows=(), **facts):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"recipe": "sft", "status": "complete", "metrics": {}} | facts))
    if rows:
        write_rows(folder / "metrics.jsonl", list(rows))
    return folder


def row(step, seconds, **values):
    return {"seconds": seconds, "step": step, **values}


def add(file, text):
    with file.open("a") as stream:
        stream.write(text)


# ------------------------------------------------------------------------------------------------------------ curves


def test_a_full_curve_is_halved_into_means_that_keep_the_extremes(monkeypatch):
    """Four points at most. The fifth value makes (1, 5) and (2, 8) of 1 5 2 8: means 3 and 5."""
    monkeypatch.setattr(curves, "MOST_POINTS", 4)
    curve = Curve()
    for step, value in enumerate((1.0, 5.0, 2.0, 8.0), start=1):
        curve.add(step, step, 10.0 * step, value)
    assert curve.since(3) == (3, [[4, 40.0, 8.0, 8.0, 8.0, 1, 4]])
    curve.add(5, 5, 50.0, 7.0)
    first, second = [2, 20.0, 3.0, 1.0, 5.0, 2, 2], [4, 40.0, 5.0, 2.0, 8.0, 2, 4]
    assert curve.since(4) == (0, [first, second, [5, 50.0, 7.0, 7.0, 7.0, 1, 5]])  # made anew: all of it
    curve.add(6, 6, 60.0, 9.0)
    assert curve.since(5) == (2, [[6, 60.0, 8.0, 7.0, 9.0, 2, 6]])  # the last point was not full yet
    for step in range(7, 100):
        curve.add(step, step, 0.0, float(step))
        assert len(curve.points) <= 4
    assert sum(point[5] for point in curve.points) == 99 and curve.points[0][3] == 1.0


def test_a_page_is_sent_what_it_lacks(tmp_path):
    file = write_rows(
        tmp_path / "m.jsonl", [row(10, 1.0, loss=4.0, lr=1e-4), row(20, 2.04, loss=3.0), row(20, 3.0, eval_loss=3.5)]
    )
    read = Curves(file)
    read.refresh()
    told = read.since(0, 0)
    assert told["whole"] and (told["generation"], told["row"]) == (1, 3)
    assert told["axes"] == [[[10, 20], [1.0, 2.0]], [[10], [1.0]], [[20], [3.0]]]
    assert told["curves"] == {"loss": [0, 0, [4.0, 3.0], None, None], "lr": [0, 1, [1e-4], None, None], "eval_loss": [0, 2, [3.5], None, None]}  # fmt: skip
    add(file, json.dumps(row(30, 4.0, loss=2.0)) + "\n")
    read.refresh()
    told = read.since(1, 3)
    assert (
        not told["whole"] and told["curves"] == {"loss": [2, 0, [2.0], None, None]} and told["axes"] == [[[30], [4.0]]]
    )
    assert read.since(1, 4)["curves"] == {}
    assert read.since(9, 4)["whole"] and set(read.since(9, 4)["curves"]) == {"loss", "lr", "eval_loss"}


def test_a_half_line_is_left_for_the_next_time(tmp_path):
    file = tmp_path / "m.jsonl"
    read = Curves(file)
    read.refresh()
    assert (read.generation, read.rows) == (0, 0)  # nothing there yet
    file.write_text('{"step": 1, "loss": 4.0}\n{"step": 2, "lo')
    read.refresh()
    assert (read.generation, read.rows) == (1, 1)
    add(file, 'ss": 3.0}\n')
    read.refresh()
    assert [point[2] for point in read.curves["loss"].points] == [4.0, 3.0]


def test_what_has_been_read_is_not_read_again(tmp_path, monkeypatch):
    file = write_rows(tmp_path / "m.jsonl", [row(n, n, loss=1.0) for n in range(500)])
    growing = Growing(file)
    assert len(list(growing.lines())) == 501  # None for the new file, and its lines
    size = file.stat().st_size
    assert growing.at == size and list(growing.lines()) == []
    add(file, "1\n")
    assert list(growing.lines()) == [b"1"] and growing.at == size + 2


@pytest.mark.parametrize("how", ["shorter", "same length", "another file", "gone"])
def test_a_run_that_was_started_anew_begins_anew(tmp_path, how):
    file = tmp_path / "m.jsonl"
    old = json.dumps(row(1, 0.1, loss=4.0)) + "\n" + json.dumps(row(2, 0.2, loss=3.0)) + "\n"
    file.write_text(old)
    read = Curves(file)
    read.refresh()
    new = {"shorter": old.splitlines()[1] + "\n", "same length": old.replace("4.0", "9.0"), "another file": old + old}
    if how in ("another file", "gone"):
        file.rename(tmp_path / "before")
    if how != "gone":
        file.write_text(new[how])
    read.refresh()
    assert read.generation == 2 and read.since(1, 2)["whole"]
    assert read.rows == {"shorter": 1, "same length": 2, "another file": 4, "gone": 0}[how]
    if how == "same length":
        assert read.curves["loss"].points[0][2] == 9.0


def test_a_resumed_run_takes_back_what_it_does_again(tmp_path):
    """Stopped after step 30 at 3 s, resumed from step 10: its step 20 comes 5 s into the second execution, 8 s in all."""
    rows = [
        row(10, 1.0, loss=4.0),
        row(20, 2.0, loss=3.0),
        row(30, 3.0, loss=2.0),
        row(20, 5.0, loss=3.1),
        row(30, 6.0, loss=2.1),
    ]
    read = Curves(write_rows(tmp_path / "m.jsonl", rows))
    read.refresh()
    assert [point[:3] for point in read.curves["loss"].points] == [[10, 1.0, 4.0], [20, 8.0, 3.1], [30, 9.0, 2.1]]
    assert list(read.latest) == [(20, 5.0), (30, 6.0)]
    assert read.since(1, 3)["curves"]["loss"][0] == 0  # what a page had of it goes


def test_a_long_run_is_sent_in_a_bounded_number_of_points(tmp_path):
    """20,000 rows in points of 32: 625, and every value is in one of them. Then a row more is a point more."""
    file = write_rows(tmp_path / "m.jsonl", [row(n, n, loss=1.0 if n != 7777 else 50.0) for n in range(1, 20_001)])
    read = Curves(file)
    read.refresh()
    told = read.since(0, 0)
    kept, _, means, low, high = told["curves"]["loss"]
    assert (kept, len(means), max(high), min(low)) == (0, 625, 50.0, 1.0) and max(means) == 1 + 49 / 32
    assert len(json.dumps(told)) < 60_000
    add(file, json.dumps(row(20_001, 20_001, loss=2.0)) + "\n")
    read.refresh()
    told = read.since(1, 20_000)
    assert told["curves"]["loss"] == [625, 0, [2.0], [2.0], [2.0]]


def test_what_is_no_row_is_passed_over_and_what_is_no_number_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "BLOCK", 100)
    monkeypatch.setattr(curves, "AT_ONCE", 2000)
    file = tmp_path / "m.jsonl"
    lines = ['{"step": 1, "loss": 4.0, "on": true, "name": "x", "more": [1], "none": null}', "not JSON", "[1]", "7",
             '{"step": 2, "loss": NaN}', "{" + '"a": 1, ' * 60 + '"step": 3}', '{"step": 4, "loss": Infinity}',
             '{"step": 5, "loss": 1' + "0" * 60 + "}", '{"step": 6, "lo\\u001b[2Kss": 1}']  # fmt: skip
    file.write_text("\n".join(lines) + "\n")
    read = Curves(file)
    read.refresh()
    assert set(read.curves) == {"loss", "lo\\u001b[2Kss"}  # a control in a name is written out
    assert [point[0] for point in read.curves["loss"].points] == [1, 5] and read.curves["loss"].odd == (2, "nan")
    said = json.dumps(read.since(0, 0), allow_nan=False)
    assert "1e+60" in said


def test_more_metrics_than_one_can_look_at_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "MOST_CURVES", 2)
    read = Curves(write_rows(tmp_path / "m.jsonl", [row(1, 0.0, a=1, b=2, c=3, d=4), row(2, 0.0, a=1, c=3)]))
    read.refresh()
    assert set(read.curves) == {"a", "b"} and read.since(0, 0)["left_out"] == 2


def test_metrics_behind_a_link_are_not_read(tmp_path):
    write_rows(tmp_path / "mine.jsonl", [row(1, 0.0, secret=1)])
    (tmp_path / "m.jsonl").symlink_to(tmp_path / "mine.jsonl")
    read = Curves(tmp_path / "m.jsonl")
    read.refresh()
    assert not read.curves


# ------------------------------------------------------------------------------------------------- state, and time left


def test_time_left_at_the_pace_of_the_last_rows(tmp_path):
    """20 s for steps 10 to 20: 2 s a step. 30 of 50 are left, 60 s, and 6 s have gone by since."""
    read = Curves(
        write_rows(tmp_path / "m.jsonl", [row(10, 20.0, loss=1), row(20, 40.0, loss=1), row(20, 45.0, eval_loss=1)])
    )
    assert read.pace() is None and pulse.left(read, 50, 0.0) is None
    read.refresh()
    assert read.pace() == 2.0 and pulse.left(read, 50, 6.0) == 54.0
    assert (
        pulse.left(read, 50, 100.0) == 0.0 and pulse.left(read, None, 0.0) is None and pulse.left(read, 20, 0.0) is None
    )


def test_a_process_is_alive_by_its_number_and_its_beginning():
    mine = record._process()
    assert pulse.alive({"process": mine})
    assert not pulse.alive({"process": mine | {"began": mine["began"] - 60}})  # the number was another's then
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not pulse.alive({"process": {"pid": ended.pid, "began": time.time()}})
    for odd in (
        {},
        {"pid": True, "began": 1},
        {"pid": "1", "began": 1},
        {"pid": -1, "began": 1},
        {"pid": 10**30, "began": 1},
        {"pid": 1, "began": "x"},
    ):
        assert not pulse.alive({"process": odd})


@pytest.mark.parametrize(
    ("facts", "quiet", "usual", "state", "says"),
    [
        ({"status": "complete"}, 9e9, None, "complete", ""),
        ({"status": "complete", "metrics": {"stopped_by": "kl_budget"}}, 0, None, "complete", "Ended early: kl_budget."),
        ({"status": "interrupted"}, 9e9, None, "stopped", "By Ctrl-C or a signal."),
        ({"status": "failed", "error": f"RunError: {SCRIPT}"}, 0, None, "failed", f"RunError: {SCRIPT}"),
        ({"status": "unreadable"}, 0, None, "unreadable", ""),
        ({"status": "running"}, 599, None, "running", ""),  # an old record, without its process
        ({"status": "running"}, 720, None, "killed", "written nothing for 12 min"),
        ({"status": "running"}, 720, 150.0, "running", ""),  # 5 x 150 s is longer than that
        ({"status": "running", "process": {"pid": 2**22 + 1, "began": 1.0}}, 59, None, "running", ""),  # elsewhere
        ({"status": "running", "process": {"pid": 2**22 + 1, "began": 1.0}}, 61, None, "killed", "no process of it is here"),
    ],
)  # fmt: skip
def test_how_a_run_stands(tmp_path, facts, quiet, usual, state, says):
    found, why = pulse.standing(Node(tmp_path, facts), quiet, usual)
    assert found == state and says in why


def test_a_run_whose_process_lives_is_running_however_quiet(tmp_path):
    run = Node(tmp_path, {"status": "running", "process": record._process()})
    assert pulse.standing(run, 9e9, None) == ("running", "")


def test_a_run_says_how_many_steps_it_will_make_and_which_process_it_is(tmp_path):
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from align.train.loop import Recorder

    args = TrainingArguments(output_dir=str(tmp_path / "x"), use_cpu=True, report_to="none")
    with record.start("sft", str(tmp_path / "run"), {}) as run:
        Recorder(run).on_train_begin(args, TrainerState(max_steps=63), TrainerControl())
        kept = json.loads((tmp_path / "run/run.json").read_text())
    assert pulse.planned(kept) == 63 and kept["process"]["pid"] == os.getpid() and pulse.alive(kept)


@pytest.mark.parametrize(
    ("report_to", "given", "name"), [(["trackio"], None, "runs/a"), (["trackio"], "b", "b"), ([], None, None)]
)
def test_trackers_are_told_the_folder_for_a_name(report_to, given, name):
    from types import SimpleNamespace

    from align.train import loop

    args = SimpleNamespace(report_to=report_to, run_name=given, output_dir="runs/a")
    loop.name_for_trackers(args)
    assert args.run_name == name


# ------------------------------------------------------------------------------------------------------------ samples


def test_the_last_samples_are_text_whoever_wrote_them(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "rollouts"
    folder.mkdir()
    table = {"prompt": [f"what {SCRIPT}"] * 9, "completion": ["\x1b[2Ja", *"bcdefghi"], "score": [1.23456] * 9, "kl": [0.5] * 9,
             "stopped": [False] + [True] * 8, "advantage_mean": [0.0] * 9}  # fmt: skip
    pq.write_table(pa.table(table), folder / "rollout-000001.parquet")
    first = samples.mark(tmp_path)
    found = samples.last(tmp_path)
    assert found["file"] == "rollouts/rollout-000001.parquet" and len(found["rows"]) == samples.SHOWN
    assert found["rows"][0] == {"prompt": f"what {SCRIPT}", "completions": ["\\u001b[2Ja"], "numbers": {"score": 1.235, "kl": 0.5}, "cut": True}  # fmt: skip
    (folder / "rollout-000002.parquet").write_bytes(b"PAR1 half")  # being written: the one before is shown
    os.utime(folder / "rollout-000002.parquet", ns=(2**62, 2**62))
    assert samples.last(tmp_path) == found and samples.mark(tmp_path) != first


def test_samples_of_lines_are_read_from_the_top_in_any_form(tmp_path):
    rows = [
        {"key": "about the file"},
        {"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "yes"}]},
        {"prompt": "p", "completions": ["a", None, 3], "reward": float("nan")},
        {"prompt": [{"no": "role"}], "completion": "x" * 5000},
        {"prompt": "nothing said"},
    ]
    write_rows(tmp_path / "completions/a.jsonl", rows)
    add(tmp_path / "completions/a.jsonl", '{"prompt": "half')
    found = samples.last(tmp_path)["rows"]
    assert [one["completions"] for one in found[:2]] == [["yes"], ["a", "None", "3"]] and found[0]["prompt"] == "hi"
    assert len(found) == 3 and found[2]["completions"] == ["x" * 3000 + "…"] and found[1]["numbers"] == {}


def test_samples_behind_links_are_not_read(tmp_path):
    write_rows(tmp_path / "mine/data/train.jsonl", [{"prompt": "secret", "completion": "keys"}])
    run = tmp_path / "run"
    (run / "completions").mkdir(parents=True)
    (run / "data").symlink_to(tmp_path / "mine/data")
    (run / "completions/a.jsonl").symlink_to(tmp_path / "mine/data/train.jsonl")
    assert samples.last(run) == {"file": "", "rows": []} and samples.mark(run) == ""


# ------------------------------------------------------------------------------------------------------------- server


@pytest.fixture
def web(tmp_path):
    """Three finished runs, the last begun first, and one that says it runs."""
    pytest.importorskip("starlette", reason="starlette is not installed")
    from starlette.testclient import TestClient

    home = tmp_path / "runs"
    for n, name in enumerate(("a", "b", "c"), start=1):
        write(home / name, [row(1, 1.0, loss=n), row(2, 2.0, loss=n / 2)], started=f"2026-11-2{n}T00:00:00")
    write(home / "d", status="running", started="2026-11-20T00:00:00", process=record._process())
    watch = Watch([str(home)])
    served = app(watch, WatchArguments(no_token=True))
    client = TestClient(served, base_url="http://127.0.0.1:7860")
    client.headers["x-align-session"] = served.state.entry.enter("")
    client.watch, client.home = watch, home
    return client


def test_the_api_lists_all_and_sends_curves_of_what_is_on(web):
    state = web.get("/api/state").json()
    assert [(run["name"], run["state"]) for run in state["runs"]] == [
        ("c", "complete"),
        ("b", "complete"),
        ("a", "complete"),
        ("d", "running"),
    ]
    ids = {run["name"]: run["id"] for run in state["runs"]}
    assert state["proposed"] == [ids["d"]] and state["curves"] == {}  # what runs now
    state = web.get(f"/api/state?on={ids['a']}:0:0,{ids['c']}:0:0").json()
    assert state["curves"][str(ids["a"])]["curves"]["loss"][2] == [1.0, 0.5]
    assert state["curves"][str(ids["c"])]["curves"]["loss"][2] == [3.0, 1.5]
    assert set(web.watch.read) == {ids["a"], ids["c"], ids["d"]}  # nothing was read of b


def test_without_one_that_runs_the_newest_are_proposed_and_a_named_one_before_all(web):
    write(web.home / "d")
    state = Watch([str(web.home)]).state({})
    names = {run["id"]: run["name"] for run in state["runs"]}
    assert [names[one] for one in state["proposed"]] == ["c", "b", "a"]
    both = Watch([str(web.home / "b"), str(web.home / "a")]).state({})
    assert len(both["proposed"]) == 2 and [run["name"] for run in both["runs"]] == ["b", "a"]
    assert [run["name"] for run in Watch([str(web.home / "b")]).state({})["runs"]] == [str(web.home / "b")]


def test_a_run_that_begins_later_is_found_and_numbers_stay(web, monkeypatch):
    before = {run["name"]: run["id"] for run in web.get("/api/state").json()["runs"]}
    write(web.home / "e", status="running", started="2026-11-30T00:00:00")
    monkeypatch.setattr("align.follow.server.LOOK", 0.0)
    after = {run["name"]: run["id"] for run in web.get("/api/state").json()["runs"]}
    assert (
        list(after)[0] == "e" and {name: after[name] for name in before} == before and after["e"] not in before.values()
    )


@pytest.mark.parametrize(
    "wrong", ["x", "1", "1:2", "1:2:3:4", "1:-1:0", "1:0:0;", ",".join(f"{n}:0:0" for n in range(13))]
)
def test_what_is_asked_wrongly_is_one_sentence(web, wrong):
    refused = web.get(f"/api/state?on={wrong}")
    assert refused.status_code == 400 and "at most 12" in refused.json()["error"]
    assert web.get("/api/samples?run=x").status_code == 400 and web.get("/api/samples?run=99").status_code == 404
    assert web.get("/api/state?on=99:0:0").json()["curves"] == {}  # a run that went meanwhile


def test_folders_without_runs_are_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="is no folder"):
        main(["--runs", str(tmp_path / "none")])
    with pytest.raises(ConfigError, match="no run lies below"):
        main(["--runs", str(tmp_path)])


def test_a_port_in_use_is_one_sentence_with_another(tmp_path):
    write(tmp_path / "a")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=rf"cannot listen on 127\.0\.0\.1:{port} .*; try --port \d+$"):
            main(["--runs", str(tmp_path), "--port", str(port), "--no_token"])


@pytest.mark.slow
def test_the_command_serves_a_run_and_ends_with_ctrl_c(tmp_path):
    import signal

    write(tmp_path / "a", [row(1, 1.0, loss=1.0)])
    command = [sys.executable, "-m", "align.cli", "watch", str(tmp_path / "a"), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = ""
    while "Ctrl-C" not in said:
        said += process.stdout.readline() or pytest.fail(said + process.stderr.read())
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and not err and "1 run below" in said and "#token=" in said, (out, err)
