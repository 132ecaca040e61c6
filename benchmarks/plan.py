"""The plan against what recipes hold at their peak: random twins of Llama, GPT-2, Qwen2 and Qwen3, 1 M to 135 M.

    python benchmarks/plan.py                                  # all cases, about half an hour on one core
    python benchmarks/plan.py --case sft-1m ppo-135m-lora      # some; what was measured of the others is kept
    python benchmarks/plan.py --compare                        # measures nothing: today's plan against what is kept
    python benchmarks/plan.py --in_use --case sft-11m-again    # what is in use, without the heap's holes

Each case runs a real recipe for a few steps in a process of its own; its peak is read from `run.json`. Rows are of one
length, so that a plan knows the largest batch. Figures of memory do not move when something else computes here.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gpu_cases
import ppo
import precision

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "benchmarks/plan.json"
TWINS: dict[str, dict[str, Any]] = {
    "bare": dict(model_type="llama", hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                 num_key_value_heads=2, vocab_size=100, tie_word_embeddings=True),
    "1m": dict(model_type="llama", hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
               num_key_value_heads=2, vocab_size=2_000, tie_word_embeddings=True),
    "11m": dict(model_type="gpt2", n_embd=320, n_layer=6, n_head=5, n_positions=512, vocab_size=10_000,
                attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0),
    "29m": dict(model_type="qwen3", hidden_size=384, intermediate_size=1_152, num_hidden_layers=8, head_dim=64,
                num_attention_heads=6, num_key_value_heads=2, vocab_size=40_000, tie_word_embeddings=True),
    "62m": dict(model_type="qwen2", hidden_size=512, intermediate_size=1_536, num_hidden_layers=12,
                num_attention_heads=8, num_key_value_heads=2, vocab_size=50_000, tie_word_embeddings=True),
    "135m": dict(model_type="llama", hidden_size=576, intermediate_size=1_536, num_hidden_layers=30,
                 num_attention_heads=9, num_key_value_heads=3, vocab_size=49_152, tie_word_embeddings=True),
}  # fmt: skip
LORA: dict[str, Any] = dict(use_peft=True, lora_r=16)
BF16: dict[str, Any] = dict(bf16=True)
LOW: dict[str, Any] = LORA | BF16 | dict(dtype="bfloat16")  # a LoRA's default where bf16 pays
AGAIN: dict[str, Any] = dict(activation_checkpointing=True)


def rows(size: int, **more: Any) -> dict[str, Any]:
    """Flags of a training on micro-batches of so many rows."""
    return dict(global_batch_size=size, per_device_train_batch_size=size, max_steps=3, test_split_size=16) | more


def roll(episodes: int, micro: int, answer: int, **more: Any) -> dict[str, Any]:
    """Flags of two rollouts of PPO."""
    return dict(global_batch_size=episodes, per_device_train_batch_size=micro, response_length=answer, max_steps=2,
                num_ppo_epochs=1, test_split_size=0) | more  # fmt: skip


# name: the recipe, the twin, tokens of a prompt (an answer that rows come with is as long), flags
CASES: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    **{f"bare-{stage}": (stage, "bare", 8, rows(2)) for stage in ("sft", "reward", "dpo")},
    "bare-ppo": ("ppo", "bare", 8, roll(8, 2, 4)),
    "bare-sample": ("sample", "bare", 8, dict(max_new_tokens=4, max_train_rows=8, test_split_size=0)),
    "bare-eval": ("eval", "bare", 8, dict(max_new_tokens=4, max_eval_rows=8)),
    "sft-1m": ("sft", "1m", 64, rows(16)),
    "sft-1m-lora": ("sft", "1m", 64, rows(16) | LORA),
    "dpo-1m": ("dpo", "1m", 64, rows(16)),
    "reward-1m": ("reward", "1m", 64, rows(16)),
    "ppo-1m": ("ppo", "1m", 32, roll(64, 16, 32)),
    "sample-1m": ("sample", "1m", 32, dict(max_new_tokens=64, max_train_rows=64, test_split_size=0)),
    "eval-1m": ("eval", "1m", 32, dict(max_new_tokens=32, max_eval_rows=64)),
    "sft-11m": ("sft", "11m", 128, rows(16)),
    "sft-11m-again": ("sft", "11m", 128, rows(16) | AGAIN),
    "dpo-11m-lora": ("dpo", "11m", 64, rows(16) | LORA),
    "ppo-11m": ("ppo", "11m", 32, roll(64, 32, 32)),
    "sample-11m": ("sample", "11m", 32, dict(max_new_tokens=128, max_train_rows=64, test_split_size=0)),
    "sft-29m": ("sft", "29m", 128, rows(8)),
    "sft-29m-bf16": ("sft", "29m", 128, rows(16) | BF16),
    "dpo-29m": ("dpo", "29m", 64, rows(8)),
    "reward-29m-lora": ("reward", "29m", 128, rows(16) | LORA),
    "ppo-29m-lora": ("ppo", "29m", 32, roll(32, 16, 32) | LORA),
    "sft-62m": ("sft", "62m", 64, rows(8)),
    "sft-62m-again": ("sft", "62m", 128, rows(16) | AGAIN),
    "dpo-62m-low": ("dpo", "62m", 128, rows(16) | LOW),
    "sft-135m": ("sft", "135m", 64, rows(8)),
    "sft-135m-accumulated": ("sft", "135m", 64, rows(4, global_batch_size=8)),
    "sft-135m-bf16": ("sft", "135m", 64, rows(8) | BF16),
    "sft-135m-lora": ("sft", "135m", 128, rows(8) | LORA),
    "sft-135m-low": ("sft", "135m", 128, rows(16) | LOW),
    "dpo-135m": ("dpo", "135m", 64, rows(4)),
    "reward-135m": ("reward", "135m", 64, rows(4)),
    "ppo-135m": ("ppo", "135m", 32, roll(16, 8, 32)),
    "ppo-135m-low": ("ppo", "135m", 64, roll(32, 16, 32) | LOW),
    "ppo-135m-critic": ("ppo", "135m", 32, roll(16, 8, 16, value_model="full")),
    "sample-135m": ("sample", "135m", 64, dict(max_new_tokens=64, max_train_rows=64, test_split_size=0)),
    "eval-135m": ("eval", "135m", 32, dict(max_new_tokens=16, max_eval_rows=32, per_device_eval_batch_size=32)),
}
SHORT: dict[str, Any] = dict(per_device_eval_batch_size=8, save_strategy="no", logging_steps=1, disable_tqdm=True,
                             bf16=False)  # fmt: skip


def config_of(twin: str) -> Any:
    """The twin's configuration."""
    from transformers import AutoConfig

    vocabulary = TWINS[twin]["vocab_size"]
    return AutoConfig.for_model(
        **TWINS[twin], eos_token_id=vocabulary - 1, pad_token_id=vocabulary - 2, bos_token_id=None
    )


