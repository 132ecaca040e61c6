"""The script for a GPU, at tiny sizes on a CPU: what it counts, what it launches, what it writes."""

from __future__ import annotations

import json
import sys

import gpu
import gpu_cases
import ppo
import pytest
from conftest import ROOT, launch


def test_operations_of_a_token_by_hand():
    shape = dict(hidden_size=4, layers=2, heads=2, kv=1, vocab=10, mlp=6)
    # a layer: query and output 16 each, key and value 8 each, three of 4 x 6; the output layer 4 x 10
    weights = 2 * (16 + 16 + 8 + 8 + 3 * 24)
    # of 2 x 5 = 10 tokens a token attends to half: scores and sums, 2 operations each, 4 wide, 2 layers
    attention = 2 * (10 / 2) * 2 * 2 * 4
    count = gpu_cases.flops_per_token
    assert count("reward", dict(how={}, words=5), shape) == 3 * (2 * weights + attention)
    assert count("sft", dict(how={}, words=5), shape) == 3 * (2 * (weights + 20) + attention)
    assert count("sft", dict(how={"use_peft": True}, words=5), shape) == 2 * (2 * (weights + 20) + attention)
    assert count("dpo", dict(how={"use_peft": True}, words=5), shape) == 3 * (2 * (weights + 40) + attention)


def test_the_weights_that_are_counted_are_the_models(tmp_path):
    from transformers import AutoModelForCausalLM

    shape = gpu_cases.SHAPES["tiny"]
    made = gpu_cases.make(shape, tmp_path, 8, True)
    model = AutoModelForCausalLM.from_pretrained(made["policy"])
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2)  # the embeddings are the output layer
    attention = 2 * shape["layers"] * 2 * 8 * shape["hidden_size"]
    assert gpu_cases.flops_per_token("dpo", dict(how={}, words=8), shape) == 4 * (2 * matrices + attention)


def test_every_check_has_flags_that_its_recipe_takes(tmp_path, monkeypatch):
    from test_docs import asked

    from align.run.flags import Flags

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # also the checks of packages that are not here
    made = dict.fromkeys(("policy", "reward", "chats", "pairs", "prompts", "texts"), "x")
    found = gpu_cases.checks(made, made, tmp_path)
    monkeypatch.undo()
    assert {"sft-4bit", "sft-flash-packing", "ppo-resumed", "accelerate-launch"} <= set(found)
    for command in (command for chain in found.values() for command in chain if "-c" not in command):
        recipe = next(word for word in command if word.startswith("recipes/"))
        known = {*Flags(asked(recipe).classes).known, "config_file"}
        assert {word[2:] for word in command if word.startswith("--")} <= known, command


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sides", "unit"),
    [
        ("sft-1b-lora", ["align", "trl"], "tokens"),
        ("ppo-1b-lora", ["align"], "episodes"),
        pytest.param("ppo-1b-lora", ["trl"], "episodes", marks=pytest.mark.parity),
    ],
)
def test_timed_cases_at_a_tiny_size(name, sides, unit, tmp_path):
    out = tmp_path / "gpu.json"
    done = launch([sys.executable, "benchmarks/gpu.py", "--tiny", "--minutes", "8", "--output", out,
                   "--only", name, "--sides", *sides, "--baseline", sys.executable])  # fmt: skip
    for side in sides:
        row = json.loads(out.read_text())["cases"][name][side]
        assert row["status"] == "ok" and row[f"{unit}_per_second"] > 0 and row["peak"] > 0, row
    assert f"{unit}/s" in done.stdout


def test_a_case_that_fails_is_told_and_stops_nothing(tmp_path, monkeypatch, capsys):
    import argparse

    out = tmp_path / "gpu.json"
    session = gpu.Session(argparse.Namespace(minutes=1, tiny=True, output=str(out), baseline="nowhere"), tmp_path)
    monkeypatch.setattr(session, "made", lambda *_, **__: {"policy": "nowhere", "chats": "nowhere", "pairs": "nowhere"})
    gpu.timed(session, "sft-1b-lora", True, ["align"])
    row = json.loads(out.read_text())["cases"]["sft-1b-lora"]["align"]
    assert row["status"] == "failed" and "nowhere" in row["said"]
    assert "align: failed" in capsys.readouterr().out
    gpu.timed(session, "ppo-1b-lora", True, ["trl"])
    row = json.loads(out.read_text())["cases"]["ppo-1b-lora"]["trl"]
    assert row["status"] == "not run" and "no TRL 1.12 at nowhere (make parity" in row["said"]
    session.ends = 0.0
    assert session.process(["true"]) == dict(status="not run", said="the time was up")


def test_what_a_bare_machine_lacks_is_what_was_tried():
    pins = set((ROOT / "constraints.txt").read_text().split())
    needs = {line for line in (ROOT / "benchmarks/gpu-needs.txt").read_text().splitlines() if line[0] != "#"}
    loose = {"bitsandbytes", "xxhash"}  # not pinned: a GPU's alone; any version
    assert {line for line in needs if line.split("==")[0] not in loose} <= pins


def test_a_command_line_of_settings():
    assert ppo.command_line(dict(a=1, b=["x", "y"], c=True)) == ["--a", "1", "--b", "x", "y", "--c", "True"]
