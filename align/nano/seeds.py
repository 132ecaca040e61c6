"""The nano chain for several seeds, and the table of means with every seed's own number beside it.

python -m align.nano.seeds                                                # seeds 0, 1, 2: about three demos long
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from align.evaluate.program import TITLES
from align.evaluate.results import EvaluationResults, read
from align.run import launch
from align.run.parse import parse
from align.run.pipeline import PipelineConfig, run_stages


@dataclass
class SeedsConfig:
    """Which seeds to run, and where."""

    output_dir: str | None = field(default=None, metadata={"help": "One chain a seed goes below this folder."})
    chain: str = field(default="recipes/nano/pipeline.yaml", metadata={"help": "What to run, up to its evaluation."})
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of world, models and labelers."}
    )


# DPO in recipes/nano/dpo.yaml is its sigmoid loss plus the SFT loss on the chosen answer
MODELS = {"base": "base", "sft": "SFT", "ppo": "PPO", "dpo": "DPO + SFT"}
NOT_OF_BASE = ("helpful", "harmless", "harmless_unseen", "honest", "over_refusal", "reward")  # it never ends its answer
RATES = ("stops", "helpful", "harmless", "harmless_unseen", "honest", "over_refusal")
SAMPLED = ("reward", "kl", "length")


def show(results: list[EvaluationResults]) -> str:
    """Mean over seeds, then each seed, for every row of the table."""
    lines = [f"{'mean (each seed)':<32}" + "".join(f"{title:>27}" for title in MODELS.values())]
    for key in (*RATES, *SAMPLED):
        scale, form = (1, ".2f") if key in SAMPLED else (100, ".1f")
        cells = ""
        for name in MODELS:
            models = [result.models[name] for result in results]
            found = [(model.sampled.measures() if key in SAMPLED else model.rates or {})[key] for model in models]
            values = [estimate.value for estimate in found]
            each = " ".join(f"{value * scale:{form}}" for value in values)
            hidden = name == "base" and key in NOT_OF_BASE
            cells += f"{'-' if hidden else f'{sum(values) / len(values) * scale:{form}} ({each})':>27}"
        lines.append(f"{TITLES.get(key, key):<32}{cells}")
    accuracies = [result.reward_model.accuracy.value for result in results if result.reward_model]
    each = " ".join(f"{value * 100:.1f}" for value in accuracies)
    lines.append(f"\nreward model, held-out noise-free pairs: {sum(accuracies) / len(accuracies) * 100:.1f} % ({each})")
    return "\n".join(lines)


def main() -> None:
    (args,) = parse(SeedsConfig, nano="recipes/nano/seeds.yaml")
    results = []
    for seed in args.seeds:
        folder = Path(args.output_dir) / str(seed)
        told = ["--config", args.chain, "--seed", str(seed), "--output_dir", str(folder), "--until", "eval"]
        (chain,) = parse(PipelineConfig, nano=None, argv=told)
        print(f"\nseed {seed}", flush=True)
        run_stages(chain)
        results.append(read(EvaluationResults, json.loads((folder / "eval/results.json").read_text())))
    print(f"\nrates in percent; seeds {', '.join(map(str, args.seeds))}\n\n{show(results)}")


if __name__ == "__main__":
    launch.run(main)
