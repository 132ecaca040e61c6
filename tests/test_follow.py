"""`align runs`: the tree of what came from what, and what each run is known by."""

from __future__ import annotations

import json

import pytest
from conftest import run_recipe

from align import cli
from align.follow import tree
from align.run.errors import ConfigError


def write(folder, recipe, metrics=None, gate=None, **more):
    folder.mkdir(parents=True)
    record = {"recipe": recipe, "status": "complete", "started": "2026-11-28T10:11:12", "wall_seconds": 75.0,
              "metrics": metrics or {}, **more}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    if gate is not None:
        (folder / "gate.json").write_text(json.dumps(gate))
    return folder


@pytest.fixture
def made(tmp_path):
    """base, sft from it, dpo and ppo from sft, and rows that sft read; ppo failed its gate."""
    home = tmp_path / "runs"
    base = write(home / "base", "fetch")
    rows = write(home / "rows", "reviews")
    sft = write(home / "sft", "sft", {"stops": 0.95, "eval_loss": 3.512}, {"passed": True, "checks": []},
                parents={"model": {"path": str(base)}, "data": {"path": str(rows / "demonstrations")}})  # fmt: skip
    write(home / "dpo", "dpo", {"eval_rewards/accuracies": 0.652}, parents={"model": {"path": str(sft)}})
    checks = [{"name": "KL", "passed": False, "value": 12, "bound": "<= 10"},
              {"name": "gain", "passed": True, "value": 1, "bound": "> 0"}]  # fmt: skip
    write(home / "ppo", "ppo", {"objective/kl": 12.34, "objective/scores": 1.5}, {"passed": False, "checks": checks},
          parents={"model": {"path": str(sft)}, "reward_model": {"path": "gone"}})  # fmt: skip
    write(home / "broken", "sft", status="failed", error="RunError: the disk is full", wall_seconds=None)
    return home


def test_the_tree_by_hand(made):
    """Each run stands below the run of its model; branches end where their parent's children end."""
    said = tree.table(tree.roots(tree.runs(made)), made)
    assert [" ".join(line.split()) for line in said.splitlines()] == [
        "run recipe status gate figures time began",
        "base fetch complete 75 s 2026-11-28 10:11",
        "└ sft sft complete passed stops 95%, loss 3.51 75 s 2026-11-28 10:11",
        "├ dpo dpo complete 65.2% of held-out pairs 75 s 2026-11-28 10:11",
        "└ ppo ppo complete failed: KL KL 12.3, reward 1.50 75 s 2026-11-28 10:11",
        "broken sft failed RunError: the disk is full 2026-11-28 10:11",
        "rows reviews complete 75 s 2026-11-28 10:11",
    ]
    assert "\n  ├ dpo" in said and "\n└ sft" in said


def test_as_json_every_run_has_its_parents(made, capsys):
    tree.main(["--folder", str(made), "--json"])
    found = {run["folder"].rpartition("/")[2]: run for run in json.loads(capsys.readouterr().out)}
    assert set(found) == {"base", "rows", "sft", "dpo", "ppo", "broken"}
    assert found["dpo"]["parents"] == {"model": str(made / "sft")} and found["ppo"]["gate"] == "failed: KL"


def test_records_that_name_each_other_end(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    write(a, "sft", parents={"model": {"path": str(b)}})
    write(b, "sft", parents={"model": {"path": str(a)}})
    assert len(tree.roots(tree.runs(tmp_path))) == 1


def test_no_run_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="is no folder"):
        tree.runs(tmp_path / "none")
    with pytest.raises(ConfigError, match="no run lies below"):
        tree.runs(tmp_path)


def test_a_gate_that_is_none_is_said(tmp_path):
    write(tmp_path / "a", "sft", gate={"checks": [{"name": "x"}]})
    assert tree.runs(tmp_path)[0].gate() == "unreadable"


def test_durations():
    assert [tree.duration(s) for s in (48, 99.9, 724, 12_240)] == ["48 s", "100 s", "12 min", "3.4 h"]


@pytest.mark.slow
def test_a_run_that_was_really_made_is_shown(world, tmp_path, monkeypatch, capsys):
    run_recipe("sft", "--model_name_or_path", world / "base", "--dataset_name", world / "chats", "--max_length", "64",
               "--max_steps", "1", "--output_dir", tmp_path / "sft")  # fmt: skip
    monkeypatch.setattr("sys.argv", ["align", "runs", str(tmp_path)])
    cli.main()
    assert "sft     complete" in capsys.readouterr().out
