"""Is a resumed run the one that was interrupted? Its record is compared before a model is loaded.

A run that went on with another learning rate, other rows or another parent would be recorded as what it is only in
part, and what it has learnt would be hidden from the check for leaks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from align.run.errors import RunError
from align.run.lineage import read_record, run_directory


class OtherRun(RunError):
    """A resumption that is not the run that was interrupted: the record stays as it was."""


# Settings that change how a run is logged, saved, evaluated and spread, but not what is learnt
FREE_PREFIXES = (
    "logging_", "log_", "save_", "eval_", "hub_", "push_to_hub", "ddp_", "fsdp", "deepspeed", "trackio_",
    "gradient_checkpointing", "activation_checkpointing", "per_device_", "include_",
)  # fmt: skip
FREE = {
    "output_dir", "overwrite", "accept_failed", "preview", "resume_from_checkpoint", "report_to", "run_name", "project",
    "disable_tqdm", "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers",
    "dataloader_prefetch_factor", "gradient_accumulation_steps", "max_eval_rows", "dataset_test_split",
    "max_dropped", "max_too_long", "accelerator_config", "use_cpu", "dataset_num_proc", "activation_offloading",
    "precompute_ref_batch_size", "find_batch_size", "local_rollout_forward_batch_size",
    "restore_callback_states_from_checkpoint", "skip_memory_metrics", "torch_empty_cache_steps", "local_rank", "debug",
    "batch_eval_metrics", "prediction_loss_only", "trust_remote_code", "num_sample_generations", "rollout_save_steps",
    # set from others, which are compared or free themselves
    "do_eval", "dataloader_multiprocessing_context", "generation_batch_size",
}  # fmt: skip
# Of no other meaning: TRL 1.15 made the first loss a name of the second, 1.14 left a mixture's weight to the model
RENAMED = {"loss_type": ("chunked_nll", "nll"), "router_aux_loss_coef": (0.001, None)}
# How long a run is; and the schedules under which its first half is the same whatever comes after
LENGTH = ("max_steps", "num_train_epochs", "total_episodes")
STEADY = ("constant", "constant_with_warmup", "inverse_sqrt")
# Named by path: what they are is compared by hash, as parents
PATHS = ("model_name_or_path", "reward_model_path", "tokenizer_name_or_path", "dataset_name")


def record_before(folder: Path, wanted: Any) -> dict[str, Any] | None:
    """The record of the run that a resumption goes on with; None where there is nothing yet to go on with.

    Args:
        wanted: `resume_from_checkpoint` as it was given: `last`, or a checkpoint, perhaps of another folder.

    Raises:
        RunError: for a checkpoint that no recorded run wrote.
    """
    if str(wanted).lower() not in ("none", "false", "true", "last") and (Path(wanted) / "trainer_state.json").is_file():
        home = run_directory(wanted)
        if home is None:
            raise RunError(
                f"--resume_from_checkpoint {wanted}: no run.json beside it says what it was trained on; "
                "a run can begin from its weights instead: --model_name_or_path"
            )
        return read_record(home)
    record = read_record(folder)
    begun = record is not None and (any(folder.glob("checkpoint-*")) or record.get("resumable"))
    return record if begun else None


MOMENT = ("template_date", "bf16", "dtype")  # their defaults are of the day and of the machine


def kept(given: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Settings whose default is the moment at which a run began: a resumed one takes them from its record."""
    wanted, out = given.get("resume_from_checkpoint"), given.get("output_dir")
    named = [name for name in MOMENT if name in known and given.get(name) is None]
    named = [name for name in named if not (name == "bf16" and given.get("fp16"))]
    if not named or not out or str(wanted).lower() in ("none", "false"):
        return {}
    before = (record_before(Path(str(out)), wanted) or {}).get("config") or {}
    return {name: before[name] for name in named if before.get(name) is not None}


