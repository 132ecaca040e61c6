"""What `benchmarks/gpu.py` runs: checks of paths that only a GPU takes, and sides of training that are timed.

Everything is made here, of random weights and random words: nothing comes from a hub.
"""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import ppo
import random_models

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 3  # steps at a run's start that do not count: allocation, kernels chosen by trial
SHAPES = {
    "tiny": dict(hidden_size=64, layers=2, heads=4, kv=2, vocab=2_000, mlp=128, tied=True),
    "wide": dict(hidden_size=256, layers=4, heads=4, kv=2, vocab=150_000, mlp=512, tied=True),
    "1b": dict(hidden_size=2048, layers=16, heads=32, kv=8, vocab=128_256, mlp=8192, tied=True),
    "8b": dict(hidden_size=4096, layers=32, heads=32, kv=8, vocab=128_256, mlp=14336, tied=False),
}
LORA = dict(use_peft=True, lora_r=16)
SHORT = dict(max_steps=4, save_strategy="no", logging_steps=1, disable_tqdm=True)
PAIRS = dict(max_length=96, global_batch_size=8, per_device_train_batch_size=4, per_device_eval_batch_size=8)
ROLL = dict(response_length=24, global_batch_size=16, per_device_train_batch_size=8, num_mini_batches=1,
            num_ppo_epochs=2, max_prompt_length=96, num_sample_generations=0)  # fmt: skip
HALVE = """
import json, pathlib, shutil, sys
run = pathlib.Path(sys.argv[1])
shutil.rmtree(run / "checkpoint-4")
record = json.loads((run / "run.json").read_text()) | {"status": "interrupted"}
(run / "run.json").write_text(json.dumps(record))
"""  # makes a finished run of four steps one that was interrupted after two
GROUPS = dict(max_completion_length=24, num_generations=4, global_batch_size=16, per_device_train_batch_size=8,
              max_prompt_length=96)  # fmt: skip


def make(shape: dict[str, Any], folder: Path, words: int, lora: bool) -> dict[str, str]:
    """A policy, a reward model (with `lora` an adapter of the policy's weights), and rows of each kind.

    Args:
        words: tokens of a prompt; an answer is as long, so that no row has padding.
    """
    case = dict(shape=shape, prompt=words, flags=LORA if lora else {})
    made = random_models.make(case, folder)
    where = Path(made["dataset_name"]).parent / f"rows-{words}"
    paths = {name: str(where / f"{name}.jsonl") for name in ("chats", "pairs", "prompts", "texts")}
    if not where.is_dir():
        write_rows(where, paths, shape["vocab"], words)
    return dict(policy=made["model_name_or_path"], reward=made["reward_model_path"], **paths)


def write_rows(where: Path, paths: dict[str, str], vocab: int, words: int) -> None:
    """256 rows of each kind, of random words."""
    import torch

    where.mkdir()
    choose = torch.Generator().manual_seed(1)

    def said(count: int) -> str:
        return " ".join(f"t{w}" for w in torch.randint(vocab - 2, (count,), generator=choose).tolist())

    with open(paths["chats"], "w") as chats, open(paths["pairs"], "w") as pairs, open(paths["prompts"], "w") as prompts:
        for _ in range(256):
            asked, answers = said(words - 1), [said(words - 1) for _ in range(2)]  # each message ends in a stop token
            turns = [{"role": "user", "content": asked}]
            chosen, rejected = ([{"role": "assistant", "content": answer}] for answer in answers)
            chats.write(
                json.dumps(dict(prompt=turns, completion=chosen)) + "\n"
            )  # in this form TRL learns answers alone
            pairs.write(json.dumps(dict(prompt=turns, chosen=chosen, rejected=rejected)) + "\n")
            prompts.write(json.dumps(dict(prompt=turns)) + "\n")
    with open(paths["texts"], "w") as texts:
        texts.writelines(json.dumps(dict(text=said(2 * words))) + "\n" for _ in range(256))


