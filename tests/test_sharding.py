"""Every trainer, full and LoRA, under every way to shard, with two real processes on this machine.

A cell passes when training runs in two processes of the kind that was asked for, its loss trace agrees with one
process at the same global batch within TOLERANCE, and what is saved loads and gives the same logits. `make matrix`
runs all cells and writes them to `benchmarks/sharding.json`, which the table in docs/gpus.md is checked against; `make test` runs some.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, launch, losses, run_recipe, stage_arguments
from safetensors.torch import load_file

TOLERANCE = 1e-3  # nats of loss, every step
KINDS = ["ddp", "zero2", "zero3", "fsdp2"]
CELLS = [("pretrain", False)] + [(s, lora) for s in ("sft", "reward", "dpo", "ppo") for lora in (False, True)]
EVERY = [(stage, lora, kind) for stage, lora in CELLS for kind in KINDS]
SOME = [
    ("sft", True, "ddp"),
    ("reward", True, "zero3"),
    ("dpo", False, "zero2"),
    ("ppo", False, "ddp"),
    ("ppo", True, "fsdp2"),
    ("sft", False, "fsdp2"),
]
RESULTS = ROOT / "benchmarks/sharding.json"


def arguments(stage: str, world: Path, lora: bool) -> list[str]:
    extra = ["--use_peft", "--lora_r", "4"] if lora else []
    return [*stage_arguments(stage, world), *extra, "--max_steps", "3", "--learning_rate", "1e-3"]


@pytest.fixture(scope="session")
def single(world, tmp_path_factory):
    """One process, each cell's reference; made when first asked for."""
    folder = tmp_path_factory.mktemp("single")

    def run(stage: str, lora: bool) -> Path:
        out = folder / f"{stage}-{lora}"
        if not out.exists():
            run_recipe(stage, *arguments(stage, world, lora), "--output_dir", str(out))
        return out

    return run


def logits(run: Path, stage: str, lora: bool) -> torch.Tensor:
    """What a fresh load of a saved run computes."""
    from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    if stage == "reward":
        cls, extra = (
            (AutoPeftModelForSequenceClassification if lora else AutoModelForSequenceClassification),
            {"num_labels": 1},
        )
    else:
        cls, extra = (AutoPeftModelForCausalLM if lora else AutoModelForCausalLM), {}
    with torch.no_grad():
        return cls.from_pretrained(run, **extra).eval()(torch.tensor([[5, 6, 7, 8, 9]])).logits


def two_processes(stage: str, kind: str, *rest: str, check: bool = True):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"accelerate_configs/{kind}.yaml",
               "--num_processes", "2", "--main_process_port", "0", f"recipes/{stage}.py"]  # fmt: skip
    return launch([*command, *rest], check=check)


def cell(stage: str, lora: bool, kind: str, world: Path, single, out: Path, *more: str) -> dict:
    """Train one cell in two processes and compare it with one process."""
    done = two_processes(stage, kind, *arguments(stage, world, lora), *more, "--output_dir", str(out))
    assert "FutureWarning" not in done.stderr and "loss_type" not in done.stdout, "the loss is the one of one process"
    reference = single(stage, lora)
    run = json.loads((out / "run.json").read_text())
    names = {"ddp": "DDP", "zero2": "ZeRO-2", "zero3": "ZeRO-3", "fsdp2": "FSDP2"}
    assert (run["status"], run["world_size"], run["sharding"]) == ("complete", 2, names[kind])
    assert run["global_batch_size"] == json.loads((reference / "run.json").read_text())["global_batch_size"]
    one, two = losses(reference), losses(out)
    assert len(one) == len(two) == 3
    difference = max(abs(a - b) for a, b in zip(one, two, strict=True))
    assert difference < TOLERANCE, (one, two)
    saved = [tensor for file in out.glob("*.safetensors") for tensor in load_file(str(file)).values()]
    assert saved and all(tensor.numel() and tensor.isfinite().all() for tensor in saved)
    if lora:
        assert any(
            tensor.any() for f in out.glob("*.safetensors") for n, tensor in load_file(str(f)).items() if "lora_B" in n
        )
    apart = (logits(out, stage, lora) - logits(reference, stage, lora)).abs().max().item()
    assert apart < 2e-2, apart
    return {"result": "works", "loss_difference": difference, "logit_difference": apart}


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "lora", "kind"), SOME)
def test_some_cells(stage, lora, kind, world, single, tmp_path):
    cell(stage, lora, kind, world, single, tmp_path / "run")


