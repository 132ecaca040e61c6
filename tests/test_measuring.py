"""What is measured around training: how much at once, on how many prompts, and what becomes of a run where it fails."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
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


LONG = 10**9  # tokens of training that leave some for every prompt
TOKENIZER = SimpleNamespace(pad_token_id=0)


@pytest.fixture
def perfect(monkeypatch):
    """A policy that repeats every demonstration of so many tokens word for word; what it was asked is kept."""
    asked: dict = {}

    def speak(length: int) -> dict:
        def complete(_policy, _tokenizer, prompts, *, max_new_tokens, **settings):
            asked.update(prompts=len(prompts), tokens=max_new_tokens, **settings)
            for index, _ in enumerate(prompts):
                ids = ([7] * (length - 1) + [2])[:max_new_tokens]
                yield index, [generate.Completion(ids, "", ids[-1] == 2)]

        monkeypatch.setattr(measuring, "complete", complete)
        return asked

    return speak


@pytest.mark.parametrize("length", [20, 600, 3000])
def test_a_policy_that_repeats_its_demonstrations_stops(perfect, length):
    asked = perfect(length)
    found = measuring.stop_rate(trainer(), demonstrations(length), TOKENIZER, LONG)
    assert found == {"stops": 1.0, "stops_prompts": 64} and asked["tokens"] == 2 * length
    (check,) = gates.sft(found)
    assert check["passed"] and "of 64 prompts" in check["why"]


@pytest.mark.parametrize(
    ("trained", "prompts"),
    [(2_048_000, 64), (2_047_999, 63), (640_000, 20), (256_000, 8)],
)
def test_how_many_prompts_is_told_from_the_tokens_trained_on(perfect, trained, prompts):
    """2,000 tokens an answer: 64 of them are 128,000, a sixteenth of 2,048,000. No clock is asked."""
    asked = perfect(1000)
    found = measuring.stop_rate(trainer(), demonstrations(1000), TOKENIZER, trained)
    assert found["stops_prompts"] == asked["prompts"] == prompts and asked["batch_size"] == 64


def test_a_short_training_has_tokens_for_short_answers(perfect):
    """4,096 are always there: 64 answers of 64 tokens."""
    perfect(32)
    assert measuring.stop_rate(trainer(), demonstrations(32), TOKENIZER, 100)["stops_prompts"] == 64
    assert measuring.stop_rate(trainer(), demonstrations(64), TOKENIZER, 100)["stops_prompts"] == 32


def test_a_training_that_is_too_short_is_not_measured(perfect):
    """Neither on fewer prompts nor on shorter answers; and what was not measured does not hold up the next stage."""
    asked = perfect(1000)
    with pytest.raises(
        RunError, match=r"too short for it: 8 answers of up to 2,000 tokens may be 16,000 tokens, more than the 15,999"
    ):
        measuring.stop_rate(trainer(), demonstrations(1000), TOKENIZER, 255_999)
    assert not asked


def test_what_a_gate_could_not_measure_is_said_by_it_and_by_the_next_stage(tmp_path, capsys):
    from align.run import parse

    (tmp_path / "run.json").write_text(json.dumps({"status": "complete"}))
    gates.keep(tmp_path, [], missing={"stops": "the training was too short"})
    assert "GATE NOT MEASURED: stops (the training was too short)" in capsys.readouterr().out
    assert parse._parent_problems({"model_name_or_path": str(tmp_path)}) == []
    assert "its gate could not measure stops: the training was too short" in capsys.readouterr().out


def test_the_room_of_the_model_bounds_an_answer_not_below_the_demonstration(perfect):
    """610 of 1,024 positions are a prompt and a demonstration of 600 tokens: an answer may have 1,014."""
    asked = perfect(600)
    assert measuring.stop_rate(trainer(room=1024), demonstrations(600), TOKENIZER, LONG)["stops"] == 1.0
    assert asked["tokens"] == 1014
    assert measuring.stop_rate(trainer(room=610), demonstrations(600), TOKENIZER, LONG)["stops"] == 1.0
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
    measuring.stop_rate(one, demonstrations(600), TOKENIZER, LONG)
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


TOGETHER = """
import sys
from datetime import timedelta
from types import SimpleNamespace
import torch, torch.distributed as dist
from align.run import launch
from align.train import measuring
rank, waits = int(sys.argv[3]), sys.argv[2] == "waits"
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2)
measuring.PATIENCE = timedelta(seconds=3)
run = SimpleNamespace(main=rank == 0, not_measured={}, note=lambda not_measured: run.not_measured.update(not_measured))
def measure():
    if rank == 1:
        raise torch.OutOfMemoryError("CUDA out of memory")
    if waits:
        dist.all_reduce(torch.ones(1))
    return {"a": 1}
