"""What is measured around training: how much at once, on how many prompts, and what becomes of a run where it fails."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, stage_arguments
from datasets import Dataset

from align.models import generate
from align.run import gates
from align.run.errors import NotFinite, RunError
from align.train import measuring, reward


@pytest.mark.parametrize(
    ("tokens", "width", "most", "rows"),
    [(1024, 151_936, 64, 1), (512, 49_152, 64, 10), (128, 32_000, 64, 64), (2048, 2 * 151_936, 64, 1), (10, 1, 8, 8)],
)
def test_rows_at_once(tokens, width, most, rows):
    """2^28 floats: 268,435,456 / (512 x 49,152 = 25,165,824) is 10.7; 1,024 x 151,936 leaves 1.7; at least one."""
    assert measuring.rows_at_once(tokens, width, most) == rows
    assert rows == 1 or rows * tokens * width <= generate.DISTRIBUTIONS_AT_ONCE


# --------------------------------------------------------------------------------------------------- the gate on stops


def trainer(room: int = 40_960) -> SimpleNamespace:
    config = SimpleNamespace(max_position_embeddings=room, num_attention_heads=2, hidden_size=8, num_hidden_layers=1)
    model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: config))
    model.eval = lambda: model
    return SimpleNamespace(
        model=model, accelerator=SimpleNamespace(unwrap_model=lambda m: m), is_deepspeed_enabled=False,
        is_fsdp_enabled=False, args=SimpleNamespace(per_device_eval_batch_size=64),
    )  # fmt: skip


def demonstrations(length: int, n: int = 80, prompt: int = 10) -> SimpleNamespace:
    row = {"input_ids": [5] * prompt + [7] * (length - 1) + [2], "labels": [-100] * prompt + [7] * (length - 1) + [2]}
    return SimpleNamespace(train=None, test=Dataset.from_list([row] * n))


HOURS = 10_000.0  # seconds of training that leave time for every prompt
TOKENIZER = SimpleNamespace(pad_token_id=0)


@pytest.fixture
def perfect(monkeypatch):
    """A policy that repeats every demonstration of so many tokens word for word; what it was asked is kept."""
    asked: dict = {}

    def speak(length: int, seconds: Callable[[int], float] = lambda group: 1.0) -> dict:
        def complete(_policy, _tokenizer, prompts, *, max_new_tokens, **settings):
            asked.update(prompts=len(prompts), tokens=max_new_tokens, **settings)
            for index, _ in enumerate(prompts):
                ids = ([7] * (length - 1) + [2])[:max_new_tokens]
                yield index, [generate.Completion(ids, "", ids[-1] == 2)]

        monkeypatch.setattr(measuring, "complete", complete)
        monkeypatch.setattr(measuring, "_seconds", lambda _policy, prompts, _tokens, _pad: seconds(len(prompts)))
        return asked

    return speak


@pytest.mark.parametrize("length", [20, 600, 3000])
def test_a_policy_that_repeats_its_demonstrations_stops(perfect, length):
    asked = perfect(length)
    found = measuring.stop_rate(trainer(), demonstrations(length), TOKENIZER, HOURS)
    assert found == {"stops": 1.0, "stops_prompts": 64} and asked["tokens"] == 2 * length
    (check,) = gates.sft(found)
    assert check["passed"] and "of 64 prompts" in check["why"]


@pytest.mark.parametrize(
    ("trained", "at_once", "prompts", "batch"),
    [(400, 8, 40, 8), (400, 16, 40, 8), (160, 64, 16, 8), (4000, 64, 64, 64), (2, 8, 16, 8)],
)
def test_stopping_is_measured_for_a_quarter_of_the_training_at_most(perfect, trained, at_once, prompts, batch):
    """A batch of 8 takes 20 s (5 s on a quicker machine), a larger one 10 s and 2 s a row. A quarter of 400 s are 5 batches
    of 8, which is more than 2 of 16 (42 s). One of 64 takes 138 s: more than 160 / 4. Ten seconds are always there."""
    asked = perfect(1000, lambda group: 10.0 + 2 * group if group > 8 else 5.0 if trained < 10 else 20.0)
    one = trainer()
    one.args.per_device_eval_batch_size = at_once
    found = measuring.stop_rate(one, demonstrations(1000), TOKENIZER, trained)
    assert found["stops_prompts"] == asked["prompts"] == prompts and asked["batch_size"] == batch


def test_a_training_that_is_too_short_is_not_measured(perfect):
    """Neither on fewer prompts nor on shorter answers; and what was not measured does not hold up the next stage."""
    asked = perfect(1000, lambda group: 30.0)
    with pytest.raises(
        RunError, match=r"too short for it: 8 answers of up to 2,000 tokens may take 30 s here, more than the 25 s"
    ):
        measuring.stop_rate(trainer(), demonstrations(1000), TOKENIZER, 100.0)
    assert not asked


def test_the_time_of_a_batch_is_told_from_a_few_tokens(monkeypatch):
    """Reading a token takes 0.1 s, a step 0.5 s, and the first call of all a minute more: three prompts of at most 10
    tokens take 3 s to read at most, and 1,000 steps 500 s."""
    clock, calls = [0.0], []

    def sample(_model, prompts, *, max_new_tokens, **_):
        calls.append((sum(map(len, prompts)), max_new_tokens))
        clock[0] += 0.1 * calls[-1][0] + 0.5 * (max_new_tokens - 1) + (60 if len(calls) == 1 else 0)

    monkeypatch.setattr(measuring, "sample", sample)
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: clock[0])
    assert measuring._seconds(None, [[5] * 10, [5] * 4, [5] * 7], 1000, 0) == pytest.approx(3 + 500)
    assert calls == [(3, 1), (3, 1), (3, 5), (10, 1)]


def test_the_room_of_the_model_bounds_an_answer_not_below_the_demonstration(perfect):
    """610 of 1,024 positions are a prompt and a demonstration of 600 tokens: an answer may have 1,014."""
    asked = perfect(600)
    assert measuring.stop_rate(trainer(room=1024), demonstrations(600), TOKENIZER, HOURS)["stops"] == 1.0
    assert asked["tokens"] == 1014
    assert measuring.stop_rate(trainer(room=610), demonstrations(600), TOKENIZER, HOURS)["stops"] == 1.0
    assert asked["tokens"] == 600


def test_an_answer_is_the_first_that_is_learnt():
    """Not all turns of a conversation together, and not what stands between them."""
    labels = [-100, -100, 7, 7, 2, -100, -100, 7, 2]
    assert measuring._first_answer(list(range(9)), labels) == ([0, 1], 3)


def test_the_cache_bounds_how_many_answer_at_once(perfect):
    """2 x 28 layers x 8 heads x 128 = 57,344 floats a token, a quarter of it counted: 2^28 / (1,210 x 14,336) = 15.5."""
    asked, one = perfect(600), trainer()
    config = one.model.config.get_text_config()
    config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.num_hidden_layers = 16, 8, 128, 28
    measuring.stop_rate(one, demonstrations(600), TOKENIZER, HOURS)
    assert asked["batch_size"] == 15


# ---------------------------------------------------------------------------------------- a measurement that cannot be


class Notes:
    main = True

    def __init__(self):
        self.record: dict = {}

    @property
    def not_measured(self) -> dict:
        return self.record.get("not_measured", {})

    def note(self, **facts) -> None:
        self.record |= facts


def fails(error: Exception):
    def measure() -> dict:
        raise error

    return measure


def test_what_fails_is_recorded_with_its_sentence(capsys):
    run = Notes()
    found = measuring.take(
        run,
        {
            "a": fails(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 74.19 GiB.\nmore")),
            "b": lambda: {"b": 1.0},
            "c": fails(RunError("mine.py:score gave None as a reward")),
            "d": fails(MemoryError()),
        },
    )
    assert found == {"b": 1.0} and set(run.not_measured) == {"a", "c", "d"}
    assert run.not_measured["a"].startswith("OutOfMemoryError: CUDA out of memory. Tried to allocate 74.19 GiB. more (")
    assert run.not_measured["c"] == "mine.py:score gave None as a reward"
    assert "not measured: a: OutOfMemoryError" in capsys.readouterr().out


@pytest.mark.parametrize("error", [NotFinite("eval_loss is nan"), AssertionError("ours"), KeyError("ours")])
def test_what_is_no_failed_measurement_is_raised(error):
    with pytest.raises(type(error)):
        measuring.take(Notes(), {"a": fails(error)})


@pytest.mark.parametrize(
    ("stage", "what", "name"),
    [("sft", "complete", "stops"), ("sft", "held_out", "held-out loss"), ("dpo", "held_out", "held-out pairs"),
     ("pretrain", "held_out", "held-out text"), ("reward", None, "held-out pairs")],
)  # fmt: skip
def test_a_saved_run_stays_a_parent(monkeypatch, tmp_path, world, stage, what, name):
    def no_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(*((reward, "measure") if what is None else (measuring, what)), no_memory)
    out = str(tmp_path / "run")
    words = [f"recipes/{stage}.py", *stage_arguments(stage, world), "--max_steps", "1", "--output_dir", out]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(f"recipes/{stage}.py", run_name="__main__")
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["status"] == "complete" and set(record["not_measured"]) == {name}
    assert (tmp_path / "run/model.safetensors").is_file()
    if stage in ("sft", "reward"):
        assert (gates.read(out) or {})["not_measured"] == record["not_measured"]
    if name != "held-out loss":
        return
    from align.evaluate.page import tables
    from align.evaluate.results import Gate, read

    (gate,) = gates.of_parents([out])
    assert [row[4] for row in tables.gates([read(Gate, gate)]).rows] == ["failed", "not measured"]  # it does not stop


# ------------------------------------------------------------------------------------------------ intervals by prompt


def test_pairs_of_one_ranking_are_not_independent():
    """60 prompts with 15 pairs each, right with a probability of the prompt's own (mean 2/3): an interval of 95 % holds
    2/3 in most of 100 draws; Wilson's over 900 pairs does in two of three."""
    from align import stats

    rng, held = np.random.default_rng(0), {"pairs": 0, "prompts": 0}
    for _ in range(100):
        own = rng.beta(2, 1, size=(60, 1))
        right = (rng.random((60, 15)) < own).astype(float)
        found = reward.by_prompt(torch.tensor(right.ravel()), [i for i in range(60) for _ in range(15)])
        low, high = stats.wilson(right.sum(), right.size)
        held["prompts"] += found.low <= 2 / 3 <= found.high
        held["pairs"] += low <= 2 / 3 <= high
    assert held["prompts"] >= 90 > 80 > held["pairs"]


