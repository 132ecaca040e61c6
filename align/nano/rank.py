"""A simulated labeler ranks sampled completions: gold score plus Bradley-Terry noise.

    python -m align.nano.rank --config recipes/nano/rank.yaml

The labeler answers through the store that people's rankings are kept in (align/label/store), as an annotator of the
kind `simulated`, and the rows are exported from there. The test split is ranked without noise: it is what the reward
model's held-out accuracy is measured on.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.data import splits
from align.judge.uncertainty import ranks
from align.label.exchange import export
from align.label.store import items
from align.label.store.database import FILE_NAME
from align.label.store.store import Store
from align.nano import world
from align.nano.grade import gold_score, grade
from align.run import launch, lineage, record
from align.run.arguments import DataArguments, RunArguments
from align.run.parse import parse, resolved


@dataclass
class RankConfig:
    """What the labeler takes beside the data's arguments."""

    output_dir: str | None = field(default=None, metadata={"help": "Where to write the rankings."})
    label_temperature: float = field(
        default=0.5,
        metadata={"help": "Of the Bradley-Terry noise: P(a over b) = sigmoid((gold_a - gold_b) / temperature)."},
    )
    just_noticeable: float = field(
        default=1.0,  # people have ties too, where they see no difference (Rao and Kupper 1967)
        metadata={"help": "Perceived scores no further apart than this are ranked as ties."},
    )
    seed: int = field(default=0, metadata={"help": "Of the noise."})


def perceived(gold: list[float], temperature: float, rng: random.Random) -> list[float]:
    """Gold scores as the labeler perceives them: plus Gumbel noise of scale `temperature`.

    The difference of two Gumbel variables is logistic, so the order of any two follows Bradley and Terry (1952):
    P(a over b) = sigmoid((gold_a - gold_b) / temperature). At temperature 0 the labeler is always right.
    """
    if temperature == 0:
        return gold
    return [score - temperature * math.log(-math.log(max(rng.random(), 1e-12))) for score in gold]


def label(row: dict[str, Any], temperature: float, just_noticeable: float, rng: random.Random) -> dict[str, Any]:
    """Rank one row's completions. Completions with the same words share one judgement."""
    texts = [completion[0]["content"] for completion in row["completions"]]
    gold: dict[tuple[str, bool], float] = {}
    for text, stopped in zip(texts, row["stopped"], strict=True):
        graded = grade(kind=row["kind"], entity=row["entity"], answer=row["answer"], completion=text, stopped=stopped)
        gold[(text, stopped)] = gold_score(graded)
    seen = dict(zip(gold, perceived(list(gold.values()), temperature, rng), strict=True))
    keys = list(zip(texts, row["stopped"], strict=True))
    return {
        "prompt": row["prompt"],
        "completions": row["completions"],
        "ranking": ranks([seen[key] for key in keys], just_noticeable),
        "annotator": "simulated" if temperature else "gold",
        "time": None,
        "category": row["kind"],
        "gold": [gold[key] for key in keys],
    }


def answer_all(folder: Path, splits: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Ask the store's questions and give the answers of labelled rows, one annotator a split; export them.

    Writes `labels.sqlite` and `data/<split>.jsonl` to `folder`. What needs no ranking is not asked: completions that
    are all the same, and a prompt that is there already with the same completions.

    Returns:
        `<split>_rankings` and `<split>_not_asked`, counts; and what the export measures.
    """
    metrics: dict[str, Any] = {}
    order: dict[str, int] = {}
    with Store(folder / FILE_NAME) as store:
        with store.transaction():
            for number, (split, rows) in enumerate(splits.items()):
                keys = [items.item(row, f"{split}, row {count}", split).id for count, row in enumerate(rows, 1)]
                answers = dict(reversed(list(zip(keys, rows, strict=True))))  # the first of equal items
                # A simulated labeler is asked about every item there is: this split's come first, and are counted
                asked = store.add((_question(row) | {"priority": number} for row in rows), split=split)
                labeler = store.annotator(rows[0]["annotator"], kind="simulated")
                for _ in range(asked):
                    task = store.next(labeler)
                    assert task is not None, (split, asked)
                    ranking = answers[task.item]["ranking"]
                    store.answer(task.id, labeler, ranking=[ranking[index] for index in task.order])
                for key in keys:
                    order.setdefault(key, len(order))
                metrics |= {f"{split}_rankings": asked, f"{split}_not_asked": len(rows) - asked}
        # In the samples' order and without the time: the same seed gives the same rows
        given = sorted(store.rankings(), key=lambda row: order[row["item"]])
    rows = [{**row, "time": None} for row in given]
    return metrics | export.write(rows, folder, title="Rankings by a simulated labeler")


def _question(row: dict[str, Any]) -> dict[str, Any]:
    """What the store is given of a labelled row: all but the answer."""
    return {key: value for key, value in row.items() if key not in ("ranking", "annotator", "time")}


def agreement(rows: list[dict[str, Any]]) -> tuple[float, int]:
    """Share of the pairs with a true winner that the labeler, not calling them a tie, decided right; and how many."""
    right = n = 0
    for row in rows:
        for (gold_a, rank_a), (gold_b, rank_b) in itertools.combinations(
            zip(row["gold"], row["ranking"], strict=True), 2
        ):
            if gold_a != gold_b and rank_a != rank_b:
                n += 1
                right += (gold_a > gold_b) == (rank_a < rank_b)
    return right / max(n, 1), n


def main() -> None:
    run_args, data_args, args = parse(
        RunArguments, DataArguments, RankConfig, nano="recipes/nano/rank.yaml", refused=world.AS_THEY_ARE
    )
    raw = splits.read(data_args, seed=args.seed)
    config = resolved(run_args, data_args, args)
    with record.start("rank", args.output_dir, config, overwrite=run_args.overwrite) as run:
        run.note(parents=lineage.parents({"data": data_args.dataset_name}))
        labelled: dict[str, list[dict[str, Any]]] = {}
        metrics: dict[str, Any] = {}
        for split, temperature in (("train", args.label_temperature), ("test", 0.0)):
            rng = random.Random(f"labeler-{split}-{args.seed}")
            labelled[split] = [label(row, temperature, args.just_noticeable, rng) for row in raw[split]]
            share, n = agreement(labelled[split])
            metrics |= {f"{split}_agreement": share, f"{split}_decided_pairs": n}
        metrics |= answer_all(Path(args.output_dir), labelled)
        run.finish("complete", metrics=metrics)
    print(
        f"{metrics['train_rankings']:,} prompts ranked ({metrics['train_not_asked']:,} had nothing to rank); the "
        f"labeler agrees with the truth in {metrics['train_agreement']:.1%} of {metrics['train_decided_pairs']:,} "
        "pairs that have a true winner"
    )


if __name__ == "__main__":
    launch.run(main)
