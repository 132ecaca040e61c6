"""GPUs: which are there, whether this torch can use them, and how fast matrices are multiplied, there or on the CPU."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

from align.machine.findings import FAIL, OK, WARN, Finding
from align.run import device

SMI = ["nvidia-smi", "--query-gpu=name,memory.total,memory.used,driver_version,mig.mode.current",
       "--format=csv,noheader,nounits"]  # fmt: skip
NVIDIA, DISPLAYS = "0x10de", ("0x0300", "0x0302")  # as the PCI bus numbers a maker, and cards for pictures and numbers
FREE = 0.8  # share of a card's memory that is free where nobody else uses it
SIZE = 4096  # of the matrices that a GPU multiplies


class Card(NamedTuple):
    """A GPU as its driver tells of it."""

    name: str
    gib: float
    used: float  # of them, by whomever
    driver: str
    mig: bool  # divided into slices


class Build(NamedTuple):
    """What torch says of itself, and of the GPUs that it sees."""

    version: str
    cuda: str | None  # that it was built for
    usable: bool
    kind: str = "cpu"  # of accelerator
    capabilities: tuple[tuple[int, int], ...] = ()  # of each GPU
    arches: tuple[str, ...] = ()  # that it holds code for


def cards() -> list[Card]:
    """What the driver tells; nothing where there is none, or where it does not answer."""
    try:
        done = subprocess.run(SMI, capture_output=True, text=True, timeout=3)
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = []
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 5 and parts[1].isdigit():
            used = int(parts[2]) if parts[2].isdigit() else 0
            found.append(Card(parts[0], int(parts[1]) / 1024, used / 1024, parts[3], parts[4] == "Enabled"))
    return found


def on_the_bus(devices: Path = Path("/sys/bus/pci/devices")) -> bool:
    """Is an NVIDIA card in this machine, with a driver or without? A container sees that, too."""

    def read(file: Path) -> str:
        try:
            return file.read_text().strip()
        except OSError:
            return ""

    every = devices.iterdir() if devices.is_dir() else ()
    return any(read(one / "vendor") == NVIDIA and read(one / "class").startswith(DISPLAYS) for one in every)


def newest_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver can run."""
    number = ctypes.c_int()
    try:
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number)):
            return None
    except (OSError, AttributeError):
        return None
    return number.value // 1000, number.value % 1000 // 10


def build(torch: Any) -> Build:
    """What there is to know of an imported torch."""
    usable = torch.accelerator.is_available()
    kind = torch.accelerator.current_accelerator().type if usable else "cpu"
    if kind != "cuda" or torch.version.cuda is None:
        kind = "ROCm" if torch.version.hip else kind  # which calls its GPUs cuda
        return Build(torch.__version__, torch.version.cuda, usable, kind)
    every = tuple(torch.cuda.get_device_capability(number) for number in range(torch.cuda.device_count()))
    return Build(torch.__version__, torch.version.cuda, True, kind, every, tuple(torch.cuda.get_arch_list()))


def look(there: list[Card], newest: tuple[int, int] | None, torch: Build, hidden: bool, bus: bool) -> list[Finding]:
    """What follows from the cards, their driver's newest CUDA and this torch.

    Args:
        hidden: does `CUDA_VISIBLE_DEVICES` name none?
        bus: is a card in the machine, whether or not a driver tells of it?
    """
    if not there:
        if torch.usable and torch.kind != "cpu":
            return [Finding(OK, "gpu", f"{torch.kind}, which has not been tried with these recipes")]
        if bus:
            told = "an NVIDIA card is in this machine, and no driver answers; all runs on the CPU"
            return [Finding(WARN, "gpu", told, "install its driver; in Docker: docker run --gpus all")]
        return [Finding(OK, "gpu", "none; all runs on the CPU")]
    names = " and ".join(
        f"{sum(one.name == name for one in there)} x {name}" for name in dict.fromkeys(c.name for c in there)
    )
    known = ".".join(map(str, newest)) if newest else "unknown"
    told = f"{names}, {there[0].gib:.0f} GiB, driver {there[0].driver} (CUDA up to {known})"
    if hidden:
        return [Finding(WARN, "gpu", f"{told}; hidden by CUDA_VISIBLE_DEVICES", "unset CUDA_VISIBLE_DEVICES")]
    if not torch.usable or torch.cuda is None:
        return [_unusable(told, newest, torch)]
    return [Finding(OK, "gpu", f"{told}; torch is built for {torch.cuda}"), *_care(there, torch)]


