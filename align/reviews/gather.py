"""Write the task's rows: a judge made of half of the labelled reviews, demonstrations and prompts of the other half.

    python -m align.reviews.gather --config recipes/smollm2-135m/reviews.yaml

Reviews come from a folder of the user's (`local`), else from `dataset_name`, rows with `text` and `label` (1 positive).
Where neither can be had, sentences of our own take their place, and VADER is the only judge.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.data import splits
from align.models import checkpoints
from align.reviews import judges, sentences, wordlist
from align.run import launch, lineage, record
from align.run.arguments import DataArguments, RunArguments
from align.run.errors import ConfigError, DataError
from align.run.parse import parse, resolved

HELD_OUT = 0.25  # of our own sentences
UNREAD = {key: "reviews are read whole" for key in ("datasets", "prompt_format", "template_date", "preview", "columns",
                                                     "test_split_size")}  # fmt: skip


@dataclass
class ReviewsConfig:
    """How much of the reviews to write."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Whose tokens openings are counted in."})
    output_dir: str | None = field(default=None, metadata={"help": "Where to write the rows."})
    local: str | None = field(
        default=None, metadata={"help": "A folder with train.jsonl and test.jsonl, read where it is there."}
    )
    demonstrations: int = field(default=4000, metadata={"help": "Sentences for SFT, at most."})
    prompts: int = field(default=768, metadata={"help": "Openings to sample from and for PPO, at most."})
    held_out: int = field(default=256, metadata={"help": "Openings of held-out reviews, at most."})
    max_new_tokens: int = field(default=32, metadata={"help": "Longest continuation, its stop token included."})
    seed: int = field(default=0, metadata={"help": "Of the halves and the openings."})


def reviews(data_args: DataArguments, args: ReviewsConfig) -> dict[str, Any] | None:
    """Train and test split of labelled reviews; None where there are none.

    Raises:
        DataError: for rows that are no labelled reviews.
    """
    if args.local and Path(args.local).exists():
        data_args.dataset_name = args.local
    if not data_args.dataset_name:
        return None
    try:
        found = splits.read(data_args, seed=args.seed)
    except ConfigError as error:
        if Path(data_args.dataset_name).exists():
            raise
        print(f"no reviews: {str(error).splitlines()[0]}\nGoing on with sentences of our own, and VADER as the only "
              f"judge. For reviews: a network, or train.jsonl and test.jsonl with text and label in {args.local}",
              flush=True)  # fmt: skip
        return None
    for name, rows in found.items():
        if rows is None or not {"text", "label"} <= set(rows.column_names):
            raise DataError(
                f"{data_args.dataset_name} ({name}): labelled reviews have the columns text and label (1 positive)"
            )
    return found


def tables(found: dict[str, Any] | None, tokenizer: Any, args: ReviewsConfig) -> tuple[dict[str, list], dict[str, Any]]:
    """Rows by file name, and what was measured; the judge is among neither, but in `output_dir`."""
    rng, longest = random.Random(f"reviews-{args.seed}"), args.max_new_tokens
    metrics: dict[str, Any] = {}
    judge = None
    if found is None:
        made = sentences.our_own(rng)
        openings = sorted({row["prompt"] for row in made})
        rng.shuffle(openings)
        held = set(openings[: int(HELD_OUT * len(openings))])
        sides = {"train": [row for row in made if row["prompt"] not in held],
                 "test": [row for row in made if row["prompt"] in held]}  # fmt: skip
    else:
        whole = {name: _shuffled(rows, rng) for name, rows in found.items()}
        half = min(sum(map(len, whole.values())) // 2, 2 * len(whole["train"]) // 3)
        judge, metrics = _judge(whole["train"][:half], whole["test"], args)
        rest = {"train": whole["train"][half:], "test": whole["test"]}
        sides = {
            name: list(sentences.demonstrations((row["text"] for row in rows), tokenizer, rng, longest))
            for name, rows in rest.items()
        }
        known = {sentences.opening_key(row["prompt"]) for row in sides["train"]}
        sides["test"] = [row for row in sides["test"] if sentences.opening_key(row["prompt"]) not in known]
        for rows in sides.values():
            rng.shuffle(rows)
    shown, asked = _apart(sides["train"], args)
    held_out = list(dict.fromkeys(row["prompt"] for row in sides["test"]))[: args.held_out]
    return {
        "demonstrations/train": shown,
        "demonstrations/test": sides["test"][-args.held_out :],
        "prompts/train": [{"prompt": prompt, "judge": judge} for prompt in asked],
        "prompts/test": [{"prompt": prompt, "judge": judge} for prompt in held_out],
    }, metrics


def _apart(rows: list[dict[str, str]], args: ReviewsConfig) -> tuple[list[dict[str, str]], list[str]]:
    """Demonstrations, and openings of sentences that are not among them: half of all at most."""
    openings = list(dict.fromkeys(row["prompt"] for row in rows))
    asked = openings[: min(args.prompts, len(openings) // 2)]
    return [row for row in rows if row["prompt"] not in set(asked)][: args.demonstrations], asked


def _shuffled(rows: Any, rng: random.Random) -> list[dict[str, Any]]:
    order = list(range(len(rows)))
    rng.shuffle(order)
    return [rows[at] for at in order]


def _judge(train: list[dict[str, Any]], test: list[dict[str, Any]], args: ReviewsConfig) -> tuple[str, dict[str, Any]]:
    """Train the second judge and write it down: its path, and both judges' accuracy on held-out reviews."""
    weights = wordlist.fit([row["text"] for row in train], [row["label"] == 1 for row in train])
    path = Path(str(args.output_dir)) / "judge.json"
    wordlist.save(weights, path)
    texts, labels = [row["text"] for row in test], [row["label"] == 1 for row in test]
    by_vader = sum((judges.compound(text) > 0) == label for text, label in zip(texts, labels, strict=True))
    return str(path), {
        "judge_accuracy": wordlist.accuracy(weights, texts, labels),
        "vader_accuracy": by_vader / max(1, len(texts)),
        "judge_trained_on": len(train),
        "judge_words": len(weights) - 1,
    }


def _write(path: Path, rows: Iterable[dict]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def main() -> None:
    run_args, data_args, args = parse(
        RunArguments, DataArguments, ReviewsConfig, nano=None, required=("model_name_or_path", "output_dir"),
        refused=UNREAD,
    )  # fmt: skip
    tokenizer = checkpoints.load_tokenizer(str(args.model_name_or_path))
    found = reviews(data_args, args)
    with record.start(
        "reviews", args.output_dir, resolved(run_args, data_args, args), overwrite=run_args.overwrite
    ) as run:
        run.note(parents=lineage.parents({"model": args.model_name_or_path, **data_args.parents()}))
        rows, metrics = tables(found, tokenizer, args)
        if empty := [name for name, some in rows.items() if not some]:
            raise DataError(f"{data_args.dataset_name}: too few sentences for {', '.join(empty)}; give more reviews")
        counts = {name: _write(Path(args.output_dir) / f"{name}.jsonl", some) for name, some in rows.items()}
        run.finish("complete", metrics={**counts, **metrics, "reviews": found is not None})
    print("the reviews: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    if metrics:
        print(
            f"the second judge, from {metrics['judge_trained_on']:,} reviews: {metrics['judge_accuracy']:.1%} right on "
            f"{len(found['test'] if found else []):,} others; VADER: {metrics['vader_accuracy']:.1%}"
        )


if __name__ == "__main__":
    launch.run(main)
