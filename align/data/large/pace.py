"""How far the preparation of rows is: a bar on a terminal; elsewhere (a log file, CI) a line now and then."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

from align.run.trial.telling import clock

FIRST = 3.0  # seconds in which nothing is said: most preparations take no longer
EVERY = 30.0  # seconds between two lines


@contextlib.contextmanager
def told(what: str, total: int, done: Callable[[], int]) -> Iterator[None]:
    """While something is made, tell how far it is, from the main process alone.

    Args:
        done: how many of `total` there are, now and then asked from a thread.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    ends = threading.Event()
    teller = threading.Thread(target=_tell, args=(what, total, done, ends), daemon=True)
    teller.start()
    try:
        yield
    finally:
        ends.set()
        teller.join()


def _tell(what: str, total: int, done: Callable[[], int], ends: threading.Event) -> None:
    begun = time.monotonic()
    if ends.wait(FIRST):
        return
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(desc=what, total=total, initial=done(), unit=" rows", leave=False) as bar:
            while not ends.wait(0.5):
                bar.update(done() - bar.n)
        return
    while not ends.wait(EVERY):
        count, spent = done(), time.monotonic() - begun
        left = f", about {clock(spent / count * (total - count))} left" if 0 < count < total else ""
        print(f"{what}: {count:,} of {total:,} rows, {clock(spent)} so far{left}", file=sys.stderr, flush=True)
