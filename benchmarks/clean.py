"""Cleaning measured: speed and memory against two baselines, growth, near-duplicates found, workers.

    python benchmarks/clean.py --output benchmarks/clean.json                        # everything, sizes up to 100 MB
    python benchmarks/clean.py --output runs/clean.json --what growth --sizes 10 100 1000
    python benchmarks/clean.py --output runs/clean.json --what speed --sides ours datatrove --repeats 1

speed    One worker each, in turn, `--repeats` times, each time in a process of its own; the figures are medians.
         `ours` is recipes/clean.py, with its review queue and its data card; the others are clean_baselines.py.
growth   `ours` on 10, 100, 1000 MB: `to_linear` is (seconds / seconds of the first) / (size / size of the first);
         `cpu_to_linear` the same in CPU seconds, which other work on the machine changes less.
quality  Planted corpora (`planted.corpus`): precision and recall; `planted.scores` says what is counted. With
         near-duplicates even over Jaccard 0.6 to 1 (hard: a third lies where MinHash finds some and not others) and
         over 0.8 to 1.
workers  One against two: the same fingerprint, the same bytes, and the speed-up.

The corpus is made (`planted.prose`): documents of 2 kB with 3 % near-duplicates, 3 % exact ones and 3 % junk.
Memory is the most that the process and its children held together, shared pages counted once, sampled ten times a
second. MB are 10^6 bytes of text in; seconds are the whole command, imports included.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
BASELINES = ROOT / "benchmarks" / "clean_baselines.py"
SIDES = ("ours", "datatrove", "datatrove-fast", "datasets", "datasets-fast")
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def rows(megabytes: float, seed: int) -> Iterator[dict[str, str]]:
    """Documents until there are so many megabytes of text: new ones, and copies of the thousand before."""
    from planted import prose, specimens

    rng = random.Random(f"synthetic {seed}")
    junk = [specimens.MAKERS[kind] for kind in ("symbols", "repetition", "short", "foreign", "personal", "mojibake")]
    before: list[str] = []
    size = 0
    while size < megabytes * 1e6:
        draw = rng.random()
        kind = "near" if draw < 0.03 else "exact" if draw < 0.06 else "junk" if draw < 0.09 else "new"
        if kind == "junk":
            text = rng.choice(junk)(rng)[0]
        elif kind == "new" or not before:
            kind, text = "new", prose.document(rng)
            if len(before) < 1000:
                before.append(text)
            else:
                before[rng.randrange(1000)] = text
        else:
            text = rng.choice(before)
            if kind == "near":  # one word in fifty: Jaccard about 0.82 to 0.98
                words = text.split(" ")
                for _ in range(max(1, len(words) // rng.randint(50, 300))):
                    words[rng.randrange(len(words))] = rng.choice(prose.NOUNS)
                text = " ".join(words)
        size += len(text.encode())
        yield {"text": text, "source": f"synthetic-{kind}"}


def corpus(folder: Path, megabytes: float, seed: int = 0) -> Path:
    """The file of so many megabytes, made once."""
    import orjson

    file = folder / f"synthetic-{megabytes:g}-{seed}.jsonl"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        part, start = file.with_suffix(".part"), time.perf_counter()
        with part.open("wb") as stream:
            for row in rows(megabytes, seed):
                stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        part.replace(file)
        print(f"  made {file.name} in {time.perf_counter() - start:.1f} s", flush=True)
    return file


# One command, measured


def held(process: Any) -> int:
    """Bytes that a process and all below it hold, shared pages divided among those that share them."""
    import psutil

    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += getattr(one.memory_full_info(), "pss", 0) or one.memory_info().rss
        except psutil.Error:
            continue
    return total


def measure(command: list[str]) -> dict[str, float]:
    """Run a command: wall seconds, CPU seconds of it and its children, and the most memory that they held."""
    import psutil

    before, start, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=said, stderr=subprocess.STDOUT)
        process = psutil.Process(child.pid)
        while child.poll() is None:
            try:
                peak = max(peak, held(process))
            except psutil.Error:
                break
            time.sleep(0.1)
        child.wait()
        seconds = time.perf_counter() - start
        if child.returncode:
            said.seek(0)
            sys.exit(f"failed: {' '.join(command)}\n{said.read()[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return dict(seconds=seconds, cpu_seconds=cpu, peak_bytes=peak)


def ours(source: Path | str, out: Path, workers: int = 1, **flags: Any) -> list[str]:
    """The command of the recipe."""
    given = dict(input=source, output_dir=out, workers=workers) | flags
    extra = [str(x) for key, value in given.items() for x in (f"--{key}", value)]
    return [sys.executable, "recipes/clean.py", *extra, "--overwrite"]


def counted(folder: Path) -> int:
    """Documents in a folder of JSONL files."""
    return sum(1 for file in folder.rglob("*.jsonl") for _ in file.open("rb"))


def digest(folder: Path) -> str:
    """A hash over the names and contents of a run's data."""
    found = hashlib.sha256()
    for file in sorted((folder / "data").rglob("*.jsonl")):
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()


