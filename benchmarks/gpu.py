"""What one GPU does with these recipes, unattended: does every path that only a GPU has run, and how fast is each.

    python benchmarks/gpu.py --minutes 8 --output gpu.json
    python benchmarks/gpu.py --minutes 8 --output gpu.json --only checks sft-1b-lora ppo-1b-lora
    python benchmarks/gpu.py --minutes 8 --output tiny.json --tiny   # every case at a tiny size, also on a CPU

First the checks, several at once: each recipe as people launch it, with a GPU's defaults (bf16, checkpointing,
evaluation), on a small model with a vocabulary of 150,000 tokens. Then training of Llama shapes of 1 B and 8 B with
random weights, in bf16, against TRL's own trainers of the installed version (PPO: of TRL 1.12, `--baseline`), each
side in a process of its own: the median of its steps after the first three; of PPO, one rollout after the first.
Results are written as they come; a case that fails or takes too long does not stop the rest. Nothing comes from a hub;
benchmarks/gpu-needs.txt names what a CUDA machine with torch, transformers, accelerate and peft lacks.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gpu_cases
import ppo
from gpu_cases import LORA, ROOT, SHAPES

LEAST = 15  # seconds under which nothing more is begun
TRAINING = dict(steps=10, words=512)
ROLLOUT = dict(prompt=512, updates=2)
TIMED: dict[str, dict[str, Any]] = {  # most informative first
    "sft-1b-lora": TRAINING | dict(stage="sft", shape="1b", how=LORA, batch=8),
    "ppo-1b-lora": ROLLOUT | dict(stage="ppo", shape="1b", how=LORA, batch=16, episodes=64, answer=256),
    "dpo-1b-lora": TRAINING | dict(stage="dpo", shape="1b", how=LORA, batch=4),
    "reward-1b-lora": TRAINING | dict(stage="reward", shape="1b", how=LORA, batch=8),
    "sft-8b-lora": TRAINING | dict(stage="sft", shape="8b", how=LORA, batch=4),
    "ppo-8b-lora": ROLLOUT | dict(stage="ppo", shape="8b", how=LORA, batch=8, episodes=32, answer=256),
    "sft-1b-full": TRAINING | dict(stage="sft", shape="1b", how={}, batch=8),
    "dpo-8b-lora": TRAINING | dict(stage="dpo", shape="8b", how=LORA, batch=2),
    "reward-8b-lora": TRAINING | dict(stage="reward", shape="8b", how=LORA, batch=4),
    "dpo-1b-full": TRAINING | dict(stage="dpo", shape="1b", how={}, batch=4),
    "reward-1b-full": TRAINING | dict(stage="reward", shape="1b", how={}, batch=8),
}
TINY = dict(shape="tiny", batch=2, episodes=8, answer=8, prompt=16, words=16)


def one(task: dict[str, Any], result: Path) -> None:
    """What a process of its own does: make a shape's files, describe the machine, or run one side of a timed case."""
    folder = Path(task["folder"])
    if task["do"] == "make":
        found: Any = gpu_cases.make(task["shape"], folder, task["words"], task["lora"])
    elif task["do"] == "machine":
        found = ppo.machine() | dict(versions=ppo.versions())
    elif task["case"]["stage"] == "ppo":
        case, made = task["case"], task["made"]
        flags = ppo.RANDOM_FLAGS | case["how"] | dict(
            model_name_or_path=made["policy"], reward_model_path=made["reward"], dataset_name=made["prompts"],
            global_batch_size=case["episodes"], per_device_train_batch_size=case["batch"],
            response_length=case["answer"], max_prompt_length=case["prompt"],
        )  # fmt: skip
        ppo.side(flags, task["side"], case["updates"], result)
        return
    else:
        found = gpu_cases.train(task["case"]["stage"], task["side"], task["made"], task["case"], folder / "run")
    result.write_text(json.dumps(found))


class Session:
    """One run of this program: its time, its folder, what it has found so far."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.folder, self.output = folder, Path(args.output)
        self.baseline = args.baseline
        self.ends = time.monotonic() + 60 * args.minutes
        self.settings: dict[str, str] = {}  # of the environment
        self.found: dict[str, Any] = dict(minutes=args.minutes, tiny=args.tiny, machine={}, checks={}, cases={})

    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    def keep(self) -> None:
        """To disk, whatever comes next."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.output.write_text(json.dumps(self.found, indent=1) + "\n")

    def process(self, command: list[str], more: dict[str, str] | None = None) -> dict[str, Any]:
        """Run a command within the time that is left: its status, its seconds, the end of what it said if it failed.

        `more` is added to its environment.
        """
        if self.left() < LEAST:
            return dict(status="not run", said="the time was up")
        began = time.monotonic()
        settings = os.environ | {"HF_HUB_OFFLINE": "1"} | self.settings | (more or {})
        try:
            done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=self.left())
        except subprocess.TimeoutExpired:
            return dict(status="not finished", seconds=round(time.monotonic() - began, 1), said="the time was up")
        row: dict[str, Any] = dict(status="ok", seconds=round(time.monotonic() - began, 1))
        if done.returncode:
            row |= dict(status="failed", said=(done.stderr or done.stdout).strip()[-3000:])
        return row

    def inner(self, task: dict[str, Any]) -> dict[str, Any]:
        """`one` in a process of its own; what it found is in `found`. TRL's PPO runs where TRL 1.12 is."""
        python, more = sys.executable, None
        if task.get("side") == "trl" and task["case"]["stage"] == "ppo":
            if (found := ppo.with_trl_ppo(self.baseline)) is None:
                return dict(status="not run", said=f"no TRL 1.12 at {self.baseline} (make parity, or --baseline)")
            python, more = found
        with tempfile.TemporaryDirectory(dir=self.folder) as own:
            result, folder = Path(own) / "result.json", task.pop("folder", own)
            task = json.dumps(task | dict(folder=str(folder)))
            row = self.process([python, __file__, "--output", str(result), "--task", task], more)
            if row["status"] == "ok":
                row["found"] = json.loads(result.read_text())
        return row

    def made(self, shape: dict[str, Any], words: int, *, lora: bool = True) -> dict[str, str]:
        """The files of a shape, made once.

        Raises:
            RuntimeError: where that failed.
        """
        row = self.inner(dict(do="make", shape=shape, words=words, lora=lora, folder=str(self.folder)))
        if row["status"] != "ok":
            raise RuntimeError(row["said"])
        return row["found"]