def test_implicit_rewards_have_an_interval_over_prompts(monkeypatch):
    from align.evaluate import extras

    rows = Dataset.from_list(
        [{"prompt_ids": [p], "chosen_ids": [1], "rejected_ids": [2]} for p in range(10) for _ in range(6)]
    )

    def statistics(_model, _reference, prompts, answers, **_):
        gain = torch.tensor([1.0 if (p[0] < 7) == (a == [1]) else 0.0 for p, a in zip(prompts, answers, strict=True)])
        return {"logps": gain, "ref_logps": torch.zeros(len(prompts))}

    monkeypatch.setattr(extras, "pairs", lambda *_: rows)
    monkeypatch.setattr(generate, "sequence_statistics", statistics)
    bench = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0), reference=None)
    found = extras.implicit(bench, SimpleNamespace(per_device_eval_batch_size=8), None)
    assert found.value == pytest.approx(0.7) and (found.n, found.prompts) == (60, 10)
    assert found.high - found.low > 0.4  # Wilson's of 60 pairs: 0.23


def test_yes_or_no_grades_have_an_interval_over_prompts():
    from align.evaluate import policy

    rows = [{"index": p, "rates": {"kind": p < 5}} for p in range(10) for _ in range(8)]
    found = policy.rates(rows)["kind"]
    assert found.value == 0.5 and (found.n, found.prompts) == (80, 10) and found.high - found.low > 0.5