# What is measured


def speed(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Every side on the same file, in turn."""
    source = corpus(folder, args.megabytes)
    raw: dict[str, list[dict[str, Any]]] = {side: [] for side in args.sides}
    for repeat in range(args.repeats):
        for side in args.sides:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                out = Path(place) / "out"
                command = [sys.executable, str(BASELINES), side, str(source), str(out)]
                found: dict[str, Any] = measure(ours(source, out) if side == "ours" else command)
                found["documents_out"] = counted(out / "data")
            raw[side].append(found)
            print(f"  {side} {repeat + 1}/{args.repeats}: {args.megabytes / found['seconds']:.2f} MB/s, "
                  f"{found['peak_bytes'] / 1e6:,.0f} MB, {found['documents_out']:,} documents", flush=True)  # fmt: skip
    summary = {
        side: {
            "megabytes_per_second": args.megabytes / statistics.median(one["seconds"] for one in runs),
            "megabytes_per_cpu_second": args.megabytes / statistics.median(one["cpu_seconds"] for one in runs),
            "peak_bytes": statistics.median(one["peak_bytes"] for one in runs),
            "documents_out": runs[0]["documents_out"],
        }
        for side, runs in raw.items()
    }
    return dict(megabytes=args.megabytes, summary=summary, raw=raw)


def growth(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Ours on files of growing size."""
    found: list[dict[str, Any]] = []
    for megabytes in args.sizes:
        source = corpus(folder, megabytes)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            one: dict[str, Any] = measure(ours(source, Path(place) / "out", args.growth_workers))
        one |= dict(megabytes=megabytes, megabytes_per_second=megabytes / one["seconds"])
        first = found[0] if found else one
        one["to_linear"] = (one["seconds"] / first["seconds"]) / (megabytes / first["megabytes"])
        one["cpu_to_linear"] = (one["cpu_seconds"] / first["cpu_seconds"]) / (megabytes / first["megabytes"])
        one["to_flat"] = one["peak_bytes"] / first["peak_bytes"]
        found.append(one)
        print(f"  {megabytes:g} MB: {one['seconds']:.1f} s, {one['megabytes_per_second']:.2f} MB/s, "
              f"{one['peak_bytes'] / 1e6:,.0f} MB; {one['to_linear']:.2f} of linear time "
              f"({one['cpu_to_linear']:.2f} in CPU seconds), "
              f"{one['to_flat']:.2f} of the memory", flush=True)  # fmt: skip
    return dict(workers=args.growth_workers, sizes=found)


def quality(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Ours on planted corpora."""
    from planted import corpus, scores

    found = []
    for lowest in args.lowest:
        for seed in range(args.seeds):
            with tempfile.TemporaryDirectory(dir=folder) as place:
                raw, out = Path(place), Path(place) / "out"
                rows, truth = corpus.plant(seed, args.documents, lowest=lowest)
                corpus.write(rows, truth, raw)
                flags = dict(lists="explicit", decontaminate=raw / "evaluation.jsonl")
                measure(ours(raw / "raw", out, **flags))
                kept, taken = scores.outcome(out, rows)
            near = scores.near_duplicate_scores(kept, truth, taken)
            kinds, steps = scores.rule_scores(kept, taken, truth)
            found.append(dict(seed=seed, lowest=lowest, documents=args.documents, near=near, kinds=kinds, steps=steps))
            precision = ", ".join(f"{name} {share(value)}" for name, value in near["precision"].items())
            print(f"  seed {seed}, Jaccard from {lowest:g}: recall {share(near['recall'])} of {near['expected']}; "
                  f"precision {precision} of {near['removed']}", flush=True)  # fmt: skip
    return found


def workers(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Ours with one worker and with two."""
    source = corpus(folder, args.workers_megabytes)
    runs = []
    for count in (1, 2):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            out = Path(place) / "out"
            flags = {"shard_megabytes": args.shard_megabytes} if args.shard_megabytes else {}
            one: dict[str, Any] = measure(ours(source, out, count, **flags))
            card = json.loads((out / "card.json").read_text())
            runs.append(one | dict(workers=count, fingerprint=card.get("fingerprint"), data=digest(out)))
    same = runs[0]["fingerprint"] == runs[1]["fingerprint"] and runs[0]["data"] == runs[1]["data"]
    gain = runs[0]["seconds"] / runs[1]["seconds"]
    print(f"  fingerprint and data {'the same' if same else 'DIFFER'}; {gain:.2f} times as fast with two", flush=True)
    return dict(megabytes=args.workers_megabytes, same=same, speedup=gain, runs=runs)


def share(estimate: dict[str, Any] | None) -> str:
    """An estimate in short."""
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]" if estimate else "-"


def show(found: dict[str, Any]) -> None:
    """The tables."""
    if "speed" in found:
        print(f"\n{'one worker':<16}{'MB/s':>8}{'peak MB':>10}{'documents':>11}")
        for side, row in found["speed"]["summary"].items():
            print(f"{side:<16}{row['megabytes_per_second']:>8.2f}{row['peak_bytes'] / 1e6:>10,.0f}"
                  f"{row['documents_out']:>11,}")  # fmt: skip
    for run in found.get("quality", []):
        if run["seed"] == 0:
            print(f"\nseed 0, Jaccard from {run['lowest']:g}; by band: found, and what the S-curve says")
            for band in run["near"]["bands"]:
                print(f"  {band['from']:.2f} to {band['to']:.2f}  {share(band['found'])}  {band['curve']:.3f}")
            for kind, row in run["kinds"].items():
                print(f"  {kind:<13}{row['documents']:>6}  kept {row['kept']:>5}, waiting {row['waiting']:>4}, recall "
                      f"{share(row.get('recall'))}, spared {share(row.get('spared'))}  {row['steps']}")  # fmt: skip
            for step, row in run["steps"].items():
                print(f"  step {step:<16} took {row['taken']:>5}, precision {share(row['precision'])}  {row['kinds']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="JSON file to write; what it holds and is not measured stays")
    parts = dict(speed=speed, growth=growth, quality=quality, workers=workers)
    parser.add_argument("--what", nargs="+", default=list(parts), choices=list(parts))
    parser.add_argument("--folder", help="where corpora are made and kept; a temporary folder without")
    parser.add_argument("--megabytes", type=float, default=10, help="speed: size of the corpus")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", type=float, default=[10, 100], help="growth: megabytes")
    parser.add_argument("--growth_workers", type=int, default=1)
    parser.add_argument("--documents", type=int, default=5000, help="quality: of each planted corpus")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lowest", nargs="+", type=float, default=[0.6, 0.8], help="quality: lowest planted Jaccard")
    parser.add_argument("--workers_megabytes", type=float, default=100)
    parser.add_argument("--shard_megabytes", type=int, help="workers: ours is the default without")
    args = parser.parse_args()
    file = Path(args.output)
    file.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(file.read_text()) if file.is_file() else {}
    found["machine"] = dict(processor=platform.processor() or platform.machine(), cores=os.cpu_count(),
                            python=platform.python_version())  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.what:
            print(name, flush=True)
            folder = Path(args.folder or temporary)
            folder.mkdir(parents=True, exist_ok=True)
            found[name] = parts[name](args, folder)
            file.write_text(json.dumps(found, indent=1) + "\n")
    show(found)


if __name__ == "__main__":
    main()
