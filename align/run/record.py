"""The record of a run: `run.json`, `metrics.jsonl`, status, lineage. Written for every recipe, crashes included.

A run whose `run.json` does not say `complete` is not a parent of anything.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.run import holds
from align.run.checks import resumed
from align.run.device import peak_resident_bytes
from align.run.errors import RunError
from align.run.lineage import hash_files, read_record
from align.run.received import files
from align.run.trial import throwaway

PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "datatrove",
    "deepspeed",
    "tokenizers",
    "align-recipes",
)


def _git() -> dict[str, Any]:
    def ask(*words: str) -> str | None:
        answer = subprocess.run(["git", *words], capture_output=True, text=True, cwd=Path(__file__).parent)
        return answer.stdout.strip() if answer.returncode == 0 else None

    return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _on_gpu() -> bool:
    """Has this process a GPU to compute on? One that has not loaded torch has none, and is spared loading it."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available()


def hardware() -> dict[str, Any]:
    """This machine, as a run's record has it."""
    import psutil

    machine: dict[str, Any] = {"cpus": os.cpu_count(), "memory_bytes": psutil.virtual_memory().total}
    if _on_gpu():
        torch = sys.modules["torch"]
        machine["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return machine


def _process() -> dict[str, Any]:
    """This process, for whoever asks later whether it still runs: numbers are given again, so also when it began."""
    import psutil

    return {"pid": os.getpid(), "began": psutil.Process().create_time()}


def peak_memory_bytes() -> int:
    """The most memory this process has held: GPU memory where there is a GPU, resident memory elsewhere."""
    return sys.modules["torch"].cuda.max_memory_allocated() if _on_gpu() else peak_resident_bytes()


def write_json(path: Path, value: Any) -> None:
    """Replace `path` in one step, so that a crash never leaves half a file."""
    files.replace(path, json.dumps(value, indent=2, default=str, ensure_ascii=False) + "\n")


class Run:
    """One execution and its directory. Only the main process writes."""

    def __init__(self, recipe: str, output_dir: str, config: dict[str, Any], *, main: bool = True, before: Any = None):
        self.folder = Path(output_dir)
        self.main = main
        self.before: dict[str, Any] | None = before  # the record that a resumed run goes on with
        self.started = time.time()
        self.record: dict[str, Any] = {
            "recipe": recipe,
            "status": "running",
            "command": _command(),
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seed": config.get("seed"),
            "config": config,
        }

    def note(self, **facts: Any) -> None:
        """Add facts to the record (parents, rows, world size, …) and write it down.

        `resumable=True` says that there is something to go on with although there is no checkpoint.

        Raises:
            RunError: where a resumed run has other parents or other rows than before.
        """
        if self.before is not None:
            changed = resumed.check_facts(self.before, facts)
            if changed:
                self.record["resumptions"][-1]["changed"].update(changed)
        self.record.update(facts)
        self._write()

    @property
    def not_measured(self) -> dict[str, str]:
        """Measurements that failed, each with the reason."""
        return self.record.get("not_measured", {})

    def metrics(self, **row: Any) -> None:
        """Append one line to `metrics.jsonl`."""
        if self.main:
            row = {"seconds": round(time.time() - self.started, 3), **row}
            with files.appended(self.folder / "metrics.jsonl") as stream:
                stream.write((json.dumps(row, default=float) + "\n").encode())

    def finish(self, status: str, **facts: Any) -> None:
        """Close the record. `complete` makes the run a possible parent."""
        if self.main and status == "complete":
            facts["hash"] = hash_files(self.folder)
        self.record.update(
            status=status,
            wall_seconds=round(time.time() - self.started, 3),
            peak_memory_bytes=peak_memory_bytes(),
            **facts,
        )
        self._write()

    def _write(self) -> None:
        if self.main:
            write_json(self.folder / "run.json", self.record)


def _command() -> str:
    program = sys.argv[0]
    with contextlib.suppress(ValueError):
        program = str(Path(program).resolve().relative_to(Path.cwd()))
    return " ".join([program, *sys.argv[1:]])


def check(folder: Path, recipe: str, *, overwrite: bool, resume: bool = False, reopen: bool = False) -> None:
    """May a run of this recipe begin, or go on, in a folder that holds somebody's work?

    Raises:
        RunError: if not, with what to do.
    """
    record = read_record(folder)
    resume = resume or (reopen and not overwrite)
    if record is not None and not overwrite:
        if record.get("status") == "complete" and not (reopen and record.get("recipe") == recipe):
            raise RunError(f"output_dir {folder} holds a finished run; name another folder, or give --overwrite")
        if record.get("recipe") not in (None, recipe):
            raise RunError(f"output_dir {folder} holds a {record['recipe']} run; name another folder")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"output_dir {folder} is a file; name a folder")
    if record is None and folder.is_dir() and any(folder.iterdir()):
        raise RunError(f"output_dir {folder} holds files that no run wrote; name an empty or a new folder")
    if record is not None and not resume:
        if not overwrite and (any(folder.glob("checkpoint-*")) or record.get("resumable", True)):
            raise RunError(
                f"output_dir {folder} holds an interrupted run; give --resume_from_checkpoint last to go on, "
                "or --overwrite to start again"
            )
        if why := holds.refusal(folder):  # also where it ended before there was anything to go on with
            raise RunError(why)


