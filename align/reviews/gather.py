"""Write the task's rows: a judge made of half of the labelled reviews, demonstrations and prompts of the other half.

    python -m align.reviews.gather --config recipes/smollm2-135m/reviews.yaml

Reviews come from a folder of the user's (`local`), else from `dataset_name`, rows with `text` and `label` (1 positive).
Where neither can be had, sentences of our own take their place.
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
UNREAD = {
    key: "reviews are read whole, and cut by --reviews and --held_out_reviews"
    for key in ("datasets", "prompt_format", "template_date", "preview", "columns", "test_split_size",
                "max_train_rows", "max_eval_rows")
}  # fmt: skip


@dataclass
class ReviewsConfig:
    """How much of the reviews to write."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Whose tokens openings are counted in."})
    output_dir: str | None = field(default=None, metadata={"help": "Where to write the rows."})
    local: str | None = field(
        default=None, metadata={"help": "A folder with train.jsonl and test.jsonl, read where it is there."}
    )
    reviews: int = field(
        default=6000, metadata={"help": "Reviews that are not held out, at most; half train the judge."}
    )
    held_out_reviews: int = field(default=2000, metadata={"help": "Held-out reviews, at most."})
    demonstrations: int = field(default=4000, metadata={"help": "Sentences for SFT, at most."})
    prompts: int = field(default=768, metadata={"help": "Openings to sample from and for PPO, at most."})
    held_out: int = field(default=256, metadata={"help": "Openings of held-out reviews, at most."})
    max_new_tokens: int = field(default=32, metadata={"help": "Longest continuation, its stop token included."})
    seed: int = field(default=0, metadata={"help": "Of the halves and the openings."})


