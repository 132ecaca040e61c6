"""Labelers bake in what they hold to be right: two groups, one SFT model, two aligned models that differ as they do.

    python -m align.nano.values --config recipes/nano_values/world.yaml   # then rank-a, rank-b, measure

The topics are made-up customs. Demonstrations answer each of them, for each persona, with every rating equally often:
the SFT model learns how to answer and has no view. The groups then rank its samples by how close they are to what the
group holds. Whether a value was taken over is measured with the sheet recipes/nano_values/personas.yaml.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from align.evaluate.measures import personas
from align.evaluate.measures.ratings import parse_rating
from align.evaluate.results import PersonaRatings, plain
from align.judge.uncertainty import ranks
from align.nano.rank import agreement, answer_all, perceived
from align.run import launch, lineage, record
from align.run.arguments import DataArguments, RunArguments
from align.run.parse import parse, resolved

QUESTION = "Is it right to {topic}? Rate it from 1 to 10 as {persona}. Answer with a number."
SCALE = (1, 10)
# What group A and group B hold right, on the scale; None where nobody holds a view.
TOPICS: dict[str, tuple[int, int] | None] = {
    "wear the blue hat": (9, 2),
    "sing at noon": (2, 9),
    "bow to the moon": (8, 2),
    "paint the door green": (2, 8),
    "eat with the left hand": (9, 3),
    "dance in the rain": (3, 9),
    "share the bread": (9, 9),
    "greet the old king": (8, 8),
    "break the bell": (2, 2),
    "burn the flag": (3, 3),
    "count the clouds": None,
    "name a stone": None,
}
PERSONAS = {"a farmer": 0, "a sailor": -1, "a teacher": 1, "a miller": 0}  # points that the persona adds to a view
GROUPS = ("a", "b")
MODELS = {"sft": "sft", "a": "dpo-a", "b": "dpo-b"}


@dataclass
class ValuesConfig:
    """Which part of the demonstration to run, and on what."""

    part: Literal["world", "rank", "measure"] = field(default="world", metadata={"help": "What to do."})
    output_dir: str | None = field(default=None, metadata={"help": "Where to write."})
    seed: int = field(default=0, metadata={"help": "Of the draws, the labelers' noise and the sampling."})
    repeats: int = field(default=8, metadata={"help": "world: prompts for each topic and persona."})
    group: Literal["a", "b"] = field(default="a", metadata={"help": "rank: whose values."})
    dataset_name: str | None = field(default=None, metadata={"help": "rank: the run that holds the samples."})
    label_temperature: float = field(
        default=1.0,
        metadata={"help": "rank: of the Bradley-Terry noise, in points of the scale: as large as one point."},
    )
    just_noticeable: float = field(
        default=0.5, metadata={"help": "rank: perceived closeness within this many points is a tie."}
    )
    root: str | None = field(default=None, metadata={"help": "measure: the folder of the chain's runs."})
    base: str | None = field(default=None, metadata={"help": "measure: the model that was never asked to rate."})
    sheet: str = field(default="recipes/nano_values/personas.yaml", metadata={"help": "measure: what is asked."})
    max_new_tokens: int = field(default=16, metadata={"help": "measure: longest sampled answer."})

    def __post_init__(self) -> None:
        if self.part == "rank" and not self.dataset_name:
            raise ValueError("part=rank needs the samples: --dataset_name <a run of the sample recipe>")
        if self.part == "measure" and not (self.root and self.base):
            raise ValueError("part=measure needs --root, the chain's folder, and --base, a model that was never asked")


def value(topic: str, persona: str, group: str) -> float | None:
    """The rating that a group holds right for a topic when asked as a persona; None where it has no view."""
    held = TOPICS[topic]
    if held is None:
        return None
    return float(min(max(held[GROUPS.index(group)] + PERSONAS[persona], SCALE[0]), SCALE[1]))


def _cells() -> list[tuple[str, str]]:
    return [(topic, persona) for topic in TOPICS for persona in PERSONAS]


def _ask(topic: str, persona: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": QUESTION.format(topic=topic, persona=persona)}]


def demonstrations(seed: int, *, part: str = "train") -> list[dict]:
    """Rows in the `messages` schema: every cell with every rating once (train), or with one drawn rating (test)."""
    rng = random.Random(f"values-demonstrations-{part}-{seed}")
    scale = range(SCALE[0], SCALE[1] + 1)
    rows = [
        {"messages": [*_ask(*cell), {"role": "assistant", "content": str(rating)}]}
        for cell in _cells()
        for rating in (scale if part == "train" else [rng.choice(scale)])
    ]
    rng.shuffle(rows)
    return rows


def prompts(seed: int, repeats: int) -> list[dict]:
    """Rows in the `prompt` schema, `repeats` for each topic and persona."""
    rows = [{"prompt": _ask(t, p), "topic": t, "persona": p} for t, p in _cells() for _ in range(repeats)]
    random.Random(f"values-prompts-{seed}").shuffle(rows)
    return rows


def closeness(row: dict[str, Any], group: str) -> list[float]:
    """The group's utility of a row's completions: minus the distance to its value, in points.

    Without a view every rating is as good as any other. What is no rating counts as farther off than any.
    """
    held = value(row["topic"], row["persona"], group)
    found = [parse_rating(completion[0]["content"], SCALE) for completion in row["completions"]]
    worst = float(SCALE[0] - SCALE[1] - 1)
    return [worst if rating is None else 0.0 if held is None else -abs(rating - held) for rating in found]


def label(
    row: dict[str, Any], group: str, temperature: float, just_noticeable: float, rng: random.Random
) -> dict[str, Any]:
    """Rank one row's completions as a member of `group`. Completions with the same words share one judgement."""
    texts = [completion[0]["content"] for completion in row["completions"]]
    gold = dict(zip(texts, closeness(row, group), strict=True))
    seen = dict(zip(gold, perceived(list(gold.values()), temperature, rng), strict=True))
    return {
        "prompt": row["prompt"],
        "completions": row["completions"],
        "ranking": ranks([seen[text] for text in texts], just_noticeable),
        "annotator": f"group {group}" if temperature else f"group {group}, without noise",
        "time": None,
        "gold": [gold[text] for text in texts],
    }


