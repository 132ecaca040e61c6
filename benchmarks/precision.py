"""A CPU's default precision against fp32, on a random twin of SmolLM2-135M: seconds a step, and their ratio.

    python benchmarks/precision.py                            # about twelve minutes on two idle cores
    python benchmarks/precision.py --repeat 1 --case sft-lora --output runs/precision.json
    python benchmarks/precision.py --case sft-lora dpo-lora --sides default --words 256 --output runs/words.json

Each case runs in fp32 (`--bf16 false`) and as the recipe decides by itself, in turn, each time in a process of its own,
`--repeat` times; figures are medians of the steps after the first. Where the machine is no faster in bf16, both sides
are the same and the ratios are near 1. Of PPO one rollout counts, with all its steps, and is told by part.
"""

from __future__ import annotations

import argparse
import contextlib
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

SHAPE = dict(hidden_size=576, layers=30, heads=9, kv=3, vocab=49_152, mlp=1536, tied=True)
WORDS, BATCH, STEPS = 64, 8, 4  # tokens of a prompt and of an answer; rows a step; the first step does not count
ROLLOUT = dict(global_batch_size=16, per_device_train_batch_size=8, response_length=64, max_prompt_length=WORDS)
CASES: dict[str, dict[str, Any]] = {
    "sft-lora": dict(stage="sft", how=LORA),
    "sft-full": dict(stage="sft", how={}),
    "dpo-lora": dict(stage="dpo", how=LORA),
    "reward-lora": dict(stage="reward", how=LORA),
    "ppo-lora": dict(stage="ppo", how=LORA),
    "generate": dict(stage="generate", how={}),
}
SIDES: dict[str, dict[str, Any]] = {"fp32": dict(bf16=False), "default": {}}


class Trained(Exception):
    """Training is over: what a recipe measures and saves after it is not timed."""


