"""A CPU's precision: measured once, bf16 for models that are large enough where it pays, fp32 for all that is trained."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, launch, losses, make_tokenizer, stage_arguments
from trl import ModelConfig, SFTConfig

from align.models import adapters, checkpoints, weights
from align.run import device
from align.run.arguments import BatchArguments, DataArguments
from align.run.errors import ConfigError
from align.run.parse import parse

FAST, SLOW, CLOSE = device.Rates(80, 200), device.Rates(80, 0.5), device.Rates(80, 100)
LORA = ["--use_peft", "--lora_r", "4"]


@pytest.fixture(autouse=True)
def apart():
    """accelerate keeps the first trainer's precision, and a process its measurement."""
    from accelerate.state import AcceleratorState, PartialState

    yield
    AcceleratorState._reset_state(True)
    PartialState()


@pytest.fixture
def machine(monkeypatch):
    """Let this machine have such rates."""

    def has(rates: device.Rates) -> None:
        monkeypatch.setattr(device, "_measured", [])
        monkeypatch.setattr(device, "measure", lambda: rates)
        monkeypatch.delenv(device.RATES, raising=False)

    return has


def read(*flags: str, size: int | None = 135_000_000):
    """`bf16` and `dtype` of a recipe's settings, with a model of `size` parameters."""
    argv = ["--output_dir", "out", "--model_name_or_path", "owner/name", "--dataset_name", "owner/rows", *flags]
    *_, model_args, args = parse(
        BatchArguments, DataArguments, ModelConfig, SFTConfig, nano=None, size=lambda _: size, argv=argv
    )
    assert args.mixed_precision == ("bf16" if args.bf16 else "no")
    return args.bf16, model_args.dtype


def test_the_measurement_is_of_two_products_and_leaves_the_threads():
    before = torch.get_num_threads(), torch.get_rng_state()
    rates = device.measure()
    assert rates.fp32 > 0 and rates.bf16 > 0
    assert torch.get_num_threads() == before[0] and torch.equal(torch.get_rng_state(), before[1])


def test_a_product_without_bf16_instructions_is_timed_once(monkeypatch):
    """190 times slower than fp32, a product takes a tenth of a second: one is enough to know."""
    calls, clock = [], SimpleNamespace(now=0.0)

    def slow(tokens, weight):
        calls.append(tokens.dtype)
        clock.now += 0.19 if tokens.dtype == torch.bfloat16 else 0.001
        return tokens

    monkeypatch.setattr(torch.nn.functional, "linear", slow)
    monkeypatch.setattr(device.time, "perf_counter", lambda: clock.now)
    rates = device.measure()
    assert calls.count(torch.bfloat16) == 1 and calls.count(torch.float32) == 20
    assert rates.fp32 / rates.bf16 == pytest.approx(190)


def test_where_bf16_pays_it_is_the_default(machine, capsys):
    machine(FAST)
    assert read() == (True, "float32")
    assert read(*LORA) == (True, "bfloat16")
    assert (
        "precision: bf16, measured 200 GFLOP/s a core in bf16, 80 in fp32; --bf16 false for fp32"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("rates", [SLOW, CLOSE])
def test_where_it_does_not_pay_clearly_all_is_fp32(machine, capsys, rates):
    machine(rates)
    assert read(*LORA) == (False, "float32")
    assert "precision: fp32, measured" in capsys.readouterr().out


def test_the_margin_and_the_smallest_model(machine, monkeypatch):
    machine(device.Rates(100, 129))
    assert read() == (False, "float32")
    machine(device.Rates(100, 130))
    assert read() == (True, "float32")
    machine(FAST)
    monkeypatch.setattr(device, "measure", lambda: pytest.fail("a small model needs no measurement"))
    assert read(*LORA, size=19_999_999) == (False, "float32")
    assert read(*LORA, size=None) == (False, "float32")
    machine(FAST)
    assert read(size=20_000_000) == (True, "float32")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--bf16", "false"], (False, "float32")),
        (["--dtype", "float32"], (False, "float32")),
        (["--bf16", "true"], (True, "float32")),
        (["--dtype", "bfloat16"], (False, "bfloat16")),
    ],
)
def test_what_the_user_says_holds(machine, flags, expected):
    machine(FAST)
    assert read(*LORA, *flags) == expected