def tokenizer_of(twin: str) -> Any:
    """One word, one token; a message ends in a stop token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    size = TWINS[twin]["vocab_size"]
    words = {f"t{number}": number for number in range(size - 2)} | {"<pad>": size - 2, "<eos>": size - 1}
    inner = Tokenizer(models.WordLevel(words, unk_token="t0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")
    made.chat_template = "{% for m in messages %}{{ m['content'] }} <eos>{% endfor %}"
    return made


def make(twin: str, folder: Path) -> None:
    """Policy, reward model, and a LoRA of one, all random."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config_of(twin)).save_pretrained(folder / "policy")
    scorer: Any = AutoModelForSequenceClassification.from_pretrained(folder / "policy", num_labels=1)
    scorer.save_pretrained(folder / "reward")
    settings = LoraConfig(task_type="SEQ_CLS", r=16, target_modules="all-linear")
    get_peft_model(AutoModelForSequenceClassification.from_pretrained(folder / "policy", num_labels=1),
                   settings).save_pretrained(folder / "reward-lora")  # fmt: skip
    for name in ("policy", "reward", "reward-lora"):
        tokenizer_of(twin).save_pretrained(folder / name)


def sketch(twin: str, folder: Path) -> None:
    """What a plan reads of the twin: configuration and tokenizer, no weights."""
    for name in ("policy", "reward"):
        config_of(twin).save_pretrained(folder / name)
        tokenizer_of(twin).save_pretrained(folder / name)


def flags(name: str, home: Path) -> dict[str, Any]:
    """A case's flags, where its twin and its rows lie below `home`."""
    stage, twin, words, given = CASES[name]
    where = home / twin
    kinds = dict(sft="chats", dpo="pairs", reward="pairs", ppo="prompts", sample="prompts", eval="prompts")
    made: dict[str, Any] = dict(dataset_name=str(where / f"rows-{words}/{kinds[stage]}.jsonl"))
    if stage == "eval":
        return made | dict(models=[f"twin={where / 'policy'}"], reward_model_path=str(where / "reward")) | given
    made |= dict(model_name_or_path=str(where / "policy"))
    if stage == "sample":
        return made | given
    if stage == "ppo":
        adapter = given.get("use_peft") and (where / "reward-lora").is_dir()
        made |= dict(reward_model_path=str(where / ("reward-lora" if adapter else "reward")))
    else:
        made |= dict(max_length=2 * words)
    return SHORT | made | given


