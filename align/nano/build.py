"""Write the nano world to disk: a raw corpus, labelled pages, demonstrations, prompts and an examination.

python -m align.nano.build --config recipes/nano/world.yaml --seed 0
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from align.nano import world
from align.nano.corpus import raw, train_classifier
from align.run import launch, record
from align.run.arguments import RunArguments
from align.run.parse import parse, resolved


@dataclass
class WorldConfig:
    """How much of the world to write."""

    output_dir: str | None = field(default=None, metadata={"help": "Where to write the rows."})
    seed: int = field(default=0, metadata={"help": "Decides what is held out, and every draw."})
    documents: int = field(default=32000, metadata={"help": "Pretraining documents (about 65 tokens each)."})
    labelled: int = field(default=800, metadata={"help": "Labelled pages for the classifier of unsafe pages."})
    demonstrations: int = field(default=3000, metadata={"help": "Demonstrations for SFT."})
    prompts: int = field(default=2200, metadata={"help": "Prompts to sample and rank, and for PPO."})


def _write(path: Path, rows: Iterable[dict]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def main() -> None:
    run_args, args = parse(RunArguments, WorldConfig, nano="recipes/nano/world.yaml")
    with record.start("world", args.output_dir, resolved(run_args, args), overwrite=run_args.overwrite) as run:
        out, seed = Path(args.output_dir), args.seed
        tables = {
            "documents/test": ({"text": t} for t in world.documents(seed, 500, part="test")),
            "labelled/train": train_classifier.pages(seed, args.labelled),
            "labelled/test": train_classifier.pages(seed, 400, part="test"),
            "demonstrations/train": world.demonstrations(seed, args.demonstrations),
            "demonstrations/test": world.demonstrations(seed, 300, part="test"),
            "prompts/train": world.prompts(seed, args.prompts),
            "prompts/test": world.evaluation_prompts(seed),
            "exam/test": world.exam(seed),
        }
        counts = {name: _write(out / f"{name}.jsonl", rows) for name, rows in tables.items()}
        found = raw.pages(seed, args.documents)
        kinds = raw.write(out, found)
        run.finish("complete", metrics={**counts, "raw": len(found), "litter": kinds})
    print("the nano world: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    print(f"its raw corpus: {len(found):,} pages: " + ", ".join(f"{n:,} {kind}" for kind, n in kinds.items()))


if __name__ == "__main__":
    launch.run(main)