def check_settings(before: dict[str, Any], config: dict[str, Any]) -> dict[str, list[Any]]:
    """Compare the configuration with the recorded one; settings that only one of them knows are passed over.

    Returns:
        What differs and may, by name: `[then, now]`.

    Raises:
        RunError: naming every setting that may not.
    """
    then, now = before.get("config") or {}, json.loads(json.dumps(config, default=str))
    differ = {name: [then[name], now[name]] for name in then.keys() & now.keys() if then[name] != now[name]}
    differ = {name: both for name, both in differ.items() if tuple(both) != RENAMED.get(name)}
    free = {name for name in differ if name in FREE or name in PATHS or name.startswith(FREE_PREFIXES)}
    if now.get("lr_scheduler_type") in STEADY and not 0 < float(now.get("warmup_steps") or 0) < 1:
        free |= {name for name in LENGTH if name in differ}
    wrong = {name: differ[name] for name in sorted(differ.keys() - free)}
    if wrong:
        longer = ""
        if wrong.keys() & set(LENGTH):
            longer = (
                "\n  (a longer run changes the learning rates of the steps already made, unless --lr_scheduler_type is "
                "constant)"
            )
        _refuse([f"{name}: {_shown(a)} -> {_shown(b)}" for name, (a, b) in wrong.items()], longer)
    _check_readers(before, now)
    return {name: differ[name] for name in sorted(free) if name in (*LENGTH, *PATHS) or name.startswith("per_device_")}


def _check_readers(before: dict[str, Any], now: dict[str, Any]) -> None:
    """A stream's rows are shared by processes and their workers: other ones would read some again, and others never."""
    if not now.get("dataset_streaming") or "world_size" not in before:
        return
    worlds = (int(before["world_size"]), int(os.environ.get("WORLD_SIZE", "1")))
    workers = [config.get("dataloader_num_workers") or 0 for config in (before.get("config") or {}, now)]
    readers = [world * max(1, some) for world, some in zip(worlds, workers, strict=True)]
    if readers[0] != readers[1]:
        told = [f"{world} x {max(1, some)}" for world, some in zip(worlds, workers, strict=True)]
        _refuse([f"who reads the stream (processes x dataloader_num_workers): {told[0]} -> {told[1]}"])


def check_facts(before: dict[str, Any], facts: dict[str, Any]) -> dict[str, list[Any]]:
    """Compare what a resumed run notes of its parents and its rows with what was noted then.

    Returns:
        The parents that differ and may, as they only measure: `[then, now]`.

    Raises:
        RunError: naming every parent that is another one, and the split whose rows are others.
    """
    wrong, changed = [], {}
    then, now = before.get("parents") or {}, facts.get("parents") or {}
    for role in sorted(then.keys() | now.keys()) if then and now else ():
        a, b = then.get(role) or {}, now.get(role) or {}
        hashes = (a.get("hash"), b.get("hash"))
        if hashes[0] == hashes[1] if all(hashes) else a.get("path") == b.get("path"):
            continue
        if role.startswith("eval_"):
            changed[role] = [a, b]
        else:
            known = [f"{one.get('path')} ({str(one.get('hash'))[:8]})" if one else "none" for one in (a, b)]
            wrong.append(f"{role}: {known[0]} -> {known[1]}")
    rows = [((one.get("data") or {}).get("train") or {}) for one in (before, facts)]
    prints = [one.get("fingerprint") for one in rows]
    if all(prints) and (prints[0] != prints[1] or rows[0].get("rows_out") != rows[1].get("rows_out")):
        told = [f"{one.get('rows_out'):,} rows of {one.get('source')} ({one['fingerprint'][:8]})" for one in rows]
        wrong.append(f"rows to train on: {told[0]} -> {told[1]}")
    if wrong:
        _refuse(wrong)
    return changed


def _refuse(wrong: list[str], more: str = "") -> None:
    listed = "\n".join(f"  - {line}" for line in wrong)
    raise OtherRun(
        f"this is not the run that was interrupted (recorded -> now):\n{listed}{more}\n  resume with what is recorded, "
        "or start another run: a new --output_dir, or --overwrite in place of --resume_from_checkpoint"
    )


def _shown(value: Any) -> str:
    """A value on one line."""
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return text if len(text) <= 80 else f"{text[:77]}…"
