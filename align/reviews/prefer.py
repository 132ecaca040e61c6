"""VADER ranks sampled continuations: what the reward model and DPO learn from.

    python -m align.reviews.prefer --config recipes/smollm2-135m/rank.yaml

Without noise, as in Rafailov et al. 2023, section 6.1: the gold judge of that task labels the pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from align.data import splits
from align.label.exchange import export
from align.reviews import judges
from align.run import launch, lineage, record
from align.run.arguments import DataArguments, RunArguments
from align.run.errors import DataError
from align.run.parse import parse, resolved


@dataclass
class RankedConfig:
    """What the labeler takes beside the data's arguments."""

    output_dir: str | None = field(default=None, metadata={"help": "Where to write the rankings."})
    seed: int = field(default=0, metadata={"help": "Nothing is drawn here; chains hand it to every stage."})


def ranked(row: dict[str, Any]) -> dict[str, Any]:
    """A sampled row with its ranking: rank 1 for the highest score, equal scores tied."""
    said, count = row["completions"], len(row["completions"])
    scores = judges.vader([row["prompt"]] * count, said, row["stopped"])
    order = sorted(set(scores), reverse=True)
    return {
        "prompt": row["prompt"], "completions": said, "ranking": [1 + order.index(score) for score in scores],
        "annotator": "VADER", "kind": "model", "time": None, "gold": scores,
    }  # fmt: skip


def main() -> None:
    run_args, data_args, args = parse(RunArguments, DataArguments, RankedConfig, nano=None)
    found = splits.read(data_args, seed=args.seed)
    with record.start(
        "rank", args.output_dir, resolved(run_args, data_args, args), overwrite=run_args.overwrite
    ) as run:
        run.note(parents=lineage.parents({"data": data_args.dataset_name}))
        rows = [ranked(row) | {"split": name} for name, some in found.items() if some is not None for row in some]
        told = [row for row in rows if len(set(row["ranking"])) > 1]
        if not told:
            raise DataError(f"{data_args.dataset_name}: no prompt has two continuations of different scores")
        metrics = export.write(told, args.output_dir, title="Rankings of continuations by VADER")
        scores = [score for row in rows for score in row["gold"]]
        metrics |= {"not_asked": len(rows) - len(told), "mean_score": sum(scores) / len(scores)}
        run.finish("complete", metrics=metrics)
    print(f"{len(told):,} prompts ranked ({metrics['not_asked']:,} had nothing to rank), mean score "
          f"{metrics['mean_score']:.3f}")  # fmt: skip


if __name__ == "__main__":
    launch.run(main)