@pytest.mark.parametrize(
    ("launcher", "flags", "expected"),
    [
        ("bf16", ["--bf16", "false"], False),
        ("bf16", [], True),
        ("fp16", ["--bf16", "true"], True),
        ("no", [], False),
    ],
)
def test_a_launchers_precision_is_recorded_and_holds_only_where_the_recipe_was_told_none(
    machine, monkeypatch, launcher, flags, expected
):
    machine(SLOW)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    assert read(*flags)[0] is expected  # and `mixed_precision`, by which the trainer goes, says the same


def test_half_precision_leaves_no_default_that_contradicts_it(monkeypatch):
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    assert device.defaults(["bf16"], {"fp16": True}) == {"bf16": False}
    assert device.defaults(["bf16"], {}) == {"bf16": True}


@pytest.mark.parametrize("told", ["80", "fast", "80 200 3"])
def test_rates_in_the_environment_that_are_none_end_in_a_sentence(machine, monkeypatch, told):
    machine(FAST)
    monkeypatch.setenv(device.RATES, told)
    with pytest.raises(ConfigError, match=f"ALIGN_MATRIX_GFLOPS='{told}': expected two numbers"):
        read()


@pytest.mark.parametrize("flags", [["--bf16", "true"], ["--dtype", "bfloat16", *LORA]])
def test_bf16_where_it_is_slower_is_told_with_what_was_measured(machine, capsys, flags):
    machine(SLOW)
    read(*flags)
    said = capsys.readouterr().out
    assert said.count("note: bf16 was asked for, and here it is no faster: 0.5 GFLOP/s a core in bf16, 80 in fp32") == 1
    machine(FAST)
    read(*flags)
    assert "no faster" not in capsys.readouterr().out


def test_rates_are_measured_once_and_handed_down(machine, monkeypatch):
    machine(FAST)
    assert device.rates() == FAST
    monkeypatch.setattr(device, "measure", lambda: SLOW)
    assert device.rates() == FAST and device.facts() == {"matrix_gflops": {"fp32": 80, "bf16": 200}}
    machine(SLOW)
    monkeypatch.setenv(device.RATES, "80 200")
    assert device.rates() == FAST


@pytest.mark.parametrize(("recorded", "now"), [(FAST, SLOW), (SLOW, FAST)])
def test_a_resumed_run_keeps_its_precision(machine, tmp_path, recorded, now):
    """Whatever is measured when it goes on; what the user says then is compared with the record as ever."""
    machine(recorded)
    bf16, dtype = read(*LORA)
    out = tmp_path / "run"
    (out / "checkpoint-2").mkdir(parents=True)
    config = {"bf16": bf16, "dtype": dtype}
    (out / "run.json").write_text(json.dumps({"recipe": "sft", "status": "interrupted", "config": config}))
    machine(now)
    again = ["--output_dir", str(out), "--resume_from_checkpoint", "last", *LORA]
    assert read(*again) == (bf16, dtype)
    assert read(*again, "--bf16", "true")[0] is True


def test_the_size_is_told_by_a_checkpoints_files(world, tmp_path):
    from transformers import AutoModel

    whole = AutoModel.from_pretrained(world / "base")
    count = sum(weight.numel() for weight in whole.parameters())
    assert adapters.parameters(str(world / "base")) == count
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(world / "base")}))
    assert adapters.parameters(str(tmp_path)) == count
    assert adapters.parameters(str(tmp_path / "nothing")) is None


def test_a_new_models_size_is_told_by_its_settings(world):
    from align.train import pretrain

    settings = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                "num_attention_heads": 4, "tie_word_embeddings": True}  # fmt: skip
    values = {"model_config": settings, "tokenizer_name_or_path": str(world / "base")}
    # embeddings, per layer four square matrices, three of the MLP and two norms, and the last norm
    expected = len(make_tokenizer()) * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64
    assert pretrain.size(values) == pretrain.size(values | {"model_config": json.dumps(settings)}) == expected
    assert pretrain.size(values | {"model_config": "{"}) is None


