"""Cleaning as stages of datatrove tasks. What crosses the corpus is a stream; what a kill stops is done again by task.

    read        files into shards of bounded size                          a task for each file, or group of small ones
    rules       repair, rules, unwanted content, decontamination           a task for each shard, as in the later ones
    exact       hashes of all shards merged                                a few tasks
    signatures  exact duplicates out, MinHash signatures of the rest
    buckets     equal signatures                                           a task for each bucket
    clusters    pairs joined, who stays                                    one task
    write       near-duplicates out, personal data masked, the corpus

The number of tasks follows from the input and the settings alone, so the output does not depend on `--workers`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from align.clean import blocks, executors, write
from align.clean.card import outcome
from align.clean.checks import Found, steps
from align.clean.config import REVIEWED, CleanConfig, RuleConfig
from align.clean.duplicates import copies, minhash
from align.clean.read import inputs, intake
from align.clean.review.decisions import Decisions
from align.clean.review.overrule import Note, Overrule
from align.clean.rules import apply, decontaminate
from align.clean.tally import merged
from align.run.errors import DataError, RunError
from align.run.record import Run, write_json

FINDERS = 4  # tasks that merge the hashes of exact duplicates; each has a quarter of the hashes
# What may differ between a run and its resumption
FREE = {"workers", "executor", "executor_options", "resume_from_checkpoint", "keep_work", "title", "output_dir"}


def clean(args: CleanConfig, rules: RuleConfig, found: Found, run: Run) -> dict[str, Any]:
    """Run all stages, write the review queue and the data card; the card is returned. `tidy` is for afterwards.

    Raises:
        DataError: for a file that turns out to be damaged; RunError: where a resumed run is another one; OSError:
        where the disk is full.
    """
    begun = time.perf_counter()
    folder = run.folder
    _plan(args, rules, found, folder)
    run.note(resumable=True)  # without --overwrite nobody removes work in progress unasked
    if found.index:
        found.index.cleanup()
    on = steps(args, rules)
    decisions = folder / "decisions.jsonl"
    _note(args, found, run)
    groups = inputs.tasks(found.entries, int(args.shard_megabytes * 1_000_000))

    def stage(name: str, pipeline: list[Any], tasks: int) -> None:
        print(f"{name}: {tasks} task{'s' if tasks > 1 else ''} … ", end="", flush=True)
        print(f"{executors.run(args, name, pipeline, tasks, folder):.1f} s", flush=True)

    stage("read", [intake.Read(folder, groups, args)], len(groups))
    shards = _shards(folder, args)
    names = folder / "work" / "read.txt"
    ruling = [apply.block(step, folder, args, rules) for step in on if step in REVIEWED]
    first = [
        blocks.reader(folder / "work/read", names),
        intake.Repair(folder, rules, "repair" in on),
        Note(folder, decisions),
        *ruling,
        Overrule(folder, args.audit),
        blocks.Shards(folder / "work/rules"),
    ]
    stage("rules", first + ([minhash.exact_signatures(folder, FINDERS)] if "exact" in on else []), shards)
    _free(folder / "work/read", args)
    _duplicates(stage, on, folder, rules, shards)
    stage("write", _last(on, folder, args, rules), shards)
    card = outcome.card(args, rules, run, time.perf_counter() - begun)
    if not card["totals"]["documents_out"] and not card["totals"]["unsure"]:
        tidy(args)
        run.note(resumable=False)
        raise RunError(
            f"no document is left of {card['totals']['documents_in']:,}; {folder}/report.html says which step took "
            f"them. {outcome.WEB}"
        )
    return card


def tidy(args: CleanConfig) -> None:
    """Take away what only an unfinished run needs. A kill in here loses nothing once the run is written down as
    complete, so that comes first."""
    _free(Path(str(args.output_dir)) / "work", args)


def _note(args: CleanConfig, found: Found, run: Run) -> None:
    """Say and write down what the documents are compared with: evaluation sets, and people's decisions."""
    if found.evaluation:
        run.note(decontamination=found.evaluation)
        for line in decontaminate.told(found.evaluation):
            print(f"decontamination: {line}", flush=True)
    held = Decisions(run.folder / "decisions.jsonl")
    where = str(args.decisions_path())
    run.note(decisions={"path": where, "count": len(held), "version": held.version})
    if len(held):
        print(f"decisions: {len(held):,} of {where}", flush=True)
        run.note(parents=run.record.get("parents", {}) | {"decisions": {"path": where, "hash": held.version}})


