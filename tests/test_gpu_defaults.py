"""What a GPU makes the default (bf16 weights, bf16 autocast, checkpointing), forced on a CPU, for every trainer of TRL's.

What is trained is fp32, checkpointing changes nothing, DPO's reference stays the parent, what is saved loads elsewhere.
"""

from __future__ import annotations

import functools
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT, losses, make_tokenizer, stage_arguments

from align.train import logits

GPU = ["--bf16", "true", "--gradient_checkpointing", "true", "--dtype", "bfloat16", "--max_steps", "2"]
FP32 = ["--max_steps", "2"]
LORA = ["--use_peft", "--lora_r", "4"]
HOWS = {
    "full": [],
    "lora": LORA,
    "dora": [*LORA, "--use_dora"],
    "rslora": [*LORA, "--use_rslora"],
    "saved": [*LORA, "--lora_modules_to_save", "lm_head"],
    "both": [*LORA, "--lora_modules_to_save", "embed_tokens", "lm_head"],
    "heads": [*LORA, "--lora_target_modules", "embed_tokens", "lm_head", "q_proj"],
    "one": [*LORA, "--lora_target_modules", "q_proj"],
}
SCORES = {name: how for name, how in HOWS.items() if name not in ("saved", "both", "heads")} | {
    "embeddings": [*LORA, "--lora_target_modules", "embed_tokens", "q_proj"],
}
SLOW = pytest.mark.slow
FUSED = logits.fused()  # TRL from 1.15 on
NO_HEADS = ("heads",) if FUSED else ()  # whose losses do not train LoRA on the head


@pytest.fixture
def train(monkeypatch, tmp_path, world):
    """Run a recipe in this process: its trainer, its folder, its record."""
    from align.train import loop

    monkeypatch.chdir(ROOT)
    seen: dict[str, Any] = {}
    real = loop._train

    def spy(trainer: Any, checkpoint: Any) -> Any:
        seen["trainer"] = trainer
        seen["dtypes"] = {n: p.dtype for n, p in trainer.model.named_parameters() if p.requires_grad}
        seen["began"] = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
        seen["frozen"] = {p.dtype for p in trainer.model.parameters() if not p.requires_grad}
        return real(trainer, checkpoint)

    monkeypatch.setattr(loop, "_train", spy)

    def run(stage: str, *flags: str, base: Path | None = None, name: str = "run") -> SimpleNamespace:
        arguments = stage_arguments(stage, world)
        for key, value in zip(flags, [*flags[1:], ""], strict=True):
            if key in arguments and key.startswith("--") and not value.startswith("--"):
                arguments[arguments.index(key) : arguments.index(key) + 2] = []
        if base is not None:
            arguments[arguments.index("--model_name_or_path") + 1] = str(base)
        out = tmp_path / name
        monkeypatch.setattr(sys, "argv", [f"recipes/{stage}.py", *arguments, *flags, "--output_dir", str(out)])
        runpy.run_path(f"recipes/{stage}.py", run_name="__main__")
        return SimpleNamespace(out=out, record=json.loads((out / "run.json").read_text()), **seen)

    return run


@pytest.fixture(scope="module")
def tied(tmp_path_factory) -> Path:
    """A checkpoint whose output layer is its embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tied")
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bare_logits(model: Any) -> torch.Tensor:
    """[1, T, V] or [1, 1], without accelerate's autocast around the forward pass."""
    forward = getattr(model, "_original_forward", model.forward)
    with torch.no_grad():
        return forward(input_ids=torch.tensor([[5, 6, 7, 8, 9]])).logits.float()


