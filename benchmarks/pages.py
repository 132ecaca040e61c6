"""How long the ranking page makes people wait: `align label` on loopback, everybody at once, each on a kept connection.

    python benchmarks/pages.py                      # 24 people for 30 seconds, each with an answer about once a second
    python benchmarks/pages.py --pause 0            # nobody thinks: how much the server does at most
    python benchmarks/pages.py --output pages.json

Each person saves a ranking (synced to the disk; the next question comes with the confirmation), asks for the question
anew as a reload does, and takes one back now and then. People think for longer than a second, so this is more than 24
of them. The server is a process of its own, the people are threads of this one. One sync of the same disk is timed too:
a saved ranking cannot be faster than the syncs that it consists of.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
WORDS = "the answer says what it knows and leaves out what it does not, in a few plain words. "


class Person(threading.Thread):
    """Somebody at work: one browser's kept connection, and how long each request took."""

    def __init__(self, number: int, port: int, token: str, seconds: float, pause: float):
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.rng, self.pause, self.took = random.Random(number), pause, defaultdict(list)
        self.headers = {"content-type": "application/json", "x-align": "1"}
        self.headers["x-align-session"] = self.ask("enter", {"token": token})["session"]
        self.state = self.ask("login", {"name": f"person {number}"})
        self.seconds, self.took = seconds, defaultdict(list)
        self.broken = ""

    def ask(self, what: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """One request; its time goes from the first byte sent to the last byte read."""
        content = None if body is None else json.dumps(body)
        began = time.perf_counter()
        self.connection.request("GET" if body is None else "POST", f"/api/{what}", content, self.headers)
        answered = self.connection.getresponse()
        read = answered.read()
        self.took[what].append(1000 * (time.perf_counter() - began))
        assert answered.status == 200, (what, answered.status, read[:200])
        return json.loads(read)

    def run(self) -> None:
        try:
            end = time.perf_counter() + self.seconds
            time.sleep(self.rng.random() * self.pause)  # not all in step
            while time.perf_counter() < end and self.state["task"]:
                self.work()
                time.sleep(self.pause * self.rng.uniform(0.5, 1.5))
        except (AssertionError, OSError, http.client.HTTPException) as error:
            self.broken = repr(error)

    def work(self) -> None:
        """Rank what is shown, and sometimes look again or take the ranking back."""
        task = self.state["task"]
        ranking = self.rng.sample(range(1, 5), 4)
        body = {"task": task["id"], "mark": task["mark"], "ranking": ranking, "reason": "shorter", "seconds": 1.5}
        self.state = self.ask("answer", body)
        chance = self.rng.random()
        if chance < 0.3:
            self.state = self.ask("state", None)
        elif chance < 0.4:
            self.state = self.ask("undo", {})
        elif chance < 0.6:
            self.ask("alive", {})


def sync(folder: Path) -> float:
    """Milliseconds that it takes to write 4 KiB and sync them; the median of 50."""
    took = []
    with (folder / "sync").open("wb", buffering=0) as stream:
        for _ in range(50):
            began = time.perf_counter()
            stream.write(os.urandom(4096))
            os.fsync(stream.fileno())
            took.append(1000 * (time.perf_counter() - began))
    return statistics.median(took)


def serve(folder: Path, items: int) -> tuple[subprocess.Popen[str], int, str]:
    """`align label` over made-up rows: the process, its port and the visitors' token."""
    rows = folder / "rows.jsonl"
    with rows.open("w") as stream:
        for number in range(items):
            completions = [f"{number} {letter} {WORDS * 4}" for letter in "abcd"]
            stream.write(json.dumps({"prompt": f"Question {number}?", "completions": completions}) + "\n")
    command = [sys.executable, "-m", "align.cli", "label", str(rows), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    said = ""
    while "Ctrl-C" not in said:
        line = process.stdout.readline() if process.stdout else ""
        assert line, said
        said += line
    found = re.search(r":(\d+)/#token=(\S+)", said)
    assert found, said
    return process, int(found[1]), found[2]


def measure(people: int, seconds: float, pause: float, items: int, folder: Path) -> dict[str, Any]:
    """Milliseconds by kind of request, and how many came in a second."""
    process, port, token = serve(folder, items)
    try:
        at_work = [Person(number, port, token, seconds, pause) for number in range(people)]
        for one in at_work:
            one.start()
        for one in at_work:
            one.join()
    finally:
        process.terminate()
        process.wait()
    assert not any(one.broken for one in at_work), [one.broken for one in at_work if one.broken][:3]
    kinds = {
        kind: sorted(t for one in at_work for t in one.took[kind]) for kind in ("answer", "undo", "state", "alive")
    }
    kinds["all"] = sorted(t for times in kinds.values() for t in times)
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    found = {
        kind: {"requests": len(times)} | {name: round(times[int(at * len(times))], 2) for name, at in shares.items()}
        for kind, times in kinds.items()
        if times
    }
    return {"people": people, "pause": pause, "a_second": round(len(kinds["all"]) / seconds, 1), "milliseconds": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--pause", type=float, default=1.0, help="mean seconds between a person's answers")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="where the labels lie: the disk that is synced")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = measure(args.people, args.seconds, args.pause, args.items, Path(folder))
        found["one_sync"] = round(sync(Path(folder)), 2)
    found |= {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    print(f"{args.people} people, {args.pause} s between a person's answers: {found['a_second']} requests a second")
    print(f"one sync of this disk: {found['one_sync']} ms\n\n{'ms':8}{'requests':>10}{'p50':>8}{'p95':>8}{'p99':>8}")
    for kind, row in found["milliseconds"].items():
        print(f"{kind:8}{row['requests']:>10}{row['p50']:>8.2f}{row['p95']:>8.2f}{row['p99']:>8.2f}")
    if args.output:
        args.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
