"""What this machine can do: is there a GPU, which defaults follow from it, which flags it cannot honour."""

from __future__ import annotations

import importlib.util
from typing import Any


def has_gpu() -> bool:
    """Is there an accelerator that torch can train on?"""
    import torch

    return torch.accelerator.is_available() and torch.accelerator.current_accelerator().type != "cpu"


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
    if given.get("packing") and "flash" not in attention:
        problems.append(
            "packing needs --attn_implementation flash_attention_2: with others, packed rows would attend to each other"
        )
    if (given.get("bf16") or given.get("dtype") == "bfloat16") and not gpu:
        print("note: bf16 on a CPU is about 190 times slower than fp32 here; leave bf16 and dtype out", flush=True)
    return problems
