"""A dry run of a training: its first steps with the longest rows, a checkpoint, and what that says of the whole run.

Steps with the longest rows tell the memory. Two of them where a step is one update: at the end of the first the
optimizer makes its own state, and only the second has that beside the longest rows. A last one with rows as they are
drawn tells the time: by then everything is warm.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback
from trl import RLOOConfig

from align.data import arrow
from align.data.preview import ROWS, Preview, coloured
from align.run.trial import again, telling


class Observer(TrainerCallback):
    """Times the first steps and the checkpoint after the last of them, which ends the training."""

    def __init__(self, steps: int, longest: int, ends: Callable[[], None]):
        """`longest`: steps with the longest rows, after which `ends` is called."""
        self.steps, self.longest, self.ends = steps, longest, ends
        self.seconds: list[float] = []  # of each step
        self.total = 0  # steps of the whole run
        self.saving = self.mark = 0.0
        self.checkpoint = 0  # bytes

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.total = state.max_steps
        self.steps = min(self.steps, self.total)
        self.mark = _now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = _now()
        self.seconds.append(now - self.mark)
        if state.global_step == self.longest:
            self.ends()
        control.should_log, control.should_evaluate = True, False
        control.should_save = control.should_training_stop = state.global_step >= self.steps
        self.mark = _now()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saving = _now() - self.mark
        if state.is_world_process_zero:
            self.checkpoint = telling.folder_size(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def rehearse(trainer: Any, rows: Any, recipe: str, plan: Any, train: Callable[[], Any]) -> None:
    """Make the first steps, print the report, and end the program. Every process takes part.

    Args:
        rows: the splits, as `align.data.prepare` gives them.
        plan: PPO's, whose steps are rollouts; None for all others.
        train: runs the trainer.
    """
    from accelerate.utils import gather_object

    longest = 1 if plan is not None and plan.epochs * plan.minibatches > 1 else 2
    tokens = _longest_first(trainer, longest) if plan is None else _longest_prompts(trainer, longest)
    observer = Observer(longest + 1, longest, lambda: _as_they_come(trainer))
    trainer.add_callback(observer)
    trainer.eval_dataset, trainer.args.eval_on_start = None, False
    train()
    found = gather_object([telling.held()])
    if trainer.is_world_process_zero():
        page = Preview(trainer.processing_class, colour=coloured())
        shown = rows.stream.head if rows.stream is not None else rows.train
        examples = [line for number, row in enumerate(itertools.islice(shown, ROWS), 1)
                    for line in page.example(f"row {number}", _learnt(row))]  # fmt: skip
        unit = "step" if plan is None else "rollout"
        title = f"Dry run of {recipe}: {len(observer.seconds)} of {observer.total:,} {unit}s and a checkpoint."
        telling.show(
            title,
            report(observer, unit, tokens, found, trainer.args.per_device_train_batch_size),
            ["", *page.legend(), *examples],
        )
    trainer.accelerator.wait_for_everyone()
    raise SystemExit(0)


def report(observer: Observer, unit: str, tokens: str, found: list[dict[str, float]], size: int) -> list[str]:
    """The lines on rows, memory, time and space.

    Args:
        unit: what the run counts its steps by.
        tokens: how long the longest rows are, in words.
        found: `telling.held` of each process.
        size: rows at once.
    """
    seconds = observer.seconds
    drawn = len(seconds) > observer.longest
    which = f"{unit} {len(seconds)}, rows as they are drawn" if drawn else f"{unit} {len(seconds)}, the longest rows"
    before = ", ".join(f"{one:.3g}" for one in seconds[:-1])
    tried = again.did_not_fit()
    return [
        f"rows      {tokens}",
        telling.memory(found),
        f"time      {seconds[-1]:.3g} s a {unit} ({which}" + (f"; before it {before} s)" if before else ")"),
        f"ETA       {telling.clock(seconds[-1] * observer.total)} for {observer.total:,} {unit}s, without checkpoints "
        "and what is measured on held-out rows",
        f"space     {telling.size(observer.checkpoint)} a checkpoint, saved in {observer.saving:.2g} s",
        *([f"at once   {' and '.join(map(str, tried))} rows did not fit, {size} did"] if tried else []),
        telling.saved(),
    ]


def order(lengths: np.ndarray, size: int, seed: int) -> list[int]:
    """Row numbers: the `size` longest rows, the same again, then all as they are drawn; as many as there are rows.

    Args:
        lengths: [N] tokens of each row.
    """
    longest = np.argsort(-lengths, kind="stable")[:size].tolist()
    drawn = np.random.default_rng(seed).permutation(len(lengths)).tolist()
    return [*longest, *longest, *drawn][: len(lengths)]


def _longest_first(trainer: Any, steps: int) -> str:
    """Let a trainer read its longest rows first, and sample the longest completions. Says how long they are."""
    args, rows = trainer.args, trainer.train_dataset
    if not hasattr(rows, "__len__"):
        return "as they arrive: of a stream nobody knows the longest"
    size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    more = ""
    if isinstance(args, RLOOConfig):
        size, trainer.shuffle_dataset = size // args.num_generations, False
        if not args.use_vllm:
            trainer.generation_config.min_new_tokens = args.max_completion_length
        more = f", and {args.max_completion_length:,} sampled after each"
    lengths = _lengths(trainer)
    trainer.train_dataset = rows.select(order(lengths, size, args.seed))
    args.train_sampling_strategy = "sequential"
    return f"the longest first, of up to {int(lengths.max()):,} tokens{more} (steps 1 and {steps})"


def _longest_prompts(trainer: Any, rollouts: int) -> str:
    """The same of PPO, whose sampler chooses prompts and ends completions."""
    trainer.sampler.longest, trainer.args.collapse_patience = rollouts, 0
    prompt = max(len(row["input_ids"]) for row in trainer.train_rows)
    which = "rollout 1" if rollouts == 1 else "rollouts 1 and 2"
    return (
        f"the longest prompts first, of up to {prompt:,} tokens, and {trainer.args.response_length:,} sampled after "
        f"each ({which})"
    )


def _as_they_come(trainer: Any) -> None:
    """Completions end again where they end."""
    if isinstance(trainer.args, RLOOConfig) and not trainer.args.use_vllm:
        trainer.generation_config.min_new_tokens = None


def _lengths(trainer: Any) -> np.ndarray:
    """[N] tokens of what is read of each row; a pair's is its longer side, with the prompt where that is kept apart."""
    rows = trainer.train_dataset
    apart = not hasattr(trainer.accelerator.unwrap_model(trainer.model), "score")
    before = ["prompt_ids"] if apart and "prompt_ids" in rows.column_names else []
    sides = [name for name in ("chosen_ids", "rejected_ids") if name in rows.column_names] or ["input_ids"]
    return np.stack([arrow.lengths(rows, name, *before) for name in sides]).max(0)


def _learnt(row: dict[str, Any]) -> dict[str, Any]:
    """A prepared row with labels, where something of it is learnt."""
    if "prompt" in row:
        return {"input_ids": row["input_ids"]}
    if "labels" in row or "chosen_ids" in row:
        return row
    ids, places = row["input_ids"], row.get("position_ids")  # of a block, 0 where a document begins
    places = range(len(ids)) if places is None else places
    return {"input_ids": ids, "labels": [token if at else -100 for token, at in zip(ids, places, strict=True)]}


def _now() -> float:
    """Seconds, once the accelerator is through with what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