def _prepare_folder(folder: Path, recipe: str, *, overwrite: bool, resume: bool, reopen: bool) -> dict[str, Any]:
    """Make the output folder, or refuse to touch one that holds somebody's work.

    Returns:
        What a resumed run keeps of the record.
    """
    check(folder, recipe, overwrite=overwrite, resume=resume, reopen=reopen)
    record = read_record(folder)
    resume = resume or (reopen and not overwrite)
    if record is not None and not resume:
        _empty(folder)
    if folder.is_dir() and (links := files.leaving(folder)):
        raise RunError(
            f"output_dir {folder}: {links[0]} leads out of it, and what is written there would land elsewhere; take it "
            "away, or name another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        files.replace(probe, "x")
        probe.unlink()
    except OSError as error:
        raise RunError(f"output_dir {folder} cannot be written: {error.strerror}; name a folder that can") from error
    kept = resume and not reopen and record is not None and record.get("resumable", True)
    return {"resumable": True} if kept else {}


def _empty(folder: Path) -> None:
    """Delete what a folder holds; the folder may be a link to one on another disk."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _interrupted(signum: int, _frame: Any) -> None:
    raise KeyboardInterrupt(f"signal {signum}")


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Inside the block SIGTERM ends things as Ctrl-C does: what is to be tidied up is."""
    previous = signal.signal(signal.SIGTERM, _interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def start(
    recipe: str,
    output_dir: str,
    config: dict[str, Any],
    *,
    overwrite: bool = False,
    resume: bool = False,
    reopen: bool = False,
    compared: bool = True,
) -> Iterator[Run]:
    """Open a run: `with start("sft", …) as run:`. Whatever ends the block is recorded.

    Args:
        overwrite: empty the folder first.
        resume: go on with an interrupted run.
        reopen: go on with a finished one as well: what it holds is kept by a key of its own and not made twice. The
            record says so (`reopens`), for the chain that starts the run again.
        compared: a resumed run must have the settings, parents and rows of the one before. False where the recipe
            compares them itself.

    Raises:
        RunError: if the folder holds a finished or an interrupted run and neither flag says what to do with it, or if a
            resumed run is another one.
    """
    main, folder = int(os.environ.get("RANK", "0")) == 0, Path(output_dir)
    how = {"overwrite": overwrite, "resume": resume, "reopen": reopen}
    with stoppable(), throwaway.folder(main, lambda wanted: check(wanted, recipe, **how)):
        goes_on = main and resume and compared
        before = resumed.record_before(folder, config.get("resume_from_checkpoint")) if goes_on else None
        changed = resumed.check_settings(before, config) if before else {}
        kept = _prepare_folder(folder, recipe, **how) if main else {}
        run = Run(recipe, output_dir, config, main=main, before=before)
        if before:
            again = {"started": run.record["started"], "command": run.record["command"], "changed": changed}
            kept |= {key: before[key] for key in ("parents", "data") if key in before}
            kept |= {"resumptions": [*before.get("resumptions", []), again]}
        run.note(**({"resumable": False} | kept), reopens=reopen, git=_git(), versions=_versions(),
                 hardware=hardware(), process=_process())  # fmt: skip
        with _recorded(run):
            yield run


@contextlib.contextmanager
def _recorded(run: Run) -> Iterator[None]:
    """Whatever ends the block is recorded, unless the run was complete: what comes after (a push) undoes nothing."""
    try:
        yield
    except resumed.OtherRun:
        if run.main and run.before:
            write_json(run.folder / "run.json", run.before)
        raise
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        if run.record["status"] != "complete":
            with contextlib.suppress(OSError):  # the disk may be what failed; the first error is the one to show
                how = {} if stopped else {"error": f"{type(error).__name__}: {error}"}
                run.finish("interrupted" if stopped else "failed", **how)
        raise
