"""What stands around an evaluation: checks before it; results to files, to the run's record and to the screen."""

from __future__ import annotations

import datetime
import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from align.data import chat
from align.evaluate.config import EvalConfig, MeasureArguments
from align.evaluate.held_out import check
from align.evaluate.measures import standard
from align.evaluate.page import page
from align.evaluate.policy import Rows, decides
from align.evaluate.results import Answer, EvaluationResults, Sample, Setup, plain
from align.models import checkpoints
from align.report import card_parts, model_card
from align.run import lineage
from align.run.arguments import DataArguments
from align.run.trial import throwaway

TITLES = {"kl": "KL to the reference, nats", "length": "length, tokens", "harmless_unseen": "  acts never seen",
          "stops": "stops by itself", "over_refusal": "over-refusal", "good": "the right thing, and stops"}  # fmt: skip
SAMPLED = (
    "stops",
    "reward",
    "gold",
    "second",
    "kl",
    "entropy",
    "length",
)  # of the sampled completions, in the screen's order
SHARES = ("stops", "repetition")  # of those; the yes/no grades are shares too


def check_models(args: EvalConfig) -> None:
    """Check every checkpoint by its files, and what else is needed, before one is loaded."""
    if args.lm_eval_tasks:
        standard.check_installed()
    for path in [*args.named().values(), args.reference()]:
        checkpoints.check(path)
    for path in filter(None, [args.reward_model_path, args.gold_model_path]):
        checkpoints.check(path, reward_model=True)


def held_out(rows: Rows, args: EvalConfig) -> tuple[Rows, list[str]]:
    """The prompts that no model, no parent of one and no reward model was trained on, and notes for the report.

    Raises:
        RunError: where some were, unless `leave_out_leaks` or `accept_leaks` says what to do.
    """
    models = [*args.named().values(), args.reference(), args.reward_model_path, args.gold_model_path]
    return check(rows, filter(None, models), args)


def write(results: EvaluationResults, rows: dict[str, Rows], args: EvalConfig, run: dict[str, Any]) -> Path:
    """Complete the results with where they come from and some samples, and write them down."""
    paths = args.named()
    against = args.reference()
    reference = next((name for name, path in paths.items() if lineage.same(path, against)), against)
    first = next(iter(rows.values()))
    facts = [[name, path, results.models[name].hash] for name, path in paths.items()]
    results = replace(
        results,
        title="Evaluation of " + ", ".join(paths),
        made=datetime.date.today().isoformat(),
        command=run["command"],
        reference=reference,
        samples=_samples(rows, args.seed),
        notes=(*_notes(results, args), *run["leaks"], *results.notes),
        setup=setup(args, run, facts, len({row["index"] for row in first})),
    )
    report = write_report(plain(results), page.html(results), page.markdown(results), args)
    if not throwaway.asked():
        _on_cards(results, report)
    return report


def _notes(results: EvaluationResults, args: EvalConfig) -> list[str]:
    """What a reader of the table should know."""
    notes = [
        "KL is summed over the tokens of a model's own completions, sampled at the same temperature for every model. "
        "Yes/no grades are of the most likely completion. Win rates count ties as one half."
    ]
    for name, model in results.models.items():
        stops = model.sampled.stops
        if stops is not None and stops.value < 0.5:
            notes.append(
                f"{name} ends {stops.value:.1%} of its answers by itself; the rest are cut at {args.max_new_tokens} "
                "tokens, and what is measured is the text up to there."
            )
    return notes


def _on_cards(results: EvaluationResults, report: Path) -> None:
    """Put what was found of a model onto its card, where it is a run here with a card that nobody changed."""
    for name, model in results.models.items():
        folder, record = Path(model.path), lineage.read_record(model.path)
        if not record or record.get("status") != "complete" or record.get("recipe") not in model_card.METHODS:
            continue
        if not (folder / model_card.NAME).is_file():
            continue
        if not model_card.untouched(folder):
            print(f"note: {folder / model_card.NAME} was changed after it was written, and is left as it is; what was "
                  f"found is in {report}", flush=True)  # fmt: skip
        else:
            model_card.write(folder, record, page.for_card(name, results, card_parts.place(str(report))))


def write_report(results: dict[str, Any], html: str, text: str, args: MeasureArguments) -> Path:
    """`results.json`, `report.md` and `report.html`; the path of the last one."""
    folder = Path(str(args.output_dir))
    (folder / "results.json").write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    (folder / "report.md").write_text(text)
    (folder / "report.html").write_text(html)
    return folder / "report.html"