def check(session: Session, tiny: bool, together: int) -> None:
    """Every check, several at once: they are about running, not about speed."""
    shape = SHAPES["tiny" if tiny else "wide"]
    files = [session.made(shape, 32, lora=lora) for lora in (False, True)]
    commands = gpu_cases.checks(files[0], files[1], session.folder / "checks")

    def run(name: str) -> None:
        for command in commands[name]:
            row = session.process(command)
            if row["status"] != "ok":
                break
        session.found["checks"][name] = row
        print(f"  {name:<20} {row['status']:<8} {row.get('seconds', 0):6.1f} s", flush=True)
        session.keep()

    session.settings = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // together))}
    with ThreadPoolExecutor(together) as pool:
        list(pool.map(run, commands))
    session.settings = {}


def timed(session: Session, name: str, tiny: bool, sides: list[str]) -> None:
    """The sides of a timed case, one after the other."""
    case = TIMED[name] | ({key: value for key, value in TINY.items() if key in TIMED[name]} if tiny else {})
    shape = SHAPES[case["shape"]]
    rows = session.found["cases"][name] = dict(settings=case)
    try:
        made = session.made(shape, case.get("words") or case["prompt"])
    except RuntimeError as error:
        rows["error"] = str(error)
        session.keep()
        return
    rate = session.found["machine"].get("matrix_tflops")
    for side in sides:
        row = session.inner(dict(do="side", case=case, side=side, made=made))
        row["wall"] = row.pop("seconds", None)
        if found := row.pop("found", None):
            row |= found  # its `seconds` are those of each step
            if "tokens_per_second" in row and rate:
                needed = row["tokens_per_second"] * gpu_cases.flops_per_token(case["stage"], case, shape)
                row["of_matrix_rate"] = needed / rate / 1e12
            if case["stage"] == "ppo":
                row["episodes_per_second"] = case["episodes"] / statistics.median(row["seconds"])
                row["peak"] = row.pop("peak_bytes")
        rows[side] = row
        session.keep()
    print(line(name, rows), flush=True)


def line(name: str, rows: dict[str, Any]) -> str:
    """One case as a line of the table."""
    cells = f"  {name:<16}"
    for side in ("align", "trl"):
        row = rows.get(side, dict(status=rows.get("error", "-")))
        speed = row.get("tokens_per_second") or row.get("episodes_per_second")
        if speed is None:
            last = (row.get("said") or "").strip().splitlines()
            cells += f"  {side}: {row['status']} {last[-1][:90] if last else ''}"
            continue
        unit = "tokens/s" if "tokens_per_second" in row else "episodes/s"
        share = f", {row['of_matrix_rate']:.0%} of matrix rate" if "of_matrix_rate" in row else ""
        digits = 0 if speed > 100 else 2
        cells += f"  {side}: {speed:,.{digits}f} {unit}, {row['peak'] / 2**30:.1f} GiB{share};"
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="JSON file to write, again after each case")
    parser.add_argument("--minutes", type=float, default=8, help="no case runs beyond this")
    parser.add_argument("--only", nargs="+", default=["checks", *TIMED], choices=["checks", *TIMED])
    parser.add_argument("--sides", nargs="+", default=["align", "trl"], choices=["align", "trl"])
    parser.add_argument("--baseline", default=ppo.BASELINE, help="the Python that has TRL 1.12, or a folder with it")
    parser.add_argument("--together", type=int, default=max(1, min(6, (os.cpu_count() or 2) // 2)),
                        help="checks that run at once")  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="every case at a tiny size")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        one(json.loads(args.task), Path(args.output))
        return
    with tempfile.TemporaryDirectory(dir=gpu_cases.quick_disk()) as folder:
        session = Session(args, Path(folder))
        about = session.inner(dict(do="machine"))
        session.found["machine"] = about.get("found", about)
        print(session.found["machine"], flush=True)
        if "checks" in args.only:
            try:
                check(session, args.tiny, args.together)
            except RuntimeError as error:
                session.found["checks"]["files"] = dict(status="failed", said=str(error))
        for name in args.only:
            if name != "checks":
                timed(session, name, args.tiny, args.sides)
        session.keep()
    failed = [name for name, row in session.found["checks"].items() if row["status"] != "ok"]
    print(
        f"{len(session.found['checks']) - len(failed)} checks ran"
        + (f", not these: {', '.join(failed)}" * bool(failed))
    )
    for name in failed:
        print(f"\n{name}: {session.found['checks'][name].get('said', '')[-600:]}")


if __name__ == "__main__":
    main()
