"""What each phase changed: base, SFT, PPO and DPO graded on the held-out prompts.

    python -m align.nano.table --root runs/nano

Rates are fractions, decided by graders on each model's most likely (greedy) completions. Reward, KL and length are of
completions sampled at temperature 1; KL is the mean over a model's own completions of log p(model) - log p(SFT), in
nats per sequence.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align import launch, record
from align.config import RunArguments, parse, resolved
from align.nano.grade import grade

MODELS = {"base": "pretrain", "sft": "sft", "ppo": "ppo", "dpo": "dpo"}
STAGES = ("world", "tokenizer", "pretrain", "sft", "sample", "rank", "reward", "dpo", "ppo")
ROWS = {
    "stops": "stops by itself",
    "helpful": "helpful",
    "harmless": "harmless",
    "harmless_unseen": "  acts never seen in training",
    "honest": "honest",
    "over_refusal": "over-refusal",
    "reward": "reward (reward model)",
    "kl": "KL to SFT, nats",
    "length": "length, tokens",
}


@dataclass
class TableConfig:
    """Which chain to grade."""

    output_dir: str | None = field(default=None, metadata={"help": "Where to write the completions and the table."})
    root: str = field(default="runs/nano", metadata={"help": "The folder that holds the chain's runs."})
    max_new_tokens: int = field(default=24, metadata={"help": "Longest completion."})
    seed: int = field(default=0, metadata={"help": "Of the sampling."})


def _rate(judged: list[dict[str, Any]], key: str) -> float:
    values = [row[key] for row in judged if row[key] is not None]
    return sum(values) / max(len(values), 1)


def measure(name: str, root: Path, rows: list[dict], args: TableConfig) -> tuple[dict[str, Any], list[dict]]:
    """Sample from one model and grade it.

    Returns:
        Its column of the table, and its completions with what the graders said.
    """
    from align import chat, generate
    from align.model import load_tokenizer, load_trained

    tokenizer = load_tokenizer(str(root / "sft"))
    policy = load_trained(str(root / MODELS[name]), tokenizer)
    prompts = [chat.encode_prompt(tokenizer, row["prompt"]) for row in rows]

    def answer(temperature: float) -> list[generate.Completion]:
        found = dict(
            generate.complete(
                policy, tokenizer, prompts, max_new_tokens=args.max_new_tokens, temperature=temperature, batch_size=128,
                seed=args.seed,
            )
        )  # fmt: skip
        return [found[i][0] for i in range(len(rows))]

    greedy, sampled = answer(0.0), answer(1.0)
    judged = [
        grade(kind=r["kind"], entity=r["entity"], answer=r["answer"], completion=a.text, stopped=a.stopped)
        for r, a in zip(rows, greedy, strict=True)
    ]
    pad = tokenizer.pad_token_id
    ids = [a.ids for a in sampled]
    reward_model = load_trained(str(root / "reward"), tokenizer, reward_model=True)
    rewards = generate.scores(reward_model, [p + c for p, c in zip(prompts, ids, strict=True)], pad_id=pad)
    reference = load_trained(str(root / "sft"), tokenizer)
    logps = generate.completion_logps(policy, prompts, ids, pad_id=pad)
    kl = logps - generate.completion_logps(reference, prompts, ids, pad_id=pad)
    unseen = [j for j, r in zip(judged, rows, strict=True) if r["unseen"]]
    column: dict[str, Any] = {
        key: _rate(judged, key) for key in ("stops", "helpful", "harmless", "honest", "over_refusal")
    }
    column |= {
        "harmless_unseen": _rate(unseen, "harmless"),
        "reward": rewards.mean().item(),
        "kl": kl.mean().item(),
        "length": sum(map(len, ids)) / len(ids),
        "n": len(rows),
    }
    by_kind = {k: _rate([j for j, r in zip(judged, rows, strict=True) if r["kind"] == k], "good") for k in KINDS}
    saved = [
        {"model": name, "prompt": r["prompt"][0]["content"], "kind": r["kind"], "unseen": r["unseen"],
         "completion": a.text, "sampled": s.text, "reward_of_sampled": x, **j}
        for r, a, s, x, j in zip(rows, greedy, sampled, rewards.tolist(), judged, strict=True)
    ]  # fmt: skip
    return {**column, "by_kind": by_kind}, saved


NOT_OF_BASE = ("helpful", "harmless", "harmless_unseen", "honest", "over_refusal", "reward")  # it never ends its answer
KINDS = ("capital", "colour", "sound", "sum", "howto", "harmful", "unknowable")


def stages(root: Path) -> list[dict[str, Any]]:
    """Seconds and peak memory of every stage, from the runs' own records."""
    found = ((name, record.read_record(root / name)) for name in STAGES)
    return [
        {"name": name, "seconds": run["wall_seconds"], "peak_memory_bytes": run["peak_memory_bytes"]}
        for name, run in found
        if run and run["status"] == "complete"
    ]


def show(results: dict[str, Any]) -> str:
    """The table as text."""
    names = [name for name in MODELS if name in results["models"]]
    lines = [f"{'held-out prompts':<32}" + "".join(f"{name.upper() if name != 'base' else name:>9}" for name in names)]
    for key, title in ROWS.items():
        cells = ""
        for name in names:
            value = results["models"][name][key]
            hidden = name == "base" and key in NOT_OF_BASE
            text = "-" if hidden else f"{value:.1%}" if key not in ("reward", "kl", "length") else f"{value:.2f}"
            cells += f"{text:>9}"
        lines.append(f"{title:<32}{cells}")
    model = results["reward_model"]
    lines.append(f"\nreward model: {model['accuracy']:.1%} of {model['n']:,} held-out noise-free pairs")
    total = sum(stage["seconds"] for stage in results["stages"])
    for stage in results["stages"]:
        lines.append(
            f"  {stage['name']:<10} {stage['seconds']:>7.1f} s {stage['peak_memory_bytes'] / 2**30:>6.2f} GiB peak"
        )
    lines.append(f"  {'in all':<10} {total:>7.1f} s")
    return "\n".join(lines)


def main() -> None:
    run_args, args = parse(RunArguments, TableConfig, nano="recipes/nano/table.yaml")
    root = Path(args.root)
    rows = [json.loads(line) for line in (root / "world/prompts/test.jsonl").read_text().splitlines()]
    with record.start("table", args.output_dir, resolved(run_args, args), overwrite=run_args.overwrite) as run:
        run.note(parents=record.lineage({name: str(root / folder) for name, folder in MODELS.items()}))
        results: dict[str, Any] = {
            "seed": (record.read_record(root / "world") or {}).get("seed"),
            "stages": stages(root),
        }
        reward = (record.read_record(root / "reward") or {})["metrics"]
        results["reward_model"] = {"accuracy": reward["accuracy"], "n": reward["n"]}
        results["models"] = {}
        with (Path(args.output_dir) / "completions.jsonl").open("w") as stream:
            for name in MODELS:
                results["models"][name], saved = measure(name, root, rows, args)
                stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in saved)
        (root / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        run.finish("complete", metrics=results["models"])
    print(show(results))


if __name__ == "__main__":
    launch.run(main)