def inner(*words: str, **more: str) -> subprocess.CompletedProcess:
    """A command in a process of its own."""
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)} | {k: v for k, v in more.items() if v}
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, env=settings)


def prepare(name: str, home: Path) -> None:
    """A case's twin and rows, unless they are there."""
    _, twin, words, _ = CASES[name]
    where = home / twin
    if not (where / "reward-lora/tokenizer.json").is_file():
        done = inner(__file__, "--make", twin, "--folder", str(home))
        assert done.returncode == 0, done.stderr
    write(twin, words, home)


def write(twin: str, words: int, home: Path) -> None:
    """Rows of a twin with prompts and answers of so many tokens, unless they are there."""
    folder = home / twin / f"rows-{words}"
    if not folder.is_dir():
        paths = {kind: str(folder / f"{kind}.jsonl") for kind in ("chats", "pairs", "prompts", "texts")}
        gpu_cases.write_rows(folder, paths, TWINS[twin]["vocab_size"], words)


# A recipe in a process whose C library maps every tensor by itself and gives it back: no holes, so that what is held is
# what is in use. It takes half as long again, or twice
MAPPED = """
import runpy, sys
import align.run.launch
align.run.launch.keep_memory = lambda: None
sys.argv = sys.argv[1:]
sys.path.insert(0, "recipes")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def measure(name: str, home: Path, *, in_use: bool = False) -> dict[str, Any]:
    """Run a case's recipe; its peak and what it took. With `in_use`, what was in use at the peak, without holes."""
    with tempfile.TemporaryDirectory(dir=home) as out:
        command = ppo.command_line(flags(name, home) | dict(output_dir=f"{out}/run"))
        before = ("-c", MAPPED) if in_use else ()
        done = inner(
            *before, f"recipes/{CASES[name][0]}.py", *command, MALLOC_MMAP_THRESHOLD_="65536" if in_use else ""
        )
        record = Path(out) / "run/run.json"
        if done.returncode:
            sys.exit(f"{name}: failed\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}")
        found = json.loads(record.read_text())
        if in_use:
            return dict(in_use=found["peak_memory_bytes"])
        return dict(peak=found["peak_memory_bytes"], seconds=found["wall_seconds"], dtype=found.get("dtype"))


def planned(name: str, home: Path) -> Any:
    """Today's plan of a case, for a CPU."""
    from align.plan import program

    words = ppo.command_line(flags(name, home))
    return program.plan(program.PlanConfig(recipe=f"recipes/{CASES[name][0]}.py", device="cpu"), words)


def told(name: str, measured: dict[str, Any], home: Path) -> str:
    """One line: plan against measured."""
    found = planned(name, home)
    share = found.peak.total / measured["peak"] - 1
    mega = 2**20
    use = f", in use {measured['in_use'] / mega:.0f} MiB" if "in_use" in measured else ""
    return (f"{name:<22} measured {measured['peak'] / mega:8.0f} MiB, plan {found.peak.total / mega:8.0f} MiB "
            f"({found.peak.name}), {share:+.1%}{use}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default=str(KEPT), help="JSON file to write")
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--folder", help="where twins and rows are made, and kept (default: a temporary folder)")
    parser.add_argument("--compare", action="store_true", help="measure nothing")
    parser.add_argument("--in_use", action="store_true", help="measure what is in use, without the heap's holes")
    parser.add_argument("--make", choices=list(TWINS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make(args.make, Path(args.folder) / args.make)
        return
    kept = Path(args.output)
    found = json.loads(kept.read_text()) if kept.is_file() else {"cases": {}}
    with tempfile.TemporaryDirectory() as own:
        home = Path(args.folder or own)
        for name in args.case:
            prepare(name, home)
            if not args.compare:
                from align.run import device

                found["machine"] = dict(cpu=precision.processor(), cores=os.cpu_count(),
                                        matrix_gflops=device.rates()._asdict())  # fmt: skip
                found["versions"], found["date"] = ppo.versions(), datetime.date.today().isoformat()
                found["cases"][name] = found["cases"].get(name, {}) | measure(name, home, in_use=args.in_use)
                kept.write_text(json.dumps(found, indent=1) + "\n")
            if "peak" in found["cases"].get(name, {}):
                print(told(name, found["cases"][name], home), flush=True)


if __name__ == "__main__":
    main()
