"""Local workers of the cleaning's stages: each task done once, errors brought home, nobody waited for in vain."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("datatrove", reason="pip install -e '.[clean]'")

from align.clean.executors import Local
from align.run.errors import DataError, RunError


class Odd(Exception):
    """Cannot be made again from what `pickle` keeps of it."""

    def __init__(self, one: str, two: str):
        super().__init__(f"{one} and {two}")


class Task:
    """Writes a file for its task; does something else in task 5."""

    def __init__(self, folder: Path, fifth: str = ""):
        self.folder, self.fifth = folder, fifth

    def __call__(self, data, rank: int, world_size: int) -> None:
        if rank == 5 and self.fifth == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == 5 and self.fifth == "leaves":
            os._exit(3)
        if rank == 5 and self.fifth == "user":
            raise DataError("row 7 is odd")
        if rank == 5 and self.fifth == "odd":
            raise Odd("this", "that")
        if rank == 5 and self.fifth == "waits":
            time.sleep(600)
        with (self.folder / f"{rank}").open("a") as stream:
            stream.write(f"{os.getpid()}\n")


def stage(folder: Path, fifth: str = "", workers: int = 2) -> Local:
    folder.mkdir(exist_ok=True)
    return Local([Task(folder, fifth)], tasks=12, workers=workers, logging_dir=str(folder / "logs"))


def pids(folder: Path) -> list[str]:
    return [line for rank in range(12) for line in (folder / str(rank)).read_text().splitlines()]


@pytest.mark.parametrize(("workers", "others"), [(1, 0), (3, 3)])
def test_every_task_is_done_once(tmp_path, workers, others):
    made = stage(tmp_path, workers=workers)
    made.run()
    assert len(pids(tmp_path)) == 12 and len(set(pids(tmp_path)) - {str(os.getpid())}) <= others
    assert (str(os.getpid()) in pids(tmp_path)) == (workers == 1)
    stage(tmp_path, workers=workers).run()
    assert len(pids(tmp_path)) == 12  # all were done before


@pytest.mark.parametrize(("how", "told"), [("dies", "was killed by signal 9"), ("leaves", "ended with status 3")])
def test_a_killed_worker_ends_the_stage_in_a_sentence(tmp_path, how, told):
    with pytest.raises(RunError, match=f"a worker {told} .*fewer --workers"):
        stage(tmp_path, how).run()
    stage(
        tmp_path
    ).run()  # and what was not done is done by the next: the other worker's task too, where it was ended in one
    times = [len((tmp_path / str(rank)).read_text().splitlines()) for rank in range(12)]
    assert min(times) == 1 and sum(times) <= 13


def test_errors_come_as_they_are(tmp_path):
    with pytest.raises(DataError, match="row 7 is odd") as found:
        stage(tmp_path / "a", "user").run()
    assert "test_executors.py" in str(found.value.__cause__)  # where it came from
    with pytest.raises(RunError, match="Odd: this and that"):
        stage(tmp_path / "b", "odd").run()


def test_no_worker_is_left_behind(tmp_path, monkeypatch):
    import psutil

    from align.clean import executors

    workers: list[psutil.Process] = []

    def interrupted(lines):
        """Ctrl-C while all wait for task 5."""
        if (tmp_path / "11").exists():
            mine = psutil.Process().children(recursive=True)
            workers.extend(
                child for child in mine if not child.children() and "forkserver" in " ".join(child.cmdline())
            )
            raise KeyboardInterrupt
        return wait(lines)

    wait = executors.wait
    monkeypatch.setattr(executors, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path, "waits").run()
    assert workers and not any(child.is_running() for child in workers)
