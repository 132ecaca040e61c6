"""What a person sees of a run: where the time went, a few samples, the last numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from align.data import text
from align.ppo.rollout import Rollout
from align.run import launch

PARTS = ("rollout", "scoring", "logps", "update")


class Clock:
    """Seconds and floating-point operations of each part of a rollout, and of the whole run."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.flops = dict.fromkeys(PARTS, 0.0)
        self.total = {"seconds": dict(self.seconds), "flops": dict(self.flops)}
        self.started = time.perf_counter()

    @contextmanager
    def part(self, name: str, device: Any = None) -> Iterator[None]:
        """Count what happens inside to `name`."""
        begun = time.perf_counter()
        yield
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds[name] += time.perf_counter() - begun

    def turn(self) -> dict[str, float]:
        """What this rollout took, by part, with the rest as `other`; then start the next one."""
        now = time.perf_counter()
        took = now - self.started
        row = {f"time/{name}": seconds for name, seconds in self.seconds.items()}
        row |= {"time/other": took - sum(self.seconds.values()), "time/all": took}
        for name in PARTS:
            self.total["seconds"][name] += self.seconds[name]
            self.total["flops"][name] += self.flops[name]
        self.total["seconds"]["other"] = self.total["seconds"].get("other", 0.0) + row["time/other"]
        self.seconds, self.flops = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0.0)
        self.started = now
        return row


def matrix_rate(device: Any, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product here and now: the machine's limit, measured."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(n, n, device=device, dtype=dtype), torch.randn(n, n, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        begun = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return 2 * n**3 / best


def sample_table(rollout: Rollout, count: int = 4, width: int = 44) -> str:
    """A few episodes for people to read."""

    def cell(text: str) -> str:
        flat = " ".join(text.split())
        return (flat if len(flat) <= width else flat[: width - 1] + "…").ljust(width)

    lines = [f"rollout {rollout.number:<4} {'prompt'.ljust(width)}  {'completion'.ljust(width)}  score     KL"]
    kl = (rollout.kl * rollout.mask).sum(1).tolist()
    for row, said, score, nats in list(
        zip(rollout.rows, rollout.completions, rollout.scores.tolist(), kl, strict=True)
    )[:count]:
        lines.append(f"{'':12} {cell(text.readable(row['prompt']))}  {cell(said.text)}  {score:5.2f}  {nats:5.2f}")
    return "\n".join(lines)


def show(trainer: Any, metrics: dict[str, Any]) -> None:
    """The last rollout's numbers; where the time went and how far each part is from the machine's limit."""
    if not launch.is_main_process():
        return
    last = trainer.last_metrics
    names = dict(scores="objective/scores", kl="objective/kl", entropy="objective/entropy", length="rollout/length",
                 stops="rollout/eos_rate", clipped="policy/clipfrac_avg",
                 explained="val/explained_variance")  # fmt: skip
    print("last rollout: " + ", ".join(f"{k} {last[name]:.4g}" for k, name in names.items() if name in last))
    if "stopped_by" in metrics:
        print(f"stopped early: {metrics['stopped_by']}")
    if "best" in metrics:
        print(f"best held-out score {metrics['best']['score']:.4g} after rollout {metrics['best']['rollout']}: "
              f"{trainer.args.output_dir}/best")  # fmt: skip
    if "time" not in metrics:
        return
    whole, limit = sum(part["seconds"] for part in metrics["time"].values()), metrics["matrix_tflops"]
    print(f"time       seconds  share  GFLOP/s  of this machine's {limit * 1000:,.0f} GFLOP/s (a large matrix product)")
    for name, part in metrics["time"].items():
        rate = f"{part['tflops'] * 1000:9,.1f}  {part['tflops'] / limit:6.1%}" if part["tflops"] else ""
        print(f"  {name:<8} {part['seconds']:8.1f} {part['seconds'] / max(whole, 1e-9):6.0%}{rate}")


def speed(trainer: Any) -> dict[str, float]:
    """Where the time went, and episodes a second since the run began."""
    flops = dict(trainer.clock.flops)
    row = trainer.clock.turn()
    for name in PARTS:
        if row[f"time/{name}"] > 0:
            row[f"mfu/{name}"] = flops[name] / row[f"time/{name}"] / trainer.limit
    done = (trainer.state.global_step - trainer.begun_at) * trainer.plan.episodes
    return row | {"eps": done / (time.perf_counter() - trainer.begun)}


def keep(trainer: Any, rollout: Rollout) -> None:
    """Episodes to disk, and now and then a few to the screen."""
    number, folder = rollout.number, Path(trainer.args.output_dir) / "rollouts"
    every = trainer.args.rollout_save_steps
    if every and number % every == 0:
        rank = f"-rank{trainer.accelerator.process_index}" if trainer.plan.processes > 1 else ""
        rollout.write(folder / f"rollout-{number:06d}{rank}.parquet")
    tables = trainer.args.num_sample_generations
    if tables and trainer.is_world_process_zero() and (number - 1) % max(1, trainer.plan.rollouts // tables) == 0:
        print(f"\n{sample_table(rollout)}", flush=True)


def summary(trainer: Any) -> dict[str, Any]:
    """What the record keeps of the whole run: seconds and floating-point rate by part, and the best weights."""
    seconds, flops = trainer.clock.total["seconds"], trainer.clock.total["flops"]
    parts = {
        name: dict(seconds=round(took, 3), tflops=flops.get(name, 0) / took / 1e12 if took else 0.0)
        for name, took in seconds.items()
    }
    facts: dict[str, Any] = dict(episodes=trainer.state.episode, time=parts, matrix_tflops=trainer.limit / 1e12)
    facts |= dict(reward_mean=trainer.reward.mean, reward_std=trainer.reward.std)
    if trainer.best:
        facts["best"] = trainer.best
    if trainer.stopped_by:
        facts["stopped_by"] = trainer.stopped_by
    return facts
