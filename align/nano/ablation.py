"""What cleaning does to a base model: the same model pretrained on the raw and on the cleaned nano corpus.

    python -m align.nano.ablation                                             # seeds 0, 1, 2 of both: six models

Tokenizer, steps, tokens a step and held-out text are the same for both. Needs the demo's stages up to `tokenizer`
(the pipeline recipe with `--until tokenizer`). A model that is there already with the same settings is not trained
again.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.nano import world
from align.nano.grade import grade
from align.run import errors, launch, lineage, pipeline, record
from align.run.arguments import RunArguments
from align.run.parse import parse, resolved

ARMS = ("raw", "cleaned")
TITLES = {
    "bits_per_byte": "bits per byte, clean held-out text",
    "facts": "facts right, % (greedy)",
    "exam": "examination answered, % (greedy)",
    "exam_bits": "bits per byte, examination's answers",
    "personal": "texts with personal data, %",
    "unwanted": "unwanted texts (list or classifier), %",
    "junk": "texts that a quality rule drops, %",
}
STAGES = ("world", "classifier", "clean", "tokenizer")  # that must be there
SHARES = ("facts", "exam", "personal", "unwanted", "junk")


@dataclass
class AblationConfig:
    """What to compare, and for how long to train."""

    output_dir: str | None = field(default=None, metadata={"help": "Corpora, models and results go here."})
    root: str | None = field(
        default=None, metadata={"help": "The finished chain that has the raw and the cleaned corpus."}
    )
    chain: str = field(default="recipes/nano/pipeline.yaml", metadata={"help": "Its stages: `pretrain` trains."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Of weights and order."})
    max_steps: int = field(default=400, metadata={"help": "Steps of each model, of 2,048 tokens each."})
    jobs: int = field(default=2, metadata={"help": "Models trained at once, one thread each."})
    samples: int = field(default=300, metadata={"help": "Texts sampled from each model."})
    sample_tokens: int = field(default=80, metadata={"help": "Longest sampled text, in tokens."})
    clean_config: str = field(
        default="recipes/nano/clean.yaml", metadata={"help": "Whose rules are put to the samples."}
    )
    seed: int = field(default=0, metadata={"help": "Of the sampling."})


def write_corpora(args: AblationConfig) -> dict[str, int]:
    """The two corpora, `<arm>/train.jsonl`, with the same clean held-out text as `test.jsonl`. Returns their pages."""
    from align.clean.config import CleanConfig
    from align.clean.read import inputs
    from align.data import prepare
    from align.run.arguments import DataArguments

    root, out = Path(str(args.root)), Path(str(args.output_dir))
    wanted = CleanConfig(input=[str(root / "world/raw")])
    entries, problems = inputs.find(wanted)
    if problems:
        raise errors.RunError("; ".join(problems))
    raw = [row.text for entry in entries for row in inputs.rows(entry, wanted) if not row.problem]
    cleaned = prepare.texts(DataArguments(dataset_name=str(root / "clean")), seed=0).train
    counts = {}
    for arm, texts in zip(ARMS, (raw, cleaned), strict=True):
        folder = out / arm
        folder.mkdir(exist_ok=True)
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        (folder / "train.jsonl").write_text(lines, encoding="utf-8")
        shutil.copy(root / "world/documents/test.jsonl", folder / "test.jsonl")
        counts[arm] = len(texts)
    return counts


def train(args: AblationConfig, arm: str, seed: int) -> Path:
    """Pretrain one model as the chain's stage does, unless it is there.

    Raises:
        RunError: where the recipe fails; its output is in <output_dir>/models/<arm>-<seed>.log.
    """
    out, folder = Path(str(args.output_dir)), Path(str(args.output_dir)) / "models" / f"{arm}-{seed}"
    data, tokenizer = str(out / arm), f"{args.root}/tokenizer"
    run = lineage.read_record(folder) or {}
    same = run.get("status") == "complete" and run["config"].get("max_steps") == args.max_steps
    if same and run["parents"] == lineage.parents({"model": tokenizer, "data": data}):
        return folder
    stage = pipeline.stage_of(args.chain, "pretrain")
    command = [sys.executable, *shlex.split(stage["run"]), "--config", stage["config"], "--dataset_name", data]
    command += ["--tokenizer_name_or_path", tokenizer, "--output_dir", str(folder), "--max_steps", str(args.max_steps)]
    command += ["--seed", str(seed), "--overwrite", "--disable_tqdm", "true"]
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / f"{arm}-{seed}.log").open("w") as log:
        threads = {"OMP_NUM_THREADS": "1"} if args.jobs > 1 else {}
        if subprocess.call(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **threads}):
            raise errors.RunError(f"pretraining {arm}, seed {seed}, failed; see {log.name}")
    return folder


class Screen:
    """Does a text have personal data, unwanted content, junk? By the cleaning stage's own rules."""

    def __init__(self, args: AblationConfig):
        import yaml

        from align.clean.config import RuleConfig
        from align.clean.rules import filters
        from align.clean.rules.classifier import Classifier
        from align.clean.rules.lists import WordList

        told = yaml.safe_load(Path(args.clean_config).read_text())
        config = RuleConfig(**{key: value for key, value in told.items() if key in RuleConfig.__dataclass_fields__})
        self.lists = [WordList.load(name) for name in config.lists]
        self.classifier = Classifier(f"{args.root}/classifier", label=config.classifier_label)
        steps = ("repetition", "quality", "language")
        self.rules = [rule for step in steps for rule in filters.build(step, config, 0.0)]

    def shares(self, texts: list[str]) -> dict[str, float]:
        """Shares of the texts, from 0 to 1."""
        from datatrove.data import Document

        from align.clean.rules import personal

        scored = self.classifier.rule(texts)
        listed = [any(words.rule(text).action != "keep" for words in self.lists) for text in texts]
        unwanted = [hit or (v is not None and v.action == "drop") for hit, v in zip(listed, scored, strict=True)]
        junk = [any(rule.rule(Document(text, "")).action != "keep" for rule in self.rules) for text in texts]
        return {
            "personal": sum(bool(personal.find(text)) for text in texts) / len(texts),
            "unwanted": sum(unwanted) / len(texts),
            "junk": sum(junk) / len(texts),
        }


