"""Packed demonstrations train as they do alone: losses, gradients, counts, whatever the architecture."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import SMALL, losses, run_recipe, stage_arguments
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM

from align.models import packing
from align.train import packed

SIZES = dict(
    vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=64, pad_token_id=0,
)  # fmt: skip
GPT2 = dict(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
MIXED = dict(layer_types=["sliding_attention", "full_attention"])
MODELS = {
    "llama": SIZES,
    "qwen3": SIZES,
    "mistral": SIZES | dict(sliding_window=32),  # as long as the longest row
    "gemma3_text": SIZES | MIXED | dict(sliding_window=32, query_pre_attn_scalar=8),
    "gpt2": GPT2,
    "granite": SIZES | dict(logits_scaling=4.0),
    "qwen3_moe": SIZES | dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
}
REFUSED = {
    "mistral": (SIZES | dict(sliding_window=31), {}, "see 31 tokens back, fewer than --max_length 32 has"),
    "gemma3_text": (SIZES | MIXED | dict(sliding_window=8), {}, "give --max_length 8, or leave --packing out"),
    "mamba": (
        dict(vocab_size=50, hidden_size=32, num_hidden_layers=2, state_size=4),
        {},
        "no attention over the whole",
    ),
    "lfm2": (SIZES | dict(layer_types=["conv", "full_attention"]), {}, "no attention over the whole row"),
    "llama": (SIZES, dict(attn_implementation="eager"), "run with eager attention here"),
    "bloom": (dict(vocab_size=50, hidden_size=32, n_layer=2, n_head=4), {}, "cannot keep packed demonstrations apart"),
    # hands on to its layers nothing of what it is given
    "nemotron": (SIZES, {}, "nemotron models have an attention of their own"),
}


def made(kind: str, settings: dict, **how):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings), **how).float()


def demonstrations() -> list[dict]:
    """Of very different lengths, of which each learns its second half; the pad token is in them as text."""
    rows = []
    for length in (32, 3, 7, 12, 2, 5, 3, 4, 2, 9, 31, 3):
        ids = torch.randint(0, 50, (length,)).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * (length // 2) + ids[length // 2 :]})
    return rows


def stepped(model, batch) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss over a batch's tokens, and what it does to every weight."""
    model.zero_grad()
    loss = model(**batch, use_cache=False, num_items_in_batch=(batch["labels"][:, 1:] != -100).sum()).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", MODELS)
def test_packed_rows_have_the_loss_and_the_gradients_of_rows_alone(kind):
    model = made(kind, MODELS[kind]).train()
    rows = demonstrations()
    args = SimpleNamespace(packing=True, max_length=32, include_num_input_tokens_seen="non_padding", seed=0)
    collate = packed.Collator(pad_id=0)
    loss, gradients = stepped(model, collate(rows))
    assert packed.problems(args, model) == []
    noted = {}
    run = SimpleNamespace(note=lambda **facts: noted.update(facts), main=False)
    both = packed.rows(SimpleNamespace(train=Dataset.from_list(rows), stream=None), args, model, run)
    assert noted["packing"] == {"demonstrations": 12, "rows": 4, "filled": 113 / 128}
    batch = collate(list(both))
    assert batch["input_ids"].shape == (1, 113) and "attention_mask" not in batch
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        found, theirs = stepped(model, batch)
        assert found == pytest.approx(loss, rel=1e-5)
        assert gradients.keys() == theirs.keys()
        for name, expected in gradients.items():
            assert torch.allclose(theirs[name], expected, atol=1e-5, rtol=1e-3), name


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_that_would_mix_packed_rows_is_refused_by_name(kind):
    settings, how, said = REFUSED[kind]
    with torch.device("meta"):  # before there are weights
        model = made(kind, settings, **how)
    (problem,) = packed.problems(SimpleNamespace(packing=True, max_length=32), model)
    assert said in problem and problem.startswith("packing: ")
    assert packed.problems(SimpleNamespace(packing=False, max_length=32), model) == []


def test_sequences_are_spread_with_those_of_a_like_length():
    """One of 64 tokens among sixty of two were 61 x 64 places for 184 tokens."""
    lengths = [2] * 30 + [64] + [2] * 30
    rows = packing.Packing(lengths, "cpu")
    assert [(group.count, group.width) for group in rows.groups] == [(60, 2), (1, 64)]
    assert len(packing.Packing([5, 7, 9], "cpu").groups) == 1
    query, key, value = torch.randn(3, 1, 2, sum(lengths), 4)

    def attend(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    alone = [attend(*(x[:, :, start : start + n] for x in (query, key, value)))
             for start, n in zip(rows.starts.tolist(), lengths, strict=True)]  # fmt: skip
    assert torch.allclose(rows.attend(query, key, value, attend), torch.cat(alone, 1), atol=1e-6)


def test_held_out_rows_stay_padded():
    """Their loss is the same with and without packing, so they are not packed and a mask says where they end."""
    batch = packed.Collator(pad_id=0)(
        [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [4], "labels": [4]}]
    )
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def first(folder) -> dict:
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--use_peft", "--loss_type", "chunked_nll", "--gradient_checkpointing", "true"]])
def test_the_recipe_packs(world, tmp_path, more):
    """All rows in one step: what is packed has the step, the counts and the measures of what is not."""
    arguments = ["sft", *stage_arguments("sft", world)[: -len(SMALL)], "--logging_steps", "1", "--disable_tqdm", "true",
                 "--max_steps", "1", *more]  # fmt: skip
    run_recipe(
        *arguments, "--global_batch_size", "48", "--per_device_train_batch_size", "12", "--output_dir", tmp_path / "a"
    )
    told = run_recipe(*arguments, "--packing", "--global_batch_size", "24", "--per_device_train_batch_size", "6",
                      "--output_dir", tmp_path / "b")  # fmt: skip
    assert "packing: 48 demonstrations in 24 rows of up to 64 tokens, " in told.stdout
    assert json.loads((tmp_path / "b/run.json").read_text())["packing"]["rows"] == 24
    one, other = first(tmp_path / "a"), first(tmp_path / "b")
    for name in ("loss", "grad_norm", "num_tokens", "num_input_tokens_seen", "epoch"):
        assert other[name] == pytest.approx(one[name], rel=1e-4), name
    ended = [json.loads((tmp_path / name / "run.json").read_text())["metrics"] for name in ("a", "b")]
    for name in ("loss_before", "eval_loss", "eval_mean_token_accuracy", "tokens", "stops"):
        assert ended[1][name] == pytest.approx(ended[0][name], abs=1e-4), name


@pytest.mark.slow
def test_a_packed_run_resumes_where_it_stopped(world, tmp_path):
    arguments = ["sft", *stage_arguments("sft", world), "--packing", "--save_steps", "2", "--save_total_limit", "5",
                 "--max_steps", "4"]  # fmt: skip
    run_recipe(*arguments, "--output_dir", tmp_path / "a")
    shutil.copytree(tmp_path / "a/checkpoint-2", tmp_path / "b/checkpoint-2")
    (tmp_path / "b/run.json").write_text(json.dumps({"status": "running"}))
    run_recipe(*arguments, "--output_dir", tmp_path / "b", "--resume_from_checkpoint", "last")
    assert losses(tmp_path / "b") == losses(tmp_path / "a")[2:]
