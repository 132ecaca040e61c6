"""What this machine can do: is there a GPU, which defaults follow from it, which flags it cannot honour."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

# What accelerate and torchrun leave in the environment of the processes that they start
LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")


def has_gpu() -> bool:
    """Is there an accelerator that torch can train on?"""
    import torch

    return torch.accelerator.is_available() and torch.accelerator.current_accelerator().type != "cpu"


def share_cores() -> None:
    """Give torch this process's share of the cores, where a launcher has set a number of threads that nobody asked for.

    `accelerate launch` without a config file, and torchrun, set `OMP_NUM_THREADS=1`: training would use one core. What
    the user set, in the launcher's own environment or on its command line, holds.
    """
    if "OMP_NUM_THREADS" not in os.environ or not any(name in os.environ for name in LAUNCHED):
        return
    import psutil
    import torch

    try:
        for above in psutil.Process().parents():
            settings = above.environ()
            if not any(name in settings for name in LAUNCHED):
                break  # the launcher itself
        else:
            return
        if "OMP_NUM_THREADS" in settings or any(
            "num_cpu_threads" in word.replace("-", "_") for word in above.cmdline()
        ):
            return
    except psutil.Error:  # another user's process, or one that has ended
        return
    torch.set_num_threads(max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def cores() -> int:
    """Of this machine, or those that this process is held to; one where two threads share it."""
    import psutil

    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(mine, psutil.cpu_count(logical=False) or mine)


def defaults(known: list[str], given: dict[str, Any]) -> dict[str, Any]:
    """Defaults that depend on the machine. TRL's own (bf16, checkpointing) are for GPUs: a CPU runs bf16 matrix
    products about 190 times slower than fp32, and checkpointing costs a fifth of the speed to save memory it has."""
    gpu = has_gpu()
    values: dict[str, Any] = {"bf16": gpu, "gradient_checkpointing": gpu, "use_cpu": not gpu}
    if gpu and given.get("use_peft"):
        values["dtype"] = "bfloat16"  # frozen weights need no fp32 master copy
    return {key: value for key, value in values.items() if key in known and key not in given}


def unsupported(given: dict[str, Any]) -> list[str]:
    """Flags that this machine cannot honour, each with the reason."""
    problems = []
    gpu = has_gpu()
    attention = str(given.get("attn_implementation") or "")
    for key in ("load_in_4bit", "load_in_8bit"):
        if given.get(key):
            if not gpu or importlib.util.find_spec("bitsandbytes") is None:
                problems.append(f"{key} needs a GPU and the package bitsandbytes; here: leave it out")
            elif not given.get("use_peft"):
                problems.append(f"{key} freezes the weights, so it needs --use_peft")
    liger = importlib.util.find_spec("liger_kernel") is not None
    if given.get("use_liger_kernel") and not (gpu and liger):
        problems.append("use_liger_kernel needs a GPU and the package liger-kernel; here: leave it out")
    if "flash" in attention and (not gpu or ("/" not in attention and importlib.util.find_spec("flash_attn") is None)):
        problems.append(f"attn_implementation={attention} needs a GPU and the package flash-attn; here: sdpa")
    if (given.get("bf16") or given.get("dtype") == "bfloat16") and not gpu:
        print("note: bf16 on a CPU is about 190 times slower than fp32 here; leave bf16 and dtype out", flush=True)
    return problems
