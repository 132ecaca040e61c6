"""What every training recipe does around `trainer.train()`: announce, check the launch, guard, save, record."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from align.run import launch
from align.run.errors import RunError
from align.run.record import Run


class Progress(ProgressCallback):
    """The usual progress bar with its ETA; logged numbers go behind the bar instead of breaking it into lines."""

    SHOWN = ("loss", "rewards/margins", "accuracy", "objective/scores", "objective/kl", "rollout/length",
             "rollout/eos_rate", "eps", "eval_loss")  # fmt: skip

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.training_bar is not None and logs:
            shown = {k.split("/")[-1]: f"{float(logs[k]):.3g}" for k in self.SHOWN if k in logs}
            if shown:
                self.training_bar.set_postfix(shown)


class Recorder(TrainerCallback):
    """Every logged row into `metrics.jsonl`; a loss that is not a number ends the run before it is saved over."""

    def __init__(self, run: Run):
        self.run = run

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        logs = {k: v for k, v in (logs or {}).items() if isinstance(v, (int, float))}
        self.run.metrics(step=state.global_step, **logs)
        for name in ("loss", "grad_norm", "eval_loss", "loss/policy_avg", "loss/value_avg"):
            if name in logs and not math.isfinite(logs[name]):
                raise RunError(
                    f"{name} is {logs[name]} at step {state.global_step}: the weights are of no use from here on. "
                    "Lower --learning_rate (or check the rows with --max_train_rows); the last checkpoint is untouched"
                )


class NoUpdate(TrainerCallback):
    """After the first step every LoRA B matrix must have moved away from zero (it starts there)."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step != 2 or model is None:
            return
        still = [n for n, p in model.named_parameters() if ".lora_B." in n and p.numel() and not p.detach().any()]
        if still:
            raise RunError(f"{len(still)} LoRA matrices received no gradient, the first: {still[0]}")


def describe(trainer: Any, run: Run, rows: Any, args: Any, recipe: str, parent: str, plan: Any = None) -> None:
    """Print and record how this run will go: device, processes, batch (or PPO's plan), parameters, rows."""
    from accelerate import PartialState

    state = PartialState()
    model = trainer.model
    total, trainable = _count(model)
    launch.check_kind(trainer.accelerator)
    kind = launch.kind(trainer.accelerator)
    micro, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    batch = plan.episodes if plan else micro * accumulation * state.num_processes
    shape = f"{state.num_processes} x {micro} rows x {accumulation} accumulated"
    processes = f"{state.num_processes} ({kind})" + ("" if plan else f"; global batch {batch} = {shape}")
    config = trainer.accelerator.unwrap_model(model).config  # a DeepSpeed engine has a `config` of its own
    facts = dict(
        world_size=state.num_processes, sharding=kind, global_batch_size=batch, parameters=total, trainable=trainable,
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."), data=rows.as_dict(),
    )  # fmt: skip
    run.note(**facts)
    if not state.is_main_process:
        return
    checkpointing = "gradient checkpointing" if args.gradient_checkpointing else "no checkpointing"
    autocast = ", bf16 autocast" if args.bf16 else ""
    print(
        f"{recipe} from {parent} to {args.output_dir}, seed {args.seed}\n"
        f"  device    {state.device}, {facts['dtype']}{autocast}, attention {config._attn_implementation}, "
        f"{checkpointing}\n  processes {processes}\n"
        f"  model     {config.model_type}, {total:,} parameters, {trainable:,} trainable ({trainable / total:.1%})\n"
        f"{rows}" + (f"\n{plan}" if plan else ""),
        flush=True,
    )


def _count(model: Any) -> tuple[int, int]:
    """Parameters and trainable parameters; a ZeRO-3 shard knows its whole size as `ds_numel`."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, grad in sizes if grad)


def callbacks(run: Run) -> list[TrainerCallback]:
    """The callbacks that every trainer gets."""
    return [Recorder(run), NoUpdate()]


def tidy(trainer: Any) -> None:
    """Replace transformers' progress output by ours."""
    trainer.remove_callback(Progress)
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(Progress)


def last_checkpoint(args: Any) -> str | None:
    """The checkpoint that `--resume_from_checkpoint` names: `last` (or `true`), or a path. None without the flag.

    Raises:
        RunError: if there is none to resume from.
    """
    from accelerate import PartialState
    from transformers.trainer_utils import get_last_checkpoint

    wanted = args.resume_from_checkpoint
    if wanted is None or str(wanted).lower() in ("false", "none"):
        return None
    if str(wanted).lower() not in ("last", "true"):
        if not (Path(wanted) / "trainer_state.json").is_file():
            raise RunError(f"--resume_from_checkpoint {wanted}: no checkpoint there (it has no trainer_state.json)")
        return str(wanted)
    state = PartialState()
    if state.is_main_process:
        for checkpoint in Path(args.output_dir).glob("checkpoint-*"):
            if not _is_whole(checkpoint):
                checkpoint.rename(checkpoint.with_name(f"broken-{checkpoint.name}"))
    state.wait_for_everyone()
    found = get_last_checkpoint(args.output_dir) if Path(args.output_dir).is_dir() else None
    if found is None:
        print(f"nothing to resume in {args.output_dir}: starting from the beginning", flush=True)
    return found


