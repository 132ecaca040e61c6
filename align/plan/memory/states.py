"""Weights, gradients and optimizer: bytes of one process, whole or in shards.

P processes, N trained numbers. Source of the divisions: Rajbhandari et al. 2020 (ZeRO), figure 1 and section 5.
"""

from __future__ import annotations

from align.plan.memory.job import Job

FP32 = 4
SHARDED: dict[str, set[str]] = {
    "single": set(),
    "ddp": set(),
    "zero1": {"optimizer"},
    "zero2": {"optimizer", "gradients"},
    "zero3": {"optimizer", "gradients", "weights"},
    "fsdp2": {"optimizer", "gradients", "weights"},
}


def share(kind: str, sharding: str, processes: int) -> float:
    """The part of `weights`, `gradients` or `optimizer` that one process holds."""
    return 1 / processes if kind in SHARDED[sharding] else 1.0


def engine(job: Job) -> bool:
    """Does DeepSpeed hold the weights?"""
    return job.sharding.startswith("zero")


def weights(job: Job) -> float:
    """Of the model that learns or speaks, and of LoRA's matrices in fp32.

    Without LoRA fp32: 4 N (DeepSpeed computes with a copy in bf16 where that is asked for: 2 N, and keeps fp32 with the
    optimizer). With it: the frozen ones as they are held, 4 bytes for what is trained beside them.
    """
    if not job.whole:
        found = job.held * job.shape.parameters + FP32 * job.trained
    else:
        found = (2 if engine(job) and job.autocast else FP32) * job.trained
    return 0.0 if job.offload else found * share("weights", job.sharding, job.processes)


def gradients(job: Job) -> float:
    """Of all that is trained, at the end of a backward pass: 4 N, or 2 N where DeepSpeed computes in bf16.

    DDP exchanges them through buckets, which hold them a second time.
    """
    size = 2 if engine(job) and job.autocast else FP32
    twice = 2 if job.sharding == "ddp" else 1
    return twice * size * job.trained * share("gradients", job.sharding, job.processes)


def optimizer(job: Job) -> float:
    """AdamW's two moments: 8 N. DeepSpeed keeps an fp32 copy of the weights with them: 12 N."""
    size = job.optimizer + (FP32 if engine(job) else 0)
    return 0.0 if job.offload else size * job.trained * share("optimizer", job.sharding, job.processes)


def gathered(job: Job) -> float:
    """Where weights lie in shards: those of two layers, whole, while one is computed and the next one fetched."""
    if "weights" not in SHARDED[job.sharding]:
        return 0.0
    size = 2 if job.autocast or job.held <= 2 else FP32
    layer = job.shape.in_layers / job.shape.layers
    return size * max(2 * layer, job.shape.embeddings)


def cast(job: Job) -> float:
    """Under autocast each weight's copy in bf16, kept until the backward pass is through."""
    return 2 * job.shape.parameters if job.autocast and not engine(job) else 0.0
