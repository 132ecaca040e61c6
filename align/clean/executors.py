"""Where the tasks run: datatrove's executors, with the noise taken away and a worker's error brought home.

Local processes are tested; SLURM and Ray get datatrove's own executors with the options that the configuration names.
Those are constructed here and were never run by us: they need a cluster and a file system that all nodes share.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import multiprocess
from datatrove.executor.base import PipelineExecutor
from datatrove.executor.local import LocalPipelineExecutor
from loguru import logger
from multiprocess.connection import Connection, wait
from multiprocess.pool import ExceptionWithTraceback
from multiprocess.reduction import ForkingPickler

from align.clean.config import CleanConfig
from align.run.errors import ConfigError, RunError

# What every worker needs: loaded once, in the process that workers are forked from
PRELOAD = ["align.clean.duplicates.minhash", "align.clean.rules.filters", "datatrove.executor.local"]


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
    """datatrove's local executor with workers of our own. Its pool waits for ever for the task of a worker that was
    killed, as the system does where the memory runs out; here each worker has a pipe, which closes with it."""

    def run(self) -> None:
        """Run all tasks that are not done.

        Raises:
            RunError: where a worker was killed. What a task raises comes as it is.
        """
        ranks = deque(self.get_incomplete_ranks())
        if not ranks:
            return
        self.save_executor_as_json()
        with _quiet():
            if self.workers > 1:
                self._share(ranks)
            else:
                pipeline = self.pipeline
                for rank in ranks:
                    self.task(pipeline, rank)

    def task(self, pipeline: list[Any], rank: int) -> None:
        """Run one task. Steps keep what they have counted, so each task has its own."""
        self.pipeline = deepcopy(pipeline)
        self._run_for_rank(rank)

    def _share(self, ranks: deque[int]) -> None:
        """Give each worker a task, and another one whenever it has done one."""
        multiprocess.set_forkserver_preload(PRELOAD)
        context = multiprocess.get_context(self.start_method)
        workers: dict[Connection, Any] = {}
        try:
            for _ in range(min(self.workers, len(ranks))):
                line, theirs = context.Pipe()
                workers[line] = context.Process(target=_work, args=(self, theirs), daemon=True)
                workers[line].start()
                theirs.close()
                _say(line, ranks.popleft())
            busy = set(workers)
            while busy:
                for line in wait(list(busy)):
                    try:
                        error = line.recv()
                    except (EOFError, OSError):
                        raise _killed(workers[line]) from None
                    if error is not None:
                        raise error
                    if ranks:
                        _say(line, ranks.popleft())
                    else:
                        busy.remove(line)
        finally:
            for line, process in workers.items():
                line.close()
                if process.pid is not None:
                    process.terminate()
                    process.join()


def _say(line: Connection, rank: int) -> None:
    """Name a task to a worker. One that is not there any more is noticed where its answer is awaited."""
    with contextlib.suppress(OSError):
        line.send(rank)


def _killed(process: Any) -> RunError:
    process.join()
    code = process.exitcode or 0
    how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    return RunError(
        f"a worker {how} (out of memory?): go on with --resume_from_checkpoint last and fewer --workers, or start "
        "again with --overwrite and a smaller --shard_megabytes"
    )


def _work(executor: Local, line: Connection) -> None:
    """A worker process: does the tasks that its parent names, and says after each that it is done, or what went wrong.

    An error that cannot be sent is sent as its words.
    """
    _worker()
    pipeline = executor.pipeline
    with contextlib.suppress(EOFError):  # the parent names no more
        while True:
            rank = line.recv()
            error = None
            with _quiet():
                try:
                    executor.task(pipeline, rank)
                except Exception as raised:  # whatever it is, it is raised again in the parent
                    error = raised
            line.send(None if error is None else _portable(error))


def _portable(error: Exception) -> Any:
    """An error with its traceback as text, so that it can be sent; its words alone where it cannot be made again."""
    sent = ExceptionWithTraceback(error, error.__traceback__)
    try:
        ForkingPickler.loads(ForkingPickler.dumps(sent))
    except Exception:  # pickle says so in many ways
        return RunError(f"{type(error).__name__}: {error}")
    return sent


def _worker() -> None:
    """Once in each worker process: it ends with its parent, and leaves Ctrl-C to it."""
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


def problems(args: CleanConfig) -> list[str]:
    """What is wrong with where the tasks shall run, as far as it can be known without running one."""
    found = []
    if args.executor == "slurm" and not shutil.which("sbatch"):
        found.append("executor=slurm: there is no sbatch here; start the run on a machine from which jobs are sent")
    if args.executor == "ray" and importlib.util.find_spec("ray") is None:
        found.append("executor=ray: not installed; pip install ray")
    try:
        with _quiet():
            executor(args, [], 1, Path(tempfile.gettempdir()))  # writes nothing before it runs
    except ConfigError as error:
        found.append(str(error))
    return found


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
