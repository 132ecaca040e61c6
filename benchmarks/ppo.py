"""The PPO engine against TRL 1.12's `PPOTrainer`, side by side: episodes a second and peak memory.

    make parity                                                 # once: an environment with TRL 1.12, .venv-parity
    python benchmarks/ppo.py --output runs/benchmark.json       # the nano cases; makes the nano chain if needed
    python benchmarks/ppo.py --output runs/open.json --case smollm2-lora  # SmolLM2-135M's shape, bf16 where it pays
    python benchmarks/ppo.py --output runs/real.json --case smollm2-reviews  # the real one, on film reviews
    python benchmarks/ppo.py --output runs/big.json --case logits-full logits-lora
    python benchmarks/ppo.py --output runs/gpu.json --case gpu-1b gpu-8b  # on a GPU

Each side of a case runs `--repeats` times, in turn, each time in a process and environment of its own (TRL's in that
of `--baseline`, ours in the one that runs this, as a user would have it); the figures are medians. An
update is one rollout with all its optimizer steps; the first one warms up and does not count. Memory is the most that
the process held above what it held before any model was loaded (on a GPU: `torch.cuda.max_memory_allocated`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import random_models

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
BASELINE = str(ROOT / ".venv-parity/bin/python")
NANO = Path("runs/nano")  # seen from the repository's root, where every side runs
NANO_FLAGS = dict(
    model_name_or_path=str(NANO / "sft"), dataset_name=str(NANO / "world/prompts"), global_batch_size=64,
    per_device_train_batch_size=64, num_mini_batches=1, num_ppo_epochs=2, response_length=24, temperature=1.0,
    kl_coef=0.05,
)  # fmt: skip
RANDOM_FLAGS = dict(
    num_mini_batches=1, num_ppo_epochs=2, temperature=1.0, kl_coef=0.05, learning_rate=1e-5, collapse_patience=1000
)  # random weights stop by chance
LORA = dict(use_peft=True, lora_r=16)
FP32 = dict(bf16=False)  # on a CPU with instructions for bf16 the default would be another one
CASES: dict[str, dict[str, Any]] = {
    "nano-full": dict(flags=NANO_FLAGS | dict(reward_model_path=str(NANO / "reward"), learning_rate=1e-4)),
    "nano-lora": dict(
        flags=NANO_FLAGS | LORA | dict(reward_model_path=str(NANO / "reward-lora"), learning_rate=1e-3)
    ),
    # 27 M parameters, 19 M of them the vectors of 50,000 tokens; random weights never stop early
    "logits-full": dict(
        shape=dict(hidden_size=384, layers=4, heads=6, vocab=50_000), prompt=16,
        flags=RANDOM_FLAGS | FP32 | dict(global_batch_size=64, per_device_train_batch_size=8, response_length=32),
    ),
    "logits-lora": dict(
        shape=dict(hidden_size=384, layers=4, heads=6, vocab=50_000), prompt=16,
        flags=RANDOM_FLAGS | LORA | FP32
        | dict(global_batch_size=64, per_device_train_batch_size=8, response_length=32),
    ),
    # SmolLM2-135M's shape with random weights; precision as it is by default on this machine
    "smollm2-lora": dict(
        shape=dict(hidden_size=576, layers=30, heads=9, kv=3, vocab=49_152, mlp=1536, tied=True), prompt=16,
        flags=RANDOM_FLAGS | LORA
        | dict(global_batch_size=32, per_device_train_batch_size=32, response_length=24),
    ),
    # the film reviews' models and prompts, after make real UNTIL=reward
    "smollm2-reviews": dict(
        flags=LORA
        | dict(
            model_name_or_path="runs/smollm2-135m/sft", reward_model_path="runs/smollm2-135m/reward",
            dataset_name="runs/smollm2-135m/reviews/prompts", global_batch_size=64, per_device_train_batch_size=64,
            num_mini_batches=1, num_ppo_epochs=2, response_length=32, temperature=1.0, kl_coef=0.05, learning_rate=1e-4,
        )
    ),
    "gpu-1b": dict(
        shape=dict(hidden_size=2048, layers=16, heads=32, kv=8, vocab=128_256, mlp=8192, tied=True), prompt=512,
        flags=RANDOM_FLAGS | LORA | dict(global_batch_size=128, per_device_train_batch_size=16, response_length=256),
    ),
    "gpu-8b": dict(
        shape=dict(hidden_size=4096, layers=32, heads=32, kv=8, vocab=128_256, mlp=14336), prompt=512,
        flags=RANDOM_FLAGS | LORA | dict(global_batch_size=64, per_device_train_batch_size=8, response_length=256),
    ),
}  # fmt: skip


def prepare(name: str, case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make what a case needs (the nano chain, or random checkpoints and prompts) and return its flags."""
    if "shape" in case:
        return case["flags"] | random_models.make(case, folder)
    if name == "smollm2-reviews":
        chain = "recipes/smollm2-135m/pipeline.yaml"
        run([sys.executable, "recipes/pipeline.py", "--config", chain, "--until", "reward"])
        return case["flags"]
    if not (ROOT / NANO / "reward" / "run.json").is_file():
        run([sys.executable, "recipes/pipeline.py", "--until", "reward"])
    if name == "nano-lora" and not (ROOT / NANO / "reward-lora" / "run.json").is_file():
        flags = dict(model_name_or_path=NANO / "sft", dataset_name=NANO / "rank", output_dir=NANO / "reward-lora",
                     use_peft=True, lora_r=16, learning_rate=2e-3)  # fmt: skip
        run([sys.executable, "recipes/reward.py", "--config", "recipes/nano/reward.yaml", *command_line(flags)])
    return case["flags"]


