"""Training and sampling on SmolLM2-135M with LoRA, beside TRL's own trainers and `generate`: tokens a second.

    make real UNTIL=rank                                    # once: the checkpoint, the SFT model, rows
    python benchmarks/speed.py --output runs/speed.json     # --case sft-gsm8k --precision bf16 for some of it

The rows are the chain's own and, where they lie in data/, GSM8K's questions (`data/gsm8k/train.jsonl`) and HH's pairs
(`data/hh-rlhf/harmless-base.jsonl`). Both sides get the same rows in batches of the same size, the same precision,
threads and LoRA, and no checkpointing; TRL's trainers are those of the installed version, otherwise with what `trl sft`
and `trl dpo` set. Each side runs `--repeats` times, in turn, each time in a process of its own: from the first step's
beginning to the last one's end. PPO against TRL 1.12 is `benchmarks/ppo.py --case smollm2-reviews`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import gpu_cases
import ppo
from gpu_cases import LORA, ROOT

CHAIN = ROOT / "runs/smollm2-135m"
BASE, SFT = str(CHAIN / "base"), str(CHAIN / "sft")
SHAPE = dict(hidden_size=576, layers=30, heads=9, kv=3, vocab=49_152, mlp=1536)
CASES: dict[str, dict[str, Any]] = {
    "sft-reviews": dict(stage="sft", rows="reviews", batch=64, steps=5),
    "sft-gsm8k": dict(stage="sft", rows="gsm8k", batch=16, steps=5),
    "dpo-reviews": dict(stage="dpo", rows="rankings", batch=32, steps=5),
    "dpo-hh": dict(stage="dpo", rows="hh", batch=8, steps=6),
    "sample-reviews": dict(stage="sample", rows="prompts", batch=128, steps=3),
}
LONGEST = 512  # tokens of a row
NEW = 32  # tokens of a sampled completion, at most


def rows(kind: str, count: int) -> list[dict[str, Any]] | None:
    """So many rows of a kind, in a form that both sides read; None where the file is not there."""
    file = {
        "reviews": CHAIN / "reviews/demonstrations/train.jsonl", "rankings": CHAIN / "rank/data/train.jsonl",
        "prompts": CHAIN / "reviews/prompts/train.jsonl", "gsm8k": ROOT / "data/gsm8k/train.jsonl",
        "hh": ROOT / "data/hh-rlhf/harmless-base.jsonl",
    }[kind]  # fmt: skip
    if not file.is_file():
        return None
    read = [json.loads(line) for line in file.read_text().splitlines()]
    if kind == "gsm8k":
        read = [dict(prompt=[dict(role="user", content=row["question"])],
                     completion=[dict(role="assistant", content=row["answer"])]) for row in read]  # fmt: skip
    if kind == "hh":
        read = [pair for row in read if (pair := _pair(row))]
    if kind == "rankings":
        read = [_best_and_worst(row) for row in read if len(set(row["ranking"])) > 1]
    wanted = ("prompt", "completion", "chosen", "rejected")
    return [{name: row[name] for name in wanted if name in row} for row in read[:count]]


def _pair(row: dict[str, str]) -> dict[str, str] | None:
    """HH's transcripts as prompt and two answers; None for a long one, which one side drops and the other cuts, and
    for an empty answer."""
    mark = "\n\nAssistant:"
    (before, _, chosen), (same, _, rejected) = (row[side].rpartition(mark) for side in ("chosen", "rejected"))
    short = len(before) + max(len(chosen), len(rejected)) < 3 * LONGEST
    whole = chosen.strip() and rejected.strip() and before == same
    return dict(prompt=before + mark, chosen=chosen, rejected=rejected) if short and whole else None


def _best_and_worst(row: dict[str, Any]) -> dict[str, str]:
    ranks, said = row["ranking"], row["completions"]
    return dict(prompt=row["prompt"], chosen=said[ranks.index(min(ranks))], rejected=said[ranks.index(max(ranks))])


def watch() -> Any:
    """A callback that notes when the first step began and when each one ended, and the losses."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        began = 0.0
        ended = 0.0
        losses: list[float] = []

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.began = self.began or time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.ended = time.perf_counter()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in (logs or {}):
                self.losses.append(float(logs["loss"]))

    return Watch()


