"""Memory that runs out in a training's first two steps, under `--find_batch_size`: the run begins again with half of
the rows at once. Two, because the optimizer's own state is made at the end of the first.

Several processes agree through torch's store and not by a collective: the others may wait in one for the process whose
memory ran out, so that a thread of each looks into the store. P processes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from trl import RLOOConfig

from align.run import launch
from align.run.errors import OneProcess, RunError, out_of_memory
from align.run.trial import again

STEPS = 2
EVERY = 0.2  # seconds between two looks
PATIENCE = 60.0  # seconds that the process which others meet at waits for them to have heard


class Peers:
    """The processes of a run, and what they tell each other about their first steps."""

    def __init__(self, rank: int, world: int):
        import torch.distributed as dist

        self.rank, self.world, self.ended = rank, world, threading.Event()
        client = dist.TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False,
            timeout=timedelta(minutes=5),
        )  # fmt: skip
        self.store = dist.PrefixStore(f"find_batch_size/{len(again.did_not_fit())}", client)
        if rank == 0:
            with socket.socket() as free:
                free.bind(("", 0))
                self.store.set("port", str(free.getsockname()[1]))
        self.port = int(self.store.get("port"))
        threading.Thread(target=self._follow, daemon=True).start()

    def through(self) -> None:
        """This process has its first steps behind it."""
        if not self.ended.is_set():
            self.ended.set()
            with contextlib.suppress(RuntimeError):  # who keeps the store has ended
                self.store.add("through", 1)

    def tell(self, failed: int, size: int) -> bool:
        """Memory ran out here: all begin again. Is this the first process to say so?"""
        self.store.set("sizes", f"{failed} {size}")
        return self.store.add("told", 1) == 1

    def leave(self) -> None:
        """Begin again, once the others have heard of it if they heard it from this process's own store."""
        failed, size = map(int, self.store.get("sizes").split())
        heard, until = self.store.add("heard", 1), time.monotonic() + PATIENCE
        while self.rank == 0 and heard < self.world and time.monotonic() < until:
            time.sleep(EVERY / 4)
            heard = self.store.add("heard", 0)
        again.begin(failed, size, self.port)

    def _follow(self) -> None:
        """Until every process is through: leave as soon as one has told."""
        try:
            while self.store.add("through", 0) < self.world and not self.store.check(["sizes"]):
                time.sleep(EVERY)
            told = self.store.check(["sizes"])
        except RuntimeError:  # who keeps the store has ended, and nothing is left to agree on
            return
        if told:
            self.leave()


class Through(TrainerCallback):
    """Tells the other processes when the first steps are made."""

    def __init__(self, peers: Peers, last: int):
        self.peers, self.last = peers, last

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= self.last:
            self.peers.through()


@contextlib.contextmanager
def halving(trainer: Any, begun: int) -> Iterator[None]:
    """Inside the block a training whose first steps do not fit begins again, where that was asked for.

    Args:
        begun: steps that were made before, in a run that goes on.

    Raises:
        RunError: where there is nothing left to halve.
    """
    if not again.searching():
        yield
        return
    peers = Peers(trainer.args.process_index, launch.world_size()) if launch.world_size() > 1 else None
    if peers is not None:
        trainer.add_callback(Through(peers, begun + STEPS))
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if trainer.state.global_step < begun + STEPS and out_of_memory(error):
            _halve(trainer, begun, peers, error)
        if peers is not None and not peers.ended.is_set():
            time.sleep(10 * EVERY)  # another's memory may have run out, and its leaving be the error here
        raise
    finally:
        if peers is not None:
            peers.through()


def halved(args: Any, world: int) -> int | None:
    """Half of the rows that are at once in memory; None where there is no half, or TRL's RLOO could not share its
    prompts' completions so."""
    size = args.per_device_train_batch_size // 2
    if isinstance(args, RLOOConfig) and size * world * args.steps_per_generation % args.num_generations:
        return None
    return size or None


def _halve(trainer: Any, begun: int, peers: Peers | None, error: BaseException) -> None:
    args, rank = trainer.args, trainer.args.process_index
    failed, step = args.per_device_train_batch_size, trainer.state.global_step + 1
    where = f" on process {rank}" if peers is not None else ""
    size = halved(args, launch.world_size())
    if size is None:
        kind = OneProcess if peers is not None else RunError
        raise kind(
            f"memory ran out in step {step}{where} with {failed} row{'s' * (failed > 1)} at once, which "
            "--find_batch_size cannot halve; lower the longest rows or answers, give --activation_checkpointing true, "
            "or share the weights among more processes"
        ) from error
    if peers is None or peers.tell(failed, size):
        print(f"memory ran out in step {step}{where} with {failed} rows at once: beginning again with {size}, and the "
              "same global batch", flush=True)  # fmt: skip
    if not begun:  # else the checkpoint that the run goes on with may be among them
        for checkpoint in Path(args.output_dir).glob("checkpoint-*"):
            shutil.rmtree(checkpoint, ignore_errors=True)
    if peers is not None:
        peers.leave()
    again.begin(failed, size, None)