def _unusable(told: str, newest: tuple[int, int] | None, torch: Build) -> Finding:
    """Cards that this torch does not use, and why."""
    wheel = "cu130" if newest is None or newest >= (13, 0) else "cu126"  # CUDA 12 runs what is built for any 12.x
    mend = (
        f"pip install --force-reinstall -c constraints.txt torch --index-url https://download.pytorch.org/whl/{wheel}"
    )
    if torch.cuda is None:
        return Finding(FAIL, "gpu", f"{told}; torch {torch.version} is a build for CPUs", mend)
    if newest and int(torch.cuda.split(".")[0]) > newest[0]:
        return Finding(FAIL, "gpu", f"{told}; torch {torch.version} needs a driver for CUDA {torch.cuda}", mend)
    return Finding(
        FAIL, "gpu", f"{told}; torch {torch.version} cannot use it", 'python -c "import torch; torch.cuda.init()"'
    )


def _care(there: list[Card], torch: Build) -> list[Finding]:
    """Cards that can be used, and what to mind."""
    found = []
    for card in sorted(set(torch.capabilities)):
        if not any(_runs(arch, card) for arch in torch.arches):
            held = ", ".join(torch.arches)
            told = f"torch {torch.version} holds no code for this card (sm_{card[0]}{card[1]}), only for {held}"
            found.append(Finding(FAIL, "gpu", told, "pip install --upgrade torch  # from the index of your CUDA"))
    if any(major < 8 for major, _ in torch.capabilities):
        found.append(
            Finding(WARN, "gpu", "no bf16 instructions, and bf16 is a GPU's default", "--bf16 false --fp16 true")
        )
    for number, one in enumerate(there):
        if one.mig:
            told = f"GPU {number} is divided (MIG): a process sees one slice, and slices cannot train together"
            found.append(
                Finding(WARN, "gpu", told, "export CUDA_VISIBLE_DEVICES=$(nvidia-smi -L | grep -om1 'MIG-[^)]*')")
            )
        elif one.used > (1 - FREE) * one.gib:
            told = f"GPU {number}: {one.used:.0f} of {one.gib:.0f} GiB are in use by other programs"
            found.append(Finding(WARN, "gpu", told, "nvidia-smi  # shows whose they are"))
    return found


def _runs(arch: str, card: tuple[int, int]) -> bool:
    """Does code for `sm_80` run on this card? On those of the same generation from there up; `compute_80` on all later
    ones, which translate it; `sm_90a` on that one alone."""
    kind, _, number = arch.partition("_")
    own = number[-1].isalpha()
    number = number.rstrip("af")
    built = (int(number[:-1]), int(number[-1]))
    if kind == "compute":
        return built <= card
    return built == card if own else built[0] == card[0] and built <= card


def rate(torch: Any) -> Finding:
    """The matrix rate, measured: which precision is the default follows from it on a CPU."""
    if not device.has_gpu():
        known = device.measure()
        chosen = "bf16" if known.bf16_pays else "fp32"
        return Finding(OK, "precision", f"{chosen} from {device.FROM // 10**6} M parameters up, fp32 below: {known}")
    where = torch.accelerator.current_accelerator()
    half = torch.ones(SIZE, SIZE, dtype=torch.bfloat16, device=where)
    best = float("inf")
    for _ in range(5):
        torch.accelerator.synchronize()
        begun = time.perf_counter()
        half @ half
        torch.accelerator.synchronize()
        best = min(best, time.perf_counter() - begun)
    return Finding(
        OK, "precision", f"bf16: {2 * SIZE**3 / best / 1e12:.3g} TFLOP/s in a product of {SIZE:,} x {SIZE:,}"
    )


def hidden() -> bool:
    """Does `CUDA_VISIBLE_DEVICES` hide all GPUs?"""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1", "NoDevFiles")