def measure(folder: Path, args: AblationConfig, screen: Screen) -> dict[str, float]:
    """All figures of one model."""
    from align.models import generate
    from align.models.checkpoints import load_tokenizer, load_trained

    tokenizer = load_tokenizer(str(folder))
    model = load_trained(str(folder), tokenizer)
    found = {"bits_per_byte": float((lineage.read_record(folder) or {})["metrics"]["bits_per_byte"])}
    begin = [tokenizer.bos_token_id]
    out = generate.complete(
        model, tokenizer, [begin], max_new_tokens=args.sample_tokens, temperature=1.0, per_prompt=args.samples,
        seed=args.seed,
    )  # fmt: skip
    found |= screen.shares([completion.text for _, some in out for completion in some])

    def answers(rows: list[dict[str, Any]]) -> list[str]:
        asked = [f"User: {row['prompt'][0]['content']}\nAssistant:" for row in rows]
        ids = [begin + tokenizer(text, add_special_tokens=False)["input_ids"] for text in asked]
        said = dict(generate.complete(model, tokenizer, ids, max_new_tokens=24, temperature=0.0))
        return [said[number][0].text.split("\n")[0].strip() for number in range(len(rows))]

    seed = int((lineage.read_record(Path(str(args.root)) / "world") or {})["seed"])
    facts = [row for row in world.evaluation_prompts(seed) if row["answer"] and row["kind"] != "harmful"]
    graded = (
        grade(kind=row["kind"], entity=row["entity"], answer=row["answer"], completion=said, stopped=True)
        for row, said in zip(facts, answers(facts), strict=True)
    )
    found["facts"] = sum(bool(one["helpful"]) for one in graded) / len(facts)
    exam = world.exam(seed)
    found["exam"] = sum(row["sentence"] == said for row, said in zip(exam, answers(exam), strict=True)) / len(exam)
    found["exam_bits"] = exam_bits(model, tokenizer, exam)
    return found


def exam_bits(model: Any, tokenizer: Any, exam: list[dict[str, Any]]) -> float:
    """Bits per byte of the examination's answers, given its questions."""
    import math

    from align.models import generate

    asked = [f"User: {row['prompt'][0]['content']}\nAssistant:" for row in exam]
    heads = [[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in asked]
    said = [f" {row['sentence']}" for row in exam]
    tails = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in said]
    logps = generate.completion_logps(model, heads, tails, pad_id=tokenizer.pad_token_id)
    return float(-logps.sum()) / math.log(2) / sum(len(text.encode()) for text in said)


def show(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Mean over seeds, then each seed's own number, for both corpora."""
    lines = [f"{'':<40}" + "".join(f"{arm + ': mean (each seed)':>36}" for arm in ARMS)]
    for key, title in TITLES.items():
        cells = ""
        for arm in ARMS:
            values = [found[key] * (100 if key in SHARES else 1) for found in results[arm].values()]
            form = ".1f" if key in SHARES else ".3f"
            each = " ".join(f"{value:{form}}" for value in values)
            cells += f"{f'{sum(values) / len(values):{form}} ({each})':>36}"
        lines.append(f"{title:<40}{cells}")
    return "\n".join(lines)


def main() -> None:
    run_args, args = parse(
        RunArguments, AblationConfig, nano="recipes/nano/ablation.yaml", required=("output_dir", "root")
    )
    for stage in STAGES:
        if problem := lineage.parent_problem(f"{args.root}/{stage}", allow_hub=False):
            raise errors.RunError(f"{problem}; make it with: {errors.recipe('pipeline')} --until tokenizer")
    # the corpora and models beside it are parents, and no part of it
    results_in = Path(str(args.output_dir)) / "results"
    config = resolved(run_args, args)
    with record.start("ablation", str(results_in), config, overwrite=run_args.overwrite, reopen=True) as run:
        parents: dict[str, str | None] = {stage: f"{args.root}/{stage}" for stage in STAGES}
        run.note(parents=lineage.parents(parents), pages=write_corpora(args))
        wanted = [(arm, seed) for seed in args.seeds for arm in ARMS]
        with ThreadPoolExecutor(args.jobs) as pool:
            folders = list(pool.map(lambda pair: train(args, *pair), wanted))
        screen = Screen(args)
        results: dict[str, dict[str, dict[str, float]]] = {arm: {} for arm in ARMS}
        for (arm, seed), folder in zip(wanted, folders, strict=True):
            results[arm][str(seed)] = measure(folder, args, screen)
        record.write_json(results_in / "results.json", results)
        run.finish("complete", metrics=results)
    print(
        f"{args.max_steps} steps a model, {args.samples} sampled texts each; seeds {', '.join(map(str, args.seeds))}\n"
    )
    print(show(results))


if __name__ == "__main__":
    launch.run(main)
