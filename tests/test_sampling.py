"""What `sample` writes: rows with their completions, nothing of older ones, each split once."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from conftest import write_rows

from align.data import prepare
from align.data.forms import schemas
from align.models import sample
from align.models.generate import Completion
from align.run.arguments import DataArguments

ASK = [{"role": "user", "content": "what is a cat"}]


@pytest.fixture
def sampled(monkeypatch, tmp_path, tokenizer):
    """Sample from rows with a stand-in for the model: `sampled(train, test)` gives the rows written and the metrics."""
    asked: list[int] = []

    def complete(policy, tokenizer, prompts, *, per_prompt, skip, **_):
        for index in range(len(prompts)):
            if index not in skip:
                asked.append(index)
                yield index, [Completion([1, 2], f" {k}", True, "so" if k else "") for k in range(per_prompt)]

    monkeypatch.setattr(sample, "complete", complete)

    def run(train, test=None):
        asked.clear()
        splits = {}
        for name, rows in (("train", train), ("test", test)):
            if rows is not None:
                args = DataArguments(dataset_name=str(write_rows(tmp_path / f"in/{name}.jsonl", rows)))
                splits[name] = prepare.rows(args, "prompt", tokenizer, max_length=64, seed=0).train
        config = sample.SampleConfig(output_dir=str(tmp_path / "out"), num_generations=2)
        both = SimpleNamespace(train=splits["train"], test=splits.get("test"))
        metrics = sample.sample_splits(None, tokenizer, both, config)
        written = [json.loads(line) for line in (tmp_path / "out/data/train.jsonl").read_text().splitlines()]
        return written, metrics

    run.asked, run.folder = asked, tmp_path / "out/data"
    return run


def test_new_completions_carry_nothing_of_old_ones(sampled):
    old = {"completions": ["a", "b"], "ranking": [1, 2], "annotator": "ann", "verdict": "ranked", "time": "now",
           "item": "x", "repeat": False, "sources": ["m", "n"], "stopped": [True, True], "lengths": [3, 3]}  # fmt: skip
    rows, _ = sampled([{"prompt": "p", "category": "c", **old}])
    assert rows == [
        {"prompt": "p", "category": "c", "completions": [" 0", " 1"], "stopped": [True, True], "lengths": [2, 2]}
    ]
    pair = {"chosen": "a", "rejected": "b", "margin": 1.0, "weight": 2.0, "scores": [3, 1], "rating": 4,
            "chosen_score": 3, "score_rejected": 1, "rejected-model": "m"}  # fmt: skip
    pairs, _ = sampled_again(sampled, [{"prompt": "p", **pair}])
    assert set(pairs[0]) == {"prompt", "completions", "stopped", "lengths"}


def test_what_is_listed_for_each_old_completion_goes_with_it(sampled):
    old = {"completions": ["a", "b"], "ranking": [1, 2], "scores": [3, 1], "rating": 5, "kinds": ["x", "y"]}
    rows, _ = sampled([{"prompt": "p", "tags": ["one", "two", "three"], "answers": ["one"], **old}])
    assert set(rows[0]) == {"prompt", "tags", "answers", "completions", "stopped", "lengths"}
    assert schemas.prompt({"prompt": "p", **old}, "f")["origin"]["unread"] == ["kinds"]  # not one of ours: it is told
    rows, _ = sampled_again(sampled, [{"prompt": "p", "scores": [3, 1], "rating": 5}])  # nobody's completions
    assert rows[0]["scores"] == [3, 1] and rows[0]["rating"] == 5


def sampled_again(sampled, rows):
    """Sample other rows, from nothing."""
    for file in sampled.folder.iterdir():
        file.unlink()
    return sampled(rows)


def test_messages_keep_their_reasoning_and_columns_come_out_as_written(sampled):
    rows, _ = sampled([{"prompt": ASK, "facts": {"a": 1}}, {"prompt": ASK, "facts": {"b": None}}])
    assert [row["facts"] for row in rows] == [{"a": 1}, {"b": None}]
    assert rows[0]["completions"] == [
        [{"role": "assistant", "content": " 0"}],
        [{"role": "assistant", "content": " 1", "reasoning_content": "so"}],
    ]
    assert all("origin" not in row and "drop" not in row for row in rows)


def test_a_finished_split_is_not_sampled_again(sampled):
    train, test = [{"prompt": "a"}, {"prompt": "b"}], [{"prompt": "c"}]
    _, whole = sampled(train, test)
    assert sampled.asked == [0, 1, 0] and whole["completions"] == 6
    (sampled.folder / "test.jsonl").unlink()  # as after a kill while the test split was sampled
    _, again = sampled(train, test)
    assert sampled.asked == [0] and again == whole
    assert not list(sampled.folder.glob(".*.part"))
