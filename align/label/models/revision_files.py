"""What `align revise` writes and prints: completions to rank, demonstrations to learn from, and every step to read."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from align.data import text
from align.judge.rankers import texts_of
from align.label.models.critique import Done, demonstrations, join
from align.label.store.items import MOST
from align.run.errors import recipe

LONGEST = 240  # characters of a text that is shown as a sample


@dataclass
class Revised:
    """What became of the prompts of one split."""

    rows: list[dict[str, Any]] = field(default_factory=list)  # with all completions, to be ranked
    # `prompts`, `answers` (revised at least once), `revisions`, `identical`, `left_out`, `demonstrations`, and `alone`:
    # prompts with fewer than two differing answers in the end, which are not among the rows
    counts: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)  # chains that ended early, by reason

    def metrics(self) -> dict[str, int]:
        """The counts as the run's record has them."""
        return {**self.counts, **{f"failed: {why}": count for why, count in self.failed.items()}}


def write(folder: Path, split: str, rows: list[dict[str, Any]], done: Done) -> Revised:
    """Write one split's `data`, `sft` and `revisions`."""
    out = Revised(counts=Counter(prompts=len(rows)))
    counts, taught, steps = out.counts, [], []
    for index, row in enumerate(rows):
        chains = done[index]
        new, found = join(row, chains)
        counts += found
        counts["answers"] += sum(bool(chain.steps) for chain in chains)
        counts["revisions"] += sum(len(chain.steps) for chain in chains)
        out.failed.update(chain.problem for chain in chains if chain.problem)
        if len(set(texts_of(new))) > 1:
            out.rows.append(new)
        else:
            counts["alone"] += 1
        taught += demonstrations(row, chains)
        steps += [{"prompt": row["prompt"], **asdict(chain)} for chain in chains]
    counts["demonstrations"] = len(taught)
    for name, lines in (("revisions", steps), ("sft", taught), ("data", out.rows)):
        (folder / name).mkdir(exist_ok=True)
        file = folder / name / f"{split}.jsonl"
        part = file.with_name(file.name + ".part")
        part.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        part.replace(file)
    return out


def report(
    folder: Path, splits: dict[str, Any], done: dict[str, Done], revised: dict[str, Revised], added: int | None
) -> str:
    """Counts, and two answers before and after."""
    lines = []
    for split, became in revised.items():
        found = became.counts
        new = found["revisions"] - found["identical"]
        lines.append(
            f"{split}: {found['prompts']:,} prompts, {found['answers']:,} answers, {found['revisions']:,} revisions: "
            f"{new:,} new completions, {found['identical']:,} identical to one that was there (dropped)"
        )
        lines += [f"  {count:,} failed, {why}" for why, count in became.failed.items()]
        if found["left_out"]:
            lines.append(f"  {found['left_out']:,} sampled completions left out: at most {MOST} are ranked")
        if found["alone"]:
            lines.append(f"  {found['alone']:,} prompts left out: their answers are all the same")
    for sample in _samples(splits, done):
        lines += ["", *sample]
    lines += ["", f"to rank:  align label {folder}", f"to train: {recipe('sft')} --dataset_name {folder / 'sft'}"]
    if added is not None:
        lines.append(f"{added:,} items added to the labels")
    return "\n".join(lines)


def _samples(splits: dict[str, Any], done: dict[str, Done], most: int = 2) -> list[list[str]]:
    """The first answers that a revision changed, as lines."""
    found: list[list[str]] = []
    for split, rows in splits.items():
        for index, chains in sorted(done[split].items()):
            for chain in chains:
                if chain.answer == chain.before or len(found) == most:
                    continue
                step = chain.steps[-1]
                found.append([
                    f"  prompt    {text.short(text.transcript(rows[index]['prompt']), LONGEST)}",
                    f"  before    {text.short(chain.before, LONGEST)}",
                    f"  critique  ({step['principle']}) {text.short(step['critique'], LONGEST)}",
                    f"  after     {text.short(chain.answer, LONGEST)}",
                ])  # fmt: skip
    return found