def check_run(done: SimpleNamespace, stage: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    assert done.record["status"] == "complete" and "not_measured" not in done.record
    assert set(done.dtypes.values()) == {torch.float32}, done.dtypes
    lora = (done.out / "adapter_config.json").exists()
    assert not lora or done.frozen == {torch.bfloat16}, "frozen weights need no fp32"
    assert all(torch.isfinite(torch.tensor(losses(done.out))))
    cls = AutoModelForSequenceClassification if stage == "reward" else AutoModelForCausalLM
    extra = {"num_labels": 1} if stage == "reward" else {}
    if lora:  # on the weights that it was trained on, which were read in bf16
        base = json.loads((done.out / "adapter_config.json").read_text())["base_model_name_or_path"]
        again = PeftModel.from_pretrained(cls.from_pretrained(base, dtype=torch.bfloat16, **extra).float(), done.out)
    else:
        again = cls.from_pretrained(done.out, dtype=torch.float32, **extra)
    again.eval()
    trained = done.trainer.accelerator.unwrap_model(done.trainer.model).eval().float()
    still = [name for name, p in trained.named_parameters() if name in done.began and torch.equal(p, done.began[name])]
    assert not still, f"trained, and not moved: {still[:5]}"
    for part in trained.modules():  # what let fp32 weights work in a trunk of bf16
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    torch.testing.assert_close(bare_logits(again), bare_logits(trained), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "how", [pytest.param(h, marks=() if h in ("full", "both", "heads") else SLOW) for h in HOWS if h not in NO_HEADS]
)
def test_sft(train, how):
    check_run(train("sft", *GPU, *HOWS[how]), "sft")


@pytest.mark.parametrize("how", [pytest.param(h, marks=() if h in ("full", "lora") else SLOW) for h in SCORES])
def test_reward(train, how):
    done = train("reward", *GPU, *SCORES[how])
    check_run(done, "reward")
    assert any("score" in name for name in done.dtypes)


@pytest.mark.skipif(not FUSED, reason="TRL before 1.15 trains LoRA on the head")
@pytest.mark.parametrize("stage", ["sft", "dpo", "rloo"])
def test_lora_on_the_head_is_refused_before_weights_load(train, stage, capsys):
    with pytest.raises(SystemExit):
        train(stage, *GPU, *HOWS["heads"])
    said = capsys.readouterr().err
    assert "lora_target_modules: LoRA on lm_head is not seen by TRL's losses" in said and "leave it out" in said


def test_pretraining(train):
    check_run(train("pretrain", *GPU), "pretrain")


def check_reference(done, how, world):
    """The reference still says what the parent says, after steps that moved the policy."""
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import use_adapter

    trainer = done.trainer
    parent = AutoModelForCausalLM.from_pretrained(world / "base", dtype=next(iter(done.frozen), torch.float32)).float()
    policy = trainer.accelerator.unwrap_model(trainer.model).eval()
    if how == "full":
        reference = bare_logits(trainer.accelerator.unwrap_model(trainer.ref_model).float())
    else:
        with use_adapter(policy, None):
            reference = bare_logits(policy.float())
    torch.testing.assert_close(reference, bare_logits(parent.eval()), atol=1e-5, rtol=1e-4)
    assert (bare_logits(policy) - reference).abs().max() > 1e-3, "the policy has moved"


@pytest.mark.parametrize(
    "how", [pytest.param(h, marks=() if h not in ("one", "rslora") else SLOW) for h in HOWS if h not in NO_HEADS]
)
def test_dpo_and_its_reference(train, how, world):
    """After training with a rate that moves the policy, the reference still says what the parent says."""
    done = train("dpo", *GPU, *HOWS[how], "--learning_rate", "1e-2")
    check_run(done, "dpo")
    assert losses(done.out)[0] == pytest.approx(0.6931, abs=2e-2)  # bf16 products
    check_reference(done, how, world)


@pytest.mark.parametrize("how", ["full", "lora", pytest.param("dora", marks=SLOW)])
def test_rloo_and_its_reference(train, how, world):
    """As DPO's: the KL of its reward is to the parent, after steps that move the policy too."""
    done = train("rloo", *GPU, *HOWS[how], "--learning_rate", "1e-2")
    check_run(done, "rloo")
    check_reference(done, how, world)


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
@pytest.mark.parametrize("how", ["lora", pytest.param("full", marks=SLOW)])
def test_tied_embeddings(train, tied, stage, how):
    check_run(train(stage, *GPU, *HOWS[how], base=tied), stage)


@pytest.mark.parametrize("how", [how for how in ("saved", "both", "heads") if how not in NO_HEADS])
def test_tied_embeddings_with_their_head_trained(train, tied, how):
    check_run(train("dpo", *GPU, *HOWS[how], base=tied), "dpo")


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "rloo", "pretrain"])
@pytest.mark.parametrize("how", ["full", "lora", pytest.param("dora", marks=SLOW)])
@pytest.mark.parametrize("precision", [[], pytest.param(["--bf16", "true"], marks=SLOW)], ids=["fp32", "bf16"])
def test_checkpointing_changes_nothing(train, stage, how, precision):
    """Bit for bit: what is computed again in backward is what was computed."""
    if stage == "pretrain" and how != "full":
        pytest.skip("pretraining trains all weights")
    flags = ["--max_steps", "3", "--learning_rate", "1e-3", *precision, *HOWS[how]]
    plain = train(stage, *flags, name="plain")
    again = train(stage, *flags, "--gradient_checkpointing", "true", name="checkpointed")
    assert losses(plain.out) == losses(again.out)
    from safetensors.torch import load_file

    (one,), (two,) = plain.out.glob("*.safetensors"), again.out.glob("*.safetensors")
    left, right = load_file(one), load_file(two)
    assert all(torch.equal(left[name], right[name]) for name in left | right)