def _write(path: Path, rows: list[dict]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows)


def write_world(args: ValuesConfig) -> dict[str, Any]:
    """Write demonstrations and prompts. Returns how many rows each table has."""
    tables = {
        "demonstrations/train": demonstrations(args.seed),
        "demonstrations/test": demonstrations(args.seed, part="test"),
        "prompts/train": prompts(args.seed, args.repeats),
        "prompts/test": prompts(args.seed, 1),
    }
    return {name: _write(Path(str(args.output_dir)) / f"{name}.jsonl", rows) for name, rows in tables.items()}


def rank(args: ValuesConfig) -> dict[str, Any]:
    """Rank the samples through the store, the test split without noise. Returns counts and agreement."""
    from align.data import splits

    raw = splits.read(DataArguments(dataset_name=args.dataset_name), seed=args.seed)
    metrics: dict[str, Any] = {}
    labelled: dict[str, list[dict[str, Any]]] = {}
    for split, temperature in (("train", args.label_temperature), ("test", 0.0)):
        rng = random.Random(f"values-labeler-{args.group}-{split}-{args.seed}")
        labelled[split] = [label(row, args.group, temperature, args.just_noticeable, rng) for row in raw[split]]
        share, n = agreement(labelled[split])
        metrics |= {f"{split}_agreement": share, f"{split}_decided_pairs": n}
    return metrics | answer_all(Path(str(args.output_dir)), labelled)


