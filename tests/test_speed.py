"""The benchmark beside TRL's trainers: its rows are the published ones, and both sides run them (`-m slow`)."""

from __future__ import annotations

import json

import pytest
import speed
from conftest import ROOT


def test_a_transcript_becomes_a_prompt_and_two_answers():
    before = "\n\nHuman: hello\n\nAssistant:"
    row = dict(chosen=f"{before} hi", rejected=f"{before} no")
    assert speed._pair(row) == dict(prompt=before, chosen=" hi", rejected=" no")
    assert speed._pair(dict(chosen=f"{before} hi", rejected=f"\n\nHuman: bye{before} no")) is None
    assert speed._pair(dict(chosen=f"{before} {'hi' * 1000}", rejected=f"{before} no")) is None


def test_a_ranking_becomes_its_best_and_its_worst():
    row = dict(prompt="p", completions=["a", "b", "c"], ranking=[2, 1, 3])
    assert speed._best_and_worst(row) == dict(prompt="p", chosen="b", rejected="c")


def test_what_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    assert speed.measure("sft-gsm8k", False, 1, tmp_path) == dict(missing="no gsm8k here")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft-reviews", "dpo-reviews"])
def test_both_sides_train_on_the_same_rows(tmp_path, monkeypatch, name):
    """The first losses agree: the same rows, the same tokens in the loss."""
    import gpu_cases

    made = gpu_cases.make(gpu_cases.SHAPES["tiny"], tmp_path, 8, False)
    monkeypatch.setattr(speed, "BASE", made["policy"])
    rows = tmp_path / "rows"
    rows.mkdir()
    pair = dict(prompt="t1 t2 t3", chosen=" t4 t5", rejected=" t6 t7 t8")
    row = pair if name.startswith("dpo") else dict(prompt="t1 t2 t3", completion=" t4 t5")
    for file in ("train", "test"):
        (rows / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(8)))
    case = speed.CASES[name] | dict(batch=4, steps=2)
    monkeypatch.chdir(ROOT)
    found = {
        side: speed.train(case, side, str(rows / "train.jsonl"), False, tmp_path / side) for side in ("align", "trl")
    }
    assert found["align"]["losses"][0] == pytest.approx(
        found["trl"]["losses"][0], abs=1e-4
    )  # then the schedules differ
    assert all(len(one["losses"]) == 2 and one["seconds"] > 0 for one in found.values())