def reviews(data_args: DataArguments, args: ReviewsConfig, rng: random.Random) -> dict[str, list] | None:
    """Labelled reviews, those for training and those held out, shuffled; None where there are none.

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
        print(f"no reviews: {str(error).splitlines()[0]}", flush=True)
        print("Going on with sentences of our own. For reviews: a network, or train.jsonl and test.jsonl with text and "
              f"label in {args.local or 'the folder that --local names'}", flush=True)  # fmt: skip
        return None
    told = {name: _labelled(rows, f"{data_args.dataset_name} ({name})", rng) for name, rows in found.items()}
    known = {row["text"] for row in told["test"]}
    return {
        "train": [row for row in told["train"] if row["text"] not in known][: args.reviews],
        "test": told["test"][: args.held_out_reviews],
    }


def _labelled(rows: Any, where: str, rng: random.Random) -> list[dict[str, Any]]:
    """Rows with `text` and `label`, each text once, in an order of their own: published sets come sorted by label."""
    if rows is None:
        raise DataError(f"{where}: there is no such split; reviews for training and held-out ones are needed")
    if not {"text", "label"} <= set(rows.column_names):
        raise DataError(f"{where}: labelled reviews have the columns text and label (1 positive, 0 negative)")
    kinds = sorted(set(rows["label"]), key=str)
    if kinds not in ([0, 1], [False, True]):
        raise DataError(f"{where}: label is 1 for a positive review and 0 for a negative one; here it is {kinds[:5]}")
    found = list({row["text"]: row for row in rows if isinstance(row["text"], str)}.values())
    rng.shuffle(found)
    return found


def tables(found: dict[str, list] | None, tokenizer: Any, args: ReviewsConfig) -> tuple[dict[str, list], dict]:
    """Rows by file name, and what was measured; the judge is among neither, but in `output_dir`."""
    rng = random.Random(f"reviews-{args.seed}")
    if found is None:
        made = sentences.our_own(rng)
        openings = sorted({row["prompt"] for row in made})
        rng.shuffle(openings)
        held = set(openings[: int(HELD_OUT * len(openings))])
        whole = {"train": [row for row in made if row["prompt"] not in held],
                 "test": [row for row in made if row["prompt"] in held]}  # fmt: skip
        told = {name: [{"text": row["prompt"] + row["completion"], "label": row["label"]} for row in rows]
                for name, rows in whole.items()}  # fmt: skip
        judge, metrics = _judge(told["train"][::2], told["test"], args)
        sides = {name: [{key: row[key] for key in ("prompt", "completion")} for row in rows]
                 for name, rows in whole.items()}  # fmt: skip
    else:
        half = min(sum(map(len, found.values())) // 2, 2 * len(found["train"]) // 3)
        judge, metrics = _judge(found["train"][:half], found["test"], args)
        rest = {"train": found["train"][half:], "test": found["test"]}
        sides = {
            name: list(sentences.demonstrations((row["text"] for row in rows), tokenizer, rng, args.max_new_tokens))
            for name, rows in rest.items()
        }
        known = {sentences.opening_key(row["prompt"]) for row in sides["train"]}
        sides["test"] = [row for row in sides["test"] if sentences.opening_key(row["prompt"]) not in known]
        for rows in sides.values():
            rng.shuffle(rows)
    shown, asked = _apart(sides["train"], args.prompts)
    kept, held_out = _apart(sides["test"], args.held_out)
    return {
        "demonstrations/train": shown[: args.demonstrations],
        "demonstrations/test": kept[: args.held_out],
        "prompts/train": [{"prompt": prompt, "judge": judge} for prompt in asked],
        "prompts/test": [{"prompt": prompt, "judge": judge} for prompt in held_out],
    }, metrics


def _apart(rows: list[dict[str, str]], count: int) -> tuple[list[dict[str, str]], list[str]]:
    """Demonstrations, and openings of sentences that are not among them: half of all at most."""
    openings = list(dict.fromkeys(row["prompt"] for row in rows))
    asked = openings[: min(count, len(openings) // 2)]
    taken = set(asked)
    return [row for row in rows if row["prompt"] not in taken], asked


def _judge(train: list[dict[str, Any]], test: list[dict[str, Any]], args: ReviewsConfig) -> tuple[str, dict[str, Any]]:
    """Train the second judge and write it down: its path, and both judges' accuracy on held-out reviews."""
    weights = wordlist.fit([row["text"] for row in train], [row["label"] == 1 for row in train])
    # named by what it says, so that rows that name it are others when it is
    path = Path(str(args.output_dir)) / f"judge-{lineage.digest(weights)[:8]}.json"
    wordlist.save(weights, path)
    texts, labels = [row["text"] for row in test], [row["label"] == 1 for row in test]
    by_vader = sum((judges.compound(text) > 0) == label for text, label in zip(texts, labels, strict=True))
    return str(path), {
        "judge_accuracy": wordlist.accuracy(weights, texts, labels),
        "vader_accuracy": by_vader / max(1, len(texts)),
        "judge_trained_on": len(train),
        "judge_tested_on": len(test),
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
    found = reviews(data_args, args, random.Random(f"order-{args.seed}"))
    if found is None:
        data_args.dataset_name = None  # nothing was read from it
    with record.start(
        "reviews", args.output_dir, resolved(run_args, data_args, args), overwrite=run_args.overwrite
    ) as run:
        run.note(parents=lineage.parents({"model": args.model_name_or_path, **data_args.parents()}))
        rows, metrics = tables(found, tokenizer, args)
        if empty := [name for name, some in rows.items() if not some]:
            raise DataError(
                f"{data_args.dataset_name or 'our own'}: too few sentences for {', '.join(empty)}; give more reviews"
            )
        counts = {name: _write(Path(args.output_dir) / f"{name}.jsonl", some) for name, some in rows.items()}
        run.finish("complete", metrics={**counts, **metrics, "reviews": found is not None})
    what = "reviews" if found else "sentences of our own"
    print(f"{what}: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    print(
        f"the second judge, from {metrics['judge_trained_on']:,} {what}: {metrics['judge_accuracy']:.1%} right on "
        f"{metrics['judge_tested_on']:,} others; VADER: {metrics['vader_accuracy']:.1%}"
    )


if __name__ == "__main__":
    launch.run(main)