@pytest.mark.parametrize(("rates", "expected"), [(FAST, torch.bfloat16), (SLOW, torch.float32)])
def test_a_model_that_is_only_read_is_read_in_what_is_faster(world, machine, monkeypatch, rates, expected):
    machine(rates)
    monkeypatch.setattr(device, "FROM", 1)
    model = checkpoints.load_trained(str(world / "base"), make_tokenizer())
    assert {weight.dtype for weight in model.parameters()} == {expected}
    monkeypatch.setattr(device, "FROM", 10**9)
    model = checkpoints.load_trained(str(world / "base"), make_tokenizer())
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo"])
def test_training_by_default_where_bf16_pays(world, tmp_path, machine, monkeypatch, stage):
    """Products in bf16, frozen weights in bf16, trained weights in fp32 and saved so; the record says what was measured.

    DPO begins at ln 2, PPO at a ratio of 1 (its engine stops otherwise) and, on the first rollout, a KL of 0.
    """
    from align.train import loop

    machine(FAST)
    monkeypatch.setattr(device, "FROM", 1)
    monkeypatch.chdir(ROOT)
    seen, real = {}, loop._train

    def spy(trainer, checkpoint):
        def hook(_module, _inputs):
            if torch.is_grad_enabled():
                seen["autocast"] = (
                    torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
                )

        layer = next(part for name, part in trainer.model.named_modules() if name.endswith("q_proj"))
        layer.register_forward_pre_hook(hook)
        result = real(trainer, checkpoint)
        seen["trained"] = {weight.dtype for weight in trainer.model.parameters() if weight.requires_grad}
        seen["frozen"] = {weight.dtype for weight in trainer.model.parameters() if not weight.requires_grad}
        return result

    monkeypatch.setattr(loop, "_train", spy)
    out = tmp_path / "run"
    words = [*stage_arguments(stage, world), *LORA, "--max_steps", "2", "--output_dir", str(out)]
    monkeypatch.setattr(sys, "argv", [f"recipes/{stage}.py", *words])
    runpy.run_path(f"recipes/{stage}.py", run_name="__main__")
    record = json.loads((out / "run.json").read_text())
    assert seen == {"autocast": True, "trained": {torch.float32}, "frozen": {torch.bfloat16}}
    assert record["config"]["bf16"] is True and record["config"]["dtype"] == "bfloat16"
    assert record["matrix_gflops"] == {"fp32": 80, "bf16": 200}
    from safetensors.torch import load_file

    saved = load_file(next(out.glob("adapter_model.safetensors")))
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
    if stage == "dpo":
        assert losses(out)[0] == pytest.approx(0.6931, abs=2e-2)  # of products in bf16
    if stage == "ppo":
        first = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
        assert first["objective/kl"] == 0


def test_the_arms_of_a_comparison_have_one_precision(machine, monkeypatch, tmp_path):
    """An arm that was trained says by which rates; what is measured now may be on the other side of the margin."""
    from align.compare import arms

    def arm(**recorded):
        return SimpleNamespace(stage=object(), record=recorded)

    monkeypatch.setenv(device.RATES, "")
    monkeypatch.setattr(arms.adapters, "parameters", lambda _: 135_000_000)
    asked = SimpleNamespace(model_name_or_path="sft")
    for known, expected in (([arm()], SLOW), ([arm(), arm(matrix_gflops={"fp32": 80, "bf16": 200})], FAST)):
        machine(SLOW)
        arms._one_precision(known, asked)
        assert device.Rates(*map(float, os.environ[device.RATES].split())) == device.rates() == expected


