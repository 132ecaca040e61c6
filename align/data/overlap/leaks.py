"""Are prompts shared between demonstrations, rankings, PPO prompts and evaluation?

A shared prompt is a leak unless it is named as allowed. What counts as one, exact or near, is in `overlaps`.
"""

from __future__ import annotations

import itertools
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from align.data import load, text
from align.data.lines import write
from align.data.overlap import overlaps
from align.data.overlap.overlaps import Shared
from align.data.overlap.prompts import prompts_of
from align.run.arguments import DataArguments, RunArguments
from align.run.errors import DataError, RunError
from align.run.lineage import parent_problem


@dataclass
class LeaksConfig(RunArguments):
    """What the leaks recipe takes."""

    output_dir: str | None = field(default=None, metadata={"help": "Where the record is written."})
    sets: list[str] = field(
        default_factory=list,
        metadata={"help": "name=path or name=path:split each (train by default): files, folders, runs or hub names."},
    )
    allow: list[str] = field(
        default_factory=list, metadata={"help": "Pairs of sets that may share prompts: rankings-prompts."}
    )
    threshold: float = field(
        default=overlaps.THRESHOLD, metadata={"help": "Prompts of this similarity (0 to 1) or more are near."}
    )
    write_clean: str | None = field(
        default=None,
        metadata={"help": "A folder for the sets without what leaks: the set named first keeps a prompt, evaluation "
                          "(any split but train, or a name that begins with eval or test) before training."},
    )  # fmt: skip
    columns: list[str] = field(
        default_factory=list, metadata={"help": "Column mapping for sets that have these columns: theirs=ours."}
    )
    examples: int = field(default=3, metadata={"help": "Shown for each two sets."})
    seed: int = field(default=0, metadata={"help": "For the record; nothing is drawn."})

    def __post_init__(self) -> None:
        problems = []
        found = [_parse(entry) for entry in self.sets]
        for entry, parsed in zip(self.sets, found, strict=True):
            if parsed is None:
                problems.append(f"sets: {entry!r} is not name=path or name=path:split")
            elif problem := parent_problem(parsed.path, allow_hub=True):
                problems.append(f"sets: {problem}")
        names = [one.name for one in found if one]
        if len(set(names)) < len(names):
            problems.append("sets: every set needs a name of its own")
        if len(self.sets) < 2:
            problems.append("sets: give two or more: --sets demonstrations=a.jsonl evaluation=prompts_folder:test")
        known = {f"{a}-{b}" for a, b in itertools.permutations(names, 2)}
        unknown = [pair for pair in self.allow if pair not in known]
        if unknown and not problems:
            pairs = ", ".join(f"{a}-{b}" for a, b in itertools.combinations(names, 2))
            problems.append(f"allow: there is no pair {', '.join(unknown)}; the pairs are {pairs}")
        if not 0 < self.threshold <= 1:
            problems.append(f"threshold={self.threshold}: above 0 and at most 1")
        if self.write_clean and Path(self.write_clean).exists() and any(Path(self.write_clean).iterdir()):
            problems.append(f"write_clean: {self.write_clean} is not empty; name a new folder")
        if problems:
            raise ValueError("; ".join(problems))

    def named(self) -> list[NamedSet]:
        """The sets in order."""
        return [one for one in map(_parse, self.sets) if one]

    def allowed(self, a: str, b: str) -> bool:
        """May these two share prompts?"""
        return f"{a}-{b}" in self.allow or f"{b}-{a}" in self.allow


@dataclass(frozen=True)
class NamedSet:
    """One named set of rows."""

    name: str
    path: str
    split: str

    @property
    def evaluates(self) -> bool:
        """Is it what models are evaluated on? Then it keeps its prompts, and training loses them."""
        return self.split != "train" or self.name.startswith(("eval", "test"))


def _parse(entry: str) -> NamedSet | None:
    name, _, place = entry.partition("=")
    path, _, split = place.rpartition(":") if re.search(r"[^:]:\w+$", place) else (place, "", "train")
    return NamedSet(name, path, split) if name and path else None


def nano() -> str | None:
    """The nano family's YAML where no sets are named: what it allows is allowed for its own sets only."""
    named = any(word.split("=")[0] == "--sets" for word in sys.argv)
    return None if named else "recipes/nano/leaks.yaml"


def read(source: NamedSet, seed: int) -> Any:
    """The rows of a set.

    Raises:
        DataError: where there is no such split.
    """
    rows = load.load(DataArguments(dataset_name=source.path, dataset_train_split=source.split), source.split, seed=seed)
    if rows is None:
        raise DataError(f"{source.path} has no split {source.split!r}; name one: {source.name}={source.path}:train")
    return rows