def train(case: dict[str, Any], made: dict[str, str], out: Path, words: int) -> dict[str, Any]:
    """Run a recipe until it has trained: seconds of each step after the first, the most memory that the process held,
    and the precision that it chose."""
    seen = gpu_cases.watch()
    stop = type(seen).on_train_end

    def end(self: Any, *args: Any, **kwargs: Any) -> None:
        stop(self, *args, **kwargs)
        raise Trained

    type(seen).on_train_end = end
    flags = case["how"] | dict(
        model_name_or_path=made["policy"], dataset_name=made["chats" if case["stage"] == "sft" else "pairs"],
        output_dir=str(out), max_length=2 * words, max_steps=STEPS, global_batch_size=BATCH,
        per_device_train_batch_size=BATCH, save_strategy="no", logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    with contextlib.suppress(Trained):
        gpu_cases.by_recipe(case["stage"], flags, seen)
    record = json.loads((out / "run.json").read_text())
    return dict(seconds=[b - a for a, b in zip(seen.moments, seen.moments[1:], strict=False)],
                peak=seen.peak, bf16=record["config"]["bf16"], matrix_gflops=record.get("matrix_gflops"))  # fmt: skip


def generate(made: dict[str, str], low: bool) -> dict[str, Any]:
    """Seconds of sampling 16 answers, with the weights in fp32 or as they are read by default."""
    import torch

    from align.models import checkpoints
    from align.models.generate import complete

    tokenizer = checkpoints.load_tokenizer(made["policy"])
    model = checkpoints.load_trained(made["policy"], tokenizer, dtype=None if low else torch.float32)
    prompts = [[(31 * row + 7 * at) % 40_000 for at in range(WORDS)] for row in range(16)]
    seconds = []
    for length in (2, 32, 32):  # the first warms up
        begun = time.perf_counter()
        count = sum(
            len(said.ids)
            for _, found in complete(model, tokenizer, prompts, max_new_tokens=length, temperature=1.0)
            for said in found
        )
        seconds.append((time.perf_counter() - begun) / count)
    return dict(seconds=seconds[1:], bf16=model.dtype == torch.bfloat16)


def one(name: str, side: str, made: dict[str, str], result: Path, words: int) -> None:
    """One side of a case, in this process. PPO and sampling read prompts of `WORDS` whatever `words` says."""
    case = CASES[name]
    case = case | dict(how=case["how"] | SIDES[side])
    if case["stage"] == "generate":
        found = generate(made, side == "default")
    elif case["stage"] == "ppo":
        files = dict(model_name_or_path=made["policy"], reward_model_path=made["reward"], dataset_name=made["prompts"])
        flags = ppo.RANDOM_FLAGS | ROLLOUT | case["how"] | files
        ppo.side(flags, "align", 2, result)
        found = json.loads(result.read_text())
        parts = {key.removeprefix("time/"): value for key, value in found["last"].items() if key.startswith("time/")}
        found = dict(seconds=found["seconds"], parts=parts, bf16=found["bf16"])
    else:
        found = train(case, made, result.with_suffix(".run"), words)
    result.write_text(json.dumps(found))


def inner(task: dict[str, Any], folder: Path, words: int) -> Any:
    """A task in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        result = Path(own) / "result.json"
        command = [sys.executable, __file__, "--output", str(result), "--words", str(words),
                   "--task", json.dumps(task)]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{task}: failed\n{done.stderr[-3000:]}")
        return json.loads(result.read_text())


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of both sides, and how many times faster the default is: of a step and, with PPO, of each part."""
    row: dict[str, Any] = {
        side: dict(bf16=some[0]["bf16"], seconds=statistics.median(s for one in some for s in one["seconds"]))
        | ({"peak": statistics.median(one["peak"] for one in some)} if "peak" in some[0] else {})
        for side, some in runs.items()
    }
    if len(runs) < 2:
        return row
    row["ratio"] = row["fp32"]["seconds"] / row["default"]["seconds"]
    for part in runs["fp32"][0].get("parts", {}):
        took = {side: statistics.median(one["parts"][part] for one in some) for side, some in runs.items()}
        row[f"ratio of {part}"] = took["fp32"] / took["default"]
    return row


def processor() -> str:
    """The CPU's name, and which of its instructions are for bf16."""
    try:
        about = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    except OSError:
        import platform

        return platform.processor()
    about = {key.strip(): value.strip() for key, value in about.items()}
    known = [flag for flag in about.get("flags", "").split() if flag in ("avx512_bf16", "amx_bf16", "amx_tile")]
    return f"{about.get('model name', 'unknown')} ({', '.join(known) or 'no instructions for bf16'})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default=str(ROOT / "benchmarks/precision.json"), help="JSON file to write")
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--words", type=int, default=WORDS, help="tokens of a prompt, and of an answer, in training")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--task", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        task = json.loads(args.task)
        if "name" in task:
            one(task["name"], task["side"], task["made"], Path(args.output), args.words)
        else:
            made = gpu_cases.make(SHAPE, Path(task["folder"]), args.words, lora=True)
            Path(args.output).write_text(json.dumps(made))
        return
    from align.run import device

    found: dict[str, Any] = dict(
        machine=dict(cpu=processor(), cores=os.cpu_count(), matrix_gflops=device.rates()._asdict()),
        versions=ppo.versions(), shape=SHAPE, repeat=args.repeat, cases={},
    )  # fmt: skip
    print(f"{found['machine']['cpu']}, {os.cpu_count()} cores: {device.rates()}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = inner(dict(folder=name), folder, args.words)
        for case in args.case:
            runs: dict[str, list[dict[str, Any]]] = {side: [] for side in args.sides}
            for _ in range(args.repeat):
                for side in args.sides:
                    runs[side].append(inner(dict(name=case, side=side, made=made), folder, args.words))
            row = found["cases"][case] = summary(runs)
            Path(args.output).write_text(json.dumps(found, indent=1) + "\n")
            per = "token" if case == "generate" else "rollout" if case == "ppo-lora" else "step"
            cells = []
            for side in args.sides:
                memory = f", {row[side]['peak'] / 2**30:.1f} GiB" if "peak" in row[side] else ""
                chosen = "bf16" if row[side]["bf16"] else "fp32"
                cells.append(f"{side} {row[side]['seconds']:7.3f} s a {per}{memory} ({chosen})")
            parts = [f"{key[9:]} {value:.2f}" for key, value in row.items() if key.startswith("ratio of")]
            ratio = f": {row['ratio']:.2f} x" if "ratio" in row else ""
            print(f"{case:<12} {', '.join(cells)}{', '.join([ratio, *parts])}", flush=True)


if __name__ == "__main__":
    main()