def _is_whole(checkpoint: Path) -> bool:
    """Was it finished before the process died? Its last file is `trainer_state.json`."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return True


def train_and_save(trainer: Any, tokenizer: Any) -> dict[str, Any]:
    """Train, check, save what plain `from_pretrained` (or PEFT) loads, and return the training metrics."""
    tidy(trainer)
    result = trainer.train(resume_from_checkpoint=last_checkpoint(trainer.args))
    trainer.save_model(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        tokenizer.save_pretrained(trainer.args.output_dir)
        model = trainer.accelerator.unwrap_model(trainer.model)
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.save_pretrained(trainer.args.output_dir)
        check_saved(Path(trainer.args.output_dir))
    trainer.accelerator.wait_for_everyone()
    seen = trainer.state.num_input_tokens_seen
    return {**result.metrics, "steps": trainer.state.global_step, "tokens": seen}


def check_saved(folder: Path) -> None:
    """The weights on disk are there, whole and finite (ZeRO-3 has written 40-byte adapters; NaN has been saved)."""
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise RunError(f"{folder}: nothing was saved")
    for file in files:
        weights = load_file(str(file))
        empty = [name for name, tensor in weights.items() if tensor.numel() == 0]
        broken = [
            name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()
        ]
        if not weights or empty:
            raise RunError(f"{file}: empty weights {empty[:3]}; with ZeRO-3 use accelerate_configs/zero3.yaml")
        if broken:
            raise RunError(f"{file}: weights that are not finite, the first: {broken[0]}; lower --learning_rate")


def loss_before(trainer: Any, rows: Any) -> dict[str, float]:
    """`loss_before`: the parent's loss on held-out rows. Nothing where there are none, or where weights are sharded.

    Batches as in evaluation, but no loader and no wrapper: `trainer.evaluate` before `trainer.train` leaves a model
    that accelerate takes for prepared, and DDP then trains without exchanging gradients (transformers 5.23).
    """
    if rows is None or len(rows) == 0 or not _whole(trainer):
        return {}
    model = trainer.accelerator.unwrap_model(trainer.model)
    training, device = model.training, next(model.parameters()).device
    model.eval().to(trainer.args.device)
    size, total = trainer.args.per_device_eval_batch_size, 0.0
    keys = ("input_ids", "labels")
    for start in range(0, len(rows), size):
        some = [{key: row[key] for key in keys} for row in rows.select(range(start, min(start + size, len(rows))))]
        batch = {key: value.to(trainer.args.device) for key, value in trainer.data_collator(some).items()}
        with torch.no_grad(), trainer.compute_loss_context_manager():
            total += model(**batch).loss.item() * len(some)
    model.train(training).to(device)
    return {"loss_before": total / len(rows)}


def stop_rate(trainer: Any, rows: Any, tokenizer: Any, count: int = 64) -> dict[str, float]:
    """`stops`: the share of greedy answers to (held-out) demonstrations' prompts that end by themselves.

    An answer may be twice as long as the longest demonstration among them, at most 512 tokens; prompts that leave no
    room for that are left out. Nothing where weights are sharded.
    """
    from align.models.generate import complete

    some = rows.train if rows.test is None else rows.test
    if some is None or "labels" not in some.column_names or not _whole(trainer):
        return {}
    found = [(row["input_ids"], row["labels"]) for row in some.select(range(min(count, len(some))))]
    prompts = [ids[: next(i for i, label in enumerate(labels) if label != -100)] for ids, labels in found]
    longest = min(512, 2 * max(sum(label != -100 for label in labels) for _, labels in found))
    room = getattr(trainer.model.config.get_text_config(), "max_position_embeddings", None) or 2**30
    prompts = [ids for ids in prompts if len(ids) + longest <= room]
    if not prompts:
        return {}
    policy = trainer.accelerator.unwrap_model(trainer.model).eval()
    policy = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    size = trainer.args.per_device_eval_batch_size
    with torch.no_grad():
        answers = complete(policy, tokenizer, prompts, max_new_tokens=longest, temperature=0.0, batch_size=size)
        stopped = [said[0].stopped for _, said in answers]
    return {"stops": sum(stopped) / len(stopped)}


def _whole(trainer: Any) -> bool:
    """Does every process hold all weights?"""
    return not (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled)


def held_out(trainer: Any, rows: Any) -> dict[str, float]:
    """Evaluation metrics on held-out rows, or nothing where there are none."""
    if rows is None or len(rows) == 0:
        return {}
    metrics = trainer.evaluate(rows)
    return {k: v for k, v in metrics.items() if isinstance(v, (int, float))}


def show(title: str, metrics: dict[str, Any], keys: tuple[str, ...]) -> None:
    """Print the handful of numbers that say whether the run worked."""
    if int(os.environ.get("RANK", "0")) != 0:
        return
    parts = [
        f"{k} {metrics[k]:.4g}" if isinstance(metrics[k], float) else f"{k} {metrics[k]}" for k in keys if k in metrics
    ]
    print(f"{title}: " + ", ".join(parts), flush=True)