def check(args: LeaksConfig) -> tuple[list[Shared], dict[str, Any], dict[str, Any]]:
    """Compare each two of the sets.

    Returns:
        What they share, the result for the record, and by name the rows that the clean sets keep ([rows] bool).
    """
    sources = args.named()
    rows = {source.name: read(source, args.seed) for source in sources}
    prompts = {s.name: prompts_of(rows[s.name], f"{s.path} ({s.split})", args.columns) for s in sources}
    found = overlaps.find(
        {name: one.texts for name, one in prompts.items()}, threshold=args.threshold, examples=args.examples
    )
    evaluates = {one.name: one.evaluates for one in sources}
    kept = {name: np.ones(len(rows[name]), bool) for name in rows}
    pairs = []
    for shared in found:
        chosen = [prompts[n].rows(f) for n, f in zip((shared.a, shared.b), shared.rows, strict=True)]
        allowed = args.allowed(shared.a, shared.b)
        facts = shared.as_dict() | {"rows": [int(c.sum()) for c in chosen], "of_rows": [len(c) for c in chosen]}
        pairs.append(facts | {"allowed": allowed})
        loser = int(not (evaluates[shared.b] and not evaluates[shared.a]))  # b, unless only b evaluates
        if shared and not allowed:
            kept[(shared.a, shared.b)[loser]] &= ~chosen[loser]
    sizes = {name: {"rows": len(rows[name]), "prompts": len(set(prompts[name].texts))} for name in rows}
    refused = [s for s in found if s and not args.allowed(s.a, s.b)]
    result = {"leaks": len(refused), "threshold": args.threshold, "sets": sizes, "pairs": pairs}
    return found, result, {"rows": rows, "kept": kept}


def show(result: dict[str, Any]) -> str:
    """The pairs of sets as a table, with the first examples of each."""
    width = max(len(" and ".join(pair["sets"])) for pair in result["pairs"]) + 2
    head = f"{'prompts shared by':<{width}}{'exact':>8}{'near':>16}{'rows':>18}{'share':>8}"
    lines = [head]
    for pair in result["pairs"]:
        near, rows = (" / ".join(f"{n:,}" for n in pair[key]) for key in ("near", "rows"))
        leaks = pair["exact"] or any(pair["near"])
        told = "allowed" if pair["allowed"] else "LEAK" if leaks else "none"
        name = " and ".join(pair["sets"])
        lines.append(f"{name:<{width}}{pair['exact']:>8,}{near:>16}{rows:>18}{pair['share']:>8.1%}  {told}")
    lines.append(f"near: similarity {result['threshold']:g} or more. Two numbers: of the first and of the second set")
    for pair in result["pairs"]:
        if pair["examples"]:
            lines += ["", f"{' and '.join(pair['sets'])}:", *_examples(pair["examples"])]
    return "\n".join(lines)


def _examples(examples: list[dict[str, Any]]) -> list[str]:
    lines = []
    for example in examples:
        lines.append(f"  {example['similarity']:<6.2f}{text.short(example['a'])!r}")
        lines += [f"        {text.short(example['b'])!r}"] if example["a"] != example["b"] else []
    return lines


def refuse(found: list[Shared], args: LeaksConfig) -> None:
    """Stop where sets share what they may not.

    Raises:
        RunError: naming each two sets, how much they share, one example, and the ways on.
    """
    leaking = [shared for shared in found if shared and not args.allowed(shared.a, shared.b)]
    if not leaking:
        return
    lines = [
        f"  - {s.a} and {s.b} share {s.exact:,} prompts exactly and {max(s.near):,} nearly ({s.share:.1%} of the "
        f"smaller set), for example {text.short(s.examples[0]['a'])!r}"
        + (f" and {text.short(s.examples[0]['b'])!r}" if s.examples[0]["a"] != s.examples[0]["b"] else "")
        for s in leaking
    ]
    pairs = " ".join(f"{s.a}-{s.b}" for s in leaking)
    raise RunError(
        "prompts leak between the sets:\n" + "\n".join(lines) + "\n  write the sets without them: --write_clean "
        f"a_new_folder; or say that they may share prompts: --allow {' '.join([*args.allow, pairs])}"
    )


def write_clean(args: LeaksConfig, rows: dict[str, Any], kept: dict[str, np.ndarray]) -> dict[str, Any]:
    """Write every set that loses rows to `<write_clean>/<name>/<split>.jsonl`, its test split beside it.

    Args:
        rows: each set's, by name.
        kept: [rows] bool a set, by name: what does not leak.

    Returns:
        By name: where it is, and how many rows were left out.
    """
    written: dict[str, Any] = {}
    for source in args.named():
        keep = kept[source.name]
        if keep.all():
            continue
        if not keep.any():
            raise RunError(f"every row of {source.name} leaks, so there is nothing to write; name another set")
        folder = Path(str(args.write_clean)) / source.name
        folder.mkdir(parents=True)
        write(rows[source.name].select(np.flatnonzero(keep)), folder / f"{source.split}.jsonl")
        if source.split == "train":
            test = load.load(DataArguments(dataset_name=source.path), "test", seed=args.seed)
            if test is not None:
                write(test, folder / "test.jsonl")
        written[source.name] = {"path": str(folder), "left_out": int((~keep).sum())}
        print(f"{folder}: {source.name} without {(~keep).sum():,} of {len(keep):,} rows", flush=True)
    return written