def train(case: dict[str, Any], side: str, file: str, bf16: bool, out: Path) -> dict[str, Any]:
    """One side of a training, in this process."""
    import torch

    from align.run.record import peak_memory_bytes

    seen = watch()
    common = dict(max_length=LONGEST, max_steps=case["steps"], per_device_train_batch_size=case["batch"], bf16=bf16,
                  learning_rate=1e-4, save_strategy="no", logging_steps=1, disable_tqdm=True, seed=0)  # fmt: skip
    if side == "align":
        own = dict(model_name_or_path=BASE, dataset_name=str(Path(file).parent), output_dir=str(out),
                   global_batch_size=case["batch"])  # fmt: skip
        gpu_cases.by_recipe(case["stage"], common | own | LORA, seen)
    else:
        dtype = torch.bfloat16 if bf16 else torch.float32
        gpu_cases.by_trl(case["stage"], common | dict(output_dir=str(out)), BASE, file, True, seen, dtype)
    return dict(seconds=seen.ended - seen.began, peak=peak_memory_bytes(), losses=seen.losses)


def sample(case: dict[str, Any], side: str, file: str, bf16: bool) -> dict[str, Any]:
    """One side of sampling at temperature 1, in this process: the first batch warms up and does not count."""
    import torch
    from peft import AutoPeftModelForCausalLM

    from align.data import chat
    from align.models import checkpoints, generate
    from align.run.record import peak_memory_bytes

    dtype = torch.bfloat16 if bf16 else torch.float32
    tokenizer = checkpoints.load_tokenizer(SFT)
    pad = tokenizer.pad_token_id
    if side == "align":
        model = checkpoints.load_trained(SFT, tokenizer, dtype=dtype)
    else:
        model = AutoPeftModelForCausalLM.from_pretrained(SFT, dtype=dtype).merge_and_unload().eval()
    stops = sorted(chat.stop_ids(tokenizer, model.generation_config))
    prompts = [tokenizer(json.loads(line)["prompt"])["input_ids"] for line in Path(file).read_text().splitlines()]
    torch.manual_seed(0)
    made, began = 0, 0.0
    for step in range(case["steps"] + 1):
        began = time.perf_counter() if step == 1 else began
        batch = prompts[step * case["batch"] :][: case["batch"]]
        if side == "align":
            noise = torch.rand(len(batch), NEW)
            said = generate.sample(model, batch, stops=stops, pad_id=pad, max_new_tokens=NEW, noise=noise)
            count = sum(map(len, said))
        else:
            given = tokenizer.pad({"input_ids": batch}, padding_side="left", return_tensors="pt")
            made_by = model.generate(**given, do_sample=True, top_k=0, top_p=1.0, temperature=1.0, max_new_tokens=NEW,
                                     eos_token_id=stops, pad_token_id=pad)  # fmt: skip
            ends = torch.isin(made_by[:, given["input_ids"].shape[1] :], torch.tensor(stops))
            count = int((ends.cumsum(1) - ends.long() == 0).sum())
        made += count if step else 0
    return dict(seconds=time.perf_counter() - began, tokens=made, peak=peak_memory_bytes())


def tokens(stage: str, read: list[dict[str, Any]]) -> int:
    """Of all rows, both answers of a pair with its prompt, and no padding."""
    from align.models import checkpoints

    tokenizer = checkpoints.load_tokenizer(BASE)

    def size(*parts: Any) -> int:
        if isinstance(parts[0], str):
            return len(tokenizer("".join(parts))["input_ids"]) + 1
        return len(tokenizer.apply_chat_template(sum(parts, []), return_dict=True)["input_ids"])

    sides = ["completion"] if stage == "sft" else ["chosen", "rejected"]
    return sum(size(row["prompt"], row[side]) for row in read for side in sides)