def main():
    found = measuring.take(run, {"before": lambda: {"b": 2}, "held-out loss": measure})
    assert found == {"b": 2} and list(run.not_measured) == ["held-out loss"], found
launch.run(main)
"""


@pytest.mark.parametrize("waits", [False, True])
def test_what_fails_on_one_process_fails_on_all(waits, tmp_path):
    """Nobody counts what another could not measure, and nobody waits for it for ever."""
    (tmp_path / "both.py").write_text(TOGETHER)
    command = [sys.executable, str(tmp_path / "both.py"), str(tmp_path / "meet"), "waits" if waits else "goes on"]
    both = [subprocess.Popen([*command, str(rank)], env={**os.environ, "RANK": str(rank), "PYTHONPATH": str(ROOT)},
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for rank in (0, 1)]  # fmt: skip
    (out, _), (_, error) = [one.communicate(timeout=120) for one in both]
    assert [one.returncode for one in both] == [int(waits)] * 2, error
    if waits:
        assert "error: held-out loss could not be measured on process 1 of 2, and the others wait for it" in error
    else:
        assert out.count("not measured: held-out loss: OutOfMemoryError: CUDA out of memory") == 1


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


def test_five_answers_that_all_stop_are_no_certainty():
    """Wilson's interval of 5 of 5 begins at 0.566."""
    from align.evaluate import policy

    measured = dict(completion="a b", stopped=True, tokens=2, length=2, kl=0.0, entropy=1.0, repetition=0.0)
    found = policy.summary([{"index": p, **measured} for p in range(5) for _ in range(3)]).stops
    assert (found.value, found.n, found.prompts, found.high) == (1.0, 15, 5, 1.0)
    assert found.low == pytest.approx(0.566, abs=1e-3)


def test_yes_or_no_grades_have_an_interval_over_prompts():
    from align.evaluate import policy

    rows = [{"index": p, "rates": {"kind": p < 5}} for p in range(10) for _ in range(8)]
    found = policy.rates(rows)["kind"]
    assert found.value == 0.5 and (found.n, found.prompts) == (80, 10) and found.high - found.low > 0.5


def test_a_log_file_gets_lines_instead_of_a_bar(monkeypatch, capsys):
    """Of a bar every drawing would stay: 40 KB for half a minute."""
    from types import SimpleNamespace as Some

    from align.train import progress

    clock = iter([100.0, 129.0, 130.5, 130.5, 150.0, 161.0, 161.0, 4000.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    lines, state = progress.LogLines(), Some(global_step=10, max_steps=2000, is_world_process_zero=True)
    lines.on_train_begin(None, state, None)  # goes on after step 10
    for step, loss in ((20, 2.0), (71, 1.5), (80, 1.25), (132, 1.125)):
        state.global_step = step
        lines.on_log(None, state, None, logs={"loss": loss, "grad_norm": 9.0})
        lines.on_step_end(None, state, None)
    state.global_step = 2000
    lines.on_train_end(None, state, None)
    assert capsys.readouterr().err.splitlines() == [
        "step 71 of 2,000, 0:30 so far, about 16:04 left, loss 1.5",  # 30.5 s for 61 steps, half a second each: 964.5 s
        "step 132 of 2,000, 1:01 so far, about 15:34 left, loss 1.12",
        "step 2,000 of 2,000, 1:05:00 so far, loss 1.12",
    ]


def test_a_measurement_tells_how_far_it_is(monkeypatch, capsys):
    """Three models in 90 and 100 seconds and 60: after the second, one is left at 95 seconds each."""
    from align.train import progress

    clock = iter([0.0, 90.0, 190.0, 250.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(progress.told(["sft", "dpo", "ppo"], "models measured")) == ["sft", "dpo", "ppo"]
    assert capsys.readouterr().err.splitlines() == [
        "models measured: 1 of 3, 1:30 so far, about 3:00 left",
        "models measured: 2 of 3, 3:10 so far, about 1:35 left",
        "models measured: 3 of 3, 4:10 so far",
    ]
