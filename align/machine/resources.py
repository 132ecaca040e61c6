"""Threads, memory, disk, shared memory, open files, the compiler, the launcher's own settings: what a run uses up or
stumbles over."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import yaml

from align.machine.findings import FAIL, OK, WARN, Finding
from align.run import device

GIB = 1 << 30
CONTAINER = Path("/sys/fs/cgroup")
SHARED = Path("/dev/shm")
FILES = 1024  # open ones that a data loader with a few workers needs
# Read by nobody any more, and what is
GONE = {
    "TRANSFORMERS_CACHE": "HF_HOME",
    "PYTORCH_TRANSFORMERS_CACHE": "HF_HOME",
    "HUGGINGFACE_HUB_CACHE": "HF_HUB_CACHE",
}


def home(environment: Mapping[str, str]) -> Path:
    """Where checkpoints and data sets from the hub are kept."""
    default = Path(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.path.expandvars(environment.get("HF_HOME") or default)).expanduser()


def threads(environment: Mapping[str, str], cores: int, container: Path = CONTAINER) -> list[Finding]:
    """How many cores a run has, and whether it will use them."""
    told = f"{cores} cores"
    share = _quota(container)
    wanted = environment.get("OMP_NUM_THREADS", "")
    if share is not None and share < cores and not wanted:
        most = max(1, int(share))
        told = f"the container may use {share:.3g} of {cores} cores, and as many threads start as there are cores"
        return [Finding(WARN, "threads", told, f"export OMP_NUM_THREADS={most}")]
    if wanted.isdigit() and int(wanted) < int(min(cores, share or cores)):
        return [Finding(WARN, "threads", f"OMP_NUM_THREADS={wanted}, and there are {told}", "unset OMP_NUM_THREADS")]
    if wanted.isdigit() and int(wanted) > cores:
        mend = f"export OMP_NUM_THREADS={cores}"
        return [Finding(WARN, "threads", f"OMP_NUM_THREADS={wanted}, and there are only {told}", mend)]
    return [Finding(OK, "threads", told)]


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # not there, or `max`
        return None


def _quota(container: Path) -> float | None:
    """Cores' worth of time that a container may use; None without such a limit."""
    try:
        most, period = (container / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if most == "max" else int(most) / int(period)


def memory(total: int, available: int, container: Path = CONTAINER) -> list[Finding]:
    """How much a run can have."""
    limit, used = _number(container / "memory.max"), _number(container / "memory.current") or 0
    if limit is not None and limit < total:
        total, available = limit, min(available, max(0, limit - used))
    told = f"{available / GIB:.1f} of {total / GIB:.1f} GiB free"
    if available < 4 * GIB:
        return [
            Finding(WARN, "memory", f"{told}; a model of 135 M parameters takes about 4 to train", "end other programs")
        ]
    return [Finding(OK, "memory", told)]


def disk(folder: Path, cache: Path) -> list[Finding]:
    """Room where runs and checkpoints are written."""
    found = []
    moved = {"runs": "--output_dir on another disk", "cache": "export HF_HOME=/a/disk/with/room"}
    for name, path in (("runs", folder), ("cache", cache)):
        place = next(one for one in (path, *path.absolute().parents) if one.is_dir())
        free = shutil.disk_usage(place).free
        told = f"{name} in {path}: {free / GIB:,.1f} GiB free"
        if not os.access(place, os.W_OK | os.X_OK):
            found.append(Finding(FAIL, "disk", f"{name} in {path}: cannot be written", moved[name]))
        elif free < GIB:
            found.append(Finding(FAIL, "disk", told, moved[name]))
        else:
            found.append(Finding(WARN if free < 10 * GIB else OK, "disk", told, moved[name] if free < 10 * GIB else ""))
    return found


def shared(folder: Path = SHARED) -> list[Finding]:
    """Memory that processes share: loaders' workers and NCCL pass rows and gradients through it."""
    if not folder.is_dir():  # a Mac has none
        return []
    size = shutil.disk_usage(folder).total
    told = f"{folder}: {size / GIB:.2g} GiB"
    if size < GIB:
        mend = "docker run --shm-size 8g (or --ipc host)"
        return [Finding(WARN, "shared memory", f"{told}; several processes, or loaders with workers, end in it", mend)]
    return [Finding(OK, "shared memory", told)]


def open_files() -> list[Finding]:
    """Only told where it is too few."""
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or soft >= FILES:
        return []
    return [Finding(WARN, "open files", f"{soft} at most", f"ulimit -n {64 * FILES}")]


def compiler(environment: Mapping[str, str], cuda: str | None) -> list[Finding]:
    """What DeepSpeed compiles its kernels with, once: on a CPU for ZeRO, on GPUs for optimizers in CPU memory.

    Args:
        cuda: that torch was built for.
    """
    if sys.platform != "linux":
        return []
    path = environment.get("PATH")
    lacking, mends = [], []
    if not any(shutil.which(name, path=path) for name in (environment.get("CXX", "c++"), "g++")):
        lacking, mends = ["no C++ compiler"], ["apt-get install -y g++"]
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        lacking.append("no Python.h")
        mends.append("apt-get install -y python3-dev")
    if not shutil.which("ninja", path=path):
        lacking.append("no ninja on PATH")
        here = Path(sys.executable).parent
        mends.append(f"export PATH={here}:$PATH" if (here / "ninja").exists() else "pip install ninja")
    if lacking:
        told = f"{', '.join(lacking)}: DeepSpeed cannot compile; DDP and FSDP2 do without"
        return [Finding(WARN, "compiler", told, " && ".join(mends))]
    return [_of_cuda(environment, cuda) if cuda else Finding(OK, "compiler", "a C++ compiler and ninja, for DeepSpeed")]


def _of_cuda(environment: Mapping[str, str], cuda: str) -> Finding:
    """Is the toolkit here the one of torch? DeepSpeed compiles with no other."""
    own = Path(environment.get("CUDA_HOME") or environment.get("CUDA_PATH") or "/usr/local/cuda") / "bin" / "nvcc"
    program = str(own) if own.is_file() else shutil.which("nvcc", path=environment.get("PATH"))
    if program is None:
        told = "no nvcc: DeepSpeed cannot compile optimizers in CPU memory (zero3_offload); all else does without"
        return Finding(WARN, "compiler", told, f"install the CUDA toolkit {cuda}, export CUDA_HOME=/usr/local/cuda")
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    found = done.stdout.rpartition("release ")[2].partition(",")[0]
    if found.split(".")[0] != cuda.split(".")[0]:
        told = f"nvcc is of CUDA {found}, torch of {cuda}: DeepSpeed refuses to compile with it"
        return Finding(WARN, "compiler", told, f"export CUDA_HOME=/usr/local/cuda-{cuda}")
    return Finding(OK, "compiler", f"a C++ compiler, ninja and nvcc {found}, for DeepSpeed")


def launcher(environment: Mapping[str, str]) -> list[Finding]:
    """What `accelerate launch` reads where no file is named, and what of it trains something else than one thinks."""
    file = home(environment) / "accelerate" / "default_config.yaml"
    try:
        told = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return []
    told = told if isinstance(told, dict) else {}
    mend = "accelerate launch --config_file accelerate_configs/ddp.yaml"
    found = []
    if told.get("distributed_type") == "MULTI_CPU":
        found.append(Finding(WARN, "launcher", f"MULTI_CPU in {file} starts one process, whatever is asked for", mend))
    if told.get("distributed_type") == "DEEPSPEED" and told.get("deepspeed_config", {}).get("deepspeed_config_file"):
        found.append(
            Finding(WARN, "launcher", f"{file} names a DeepSpeed file, whose settings overrule the recipe's", mend)
        )
    if str(told.get("dynamo_config") or "") != "" and told["dynamo_config"].get("dynamo_backend", "NO") != "NO":
        found.append(Finding(WARN, "launcher", f"{file} compiles models (dynamo), which has not been tried here", mend))
    return found


def environment_of(environment: Mapping[str, str]) -> list[Finding]:
    """Variables that nobody reads any more, or that make everything slow."""
    found = [
        Finding(WARN, "environment", f"{name} is read by nothing any more", f"export {now}=${name}; unset {name}")
        for name, now in GONE.items()
        if environment.get(name)
    ]
    if environment.get("CUDA_LAUNCH_BLOCKING") == "1":
        told = "CUDA_LAUNCH_BLOCKING=1: a GPU waits for every single product"
        found.append(Finding(WARN, "environment", told, "unset CUDA_LAUNCH_BLOCKING"))
    return found


def findings(environment: Mapping[str, str], cuda: str | None) -> list[Finding]:
    """All of this room's, for the machine that it runs on.

    Args:
        cuda: that torch was built for.
    """
    import psutil

    found, cache = psutil.virtual_memory(), home(environment)
    return [
        *threads(environment, device.cores()), *memory(found.total, found.available), *disk(Path("runs"), cache),
        *shared(), *open_files(), *compiler(environment, cuda), *launcher(environment), *environment_of(environment),
    ]  # fmt: skip