def _duplicates(stage: Any, on: list[str], folder: Path, rules: RuleConfig, shards: int) -> None:
    if "exact" in on:
        stage("exact", [minhash.exact_find(folder)], FINDERS)
    if "near" in on:
        begin = [blocks.reader(folder / "work/rules", folder / "work/rules.txt")]
        begin += [minhash.exact_filter(folder)] if "exact" in on else []
        stage("signatures", [*begin, copies.Named(folder), minhash.near_signatures(folder, rules)], shards)
        stage("buckets", [minhash.near_buckets(folder, rules)], rules.minhash_buckets)
        stage("clusters", minhash.near_clusters(folder, rules), 1)


def _last(on: list[str], folder: Path, args: CleanConfig, rules: RuleConfig) -> list[Any]:
    pipeline: list[Any] = [blocks.reader(folder / "work/rules", folder / "work/rules.txt")]
    pipeline += [minhash.exact_filter(folder, quiet="near" in on)] if "exact" in on else []
    pipeline += [minhash.near_filter(folder, args.audit)] if "near" in on else []
    pipeline += [write.Mask(folder, rules)] if "personal" in on else []
    return [*pipeline, write.Final(folder, args)]


def _plan(args: CleanConfig, rules: RuleConfig, found: Found, folder: Path) -> None:
    """Write down what this run is about, or check that a resumed one is about the same."""
    settings = {key: value for key, value in (asdict(args) | asdict(rules)).items() if key not in FREE}
    files = [[entry.path, entry.bytes] for entry in found.entries]
    sets = found.evaluation["fingerprint"] if found.evaluation else None
    plan = json.loads(json.dumps({"settings": settings, "files": files, "evaluation": sets}))
    path = folder / "work" / "plan.json"
    if path.exists():
        before = json.loads(path.read_text())
        if before != plan:
            changed = [key for key in plan["settings"] if plan["settings"][key] != before["settings"].get(key)]
            changed += ["the input files"] if before["files"] != plan["files"] else []
            changed += ["the evaluation sets"] if before.get("evaluation") != plan["evaluation"] else []
            raise RunError(
                f"output_dir {folder} holds a run with other settings ({', '.join(changed)}); resume it with its own, "
                "or give --overwrite to start again"
            )
        return
    (folder / "work").mkdir(exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    if args.decisions_path().exists():  # a resumed run keeps to these decisions
        shutil.copyfile(args.decisions_path(), folder / "decisions.jsonl")
    if found.index:
        shutil.copyfile(Path(found.index.name) / "index.npz", folder / "work" / "decontaminate.npz")
    write_json(path, plan)


def _shards(folder: Path, args: CleanConfig) -> int:
    """How many shards the read stage has made; their names are written down for datatrove's reader."""
    names = sorted(path.name for path in (folder / "work/read").glob("*.jsonl"))
    path = folder / "work" / "read.txt"
    if path.exists():
        return len(path.read_text().splitlines())
    if not names:
        read = merged(folder / "work/counts", "read")
        dropped = read.table("dropped") if read else Counter[str]()
        why = "".join(f", {count:,} {reason.replace('_', ' ')}" for reason, count in sorted(dropped.items()))
        raise DataError(f"{', '.join(args.input)}: no document in it{why}")
    (folder / "work" / "rules.txt").write_text("".join(f"{i:05d}.jsonl\n" for i in range(len(names))))
    part = path.with_suffix(".part")
    part.write_text("".join(f"{name}\n" for name in names))
    part.replace(path)
    return len(names)


def _free(folder: Path, args: CleanConfig) -> None:
    """Give the disk back what no later stage reads."""
    if not args.keep_work:
        shutil.rmtree(folder, ignore_errors=True)
