"""The YAML of open checkpoints, exercised on tiny random twins: the same architecture, special tokens and template."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from conftest import conversations, make_tokenizer, pairs, run_recipe, write_rows

pytestmark = pytest.mark.slow
TINY = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2)


def twin(family: str, folder: Path) -> Path:
    """A random model with the family's classes, special tokens and chat template."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]})
    tokenizer.chat_template = None
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = None, "<|endoftext|>", "<|endoftext|>"
    torch.manual_seed(0)
    if family == "qwen3-0.6b":
        tokenizer.chat_template = (files("trl") / "chat_templates" / "qwen3.jinja").read_text()
        model = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), head_dim=16, tie_word_embeddings=True, **TINY))
    else:
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **TINY))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", ["smollm2-135m", "qwen3-0.6b"])
def test_the_four_stages_of_a_family(family, tmp_path):
    chats = write_rows(tmp_path / "chats.jsonl", conversations(24))
    both = write_rows(tmp_path / "pairs.jsonl", pairs(24))
    base = twin(family, tmp_path / "base")
    few = ["--max_steps", "2", "--global_batch_size", "4", "--max_dropped", "0", "--disable_tqdm", "true"]

    def run(stage: str, model: Path, rows: Path, *rest: str) -> dict:
        out = tmp_path / stage
        run_recipe(stage, "--config", f"recipes/{family}/{stage}.yaml", "--model_name_or_path", str(model), "--dataset_name",
                   str(rows), "--output_dir", str(out), "--accept_failed", str(tmp_path / "sft"), str(tmp_path / "reward"), *few, *rest)  # fmt: skip
        assert (out / "adapter_config.json").exists()
        return json.loads((out / "run.json").read_text())

    record = run("sft", base, chats)
    assert record["trainable"] < record["parameters"] and record["config"]["learning_rate"] == 2e-4
    gate = json.loads((tmp_path / "sft/gate.json").read_text())
    assert not gate["passed"] and gate["checks"][0]["name"] == "stops"  # two steps teach nobody to stop
    run("reward", tmp_path / "sft", both)
    run("dpo", tmp_path / "sft", both)
    record = run(
        "ppo", tmp_path / "sft", both, "--reward_model_path", str(tmp_path / "reward"), "--response_length", "6"
    )
    assert set(record["parents"]) == {"model", "reference", "reward_model", "data"}
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "dpo")
    assert tokenizer.eos_token == ("<|im_end|>" if family == "qwen3-0.6b" else "<|endoftext|>")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