def command_line(flags: dict[str, Any]) -> list[str]:
    """Settings as a recipe's command line."""
    words = ((f"--{k}", *map(str, v if isinstance(v, list) else [v])) for k, v in flags.items())
    return [word for part in words for word in part]


def run(command: list[str]) -> None:
    """A command whose failure is ours."""
    print("$", " ".join(command), flush=True)
    subprocess.run(command, cwd=ROOT, check=True)


def side(flags: dict[str, Any], engine: str, updates: int, result: Path) -> None:
    """One side, in this process: the recipe's own steps, timed. Writes seconds of each update and the peak."""
    with contextlib.suppress(ImportError):
        import deepspeed  # noqa: F401  both sides load it sooner or later; here, before memory counts
    import psutil
    import torch
    from transformers import TrainerCallback, set_seed
    from trl import ModelConfig

    from align.data import prepare
    from align.models import adapters, checkpoints
    from align.ppo.arithmetic import plan
    from align.ppo.assemble import make_trainer
    from align.ppo.config import PPOArguments
    from align.run import launch
    from align.run.arguments import BatchArguments, DataArguments
    from align.run.parse import parse
    from align.train import loop

    recipe = runpy.run_path(str(ROOT / "recipes/ppo.py"))
    with tempfile.TemporaryDirectory() as out:
        given = flags | dict(engine=engine, output_dir=out, max_steps=updates, save_strategy="no", seed=0,
                             num_sample_generations=0, disable_tqdm=True, max_too_long=1)  # fmt: skip
        run_args, data_args, model_args, args = parse(
            BatchArguments, DataArguments, ModelConfig, PPOArguments, nano=None, defaults=recipe["DEFAULTS"],
            lora_defaults=recipe["LORA_DEFAULTS"], size=adapters.of_settings, argv=command_line(given),
        )  # fmt: skip
        launch.check()
        set_seed(0)
        tokenizer = checkpoints.load_tokenizer(flags["model_name_or_path"])
        rows = prepare.rows(data_args, "prompt", tokenizer, max_length=args.max_prompt_length, seed=0)
        steps = plan(run_args, args, len(rows.train), 1)
        before = psutil.Process().memory_info().rss
        moments: list[float] = []
        shown: dict[str, float] = {}

        class Watch(TrainerCallback):
            def on_log(self, a: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                import time

                moments.append(time.perf_counter())
                shown.update({k: v for k, v in (logs or {}).items() if isinstance(v, (int, float))})

        trainer = make_trainer(flags["model_name_or_path"], args, steps, model_args, tokenizer, rows, [Watch()])
        loop.tidy(trainer)
        trainer.train()
        from align.run.record import peak_memory_bytes

        peak = peak_memory_bytes() - (0 if torch.cuda.is_available() else before)
        seconds = [b - a for a, b in zip(moments, moments[1:], strict=False)]
        names = ("objective/scores", "objective/kl", "mfu/rollout", "mfu/logps", "mfu/update", "time/rollout",
                 "time/scoring", "time/logps", "time/update")  # fmt: skip
        result.write_text(json.dumps(dict(
            seconds=seconds, peak_bytes=peak, parameters=sum(p.numel() for p in trainer.model.parameters()),
            last={k: shown[k] for k in names if k in shown}, bf16=args.bf16, versions=versions(),
        )))  # fmt: skip


def with_trl_ppo(baseline: str) -> tuple[str, dict[str, str]] | None:
    """The Python of TRL's side and what its environment has beside ours; None where there is no TRL 1.12.

    Args:
        baseline: a Python, or a folder of packages (pip install --no-deps --target FOLDER trl==1.12.0).
    """
    place = Path(baseline).absolute()
    if (place / "trl").is_dir():
        return sys.executable, {"PYTHONPATH": f"{place}:{os.environ.get('PYTHONPATH', '')}"}
    python = shutil.which(baseline)
    return (python, {}) if python else None


def measure(name: str, case: dict[str, Any], folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Both sides of one case, in turn."""
    flags = prepare(name, case, folder)
    raw: dict[str, list[dict]] = {"align": [], "trl": []}
    for repeat in range(args.repeats):
        for engine in args.engines:
            file = folder / "result.json"
            python, more = with_trl_ppo(args.baseline) if engine == "trl" else (sys.executable, {})
            command = [python, __file__, "--output", str(file), "--side", engine, "--flags", json.dumps(flags),
                       "--updates", str(args.updates)]  # fmt: skip
            done = subprocess.run(command, cwd=ROOT, env=os.environ | more, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{name}, {engine}: failed\n{done.stderr[-3000:]}")
            found = json.loads(file.read_text())
            found["episodes_per_second"] = flags["global_batch_size"] / statistics.median(found["seconds"])
            raw[engine].append(found)
            print(f"  {name} {engine} {repeat + 1}/{args.repeats}: {found['episodes_per_second']:.1f} episodes/s, "
                  f"{found['peak_bytes'] / 2**20:,.0f} MiB", flush=True)  # fmt: skip

    def of(engine: str, key: str) -> float:
        return statistics.median(one[key] for one in raw[engine])

    row: dict[str, Any] = dict(name=name, raw=raw, flags=case["flags"], machine=machine())
    if all(raw.values()):
        row |= dict(
            speedup=of("align", "episodes_per_second") / of("trl", "episodes_per_second"),
            memory_ratio=of("align", "peak_bytes") / of("trl", "peak_bytes"),
        )
    return row


def machine() -> dict[str, Any]:
    """What this was measured on."""
    import torch

    from align.ppo.watch.report import matrix_rate

    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    rate = matrix_rate(device, torch.bfloat16 if gpu else torch.float32)
    name = torch.cuda.get_device_name() if gpu else platform.processor() or platform.machine()
    return dict(device=name, cores=os.cpu_count(), matrix_tflops=rate / 1e12, torch=torch.__version__,
                python=platform.python_version())  # fmt: skip


def versions() -> dict[str, str]:
    """Of the packages that decide how fast it is."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "trl", "peft", "accelerate", "datasets")}


def show(rows: list[dict[str, Any]]) -> None:
    """The table of the cases."""
    print(f"\n{'case':<14}{'TRL 1.12':>24}{'align':>24}{'speed':>9}{'memory':>9}")
    for row in rows:
        cells = ""
        for engine in ("trl", "align"):
            runs = row["raw"][engine]
            if not runs:
                cells += f"{'-':>24}"
                continue
            speed = statistics.median(one["episodes_per_second"] for one in runs)
            memory = statistics.median(one["peak_bytes"] for one in runs) / 2**20
            cells += f"{f'{speed:.1f} eps/s, {memory:,.0f} MiB':>24}"
        ratios = f"{row['speedup']:8.2f}x{row['memory_ratio']:8.2f}x" if "speedup" in row else ""
        print(f"{row['name']:<14}{cells}{ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="JSON file to write: a list of cases")
    parser.add_argument("--case", nargs="+", default=["nano-full", "nano-lora"], choices=list(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--updates", type=int, default=12, help="rollouts of one run; the first does not count")
    parser.add_argument("--engines", nargs="+", default=["trl", "align"], choices=["trl", "align"])
    parser.add_argument(
        "--baseline", default=BASELINE, help="the Python that has TRL 1.12 (make parity), or a folder with it"
    )
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--flags", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side(json.loads(args.flags), args.side, args.updates, Path(args.output))
        return
    if "trl" in args.engines and with_trl_ppo(args.baseline) is None:
        sys.exit(f"error: {args.baseline} is not there: TRL's side needs TRL 1.12, for which make parity makes an "
                 "environment; --engines align measures ours alone")  # fmt: skip
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.case:
            rows.append(measure(name, CASES[name], Path(folder), args))
            Path(args.output).write_text(json.dumps(rows, indent=1) + "\n")
    show(rows)


if __name__ == "__main__":
    main()