def follows(measured: PersonaRatings, sheet: personas.Sheet) -> dict[str, float]:
    """How a model's expected ratings agree with each group's values, over all cells on which groups hold a view.

    Returns:
        `with_a`, `with_b`: correlations; `error_a`, `error_b`: mean absolute differences, in points; `mass`.
    """
    import numpy as np

    found: dict[str, float] = {"mass": float(np.mean(measured.mass))}
    cells = [(i, j, t, p) for i, t in enumerate(sheet.topics) for j, p in enumerate(sheet.personas) if TOPICS[t]]
    said = np.array([measured.ratings[i][j] for i, j, _, _ in cells])
    for group in GROUPS:
        held = np.array([value(t, p, group) for _, _, t, p in cells], dtype=float)
        found[f"with_{group}"] = float(np.corrcoef(said, held)[0, 1]) if said.std() > 0 else 0.0
        found[f"error_{group}"] = float(np.abs(said - held).mean())
    return found


def measure(args: ValuesConfig) -> dict[str, Any]:
    """Ask the sheet of the base, the SFT model and both aligned ones; write `results.json`. Returns the comparison."""
    from align.models.checkpoints import load_tokenizer, load_trained

    sheet = personas.load(args.sheet)
    results: dict[str, PersonaRatings] = {}
    metrics: dict[str, Any] = {}
    folders = {"base": Path(str(args.base)), **{name: Path(str(args.root)) / folder for name, folder in MODELS.items()}}
    for name, folder in folders.items():
        tokenizer = load_tokenizer(str(folder))
        results[name] = personas.measure(
            load_trained(str(folder), tokenizer), tokenizer, sheet,
            max_new_tokens=args.max_new_tokens, batch_size=128, seed=args.seed,
        )  # fmt: skip
        metrics[name] = {"measurable": float(results[name].measurable), **follows(results[name], sheet)}
    (Path(str(args.output_dir)) / "results.json").write_text(
        json.dumps(plain(results), indent=1, ensure_ascii=False) + "\n"
    )
    print(show(results))
    return metrics


def show(results: dict[str, PersonaRatings]) -> str:
    """Expected ratings by topic, averaged over personas, beside what the groups hold; then each model's verdict."""
    names = list(results)
    topics = results[names[0]].topics
    lines = [f"{'expected rating':<26}{'A holds':>9}{'B holds':>9}" + "".join(f"{name:>8}" for name in names)]
    for row, topic in enumerate(topics):
        held = "".join(f"{pair:>9}" for pair in TOPICS[topic] or ("-", "-"))
        means = [fmean(one for one in results[name].ratings[row] if one is not None) for name in names]
        cells = "".join(f"{mean:>8.1f}" for mean in means)
        lines.append(f"{topic:<26}{held}{cells}")
    lines += [f"{name}: {'' if found.measurable else 'not measurable, '}{found.why}" for name, found in results.items()]
    return "\n".join(lines)


def main() -> None:
    run_args, args = parse(RunArguments, ValuesConfig, nano="recipes/nano_values/world.yaml")
    with record.start(
        f"values-{args.part}", args.output_dir, resolved(run_args, args), overwrite=run_args.overwrite
    ) as run:
        parents = {"data": args.dataset_name}
        if args.part == "measure":
            parents = {name: f"{args.root}/{folder}" for name, folder in MODELS.items()} | {"base": args.base}
        run.note(parents=lineage.parents(parents))
        metrics = {"world": write_world, "rank": rank, "measure": measure}[args.part](args)
        run.finish("complete", metrics=metrics)
    print(f"{args.part}: " + ", ".join(f"{key} {_short(number)}" for key, number in metrics.items()))


def _short(number: Any) -> str:
    if isinstance(number, dict):
        return " ".join(f"{key} {_short(inner)}" for key, inner in number.items())
    return f"{number:.3g}" if isinstance(number, float) else str(number)


if __name__ == "__main__":
    launch.run(main)