def setup(args: MeasureArguments, run: dict[str, Any], facts: list[list[str]], prompts: int) -> Setup:
    """What it takes to do it again: models by hash, prompts, sampling, template, versions, machine."""
    hardware = run["hardware"]
    machine = f"{hardware['cpus']} CPU cores, {hardware['memory_bytes'] / 2**30:.0f} GiB"
    if hardware.get("gpus"):
        machine += ", " + ", ".join(hardware["gpus"])
    sampling = (
        f"temperature {args.temperature:g}, at most {args.max_new_tokens} tokens, {args.num_generations} a prompt"
    )
    rows = [*facts, ["sampling", sampling, f"seed {args.seed}"]]
    rows.append(["precision", f"{args.dtype}, policies and reference alike", ""])
    if args.reward_model_path:
        rows.append(["reward model", args.reward_model_path, short_hash(args.reward_model_path)])
    gold = args.gold_func or args.gold_model_path
    rows += [["gold", gold, ""]] if gold else []
    rows += [["second judge", args.second_func, ""]] if args.second_func else []
    return Setup(
        rows=rows,
        prompts=prompts,
        template=template(facts[0][1]),
        versions=run["versions"] | {"commit": str((run.get("git") or {}).get("commit"))[:12]},
        hardware=machine,
    )


def template_date(args: EvalConfig, data: DataArguments) -> str | None:
    """For a reference whose template reads today's date: the date that its children were trained with."""
    own = chat.pinned_in(args.reference())
    return data.template_date or own or next(filter(None, map(chat.pinned_in, args.named().values())), None)


def template(path: str) -> str:
    """The first digits of the SHA-256 of a checkpoint's chat template."""
    file = Path(path) / "chat_template.jinja"
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12] if file.is_file() else "built in"


def short_hash(path: str | None) -> str:
    """The first digits of a run's hash, where `path` is a run."""
    return ((lineage.read_record(path) or {}).get("hash") or "")[:12] if path else ""


def _samples(rows: dict[str, Rows], seed: int, count: int = 6) -> tuple[Sample, ...]:
    """The same prompts for every model: some at random, the worst of each by the score that there is."""
    first = next(iter(rows.values()))
    prompts = {row["index"]: at for at, row in reversed(list(enumerate(first)))}
    key = decides(first[0])
    rules = {"random": random.Random(seed).sample(sorted(prompts.values()), min(count, len(prompts)))}
    for name, found in rows.items():
        worst = sorted((found[at][key], at) for at in prompts.values()) if key else []
        rules[f"worst of {name}"] = [at for _, at in worst[:2]]
    return tuple(
        Sample(rule, first[at]["prompt"], tuple(answer(name, found[at]) for name, found in rows.items()))
        for rule, where in rules.items()
        for at in where
    )


def answer(name: str, row: dict[str, Any]) -> Answer:
    """A measured completion as the page shows it."""
    return Answer(name, row["completion"], row.get("reward"), row.get("gold"))


def headline(results: EvaluationResults) -> dict[str, dict[str, float]]:
    """Every model's numbers without their intervals, for the run's record and a pipeline's gates."""
    return {
        name: {key: found.value for key, found in (model.sampled.measures() | (model.rates or {})).items()}
        for name, model in results.models.items()
    }


def show(results: EvaluationResults) -> str:
    """The table as text: a row a measure, a column a model."""
    models = results.models.values()
    width = max(9, *(len(name) + 2 for name in results.models))
    lines = [f"{'held-out prompts':<32}" + "".join(f"{name:>{width}}" for name in results.models)]
    rates = dict.fromkeys(key for model in models for key in model.rates or {})
    rows = [(key, True, [(model.rates or {}).get(key) for model in models]) for key in rates if key != "stops"]
    rows += [(key, key in SHARES, [model.sampled.measures().get(key) for model in models]) for key in SAMPLED]
    for key, share, cells in rows:
        if not any(cells):
            continue
        texts = ["-" if c is None else f"{c.value:.1%}" if share else f"{c.value:.2f}" for c in cells]
        lines.append(f"{TITLES.get(key, key.replace('_', ' ')):<32}" + "".join(f"{t:>{width}}" for t in texts))
    if results.reward_model is not None:
        accuracy = results.reward_model.accuracy
        lines.append(f"\nreward model: {accuracy.value:.1%} of {accuracy.n:,} held-out pairs")
    return "\n".join(lines)