def checks(made: dict[str, str], lora: dict[str, str], out: Path) -> dict[str, list[list[str]]]:
    """Commands of each check, by its name: the recipes as people launch them, at a vocabulary of 150,000 tokens.

    Args:
        made: what `make` made without LoRA: a whole reward model.
        lora: and with it.
    """

    def recipe(stage: str, name: str, *, launcher: tuple[str, ...] = (), **flags: Any) -> list[str]:
        given = dict(output_dir=str(out / name), overwrite=True) | flags
        return [*(launcher or (sys.executable,)), f"recipes/{stage}.py", *ppo.command_line(given)]

    base = dict(model_name_or_path=made["policy"])
    sft = SHORT | PAIRS | base | dict(dataset_name=made["chats"])
    pairs = SHORT | PAIRS | base | dict(dataset_name=made["pairs"])
    roll = SHORT | ROLL | base | dict(dataset_name=made["prompts"], reward_model_path=made["reward"], eval_steps=2,
                                      eval_strategy="steps", test_split_size=0.1)  # fmt: skip
    shared = roll | LORA | dict(reward_model_path=lora["reward"], model_name_or_path=lora["policy"])
    groups = SHORT | GROUPS | base | dict(dataset_name=made["prompts"], reward_model_path=made["reward"])
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/gpu.yaml")
    found = {
        "ppo-lora": [recipe("ppo", "ppo-lora", **shared)],
        "ppo-full": [recipe("ppo", "ppo-full", **roll)],
        "ppo-value-adapter": [recipe("ppo", "ppo-value-adapter", value_model="adapter", **shared)],
        "ppo-value-full": [recipe("ppo", "ppo-value-full", value_model="full", **roll)],
        "ppo-resumed": [
            recipe("ppo", "ppo-stopped", **shared | dict(save_strategy="steps", save_steps=2)),
            [sys.executable, "-c", HALVE, str(out / "ppo-stopped")],
            recipe("ppo", "ppo-stopped", **shared | dict(save_strategy="steps", save_steps=2, overwrite=False,
                                                         resume_from_checkpoint="last")),  # fmt: skip
        ],
        "rloo-lora": [recipe("rloo", "rloo-lora", **groups | LORA)],
        "sft-lora": [recipe("sft", "sft-lora", **sft | LORA)],
        "sft-full": [recipe("sft", "sft-full", **sft)],
        "dpo-lora": [recipe("dpo", "dpo-lora", **pairs | LORA)],
        "dpo-full": [recipe("dpo", "dpo-full", **pairs)],
        "reward-lora": [recipe("reward", "reward-lora", **pairs | LORA)],
        "reward-full": [recipe("reward", "reward-full", **pairs)],
        "pretrain": [recipe("pretrain", "pretrain", **SHORT | PAIRS | base | dict(dataset_name=made["texts"]))],
        "sample": [recipe("sample", "sample", **base, dataset_name=made["prompts"], max_new_tokens=24,
                          num_generations=2, max_train_rows=16)],
        "eval": [recipe("eval", "eval", models=[f"base={made['policy']}"], dataset_name=made["prompts"],
                        reward_model_path=made["reward"], max_new_tokens=24, max_eval_rows=16)],
        "sft-packing": [recipe("sft", "sft-packing", packing=True, **sft)],
        "accelerate-launch": [recipe("sft", "accelerate-launch", launcher=launcher, **sft | LORA)],
    }  # fmt: skip
    if importlib.util.find_spec("bitsandbytes"):
        found["sft-4bit"] = [recipe("sft", "sft-4bit", load_in_4bit=True, **sft | LORA)]
        found["dpo-4bit"] = [recipe("dpo", "dpo-4bit", load_in_4bit=True, **pairs | LORA)]
    if importlib.util.find_spec("flash_attn"):
        flash = dict(attn_implementation="flash_attention_2", packing=True, bf16=True, dtype="bfloat16")
        found["sft-flash-packing"] = [recipe("sft", "sft-flash-packing", **sft | flash)]
    return found


def watch() -> Any:
    """A callback that notes when each step ended on the device, and the most memory held until the last one."""
    import torch
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        moments: list[float] = []
        peak = 0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.moments.append(time.perf_counter())

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            from align.run.record import peak_memory_bytes

            self.peak = peak_memory_bytes()

    return Watch()


