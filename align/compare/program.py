"""From trained arms to the report: measure each alike, put the numbers together, write them, print the gist."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

from align.compare import numbers, settings
from align.compare.arms import Arm
from align.compare.comparison import BestOfN, ComparisonResults, SettingResult, Verdict
from align.compare.config import CompareConfig
from align.compare.page import page
from align.compare.verdict import best_settings, gold_is_trained_on, halves, verdict
from align.data import chat, splits
from align.evaluate import policy
from align.evaluate.held_out import check
from align.evaluate.policy import Bench, Rows
from align.evaluate.program import setup, short_hash, write_report
from align.evaluate.results import Gate, Sampled, plain, read
from align.judge.endpoint import Endpoint
from align.judge.protocol import JudgeConfig
from align.models import checkpoints
from align.run import lineage
from align.run.arguments import DataArguments
from align.run.errors import ConfigError, DataError
from align.run.gates import of_parents
from align.train import progress


def parents(args: CompareConfig, prompts: DataArguments) -> dict[str, Any]:
    """What every arm has in common."""
    roles = {"model": args.model_name_or_path, "reward_model": args.reward_model_path, "rankings": args.rankings}
    return lineage.parents({**roles, **prompts.parents()})


def template_date(args: CompareConfig, data: DataArguments) -> str | None:
    """For an SFT model whose template reads today's date: one for all arms and prompts, on whatever day they are made.

    The one that is given, an earlier start's of this comparison, or the taken arms'; today's for the first
    start. A date that the model has already is nobody else's to say.
    """
    if chat.pinned_in(str(args.model_name_or_path)):
        return data.template_date
    before = {} if args.overwrite else lineage.read_record(str(args.output_dir)) or {}
    earlier = (before.get("config") or {}).get("template_date")
    return data.template_date or earlier or next(filter(None, map(chat.pinned_in, args.take)), None)


def check_models(args: CompareConfig) -> None:
    """Check the checkpoints by their files, before one is loaded."""
    checkpoints.check(str(args.model_name_or_path))
    for path in filter(None, [args.reward_model_path, args.gold_model_path]):
        checkpoints.check(path, reward_model=True)


def held_out(rows: Rows, prompts: DataArguments, args: CompareConfig) -> tuple[Rows, list[str]]:
    """The prompts that decide: those that no arm is trained on and no common parent was, and notes for the report.

    Raises:
        DataError: where there is no test split.
        RunError: where some were trained on, unless `leave_out_leaks` or `accept_leaks` says what to do.
    """
    if splits.read(prompts, seed=args.seed)["test"] is None or prompts.test_split_size:
        named = " + ".join(str(path) for path in prompts.parents().values())
        raise DataError(
            f"{named} has no test split, so the arms would be measured on prompts that they were trained "
            "on: give a folder or hub data set with train and test, or name the split with --dataset_test_split"
        )
    arms = {"every PPO arm": prompts}
    if args.rankings:
        arms["every DPO arm"] = DataArguments(dataset_name=args.rankings)
    models = [args.model_name_or_path, args.reward_model_path, args.gold_model_path, *args.take]
    return check(rows, filter(None, models), args, arms)


def compare(arms: list[Arm], bench: Bench, judge: JudgeConfig) -> ComparisonResults:
    """Measure the arms that finished, the SFT model and best-of-n, and say what can be said."""
    args = bench.args
    assert isinstance(args, CompareConfig)
    done = finished(arms)
    if gold_is_trained_on(args, [arm.record for arm in done]):
        raise ConfigError(
            "the grader that decides is part of a run's training reward, so it cannot; give another one, or a second "
            "one that decides: --second_func file.py:name"
        )
    print(f"measuring {len(done)} runs, the SFT model and best-of-n on {len(bench.rows)} prompts", flush=True)
    sft = policy.cached(bench, bench.reference_path, "sft", seed=args.seed)
    rows: dict[Path, Rows] = {
        arm.folder: policy.cached(bench, str(arm.folder), _name(arm), seed=args.seed)
        for arm in progress.told(done, "runs measured")
    }
    endpoint = Endpoint(judge, Path(str(args.output_dir)) / "judge.sqlite") if judge.judge_url else None
    measured = settings.settings_of(arms, rows)
    entries = tuple(settings.of_setting(setting, sft, rows, endpoint) for setting in measured)
    reference = replace(policy.summary(sft), name="SFT")
    found = ComparisonResults(
        title=args.title,
        made=datetime.date.today().isoformat(),
        reference=reference,
        settings=entries,
        best_of_n=tuple(numbers.best_of_n(bench, args.best_of_n)),
        fits=numbers.fits(entries, reference),
        failed=tuple(f"{a.label}, seed {a.seed}: {a.error or 'unfinished'}" for a in arms if a not in done),
        verdict=Verdict(""),
        cost=tuple(numbers.cost(entries, reference, args)),
        units={"reward": "reward model's units", "gold": "grader's units", "second": "its own units"},
    )
    chosen_on, compared_on = halves(len(bench.rows), args.seed)
    best = best_settings(measured, sft, endpoint, chosen_on)
    parents_of_all = [path for path in (args.model_name_or_path, args.reward_model_path) if path]
    found = replace(
        found,
        verdict=verdict(best, found, endpoint, compared_on),
        pairs=tuple(settings.pairs(measured, endpoint) if len(best) > 1 else ()),
        samples=numbers.samples(best, sft, args.samples, args.seed) if best else (),
        gates=(*read(tuple[Gate, ...], of_parents(parents_of_all)), *settings.gates_of(measured, sft)),
    )
    said = None
    if endpoint is not None:
        said = endpoint.summary()
        endpoint.close()
    return replace(found, notes=(*_notes(args, done), *bench.rounding(), *([said] if said else [])))


def finished(arms: list[Arm]) -> list[Arm]:
    """The arms that can be measured."""
    return [arm for arm in arms if arm.error is None and arm.record.get("status") == "complete"]


def _name(arm: Arm) -> str:
    """A file name of its own for each arm's completions."""
    return arm.folder.name if arm.stage else f"{arm.recipe}-{arm.strength:g}-seed-{arm.seed}-{arm.folder.name}"


