"""What a run is planned for: this CPU, a GPU by its name, or so much memory; and what the program takes itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from align.plan.memory.job import Job
from align.run import device
from align.run.errors import ConfigError

GIB = 2**30
# GiB that a card's own tool reports (nvidia-smi); the two H's were read on machines, the others are their data sheets'
CARDS = {"t4": 15, "l4": 22.5, "3090": 24, "4090": 24, "a10": 22.5, "a100-40": 40, "l40s": 45, "a100": 80, "h100": 79.6,
         "h200": 140}  # fmt: skip
# MiB of a CPU's process with a recipe's libraries loaded, before any model: runs on a model of four thousand weights,
# traced (2026-11-28, torch 2.13, transformers 5.24, TRL 1.16)
BARE = {"sft": 537, "reward": 537, "dpo": 537, "ppo": 545, "sample": 505, "eval": 541}
# The same at its most, while rows are read, tokenised and compared: the peaks of these runs (`bare-*` in
# benchmarks/plan.json)
READING = {"sft": 636, "reward": 635, "dpo": 636, "ppo": 580, "sample": 505, "eval": 541}
MIB = 2**20
# Of a GPU: the context and the libraries' own space. Not measured here
CONTEXT = 0.8 * GIB
# Of a CPU's process: memory that is in nobody's use, between what is, in glibc's heap. It grows over the steps of a run
# whose rows differ in length; the most that was seen is 5,499 MiB where 2,305 were in use and 2,527 planned
HOLES = 1.2  # docs/plan.md has the runs
SPARE = 0.1  # of the memory is left to what a plan does not count (fragments, other programs)


@dataclass(frozen=True)
class Machine:
    """Where a run is to be, for each of its processes."""

    name: str
    gpu: bool
    memory: int  # bytes of one device; a CPU's are shared by its processes

    def room(self, processes: int) -> float:
        """Bytes that one process may plan with."""
        return (1 - SPARE) * self.memory / (1 if self.gpu else processes)


def of(name: str | None) -> Machine:
    """The machine of a name: `cpu`, a card (`h100`), or a GPU's memory (`24GiB`). None for what is here.

    Raises:
        ConfigError: for a name that is none of these.
    """
    import psutil

    if name is None and device.has_gpu():
        import torch

        found = torch.cuda.get_device_properties(0)
        return Machine(found.name, True, found.total_memory)
    if name in (None, "cpu"):
        return Machine(f"this machine's {device.cores()} cores", False, psutil.virtual_memory().total)
    told = str(name).lower()
    if told in CARDS:
        return Machine(told.upper(), True, int(CARDS[told] * GIB))
    size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(gib|gb|g)", told)
    if size is None or float(size[1]) == 0:
        raise ConfigError(
            f"device={name}: give cpu, a GPU's memory (24GiB), or one of {', '.join(CARDS)}; leave it out for "
            "what is here"
        )
    return Machine(f"a GPU of {size[1]} GiB", True, int(float(size[1]) * GIB))


def program(job: Job, *, reading: bool = False) -> float:
    """Bytes that are there before any model is; on a CPU more while rows are read."""
    return CONTEXT if job.gpu else (READING if reading else BARE)[job.stage] * MIB
