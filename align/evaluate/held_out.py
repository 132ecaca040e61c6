"""Held-out prompts that a model was trained on: found through the records of its run and its parents, and refused.

What counts: the training rows of SFT, of reward models (rankings, pairs), of DPO, and the prompts of PPO and RLOO. What
a model was pretrained on does not: a fact has to be learnt somewhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from align.data import splits, text
from align.data.overlap import overlaps
from align.data.overlap.prompts import Prompts, prompts_of
from align.evaluate.config import MeasureArguments
from align.evaluate.policy import Rows
from align.run import lineage
from align.run.arguments import DataArguments
from align.run.errors import DataError, RunError
from align.run.received import outside

TRAINS = ("sft", "reward", "dpo", "ppo", "rloo")  # recipes whose rows have prompts


@dataclasses.dataclass
class Trained:
    """One set of rows that something was trained on."""

    data: DataArguments
    seed: int  # of the run: it decides what `test_split_size` held out
    by: list[str]  # who was
    told: bool = False  # by the user, and not by a run's record: only then is the hub asked

    @property
    def name(self) -> str:
        """As a person would say it."""
        where = self.data.dataset_name or " + ".join(str(entry["path"]) for entry in self.data.datasets)
        return f"{where} ({self.data.dataset_train_split})"


def trained_on(models: Iterable[str], more: Mapping[str, DataArguments]) -> tuple[list[Trained], list[str]]:
    """What the models and their parents were trained on, by the records of their runs, and `more` by who will be.

    Returns:
        The sets, each once; and sentences about what cannot be told.
    """
    found: dict[str, Trained] = {}
    unknown: list[str] = []
    waiting = list(models)
    known: set[str] = set()
    while waiting:
        path = waiting.pop(0)
        if (place := lineage.place(path)) in known:
            continue
        known.add(place)
        folder = lineage.run_directory(path) if Path(path).exists() else None
        run = lineage.read_record(folder) if folder else None
        if run is None:
            unknown.append(f"{path} has no record of a run here, so what it was trained on is not known")
            continue
        if run.get("recipe") in TRAINS:
            try:
                _add(found, _arguments(run), int(run.get("seed") or 0), str(folder))
            except (DataError, TypeError) as error:
                unknown.append(f"{path} has a record that cannot be read ({error})")
                continue
        for role, parent in (run.get("parents") or {}).items():
            if not role.startswith(lineage.NO_MODELS):
                waiting.append(parent.get("path", ""))
    for by, args in more.items():
        _add(found, args, 0, by).told = True
    return list(found.values()), unknown


def _add(found: dict[str, Trained], args: DataArguments, seed: int, by: str) -> Trained:
    """Count `by` among those trained on the rows that `args` names."""
    seed = seed if args.test_split_size or args.datasets else 0  # else the same rows, and read once
    key = repr((args.dataset_name, args.datasets, args.dataset_config, args.dataset_train_split, args.columns,
                args.max_train_rows, args.test_split_size, seed))  # fmt: skip
    entry = found.setdefault(key, Trained(args, seed, []))
    if by not in entry.by:
        entry.by.append(by)
    return entry


def _arguments(run: dict[str, Any]) -> DataArguments:
    """What a run's record says it was trained on, each setting of its own kind: whoever sent the run wrote it.

    Raises:
        DataError: where one is not.
    """
    hints = get_type_hints(DataArguments)
    said = {key: value for key, value in (run.get("config") or {}).items() if key in hints and value is not None}
    for key, value in said.items():
        kinds = [get_origin(one) or one for one in (get_args(hints[key]) or [hints[key]])]
        kinds = [list] if get_origin(hints[key]) is list else [*kinds, int] if float in kinds else kinds
        if type(value) not in kinds:
            raise DataError(f"{key} of the run's record is {value!r}")
    if not all(isinstance(one, dict) and isinstance(one.get("path"), str) for one in said.get("datasets", ())):
        raise DataError("datasets of the run's record are no mappings with a path")
    return DataArguments(**said)


def check(
    rows: Rows, models: Iterable[str], args: MeasureArguments, more: Mapping[str, DataArguments] | None = None
) -> tuple[Rows, list[str]]:
    """Compare the held-out prompts with what the models were trained on.

    Args:
        rows: with a `prompt` each.
        models: checkpoints, adapters, reward models: whatever is measured or measures.
        more: sets that will be trained on, by who will be.

    Returns:
        The rows to use, all or without what leaks (`--leave_out_leaks`), and notes for the report.

    Raises:
        RunError: where prompts leak and nothing was said about it, or where too few would be left.
    """
    sets, notes = trained_on(models, more or {})
    read: list[tuple[Trained, Prompts]] = []
    for trained in sets:
        asks = contextlib.nullcontext() if trained.told else outside.offline()
        try:
            with asks:
                train = splits.read(trained.data, seed=trained.seed)["train"]
            read.append((trained, prompts_of(train, trained.name, trained.data.columns)))
        except DataError as error:
            notes.append(f"{trained.name}, which {_list(trained.by)} was trained on, cannot be read ({error})")
    for note in notes:
        print(f"not checked for leaks: {note}", flush=True)
    notes = [f"Not checked for leaks: {note}." for note in notes]
    asked = [text.user_side(row["prompt"]) for row in rows]
    leaks = np.zeros(len(rows), bool)
    lines = []
    for trained, prompts in read:
        (shared,) = overlaps.find({"asked": asked, "trained": prompts.texts}, examples=1)
        if shared:
            leaks |= shared.rows[0]
            lines.append(_line(trained, shared))
    return _decide(rows, leaks, lines, args, notes)


def _decide(
    rows: Rows, leaks: np.ndarray, lines: list[str], args: MeasureArguments, notes: list[str]
) -> tuple[Rows, list[str]]:
    if not lines:
        return rows, notes
    said = f"{leaks.sum():,} of {len(rows):,} held-out prompts were trained on"
    if args.accept_leaks:
        note = f"{said}, and are measured all the same"
    elif args.leave_out_leaks and leaks.sum() <= len(rows) / 2:
        note = f"{said}, and are left out"
        rows = [row for row, leak in zip(rows, leaks, strict=True) if not leak]
    else:
        told = "\n".join(f"  - {line}" for line in lines)
        few = "too few would be left to measure on; " if args.leave_out_leaks else ""
        way = "" if args.leave_out_leaks else "leave them out with --leave_out_leaks, "
        raise RunError(
            f"{said}:\n{told}\n  what a model has seen says nothing about what it has not: {few}name other prompts, "
            f"{way}or measure them all the same with --accept_leaks"
        )
    print("\n".join([note + ":", *(f"  - {line}" for line in lines)]), flush=True)
    return rows, [*notes, f"{note}: {'; '.join(lines)}."]


def _line(trained: Trained, shared: overlaps.Shared) -> str:
    example = shared.examples[0]
    other = "" if example["similarity"] == 1 else f" and {text.short(example['b'])!r} ({example['similarity']:.2f})"
    return (
        f"{shared.exact + shared.near[0]:,} of them in {trained.name}, which {_list(trained.by)} was trained on "
        f"({shared.exact:,} exactly, {shared.near[0]:,} nearly), for example {text.short(example['a'])!r}{other}"
    )


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"each of {', '.join(names[:-1])} and {names[-1]}"
