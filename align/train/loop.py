"""What every training recipe does around `trainer.train()`: announce, check the launch, guard, save, record."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from align.models import checkpoints, weights
from align.models.fast.quicken import quicken
from align.report import model_card
from align.run import launch, parse
from align.run.checks import hub
from align.run.device import facts as measured
from align.run.errors import DataError, NotFinite, OneProcess, RunError, one_sentence
from align.run.record import Run
from align.run.trial import again, throwaway
from align.train import logits, measuring, progress
from align.train.first import rehearsal, smaller


class Recorder(TrainerCallback):
    """Every logged row into `metrics.jsonl`; a loss that is not a number ends the run before it is saved over."""

    def __init__(self, run: Run):
        self.run = run

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.run.note(max_steps=state.max_steps)  # by which whoever watches knows how far it is

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        logs = {k: v for k, v in (logs or {}).items() if isinstance(v, (int, float))}
        self.run.metrics(step=state.global_step, **logs)
        for name in ("loss", "grad_norm", "eval_loss", "loss/policy_avg", "loss/value_avg"):
            if name in logs and not math.isfinite(logs[name]):
                raise NotFinite(
                    f"{name} is {logs[name]} at step {state.global_step}: the weights are of no use from here on. "
                    "Lower --learning_rate (or check the rows with --max_train_rows); the last checkpoint is untouched"
                )


class NoUpdate(TrainerCallback):
    """After the first step every LoRA B matrix that is trained must have moved away from zero (it starts there).

    Args:
        later: steps in which not all of them learn, for example while PPO's critic warms up.
    """

    def __init__(self, later: int = 0):
        self.at = 2 + later

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step != self.at or model is None:
            return
        trained = [(n, p) for n, p in model.named_parameters() if ".lora_B." in n and p.requires_grad]
        still = [n for n, p in trained if p.numel() and not p.detach().any()]
        if still:
            raise RunError(
                f"{len(still)} LoRA matrices received no gradient, the first: {still[0]}; either nothing differed that "
                "could be learnt from (rewards all alike, as where no answer ends its reasoning: raise the longest "
                "answer), or text does not reach these modules (--lora_target_modules)"
            )


def describe(trainer: Any, run: Run, rows: Any, args: Any, recipe: str, parent: str, plan: Any = None) -> None:
    """Print and record how this run will go: device, processes, batch (or PPO's plan), parameters, rows. A dry run then
    finds out more, by its first steps, and ends here."""
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
    facts = dict(
        world_size=state.num_processes, sharding=kind, global_batch_size=batch, parameters=total, trainable=trainable,
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
    )  # fmt: skip
    run.note(**facts, **measured(), **again.facts(micro))
    if rows.stream is not None:
        again.before_leaving(rows.stream.kept.cleanup)
    if state.is_main_process:
        saved = throwaway.destination(args.output_dir)
        print(f"{recipe} from {parent} to {saved}, seed {args.seed}\n{_head(trainer, args, processes, facts)}\n{rows}"
              + (f"\n{plan}" if plan else ""), flush=True)  # fmt: skip
    if throwaway.asked():
        trainer.args.disable_tqdm = True
        tidy(trainer)
        rehearsal.rehearse(trainer, rows, recipe, plan, lambda: _train(trainer, None))


def _head(trainer: Any, args: Any, processes: str, facts: dict[str, Any]) -> str:
    """What a run computes on, and what it trains."""
    import torch

    config = trainer.accelerator.unwrap_model(trainer.model).config  # a DeepSpeed engine has a `config` of its own
    device, total, trainable = trainer.args.device, facts["parameters"], facts["trainable"]
    checkpointing = "gradient checkpointing" if args.activation_checkpointing else "no checkpointing"
    autocast = ", bf16 autocast" if args.bf16 else ""
    threads = f" ({torch.get_num_threads()} threads)" if device.type == "cpu" else ""
    return (
        f"  device    {device}{threads}, {facts['dtype']}{autocast}, attention {config._attn_implementation}, "
        f"{checkpointing}\n  processes {processes}\n"
        f"  model     {config.model_type}, {total:,} parameters, {trainable:,} trainable ({trainable / total:.1%})"
    )


def _count(model: Any) -> tuple[int, int]:
    """Parameters and trainable parameters; a ZeRO-3 shard knows its whole size as `ds_numel`."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, grad in sizes if grad)


def build(trainer_class: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A trainer whose weights are fp32 where they are trained, and whose evaluation fits into memory.

    It pushes nothing: `finish` does, once the model has its card.

    Raises:
        ConfigError: for what transformers, TRL or PEFT refuse in its settings.
    """
    logits.lighten()
    for one in (*args, *kwargs.values()):
        if isinstance(one, TrainingArguments):
            one.push_to_hub = False
    with one_sentence("the trainer refuses this configuration"):
        trainer = trainer_class(*args, **kwargs)
    checkpoints.trained_in_fp32(trainer.model)
    text = trainer.model.config.get_text_config()
    if getattr(text, "output_router_logits", False):
        # TRL's SFT sets it for a mixture of experts, and asks for it in every pass of its own as well. Saved, it breaks
        # `generate` (transformers 5.23 reduces the routing of one new token by the mask of all)
        text.output_router_logits = False
    measuring.bound_evaluation(trainer)
    if keeps_whole(trainer):
        quicken(trainer.model, getattr(trainer, "ref_model", None))
    return trainer


def name_for_trackers(args: Any) -> None:
    """The run's name in trackers is its folder: trackio (0.43) makes one up, and another for what is measured after."""
    if args.report_to and args.run_name is None:
        args.run_name = args.output_dir


def keeps_whole(trainer: Any) -> bool:
    """Are the weights whole in every process, in torch's own hands?"""
    return not (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled)


def callbacks(run: Run, *, later: int = 0) -> list[TrainerCallback]:
    """The callbacks that every trainer gets. `later`: steps before which not every LoRA matrix learns."""
    return [Recorder(run), NoUpdate(later), progress.Leave(run)]


def tidy(trainer: Any) -> None:
    """Replace transformers' progress output by ours."""
    for theirs in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(theirs)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(progress.Bar if sys.stderr.isatty() else progress.LogLines)


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
    name_for_trackers(trainer.args)
    checkpoints.assert_trained_in_fp32(trainer.model)
    result = _train(trainer, last_checkpoint(trainer.args))
    weights.make_savable(trainer.accelerator.unwrap_model(trainer.model))  # whatever a trainer set in it
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


def _train(trainer: Any, checkpoint: str | None) -> Any:
    """`trainer.train()`. What libraries refuse before the first step is about the settings, and ends in one sentence.

    Raises:
        ConfigError: for such.
        DataError: for rows that are read as they arrive; `OneProcess` where one of several met them.
        RunError: where memory ran out.
    """
    begun = int(json.loads((Path(checkpoint) / "trainer_state.json").read_text())["global_step"]) if checkpoint else 0
    with one_sentence("training cannot begin like this", when=lambda: trainer.state.global_step <= begun):
        try:
            with smaller.halving(trainer, begun):
                return trainer.train(resume_from_checkpoint=checkpoint)
        except DataError as error:  # torch hands on the whole traceback of a loader's worker; the sentence is its end
            sentence = str(error).rpartition(f"{DataError.__name__}: ")[2].strip()
            raise (OneProcess if launch.world_size() > 1 else DataError)(sentence) from error


def count(run: Run, rows: Any) -> None:
    """Print and record what became of the rows of a stream, as far as it was read. Every process takes part."""
    if rows.stream is None:
        return
    rows.stream.finish()
    run.note(data=rows.as_dict())
    if run.main:
        print(f"train: {rows.stream.report}", flush=True)


def finish(run: Run, metrics: dict[str, Any]) -> None:
    """Close the record of a training, write the model's card, and push both where that was asked for.

    Raises:
        RunError: if it cannot be pushed; the run is finished all the same.
    """
    run.finish("complete", metrics=metrics, tokens=metrics["tokens"], given=parse.named())
    if run.main:
        model_card.write(run.folder, run.record)
        if run.record["config"].get("push_to_hub"):
            print(f"pushed to {hub.push(run.folder, run.record['config'])}", flush=True)


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


def show(title: str, metrics: dict[str, Any], keys: tuple[str, ...]) -> None:
    """Print the handful of numbers that say whether the run worked; nothing where none was measured."""
    if int(os.environ.get("RANK", "0")) != 0:
        return
    parts = [
        f"{k} {metrics[k]:.4g}" if isinstance(metrics[k], float) else f"{k} {metrics[k]}" for k in keys if k in metrics
    ]
    if parts:
        print(f"{title}: " + ", ".join(parts), flush=True)