def resumed(lora: bool, kind: str, world: Path, out: Path) -> float:
    """PPO in two processes, 2 + 2 rollouts against 4: the largest difference of a saved weight, critic included."""
    extra = ["--use_peft"] if lora else []
    given = [*stage_arguments("ppo", world), *extra, "--max_steps", "4", "--save_steps", "2", "--save_total_limit", "3"]
    two_processes("ppo", kind, *given, "--output_dir", str(out / "straight"))
    shutil.copytree(out / "straight/checkpoint-2", out / "run/checkpoint-2")
    (out / "run/run.json").write_text(json.dumps({"status": "running"}))
    two_processes("ppo", kind, *given, "--output_dir", str(out / "run"), "--resume_from_checkpoint", "last")
    files = [*(out / "straight").glob("*.safetensors"), *(out / "straight/critic").glob("*.safetensors")]
    apart = 0.0
    for file in files:
        one, two = load_file(str(file)), load_file(str(out / "run" / file.relative_to(out / "straight")))
        apart = max(apart, *((one[name] - two[name]).abs().max().item() for name in one))
    assert len(files) == 2
    return apart


@pytest.mark.slow
def test_ppo_resumes_under_zero3(world, tmp_path):
    assert resumed(False, "zero3", world, tmp_path) < 1e-6


@pytest.mark.matrix
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lora", [False, True])
def test_ppo_resumes_under_every_kind(lora, kind, world, tmp_path):
    assert resumed(lora, kind, world, tmp_path) < 1e-6


@pytest.mark.matrix
@pytest.mark.parametrize(("stage", "lora", "kind"), EVERY)
def test_every_cell(stage, lora, kind, world, single, tmp_path):
    found = cell(stage, lora, kind, world, single, tmp_path / "run")
    table = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    table[f"{stage} {'LoRA' if lora else 'full'} {kind}"] = found
    RESULTS.write_text(json.dumps(dict(sorted(table.items())), indent=1) + "\n")


@pytest.mark.matrix
@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_adapters_under_zero3_with_checkpointing(stage, world, single, tmp_path):
    """TRL wants reentrant checkpointing there, under a name that transformers no longer reads: the other is as good."""
    cell(stage, True, "zero3", world, single, tmp_path / "run", "--activation_checkpointing", "true")


@pytest.mark.slow
def test_one_process_where_two_were_asked_for_is_an_error(world, tmp_path):
    """`--cpu` makes accelerate start one process without a word; the recipe says so and stops."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "recipes/sft.py"]
    done = launch([*command, *stage_arguments("sft", world), "--output_dir", str(tmp_path / "x")], check=False)
    assert (
        done.returncode != 0 and "this process sees 1" in done.stderr and "accelerate_configs/ddp.yaml" in done.stderr
    )
    assert not (tmp_path / "x").exists()


def test_the_table_in_the_docs_is_what_was_measured():
    """The support table of docs/gpus.md, cell by cell, against the last `make matrix`."""
    table = json.loads(RESULTS.read_text())
    rows = re.findall(r"^\| (\w+) (full|LoRA) \|(.+)\|$", (ROOT / "docs/gpus.md").read_text(), re.MULTILINE)
    assert len(rows) == len(CELLS)
    for stage, how, cells in rows:
        for kind, text in zip(["one", *KINDS], cells.split("|"), strict=True):
            if kind != "one":
                assert table[f"{stage} {how} {kind}"]["result"] == "works", (stage, how, kind)
                assert text.strip() == "yes", (stage, how, kind, text)