def test_a_head_in_bf16_reads_a_slice_as_one_matrix(world):
    """Of [B, T, H] hidden states a slice is no contiguous tensor: torch would multiply it row by row, each with a copy
    of the vocabulary's matrix."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function._overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    model = checkpoints.load_trained(str(world / "base"), make_tokenizer(), dtype=torch.bfloat16)
    hidden = torch.ones(3, 5, model.config.hidden_size, dtype=torch.bfloat16)[:, -1:]
    seen: list[str] = []
    with torch.no_grad(), Watch():
        model.get_output_embeddings()(hidden)
    assert "mm" in seen and "bmm" not in seen


@pytest.mark.parametrize("bias", [False, True])
def test_a_small_change_is_not_rounded_away(bias):
    """A layer of ones times a vector of 1/64 gives 1, and steps of bf16 there are 2^-7 up and 2^-8 down. Inputs around
    it make outputs of all kinds, and changes of 2^-12 to each: PEFT adds them to what is rounded already, and none of
    them arrives. Added before, so many outputs move by a whole step that the mean moves by 2^-12."""
    from peft import LoraConfig, get_peft_model

    class One(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(64, 4096, bias=bias)

        def forward(self, x):
            return self.layer(x)

    torch.manual_seed(0)
    model = get_peft_model(One().to(torch.bfloat16), LoraConfig(r=1, lora_alpha=1, target_modules=["layer"]))
    layer = model.base_model.model.layer
    with torch.no_grad():
        layer.base_layer.weight.copy_(torch.randn(4096, 64) / 8 + 1 / 64)
        layer.lora_A["default"].weight.fill_(1 / 64)
        layer.lora_B["default"].weight.fill_(2.0**-12)
    hidden = torch.ones(16, 64)

    def moved():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            with model.disable_adapter():
                before = model(hidden)
            return (model(hidden).double() - before.double()).mean().item()

    assert moved() < 2.0**-13
    weights.round_once(model)
    assert moved() == pytest.approx(2.0**-12, rel=0.2)


@pytest.mark.parametrize("bias", [False, True])
def test_a_policy_that_has_learnt_nothing_is_its_reference_to_the_bit(bias):
    """The reference is the same layers with the change switched off; a bias has to be added to both in one way."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(
        torch.nn.Sequential(torch.nn.Linear(64, 256, bias=bias)), LoraConfig(r=4, target_modules=["0"])
    )
    weights.round_once(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for hidden in (torch.randn(16, 64), torch.randn(3, 5, 64)):
            policy = model(hidden)
            with model.disable_adapter():
                assert torch.equal(policy, model(hidden))


@pytest.mark.parametrize("use_rslora", [False, True])
def test_sampling_under_autocast_reads_factors_that_are_cast_once(world, use_rslora):
    """A scale of 2 is exact in bf16; another one is rounded once with the factor instead of with every product."""
    from peft import LoraConfig, get_peft_model

    from align.ppo.shared import folding, switching

    base = checkpoints.load_trained(str(world / "base"), make_tokenizer(), dtype=torch.bfloat16)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear", use_rslora=use_rslora)
    policy = get_peft_model(base, lora).eval()
    torch.manual_seed(0)
    for name, weight in policy.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape) * 0.1
    weights.round_once(policy)
    switch, ids, calls = switching.Switch(policy), torch.tensor([[25, 26, 27, 38]]), []
    matrices = [part for name, part in policy.named_modules() if name.endswith("lora_A.default")]
    for part in matrices:
        part.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        theirs = policy(ids).logits
        assert len(calls) == len(matrices)
        with folding.folded(switch):
            ours = policy(ids).logits
        assert len(calls) == len(matrices)  # PEFT's own way was left out
        assert torch.equal(policy(ids).logits, theirs) and len(calls) == 2 * len(matrices)
    torch.testing.assert_close(ours, theirs, atol=0.05 if use_rslora else 0, rtol=0)


@pytest.mark.slow
def test_two_processes_agree(world, tmp_path):
    """Each would measure something else; the first one's rates hold for both."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, runpy, sys\n"
        "from align.run import device\n"
        "device.FROM, rank = 1, os.environ['RANK']\n"
        "device.measure = lambda: device.Rates(80, 200 if rank == '0' else 1)\n"
        "from align.run import parse\n"
        "real = parse.device.precision\n"
        "def told(*given):\n"
        "    found = real(*given)\n"
        "    print(f'rank {rank} {found}\\n', end='', flush=True)\n"
        "    return found\n"
        "device.precision = told\n"
        f"sys.argv[0] = '{ROOT}/recipes/sft.py'\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    words = [*stage_arguments("sft", world), "--max_steps", "1", "--output_dir", str(tmp_path / "run")]
    done = launch([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", program, *words],
                  env={"PYTHONPATH": str(ROOT)})  # fmt: skip
    for rank in "01":
        assert f"rank {rank} {{'bf16': True}}" in done.stdout


def test_a_peak_is_of_the_process_itself_not_of_who_started_it():
    """A parent that holds 600 MB starts a small process: `getrusage` alone would say 600 MB of it."""
    held = bytearray(600 * 2**20)
    code = "from align.run.device import peak_resident_bytes as peak; print(peak())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert 2**20 < int(done.stdout) < len(held)


def test_a_peak_rises_with_what_is_held():
    before = device.peak_resident_bytes()
    held = bytearray(b"1") * (before + 64 * 2**20)
    assert device.peak_resident_bytes() >= len(held)