def _budgets(arms: list[Arm]) -> list[list[str]]:
    """What one run of each method was given, from the first one's own record."""
    found: dict[str, list[str]] = {}
    for arm in arms:
        run = arm.record
        config, metrics, rows = run["config"], run["metrics"], run["data"]["train"]["rows_out"]
        if arm.recipe == "ppo":
            text = (
                f"{metrics['steps']} rollouts of {run['global_batch_size']} episodes ({metrics['episodes']:,} in all, "
                f"prompts drawn from {rows:,}), {config['num_ppo_epochs']} epochs, learning rate "
                f"{config['learning_rate']:g}"
            )
        else:
            loss = f", loss {'+'.join(arm.losses)}" if arm.recipe == "dpo" else ""
            text = (
                f"{metrics['steps']} steps of {run['global_batch_size']}, {rows:,} rows, learning rate "
                f"{config['learning_rate']:g}{loss}"
            )
        found.setdefault(arm.method, [arm.method, text])
    return list(found.values())


def _notes(args: CompareConfig, arms: list[Arm]) -> list[str]:
    """What a reader of the figures should know."""
    notes = [
        "Win rates count ties as one half.",
        "KL is summed over the tokens of a model's own completions, by one estimator for every method; best-of-n's is "
        "its analytic value, an upper bound where completions repeat.",
        "Intervals are 95 %, bootstrapped over prompts and seeds; the seeds' part is widened as Student's t asks. Cost "
        "shows the smallest and the largest run.",
    ]
    for method, arm in {arm.method: arm for arm in arms if arm.recipe == "dpo" and arm.losses != ["sigmoid"]}.items():
        weights = arm.config.get("loss_weights") or [1.0] * len(arm.losses)
        terms = ", ".join(f"{name} (weight {weight:g})" for name, weight in zip(arm.losses, weights, strict=True))
        notes.append(f"{method} is not plain DPO, whose loss is the sigmoid alone: its terms are {terms}.")
    run = lineage.read_record(str(args.reward_model_path)) if args.reward_model_path else None
    if run:
        notes.append(
            f"PPO and best-of-n need the reward model too: {run['wall_seconds']:.0f} s once, not counted above."
        )
    if args.jobs > 1:
        notes.append(f"{args.jobs} arms were trained at once, each with its share of the cores: seconds are wall time.")
    return notes


def write(results: ComparisonResults, arms: list[Arm], args: CompareConfig, run: dict[str, Any]) -> Path:
    """Add how it was made, and write report and results."""
    sft, rankings = str(args.model_name_or_path), args.rankings
    facts = [["SFT model", sft, short_hash(sft)]]
    facts += [["rankings", rankings, short_hash(rankings)]] if rankings else []
    assert results.reference is not None
    made = replace(
        setup(args, run, facts, results.reference.n),
        seeds=sorted({one.seed for setting in results.settings for one in setting.runs}),
        budgets=_budgets(finished(arms)),
        seconds_in_all=sum(one.seconds for setting in results.settings for one in setting.finished) / args.jobs,
    )
    results = replace(results, notes=(*results.notes, *run["leaks"]), command=run["command"], setup=made)
    return write_report(plain(results), page.html(results), page.markdown(results), args)


def headline(results: ComparisonResults) -> dict[str, Any]:
    """The verdict and each setting's means, for the run's record."""
    means = {
        setting.label: {key: found.value for key in ("kl", *policy.SCORES) if (found := getattr(setting, key))}
        for setting in results.settings
    }
    return {"verdict": results.verdict.headline, "failed": len(results.failed), "settings": means}


def show(results: ComparisonResults) -> str:
    """The settings as a table, and the verdict."""
    sft = results.reference
    assert sft is not None
    graders = [key for key in policy.DECIDE if sft.score(key)]

    def cells(found: Sampled | SettingResult | BestOfN) -> str:
        scores = [found.score(key) for key in graders]
        return "".join(f"{score.value:>9.3f}" for score in scores if score)

    lines = ["", f"{'mean over seeds':<24}{'KL':>7}" + "".join(f"{key:>9}" for key in graders) + f"{'beats SFT':>24}"]
    if sft.kl:
        lines.append(f"{'SFT':<24}{sft.kl.value:>7.2f}{cells(sft)}{'':>24}")
    for setting in results.settings:
        if not setting.kl:
            lines.append(f"{setting.label:<24}  no run finished")
            continue
        rate = next(iter((setting.win_rate or {}).values()), None)
        won = f"{rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%})" if rate else ""
        lines.append(f"{setting.label:<24}{setting.kl.value:>7.2f}{cells(setting)}{won:>24}")
    for point in results.best_of_n[1:]:
        label = f"best of {point.n}"
        lines.append(f"{label:<24}{point.kl:>7.2f}{cells(point)}")
    said = results.verdict
    return "\n".join([*lines, "", said.headline, *(f"  {sentence}" for sentence in said.sentences)])
