"""Where the tasks run: datatrove's executors, with the noise taken away and a worker's error brought home.

Local processes are tested; SLURM and Ray get datatrove's own executors with the options that the configuration names.
Those are constructed here and were never run by us: they need a cluster and a file system that all nodes share.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import multiprocess
from datatrove.executor.base import PipelineExecutor
from datatrove.executor.local import LocalPipelineExecutor
from loguru import logger

from align.clean.config import CleanConfig
from align.config import ConfigError
from align.record import RunError

# What every worker needs: loaded once, in the process that workers are forked from
PRELOAD = ["align.clean.duplicates", "align.clean.rules", "datatrove.executor.local"]


class _Silent(io.TextIOBase):
    """Takes what datatrove and tqdm would print; the log files have it as well."""

    def write(self, text: str) -> int:
        return len(text)


_SILENT = _Silent()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger.remove()
    with contextlib.redirect_stderr(_SILENT):
        yield


class Local(LocalPipelineExecutor):
    """Local processes. A worker ends with its parent, leaves Ctrl-C to it, and writes its log to a file only."""

    def _launch_run_for_rank(self, rank: int, *rest: Any, **named: Any) -> Any:
        if multiprocess.parent_process() is not None:
            _worker()
        with _quiet():
            return super()._launch_run_for_rank(rank, *rest, **named)

    def run(self) -> Any:
        """Run all tasks that are not done."""
        multiprocess.set_forkserver_preload(PRELOAD)
        _parents.append(os.getpid())
        try:
            with _quiet():
                return super().run()
        finally:
            _parents.pop()


_parents: list[int] = []  # processes that run a stage: this one, or none


def _follow_parent() -> None:
    """In the process that datatrove forks for its counters: end when the parent does; by itself it would stay."""
    if not _parents:
        return
    parent = _parents.pop()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


os.register_at_fork(after_in_child=_follow_parent)


def _worker() -> None:
    """Once in each worker process."""
    if threading.current_thread().name == "worker":
        return
    threading.current_thread().name = "worker"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard) if soft < hard else (soft, hard))
    sys.unraisablehook = lambda _: None  # a full disk is told of once, by the task; not by every file that closes

    def follow() -> None:
        multiprocess.parent_process().join()
        os._exit(1)  # the parent was killed: a worker that went on would write beside the one of a resumed run

    threading.Thread(target=follow, daemon=True).start()


def executor(args: CleanConfig, pipeline: list[Any], tasks: int, logs: Path) -> PipelineExecutor:
    """datatrove's executor for one stage.

    Raises:
        ConfigError: for options that the executor does not take.
    """
    if args.executor == "local":
        return Local(pipeline, tasks=tasks, workers=min(tasks, args.processes()), logging_dir=str(logs))
    options = {"workers": args.workers or -1, **args.executor_options}
    try:
        if args.executor == "slurm":
            from datatrove.executor.slurm import SlurmPipelineExecutor

            return SlurmPipelineExecutor(pipeline, tasks=tasks, logging_dir=str(logs), **options)
        from datatrove.executor.ray import RayPipelineExecutor

        return RayPipelineExecutor(pipeline, tasks=tasks, logging_dir=str(logs), **options)
    except TypeError as error:  # an unknown or a missing option
        raise ConfigError(f"executor_options for {args.executor}: {str(error).split('() ')[-1]}") from error


def run(args: CleanConfig, name: str, pipeline: list[Any], tasks: int, run_folder: Path) -> float:
    """Run one stage to its end; seconds that it took. Tasks that an earlier run finished are not done again.

    Raises:
        RunError: where a task did not finish; its log is named. Users' errors and OSError come as they are.
    """
    start = time.perf_counter()
    logs = run_folder / "work" / "logs" / name
    logs.mkdir(parents=True, exist_ok=True)
    stage = executor(args, pipeline, tasks, logs)
    stage.run()
    while args.executor == "slurm" and stage.get_incomplete_ranks(skip_completed=True):
        time.sleep(10)  # sbatch returns at once
    missing = stage.get_incomplete_ranks(skip_completed=True)
    if missing:
        raise RunError(f"stage {name}: {len(missing)} of {tasks} tasks did not finish; see {logs}/logs")
    return time.perf_counter() - start
