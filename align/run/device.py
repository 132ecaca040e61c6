"""What this machine can do: is there a GPU, how fast are its products, which defaults follow, which flags it cannot
honour."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Collection
from typing import Any, NamedTuple

from align.run.errors import ConfigError
from align.run.received import screen

# What accelerate and torchrun leave in the environment of the processes that they start
LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")
# Rates that a command measured once for all the runs that it starts
RATES = "ALIGN_MATRIX_GFLOPS"
FROM = 20_000_000  # parameters; in a smaller model other things than products take the time
MARGIN = 1.3  # what bf16 must win in a product to win in a training, which is not made of products alone
PATIENCE = 0.03  # seconds, after which a product is not timed again; without bf16 instructions one takes that long


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


def keep_memory() -> None:
    """On a CPU, let the C library keep what is freed: every step asks for the same again, and pages that were given
    back to the system are cleared anew. No more is held than a step needs at most."""
    import ctypes

    if has_gpu() or sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):  # glibc's alone
        return
    for setting, value in ((-1, 2**30), (-2, 2**26), (-3, 2**30)):  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD
        libc.mallopt(setting, value)


def peak_resident_bytes() -> int:
    """The most memory this process itself has held. `getrusage` alone would say what its parent held when it started
    it, where that was more: Linux hands that figure on, its own `VmHWM` it does not."""
    import resource

    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def cores() -> int:
    """Of this machine, or those that this process is held to; one where two threads share it."""
    import psutil

    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(mine, psutil.cpu_count(logical=False) or mine)


class Rates(NamedTuple):
    """GFLOP/s of one core in a matrix product of a layer's size."""

    fp32: float
    bf16: float

    @property
    def bf16_pays(self) -> bool:
        """Is bf16 faster by a clear margin?"""
        return self.bf16 >= MARGIN * self.fp32

    def __str__(self) -> str:
        return f"{self.bf16:,.3g} GFLOP/s a core in bf16, {self.fp32:,.3g} in fp32"


_measured: list[Rates] = []  # once a process


def measure() -> Rates:
    """Time one product, 128 tokens through a layer of a 135 M model, in fp32 and in bf16: milliseconds.

    On one thread: which instructions a core has decides, and several threads would also measure who else computes here.
    """
    import torch

    def rate(dtype: Any) -> float:
        tokens, weight = torch.ones(128, 576, dtype=dtype), torch.ones(576, 576, dtype=dtype)
        begun, best = time.perf_counter(), float("inf")
        for _ in range(20):
            before = time.perf_counter()
            torch.nn.functional.linear(tokens, weight)
            best = min(best, (now := time.perf_counter()) - before)
            if now - begun > PATIENCE:
                break
        return 2 * tokens.numel() * len(weight) / best / 1e9

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return Rates(rate(torch.float32), rate(torch.bfloat16))
    finally:
        torch.set_num_threads(threads)


def rates() -> Rates:
    """This machine's, measured once a process; of several processes the first one's hold for all."""
    import torch.distributed as dist

    if not _measured:
        told = os.environ.get(RATES)
        found = [_read(told) if told else measure()]
        if dist.is_available() and dist.is_initialized():
            dist.broadcast_object_list(found)
        _measured.append(Rates(*found[0]))
    return _measured[0]


def _read(told: str) -> Rates:
    try:
        return Rates(*map(float, told.split()))
    except (TypeError, ValueError):
        raise ConfigError(
            f"{RATES}={told!r}: expected two numbers, GFLOP/s of a core in fp32 and in bf16 ('80 200'); write them so, "
            "or unset it, and they are measured"
        ) from None


def hand_down(known: Rates | None = None) -> None:
    """Let this process and those that it starts go by `known` rates, or by those measured here."""
    if known is not None:
        _measured[:] = [known]
    os.environ[RATES] = " ".join(map(str, rates()))


def facts() -> dict[str, Any]:
    """What a run's record says of the measurement, where there was one."""
    return (
        {"matrix_gflops": {key: round(value, 1) for key, value in _measured[0]._asdict().items()}} if _measured else {}
    )


def bf16_pays(parameters: int | None) -> bool:
    """Is a model of so many parameters faster in bf16 on this CPU? An unknown size is a small one."""
    return (parameters or 0) >= FROM and rates().bf16_pays


def launched(known: Collection[str], given: dict[str, Any]) -> dict[str, Any]:
    """The precision that a launcher was told (`mixed_precision`), where the recipe was told none.

    The launcher's would hold below any `--bf16 false`, unrecorded; from here on the recipe's settings alone decide.
    """
    told = os.environ.get(LAUNCHED[0])
    if told not in ("bf16", "fp16") or told not in known:
        return {}
    os.environ[LAUNCHED[0]] = "no"
    return {} if {"bf16", "fp16"} & set(given) else {told: True}


def defaults(known: list[str], given: dict[str, Any], planned: bool | None = None) -> dict[str, Any]:
    """Defaults that depend on the machine. TRL's own (bf16, checkpointing) are for GPUs: on a CPU checkpointing costs
    a fifth of the speed to save memory that it has, and `precision` decides on bf16 once the model is known.

    Args:
        planned: has the machine that is planned for a GPU? None: it is this one.
    """
    gpu = has_gpu() if planned is None else planned
    values: dict[str, Any] = {"bf16": gpu and not given.get("fp16"), "use_cpu": not has_gpu()}
    if not {"activation_checkpointing", "gradient_checkpointing"} & set(given):  # the new name and the old
        values["activation_checkpointing"] = gpu
    if gpu and given.get("use_peft"):
        values["dtype"] = "bfloat16"  # frozen weights need no fp32 master copy
    return {key: value for key, value in values.items() if key in known and key not in given}


def precision(values: dict[str, Any], settled: Any, parameters: int | None) -> dict[str, Any]:
    """What a CPU's measured rates change in a training's settings; says what was chosen, and why.

    Where bf16 pays, products are computed in it, and weights that LoRA freezes are held in it. What is trained is fp32.

    Args:
        values: the settings so far, fp32.
        settled: names of those that the user, or the run that is resumed, has decided.
        parameters: of the model.
    """
    asked = values.get("bf16") or values.get("dtype") == "bfloat16"
    if asked and not rates().bf16_pays:
        screen.say(f"note: bf16 was asked for, and here it is no faster: {rates()}; leave bf16 and dtype out")
    if asked or {"bf16", "fp16", "dtype"} & set(settled) or (parameters or 0) < FROM:
        return {}
    if not bf16_pays(parameters):
        screen.say(f"precision: fp32, measured {rates()}")
        return {}
    screen.say(f"precision: bf16, measured {rates()}; --bf16 false for fp32")
    return {"bf16": True} | ({"dtype": "bfloat16"} if values.get("use_peft") else {})


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
    return problems