WIDE = 150_000


@pytest.fixture(scope="module")
def wide(tmp_path_factory, world) -> Path:
    """A checkpoint with the vocabulary of a real one."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide")
    tokenizer = AutoTokenizer.from_pretrained(world / "base")
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=WIDE, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                         num_attention_heads=1, max_position_embeddings=128, tie_word_embeddings=True)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("stage", ["sft", "dpo", "pretrain"])
def test_evaluation_at_a_real_vocabulary(train, wide, stage, monkeypatch):
    """No distribution is larger than the budget, however many rows the flag allows: 2^24 floats are one pair of 34 tokens
    (10.2 million), three rows, or three blocks of 32."""
    from transformers import LlamaForCausalLM

    from align.train import measuring

    largest = 0
    real = LlamaForCausalLM.forward

    @functools.wraps(real)
    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal largest
        out = real(self, *args, **kwargs)
        if not torch.is_grad_enabled() and out.logits is not None:
            largest = max(largest, out.logits.numel())
        return out

    monkeypatch.setattr(LlamaForCausalLM, "forward", spy)
    monkeypatch.setattr(measuring, "DISTRIBUTIONS_AT_ONCE", 2**24)
    flags = [
        "--max_steps",
        "1",
        "--global_batch_size",
        "1",
        "--per_device_eval_batch_size",
        "64",
        "--max_eval_rows",
        "4",
    ]
    done = train(stage, *flags, base=wide)
    assert 0 < largest <= 2**24 and done.record["status"] == "complete"
    assert done.trainer.args.per_device_eval_batch_size < 4


# ------------------------------------------------------------------------------------------ losses and the model's own

SIZES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
AFTER_THE_HEAD = {  # what is done to the logits there, and whether TRL's loss without logits knows of it
    "granite": (dict(logits_scaling=8.0), FUSED),
    "granitemoe": (dict(logits_scaling=6.0, num_local_experts=2), FUSED),
    "falcon_h1": (
        dict(lm_head_multiplier=0.04, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8),
        FUSED,
    ),
    "hyperclovax": (dict(logits_scaling=0.125), FUSED),
    "recurrent_gemma": (dict(logits_soft_cap=30.0), False),
    "gemma2": (dict(final_logit_softcapping=30.0, head_dim=16), True),
    "cohere": (dict(logit_scale=0.0625), True),
    "llama": ({}, True),
    "opt": (dict(ffn_dim=64, word_embed_proj_dim=32), True),
    "gpt2": ({}, True),
}


def family(kind: str, settings: dict[str, Any], folder: Path) -> Path:
    """A tiny checkpoint of a family, with our tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = make_tokenizer()
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = AutoConfig.for_model(
        kind, **SIZES, **settings, **ids, vocab_size=len(tokenizer), max_position_embeddings=128
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)  # logits that a scale changes by whole nats
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", AFTER_THE_HEAD)
def test_a_family_tells_what_it_does_to_its_logits(kind, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    settings, pieces = AFTER_THE_HEAD[kind]
    config = AutoConfig.for_model(kind, **SIZES, **settings, vocab_size=64)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert logits.seen(model) == (kind in ("llama", "opt", "gpt2"), pieces)


@pytest.mark.parametrize("kind", ["granite", "falcon_h1", "cohere", "llama", "unknown"])
def test_the_loss_of_sft_is_the_model_s_own(train, tmp_path, world, kind, capsys, monkeypatch):
    """Cross-entropy of the logits that the saved checkpoint gives, against what training began with (no step moves it)."""
    from transformers import AutoModelForCausalLM

    settings, pieces = AFTER_THE_HEAD.get(kind, ({}, False))
    if kind == "unknown":  # to TRL
        monkeypatch.setattr(logits, "seen", lambda _: logits.Seen(False, False))
    base = family(kind if settings else "llama", settings, tmp_path / kind)
    done = train("sft", "--max_steps", "1", "--learning_rate", "1e-12", base=base)
    assert ("loss_type: nll, the model's own loss" in capsys.readouterr().out) is not pieces
    assert done.record["config"]["loss_type"] == ("chunked_nll" if pieces and not FUSED else "nll")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    each = []
    for row in done.trainer.eval_dataset:
        with torch.no_grad():
            said = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].float()
        each.append((torch.nn.functional.cross_entropy(said, torch.tensor(row["labels"])[1:], reduction="sum"),
                     sum(label != -100 for label in row["labels"][1:])))  # fmt: skip
    own = sum(float(loss) for loss, _ in each) / sum(n for _, n in each)
    assert done.record["metrics"]["eval_loss"] == pytest.approx(own, rel=0.03)  # batches of 8 rows are averaged


