"""Preparing rows: how long it takes, and how much memory, against TRL's own preparation.

    python benchmarks/data.py                                   # 20,000 rows of each kind, both sides
    python benchmarks/data.py --rows 20000 200000 1000000 --repeat 3
    python benchmarks/data.py --rows 200 --kinds sft --sides ours

kinds    sft (conversations; the assistant's words are learnt), preference (pairs), prompt.
sides    `ours` is `align.data.prepare.rows`; `warm` the same once more, from its cache; `trl` reads the same file with
         `datasets` and calls what SFTTrainer, DPOTrainer and RLOOTrainer make of rows before they train
         (`_prepare_dataset`; of prompts, a map of the same kind). Both sides use two processes, and give the same
         tokens and labels, which is checked on the first rows.
each     Rows of about 390 tokens, made by a seed, as one JSONL file; a tokenizer made here. Each side runs in a process
         of its own, in an empty cache.
time     `seconds` on the clock, which other programs lengthen; `cpu` seconds of the processor, over all processes.
memory   `memory` counts every page once (PSS) that is nobody's file, over all processes of a side; `summed` adds up
         what each process holds (RssAnon and RssShmem), pages that forked processes share counted for each; `mapped`
         is all of PSS, pages of memory-mapped files included, which the kernel takes back when others need room.

Results go to benchmarks/data.json (`--output` names another file), a table to the screen. No GPU, no network.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = 2
KINDS, SIDES = ("sft", "preference", "prompt"), ("ours", "warm", "trl")
LONGEST = 4096  # tokens: nothing is left out
LOOK = 0.1  # seconds between two looks at the memory, and at least 50 times what a look takes: seconds, of large maps
CHECKED = 50  # rows whose tokens both sides have to agree on
# The marks around the assistant's words are TRL's way to know them
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}\n"
    "{% else %}{{ message['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# ----------------------------------------------------------------------------------------------------------- the rows


def vocabulary(rng: random.Random) -> list[str]:
    """6,000 made words."""
    syllables = [c + v for c in "bcdfghjklmnprstvwz" for v in ("a", "e", "i", "o", "u", "ai", "en", "or", "ist", "al")]
    return ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(6000)]


def text(rng: random.Random, words: list[str], count: int) -> str:
    """Sentences of so many words, few of which are frequent, as in texts that people write."""
    sentences = []
    while count > 0:
        size = min(count, rng.randint(6, 16))
        count -= size
        some = [words[min(int(rng.paretovariate(0.7)) - 1, len(words) - 1)] for _ in range(size)]
        sentences.append(" ".join(some).capitalize() + rng.choice(".?!."))
    return " ".join(sentences)


def made(kind: str, count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows of a kind."""
    rng = random.Random(f"{kind}-{seed}")
    words = vocabulary(random.Random(0))

    def turn(role: str, least: int, most: int) -> dict[str, str]:
        return {"role": role, "content": text(rng, words, rng.randint(least, most))}

    for number in range(count):
        if kind == "sft":
            turns = rng.choice((1, 1, 2))
            pairs = [(turn("user", 50 // turns, 100 // turns), turn("assistant", 160 // turns, 300 // turns))
                     for _ in range(turns)]  # fmt: skip
            yield {"messages": [one for pair in pairs for one in pair]}
        elif kind == "preference":
            yield {"prompt": [turn("user", 70, 140)], "chosen": [turn("assistant", 110, 250)],
                   "rejected": [turn("assistant", 110, 250)]}  # fmt: skip
        else:
            yield {"prompt": [turn("user", 220, 400)], "topic": f"t{number % 7}"}


def make_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer of 8,000 tokens with a chat template, trained on rows of another seed."""
    from align.data import chat
    from align.models.tokenizer import TokenizerConfig, train

    rows = made("sft", 1_500, seed=1)
    tokenizer = train(
        [" ".join(m["content"] for m in row["messages"]) for row in rows], TokenizerConfig(vocab_size=8000)
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    chat.set_up_tokenizer(tokenizer, TEMPLATE)
    tokenizer.save_pretrained(folder)


# ---------------------------------------------------------------------------------------------------------- the sides


def preparation(side: str, kind: str, file: Path, tokenizer: Any) -> Callable[[], Any]:
    """One side's preparation of a file's rows, with all imported that it needs."""
    if side != "trl":
        from align.data import prepare
        from align.run.arguments import DataArguments

        args = DataArguments(dataset_name=str(file), dataset_num_proc=PROCESSES)
        return lambda: prepare.rows(args, kind, tokenizer, max_length=LONGEST, seed=0).train
    import types
    import warnings

    import datasets
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    warnings.simplefilter("ignore")
    datasets.disable_progress_bars()
    given = {"dataset_num_proc": PROCESSES, "max_length": LONGEST, "use_cpu": True, "bf16": False}
    trainer: Any = types.SimpleNamespace(_tokenizer=tokenizer, chat_template=None, completion_only_loss=False)
    out = str(file.parent / "out")
    sft, dpo = SFTConfig(out, assistant_only_loss=True, **given), DPOConfig(out, **given)
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}

    def go() -> Any:
        rows = datasets.load_dataset("json", data_files=str(file), split="train")
        if kind == "sft":
            return SFTTrainer._prepare_dataset(trainer, rows, tokenizer, sft, False, None, "train")
        if kind == "preference":
            return DPOTrainer._prepare_dataset(trainer, rows, tokenizer, dpo, "train")
        return rows.map(  # TRL's trainers tokenise prompts as they sample: this is how they do it, once for each row
            lambda row: {"input_ids": tokenizer.apply_chat_template(row["prompt"], **options)["input_ids"]},
            num_proc=PROCESSES,
        )

    return go


def run_side(side: str, kind: str, file: Path, tokenizer: Path) -> None:
    """In a process of its own: prepare, and print what it took."""
    from transformers import AutoTokenizer, logging

    logging.set_verbosity_error()
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    go = preparation(side, kind, file, loaded)
    before, begun = processor_seconds(), time.perf_counter()
    rows = go()
    seconds, after = time.perf_counter() - begun, processor_seconds()
    names = sorted({"input_ids", "labels", "prompt_ids", "chosen_ids", "rejected_ids"} & {*rows.column_names})
    some = [[list(row[name]) for name in names] for row in rows.select(range(min(CHECKED, len(rows))))]
    first = hashlib.sha256(json.dumps([names, some]).encode()).hexdigest()
    tokens = statistics.fmean(len(row[0]) + (len(row[1]) if "prompt_ids" in names else 0) for row in some)
    told = {"seconds": seconds, "cpu_seconds": after - before, "rows": len(rows), "first": first}
    print(json.dumps(told | {"tokens": round(tokens)}))


def processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    return sum(sum(resource.getrusage(which)[:2]) for which in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def kib(pattern: str, file: Path) -> int:
    """A sum of lines of a file below /proc."""
    try:
        return sum(int(number) for number in re.findall(rf"^{pattern}:\s+(\d+)", file.read_text(), re.M))
    except OSError:  # the process has ended
        return 0


def watched(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """What a command prints last, as JSON, and the peaks of the memory of all its processes."""
    import psutil

    peaks = dict.fromkeys(("memory", "summed", "mapped"), 0)
    running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    while running.poll() is None:
        begun = time.perf_counter()
        try:
            main = psutil.Process(running.pid)
            folders = [Path(f"/proc/{one.pid}") for one in (main, *main.children(recursive=True))]
        except psutil.Error:
            break
        found = {
            "memory": sum(kib("Pss_(?:Anon|Shmem)", folder / "smaps_rollup") for folder in folders),
            "summed": sum(kib("Rss(?:Anon|Shmem)", folder / "status") for folder in folders),
            "mapped": sum(kib("Pss", folder / "smaps_rollup") for folder in folders),
        }
        peaks = {name: max(value, found[name]) for name, value in peaks.items()}
        time.sleep(max(LOOK, 50 * (time.perf_counter() - begun)))
    output = running.communicate()[0]
    if running.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return json.loads(output.splitlines()[-1]) | {f"{name}_mib": round(value / 1024) for name, value in peaks.items()}


def measure(args: argparse.Namespace, kind: str, count: int, work: Path) -> list[dict[str, Any]]:
    """All sides on one file of rows."""
    file, tokenizer = work / f"{kind}-{count}.jsonl", work / "tokenizer"
    with file.open("w") as stream:
        for row in made(kind, count):
            stream.write(json.dumps(row) + "\n")
    results: dict[str, list[dict[str, Any]]] = {}
    for _ in range(args.repeat):
        for side in args.sides:
            cache = work / f"cache-{'ours' if side == 'warm' else side}"
            if side != "warm":
                shutil.rmtree(cache, ignore_errors=True)
            environment = os.environ | {
                "HF_DATASETS_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "TMPDIR": str(work),
            }  # fmt: skip
            command = [sys.executable, __file__, "--side", side, "--kind", kind, "--file", str(file)]
            found = watched([*command, "--tokenizer", str(tokenizer)], environment)
            found["disk_mib"] = round(sum(f.stat().st_size for f in cache.rglob("*") if f.is_file()) / 2**20)
            results.setdefault(side, []).append(found)
    prints = {one["first"] for found in results.values() for one in found}
    assert len(prints) == 1, f"{kind}: the sides made different tokens"
    shutil.rmtree(work / "cache-ours", ignore_errors=True)
    shutil.rmtree(work / "cache-trl", ignore_errors=True)
    file.unlink()
    return [
        {"kind": kind, "side": side, "rows": count, "tokens": found[0]["tokens"], "repeat": len(found)}
        | {name: round(statistics.median(one[name] for one in found), 1)
           for name in ("seconds", "cpu_seconds", "memory_mib", "summed_mib", "mapped_mib", "disk_mib")}
        for side, found in results.items()
    ]  # fmt: skip


def table(results: list[dict[str, Any]]) -> str:
    """The results as people read them."""
    heads = "".join(f"{head:>9}" for head in ("seconds", "cpu", "rows/s", "memory", "summed", "mapped", "disk"))
    lines = [f"{'kind':<12}{'rows':>10}  {'side':<6}{heads}  MiB"]
    for one in results:
        lines.append(
            f"{one['kind']:<12}{one['rows']:>10,}  {one['side']:<6}{one['seconds']:>9,.1f}{one['cpu_seconds']:>9,.1f}"
            f"{one['rows'] / max(one['seconds'], 0.1):>9,.0f}{one['memory_mib']:>9,.0f}{one['summed_mib']:>9,.0f}"
            f"{one['mapped_mib']:>9,.0f}{one['disk_mib']:>9,.0f}"
        )
    return "\n".join(lines)


def processor() -> str:
    """The CPU's name."""
    found = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.processor()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--repeat", type=int, default=1, help="the median is told")
    parser.add_argument("--output", default=str(ROOT / "benchmarks" / "data.json"))
    for inner in ("--side", "--kind", "--file", "--tokenizer"):
        parser.add_argument(inner, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        run_side(args.side, args.kind, Path(args.file), Path(args.tokenizer))
        return
    if "warm" in args.sides and "ours" not in args.sides:
        parser.error("warm needs ours, whose cache it reads")
    results: list[dict[str, Any]] = []
    versions = {name: importlib.metadata.version(name) for name in ("datasets", "tokenizers", "transformers", "trl")}
    with tempfile.TemporaryDirectory() as work:
        make_tokenizer(Path(work) / "tokenizer")
        for count in args.rows:
            for kind in args.kinds:
                results += measure(args, kind, count, Path(work))
                print(table(results[-len(args.sides) :]), flush=True)
                facts = {"processor": processor(), "processes": PROCESSES, "versions": versions, "results": results}
                Path(args.output).write_text(json.dumps(facts, indent=1) + "\n")
    print(f"\n{table(results)}")


if __name__ == "__main__":
    main()