def measure(name: str, bf16: bool, repeats: int, folder: Path) -> dict[str, Any]:
    """Both sides of a case, in turn."""
    case = CASES[name]
    read = rows(case["rows"], case["batch"] * (case["steps"] + 1))
    if read is None:
        return dict(missing=f"no {case['rows']} here")
    training = case["stage"] != "sample"
    where = folder / name
    where.mkdir(exist_ok=True)
    if training:  # exactly one epoch, so both sides see every row once, in whatever order; ours looks at others before
        read, held_out = read[: case["batch"] * case["steps"]], read[case["batch"] * case["steps"] :][:8]
        (where / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held_out))
    file = where / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in read))
    row: dict[str, Any] = dict(bf16=bf16, tokens=tokens(case["stage"], read) if training else None, align=[], trl=[])
    for repeat in range(repeats):
        for side in ("trl", "align"):
            result = folder / "result.json"
            task = json.dumps(dict(name=name, side=side, file=str(file), bf16=bf16))
            command = [sys.executable, __file__, "--output", str(result), "--task", task]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{name}, {side}: failed\n{(done.stderr or done.stdout)[-3000:]}")
            found = json.loads(result.read_text())
            found["tokens_per_second"] = (found.get("tokens") or row["tokens"]) / found["seconds"]
            row[side].append(found)
            print(f"  {name} {'bf16' if bf16 else 'fp32'} {side} {repeat + 1}/{repeats}: "
                  f"{found['tokens_per_second']:,.0f} tokens/s", flush=True)  # fmt: skip
    ratios = [ours["tokens_per_second"] / theirs["tokens_per_second"]
              for ours, theirs in zip(row["align"], row["trl"], strict=True)]  # fmt: skip
    return row | dict(ratio=statistics.median(ratios))


def show(found: dict[str, Any]) -> None:
    """The table."""
    rate = {True: found["machine"]["bf16_tflops"], False: found["machine"]["fp32_tflops"]}
    print(f"\n{'case':<16}{'':<6}{'TRL, generate':>16}{'align':>16}{'ratio':>8}{'of matrix rate':>16}")
    for name, per in found["cases"].items():
        for precision, row in per.items():
            if "missing" in row:
                print(f"{name:<16}{precision:<6}{row['missing']:>16}")
                continue
            case = CASES[name]
            mid = {side: statistics.median(one["tokens_per_second"] for one in row[side]) for side in ("trl", "align")}
            share = "-"
            if case["stage"] != "sample":
                words = row["tokens"] / (case["batch"] * case["steps"]) / (2 if case["stage"] == "sft" else 4)
                needed = gpu_cases.flops_per_token(case["stage"], dict(words=words, how=LORA), SHAPE)
                share = f"{mid['align'] * needed / rate[row['bf16']] / 1e12:.0%}"
            print(f"{name:<16}{precision:<6}{mid['trl']:>16,.0f}{mid['align']:>16,.0f}{row['ratio']:>7.2f}x{share:>16}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", required=True, help="JSON file to write, again after each case; others in it are kept"
    )
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    if args.task:
        task = json.loads(args.task)
        case = CASES[task["name"]]
        with tempfile.TemporaryDirectory() as out:
            if case["stage"] == "sample":
                found = sample(case, task["side"], task["file"], task["bf16"])
            else:
                found = train(case, task["side"], task["file"], task["bf16"], Path(out) / "run")
        Path(args.output).write_text(json.dumps(found))
        return
    if not (CHAIN / "rank/run.json").is_file():
        sys.exit(f"error: {CHAIN} has no rankings yet: make real UNTIL=rank")
    import torch

    from align.ppo.watch.report import matrix_rate

    rates = {kind: matrix_rate(torch.device("cpu"), dtype) / 1e12
             for kind, dtype in (("fp32_tflops", torch.float32), ("bf16_tflops", torch.bfloat16))}  # fmt: skip
    kept = json.loads(Path(args.output).read_text())["cases"] if Path(args.output).is_file() else {}
    found: dict[str, Any] = dict(machine=ppo.machine() | rates, versions=ppo.versions(), cases=kept)
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.case:
            for precision in args.precision:
                row = measure(name, precision == "bf16", args.repeats, Path(folder))
                found["cases"].setdefault(name, {})[precision] = row
                Path(args.output).write_text(json.dumps(found, indent=1) + "\n")
    show(found)


if __name__ == "__main__":
    main()