@pytest.mark.skipif(not FUSED, reason="TRL before 1.15 keeps logits")
@pytest.mark.parametrize(
    ("stage", "flags", "sentence"),
    [
        ("dpo", FP32, "TRL's loss does not see what llama models do to their logits after the head"),
        ("rloo", FP32, "so another model would be trained; take another base"),
        ("sft", ["--loss_type", "dft"], "take --loss_type nll"),
    ],
)
def test_a_loss_that_would_be_another_model_s_is_refused(train, stage, flags, sentence, monkeypatch, capsys):
    monkeypatch.setattr(logits, "seen", lambda _: logits.Seen(False, False))
    with pytest.raises(SystemExit):
        train(stage, *flags)
    assert sentence in capsys.readouterr().err


@pytest.mark.skipif(not FUSED, reason="TRL before 1.15 leaves a mixture's balance to the model")
def test_a_mixture_whose_balance_trl_cannot_compute_says_so(train, tmp_path, capsys):
    settings, _ = AFTER_THE_HEAD["granitemoe"]
    base = family("granitemoe", settings, tmp_path / "base")
    with pytest.raises(SystemExit):
        train("sft", *FP32, base=base)
    assert "load-balancing loss of granitemoe models, whose settings have no num_experts" in capsys.readouterr().err
    assert train("sft", *FP32, "--router_aux_loss_coef", "0", base=base).record["status"] == "complete"


@pytest.mark.parametrize("kind", ["granite", "cohere", "falcon_h1"])
def test_the_engine_s_logits_are_the_model_s_own(kind, tmp_path):
    from transformers import AutoModelForCausalLM

    from align.ppo.roles import head_of, trunk_of

    model = AutoModelForCausalLM.from_pretrained(family(kind, AFTER_THE_HEAD[kind][0], tmp_path / kind)).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        ours = head_of(model)(trunk_of(model)(input_ids=ids, use_cache=False).last_hidden_state)
        assert torch.allclose(ours, model(input_ids=ids, use_cache=False).logits, atol=1e-5)
