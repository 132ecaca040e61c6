"""Checkpoints of real shapes with random weights, and random prompts, for benchmarks that need no hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def make(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A Llama-shaped policy and a reward model (with LoRA: an adapter of it), random both, and random prompts."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        LlamaConfig,
        PreTrainedTokenizerFast,
    )

    shape, lora = case["shape"], case["flags"].get("use_peft")
    where = folder / f"{'-'.join(str(v) for v in shape.values())}-{'lora' if lora else 'full'}"
    flags = dict(model_name_or_path=str(where / "policy"), reward_model_path=str(where / "reward"),
                 dataset_name=str(where / "prompts.jsonl"))  # fmt: skip
    if (where / "prompts.jsonl").is_file():
        return flags
    vocab = {f"t{i}": i for i in range(shape["vocab"] - 2)} | {"<pad>": shape["vocab"] - 2, "<eos>": shape["vocab"] - 1}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="t0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} <eos>{% endfor %}"
    config = LlamaConfig(
        hidden_size=shape["hidden_size"], intermediate_size=shape.get("mlp", 3 * shape["hidden_size"]),
        num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"], vocab_size=shape["vocab"],
        num_key_value_heads=shape.get("kv", shape["heads"]), tie_word_embeddings=shape.get("tied", True),
        eos_token_id=shape["vocab"] - 1, pad_token_id=shape["vocab"] - 2, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    gpu = torch.cuda.is_available()
    torch.set_default_dtype(torch.bfloat16 if gpu else torch.float32)
    with torch.device("cuda" if gpu else "cpu"):
        policy = AutoModelForCausalLM.from_config(config)
    policy.save_pretrained(where / "policy")
    del policy
    scorer: Any = AutoModelForSequenceClassification.from_pretrained(
        where / "policy", num_labels=1, device_map="cuda" if gpu else "cpu"
    )
    if lora:
        adapter = LoraConfig(task_type="SEQ_CLS", r=16, target_modules="all-linear")
        scorer = get_peft_model(scorer, adapter)
    torch.set_default_dtype(torch.float32)
    scorer.save_pretrained(where / "reward")
    for name in ("policy", "reward"):
        tokenizer.save_pretrained(where / name)
    choose = torch.Generator().manual_seed(0)
    with (where / "prompts.jsonl").open("w") as file:
        for _ in range(512):
            words = torch.randint(shape["vocab"] - 2, (case["prompt"],), generator=choose).tolist()
            file.write(json.dumps({"prompt": " ".join(f"t{w}" for w in words)}) + "\n")
    return flags
