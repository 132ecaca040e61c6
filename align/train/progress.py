"""How far a training or a measurement is: a bar on a terminal; elsewhere (a log file, CI) a line now and then.
And the end before the end, where a job's time is nearly up.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from align.run import launch
from align.run.received import screen
from align.run.record import Run
from align.run.trial.telling import clock

SHOWN = ("loss", "rewards/margins", "accuracy", "objective/scores", "objective/kl", "rollout/length",
         "rollout/eos_rate", "eps", "eval_loss")  # fmt: skip
EVERY = 30.0  # seconds between two lines
T = TypeVar("T")


def shown(logs: dict[str, Any]) -> dict[str, str]:
    """Of what was logged, the few numbers that say how it goes, by short names."""
    return {name.split("/")[-1]: f"{float(logs[name]):.3g}" for name in SHOWN if name in logs}


class Bar(ProgressCallback):
    """The usual progress bar with its ETA; logged numbers go behind the bar instead of breaking it into lines."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.training_bar is not None and (found := shown(logs or {})):
            self.training_bar.set_postfix(found)


class LogLines(TrainerCallback):
    """A line every `EVERY` seconds, and one at the end: step, time left, the last numbers."""

    began = told = 0.0  # on the clock
    first = 0  # step; more than 0 where a run goes on
    last: dict[str, str]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = self.told = time.monotonic()
        self.first, self.last = state.global_step, {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.last |= shown(logs or {})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        ends = state.global_step >= state.max_steps  # and is told with its last numbers
        if state.is_world_process_zero and not ends and time.monotonic() - self.told >= EVERY:
            self._tell(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._tell(state)

    def _tell(self, state: Any) -> None:
        self.told = time.monotonic()
        spent, done, left = self.told - self.began, state.global_step - self.first, state.max_steps - state.global_step
        when = f"{clock(spent)} so far"
        if done and left > 0:
            when += f", about {clock(spent / done * left)} left"
        numbers = "".join(f", {name} {value}" for name, value in self.last.items())
        print(f"step {state.global_step:,} of {state.max_steps:,}, {when}{numbers}", file=sys.stderr, flush=True)


class Leave(TrainerCallback):
    """Where a job's time is nearly up, which a file says, the run saves a checkpoint and ends as an interrupted one.

    The first process looks after every step and tells the others, so that all save after the same step. They tell each
    other on their CPUs: GPUs need not be waited for.
    """

    def __init__(self, run: Run):
        self.run, self.file = run, os.environ.get(launch.LEAVE)
        self.group: Any = None  # of all processes, where there are several
        self.leaving = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.file and launch.world_size() > 1:
            self.group = torch.distributed.new_group(backend="gloo")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.file:
            return
        told = torch.tensor(int(state.is_world_process_zero and Path(self.file).exists()))
        if self.group is not None:
            torch.distributed.broadcast(told, src=0, group=self.group)
        if told.item():
            self.leaving = control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.leaving:
            return
        self.run.finish("interrupted")
        if self.group is not None:
            torch.distributed.barrier(self.group)  # a launcher ends the others when the first one goes
        screen.say(f"saved at step {state.global_step} of {state.max_steps}: the job's time is nearly up")
        raise KeyboardInterrupt


def told(items: Sequence[T], what: str) -> Iterator[T]:
    """Items one after another. When the next is asked for, a line says how many are done and what is left at that pace.

    Args:
        what: was done to them: "models measured".
    """
    began = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        spent = time.monotonic() - began
        left = f", about {clock(spent / done * (len(items) - done))} left" if done < len(items) else ""
        print(f"{what}: {done} of {len(items)}, {clock(spent)} so far{left}", file=sys.stderr, flush=True)