def train(stage: str, side: str, made: dict[str, str], case: dict[str, Any], out: Path) -> dict[str, Any]:
    """One side of a timed training, in this process: the recipe itself, or TRL's trainer on the same rows.

    Returns:
        Seconds of each step but the first ones, tokens of a step, the most memory held while it trained.
    """
    seen = watch()
    length = 2 * case["words"]
    common = dict(max_length=length, max_steps=case["steps"], per_device_train_batch_size=case["batch"],
                  save_strategy="no", logging_steps=1, disable_tqdm=True, seed=0)  # fmt: skip
    rows = made["chats" if stage == "sft" else "pairs"]
    if side == "align":
        own = dict(model_name_or_path=made["policy"], dataset_name=rows, max_eval_rows=16, output_dir=str(out))
        by_recipe(stage, common | own | dict(global_batch_size=case["batch"]) | case["how"], seen)
    else:
        by_trl(stage, common | dict(output_dir=str(out)), made["policy"], rows, bool(case["how"]), seen)
    seconds = [b - a for a, b in zip(seen.moments, seen.moments[1:], strict=False)][WARM_UP - 1 :]
    tokens = case["batch"] * length * (1 if stage == "sft" else 2)
    return dict(seconds=seconds, tokens=tokens, tokens_per_second=tokens / statistics.median(seconds), peak=seen.peak)


def by_recipe(stage: str, flags: dict[str, Any], seen: Any) -> None:
    """Run the recipe in this process, with one callback more."""
    from align.train import loop

    usual = loop.callbacks
    loop.callbacks = lambda run, **kwargs: [*usual(run, **kwargs), seen]
    sys.argv = [f"recipes/{stage}.py", *ppo.command_line(flags)]
    runpy.run_path(str(ROOT / sys.argv[0]), run_name="__main__")


def by_trl(
    stage: str, settings: dict[str, Any], policy: str, rows: str, lora: bool, seen: Any, dtype: Any = None
) -> None:
    """TRL's own trainer as its documentation builds it: on a GPU bf16 weights under LoRA, else bf16 autocast."""
    import torch
    import trl
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    gpu = torch.cuda.is_available()
    config, trainer = {
        "sft": (trl.SFTConfig, trl.SFTTrainer), "dpo": (trl.DPOConfig, trl.DPOTrainer),
        "reward": (trl.RewardConfig, trl.RewardTrainer),
    }[stage]  # fmt: skip
    kind, extra = AutoModelForCausalLM, {}
    if stage == "reward":
        kind, extra = AutoModelForSequenceClassification, {"num_labels": 1}
    dtype = dtype or (torch.bfloat16 if gpu and lora else torch.float32)
    trainer(
        model=kind.from_pretrained(policy, dtype=dtype, **extra),
        args=config(gradient_checkpointing=gpu, use_cpu=not gpu, report_to="none", eval_strategy="no",
                    **dict(bf16=gpu) | settings),
        train_dataset=load_dataset("json", data_files=rows, split="train"),
        processing_class=AutoTokenizer.from_pretrained(policy),
        peft_config=trl.get_peft_config(trl.ModelConfig(
            use_peft=True, lora_r=16, lora_alpha=32, lora_dropout=0.0, lora_target_modules=["all-linear"],
            lora_task_type="SEQ_CLS" if stage == "reward" else "CAUSAL_LM")) if lora else None,
        callbacks=[seen],
    ).train()  # fmt: skip


def flops_per_token(stage: str, case: dict[str, Any], shape: dict[str, Any]) -> float:
    """Floating-point operations that a trained token needs, without what checkpointing computes again.

    2 a weight and token forward, 2 for the gradient of what comes in, 2 for the weights' (not under LoRA); attention's
    scores and sums, half of them under the causal mask; DPO's reference is one more pass forward. Embeddings are looked
    up and do not count; a reward model has no output layer, and SFT needs it for the answers alone, half of the tokens.
    """
    hidden, layers, heads = shape["hidden_size"], shape["layers"], shape["heads"]
    wide = hidden * hidden * (2 + 2 * shape["kv"] / heads) + 3 * hidden * shape["mlp"]
    weights = layers * wide + hidden * shape["vocab"] * {"reward": 0, "sft": 0.5}.get(stage, 1)
    attention = 2 * layers * 2 * case["words"] * hidden
    passes = (2 if case["how"] else 3) + (1 if stage == "dpo" else 0)
    return passes * (2 * weights + attention)


def quick_disk() -> str | None:
    """Memory that looks like a folder, where there is 40 GiB of it: 16 GiB of weights are read from it in seconds."""
    shared = Path("/dev/shm")
    if not shared.is_dir():
        return None
    free = os.statvfs(shared)
    return str(shared) if free.f_bavail * free.f_frsize > 40 * 2**30 else None
