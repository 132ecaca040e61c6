"""The nano chain for several seeds, and the table of means with every seed's own number beside it.

python -m align.nano.seeds                                                # seeds 0, 1, 2: about three demos long
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.evaluate.program import TITLES
from align.run import errors, launch
from align.run.parse import parse


@dataclass
class SeedsConfig:
    """Which seeds to run, and where."""

    output_dir: str = field(default="runs/nano-seeds", metadata={"help": "One chain a seed goes below this folder."})
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of world, models and labelers."}
    )


MODELS = ("base", "sft", "ppo", "dpo")
NOT_OF_BASE = ("helpful", "harmless", "harmless_unseen", "honest", "over_refusal", "reward")  # it never ends its answer
RATES = ("stops", "helpful", "harmless", "harmless_unseen", "honest", "over_refusal")
SAMPLED = ("reward", "kl", "length")


def show(results: list[dict[str, Any]]) -> str:
    """Mean over seeds, then each seed, for every row of the table."""
    lines = [f"{'mean (each seed)':<32}" + "".join(f"{n.upper() if n != 'base' else n:>27}" for n in MODELS)]
    for key in (*RATES, *SAMPLED):
        part, scale, form = ("sampled", 1, ".2f") if key in SAMPLED else ("rates", 100, ".1f")
        cells = ""
        for name in MODELS:
            values = [result["models"][name][part][key]["value"] for result in results]
            each = " ".join(f"{value * scale:{form}}" for value in values)
            hidden = name == "base" and key in NOT_OF_BASE
            cells += f"{'-' if hidden else f'{sum(values) / len(values) * scale:{form}} ({each})':>27}"
        lines.append(f"{TITLES.get(key, key):<32}{cells}")
    accuracies = [result["reward_model"]["accuracy"]["value"] for result in results]
    each = " ".join(f"{value * 100:.1f}" for value in accuracies)
    lines.append(f"\nreward model, held-out noise-free pairs: {sum(accuracies) / len(accuracies) * 100:.1f} % ({each})")
    return "\n".join(lines)


def main() -> None:
    (args,) = parse(SeedsConfig, nano=None, required=())
    results = []
    for seed in args.seeds:
        folder = Path(args.output_dir) / str(seed)
        command = [sys.executable, "recipes/pipeline.py", "--seed", str(seed), "--output_dir", str(folder)]
        command += ["--until", "eval"]
        if subprocess.call(command):
            raise errors.RunError(f"the chain with seed {seed} failed; its own message is above")
        results.append(json.loads((folder / "eval/results.json").read_text()))
    print(f"\nrates in percent; seeds {', '.join(map(str, args.seeds))}\n\n{show(results)}")


if __name__ == "__main__":
    launch.run(main)
