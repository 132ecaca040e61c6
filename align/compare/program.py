"""From trained arms to the report: measure each alike, put the numbers together, write them, print the gist."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from align.compare import results as parts
from align.compare.arms import Arm
from align.compare.config import CompareConfig
from align.compare.page import page
from align.compare.verdict import best_settings, gold_is_trained_on, halves, verdict
from align.data import prepare
from align.evaluate import policy
from align.evaluate.held_out import check
from align.evaluate.policy import Bench, Rows
from align.evaluate.program import setup, short_hash, write_report
from align.judge.endpoint import Endpoint
from align.judge.protocol import JudgeConfig
from align.models import checkpoints
from align.run import lineage
from align.run.arguments import DataArguments
from align.run.errors import ConfigError, DataError
from align.run.gates import of_parents


def parents(args: CompareConfig, prompts: DataArguments) -> dict[str, Any]:
    """What every arm has in common."""
    roles = {"model": args.model_name_or_path, "reward_model": args.reward_model_path, "rankings": args.rankings}
    return lineage.parents({**roles, **prompts.parents()})


def check_models(args: CompareConfig) -> None:
    """Judge the checkpoints by their files, before one is loaded."""
    checkpoints.check(str(args.model_name_or_path))
    for path in filter(None, [args.reward_model_path, args.gold_model_path]):
        checkpoints.check(path, reward_model=True)


def held_out(rows: Rows, prompts: DataArguments, args: CompareConfig) -> tuple[Rows, list[str]]:
    """The prompts that decide: those that no arm is trained on and no common parent was, and notes for the report.

    Raises:
        DataError: where there is no test split.
        RunError: where some were trained on, unless `leave_out_leaks` or `accept_leaks` says what to do.
    """
    if prepare.load_splits(prompts, seed=args.seed)["test"] is None or prompts.test_split_size:
        raise DataError(
            f"{prompts.dataset_name} has no test split, so the arms would be judged on prompts that they were trained "
            "on: give a folder or hub data set with train and test, or name the split with --dataset_test_split"
        )
    arms = {"every PPO arm": prompts}
    if args.rankings:
        arms["every DPO arm"] = DataArguments(dataset_name=args.rankings)
    models = [args.model_name_or_path, args.reward_model_path, args.gold_model_path, *args.take]
    return check(rows, filter(None, models), args, arms)


def compare(arms: list[Arm], bench: Bench, judge: JudgeConfig) -> dict[str, Any]:
    """Measure the arms that finished, the SFT model and best-of-n, and say what can be said."""
    args = bench.args
    assert isinstance(args, CompareConfig)
    finished = [arm for arm in arms if arm.error is None and arm.record.get("status") == "complete"]
    if gold_is_trained_on(args, [arm.record for arm in finished]):
        raise ConfigError("the gold grader is part of a run's training reward, so it cannot judge; give another one")
    print(f"measuring {len(finished)} runs, the SFT model and best-of-n on {len(bench.rows)} prompts", flush=True)
    sft = policy.cached(bench, bench.reference_path, "sft", seed=args.seed)
    rows: dict[Path, Rows] = {
        arm.folder: policy.cached(bench, str(arm.folder), _name(arm), seed=args.seed) for arm in finished
    }
    endpoint = Endpoint(judge, Path(str(args.output_dir)) / "judge.sqlite") if judge.judge_url else None
    settings = parts.settings_of(arms, rows)
    entries = [parts.of_setting(setting, sft, rows, endpoint) for setting in settings]
    found: dict[str, Any] = {"title": args.title, "made": datetime.date.today().isoformat()}
    found["reference"] = {"name": "SFT", **policy.summary(sft)}
    found["settings"] = entries
    found["best_of_n"] = parts.best_of_n(bench, args.best_of_n)
    found["fits"] = parts.fits(entries, found["reference"])
    found["failed"] = [f"{a.label}, seed {a.seed}: {a.error or 'unfinished'}" for a in arms if a not in finished]
    chosen_on, compared_on = halves(len(bench.rows), args.seed)
    best = best_settings(settings, sft, endpoint, chosen_on)
    found["verdict"] = verdict(best, entries, found, endpoint, compared_on)
    found["pairs"] = parts.pairs(settings, endpoint) if len(best) > 1 else []
    found["notes"] = _notes(args)
    if endpoint is not None:
        found["notes"] += filter(None, [endpoint.summary()])
        endpoint.close()
    found["cost"] = parts.cost(entries, found["reference"], args)
    found["samples"] = parts.samples(best, sft, args.samples, args.seed) if best else []
    found["units"] = {"reward": "reward model's units", "gold": "grader's units"}
    parents_of_all = [path for path in (args.model_name_or_path, args.reward_model_path) if path]
    found["gates"] = of_parents(parents_of_all) + parts.gates_of(settings, sft)
    return found | {"budgets": _budgets(finished)}


def _name(arm: Arm) -> str:
    """A file name of its own for each arm's completions."""
    return arm.folder.name if arm.stage else f"{arm.method.lower()}-{arm.strength:g}-seed-{arm.seed}-{arm.folder.name}"


def _budgets(arms: list[Arm]) -> list[list[str]]:
    """What one run of each method was given, from the first one's own record."""
    found: dict[str, list[str]] = {}
    for arm in arms:
        run = arm.record
        config, metrics, rows = run["config"], run["metrics"], run["data"]["train"]["rows_out"]
        if arm.method == "PPO":
            text = (
                f"{metrics['steps']} rollouts of {run['global_batch_size']} episodes ({metrics['episodes']:,} in all, "
                f"prompts drawn from {rows:,}), {config['num_ppo_epochs']} epochs, learning rate "
                f"{config['learning_rate']:g}"
            )
        else:
            losses = config.get("loss_type")
            loss = f", loss {'+'.join(losses)}" if isinstance(losses, list) else ""
            text = (
                f"{metrics['steps']} steps of {run['global_batch_size']}, {rows:,} rows, learning rate "
                f"{config['learning_rate']:g}{loss}"
            )
        found.setdefault(arm.method, [arm.method, text])
    return list(found.values())


def _notes(args: CompareConfig) -> list[str]:
    """What a reader of the figures should know."""
    notes = [
        "Win rates count ties as one half.",
        "KL is summed over the tokens of a model's own completions, by one estimator for every method; best-of-n's is "
        "its analytic value, an upper bound where completions repeat.",
        "Intervals are 95 %, bootstrapped over prompts and seeds; the seeds' part is widened as Student's t asks. Cost "
        "shows the smallest and the largest run.",
    ]
    run = lineage.read_record(str(args.reward_model_path)) if args.reward_model_path else None
    if run:
        notes.append(
            f"PPO and best-of-n need the reward model too: {run['wall_seconds']:.0f} s once, not counted above."
        )
    if args.jobs > 1:
        notes.append(f"{args.jobs} arms were trained at once, each with its share of the cores: seconds are wall time.")
    return notes


def write(results: dict[str, Any], args: CompareConfig, run: dict[str, Any]) -> Path:
    """Add how it was made, and write report and results."""
    sft, rankings = str(args.model_name_or_path), args.rankings
    facts = [["SFT model", sft, short_hash(sft)]]
    facts += [["rankings", rankings, short_hash(rankings)]] if rankings else []
    made = setup(args, run, facts, results["reference"]["n"])
    seconds = sum(r["seconds"] for e in results["settings"] for r in e["runs"] if r["status"] == "complete") / args.jobs
    made |= {"seeds": sorted({r["seed"] for e in results["settings"] for r in e["runs"]})}
    made |= {"budgets": results.pop("budgets"), "seconds_in_all": seconds}
    results["notes"] += run["leaks"]
    results |= {"command": run["command"], "setup": made}
    return write_report(results, page.html(results), page.markdown(results), args)


def headline(results: dict[str, Any]) -> dict[str, Any]:
    """The verdict and each setting's means, for the run's record."""
    keys = ("kl", "reward", "gold")
    means = {e["label"]: {k: e[k]["value"] for k in keys if e.get(k)} for e in results["settings"]}
    return {"verdict": results["verdict"]["headline"], "failed": len(results["failed"]), "settings": means}


def show(results: dict[str, Any]) -> str:
    """The settings as a table, and the verdict."""
    judges = [key for key in ("gold", "reward") if results["reference"].get(key)]
    lines = ["", f"{'mean over seeds':<24}{'KL':>7}" + "".join(f"{key:>9}" for key in judges) + f"{'beats SFT':>24}"]
    for entry in [{"label": "SFT", **results["reference"]}, *results["settings"]]:
        if not entry.get("kl"):
            lines.append(f"{entry['label']:<24}  no run finished")
            continue
        cells = "".join(f"{entry[key]['value']:>9.3f}" for key in judges)
        rate = next(iter(entry.get("win_rate", {}).values()), None)
        won = f"{rate['value']:.1%} ({rate['low']:.1%} to {rate['high']:.1%})" if rate else ""
        lines.append(f"{entry['label']:<24}{entry['kl']['value']:>7.2f}{cells}{won:>24}")
    for point in results["best_of_n"][1:]:
        cells = "".join(f"{point[key]['value']:>9.3f}" for key in judges if key in point)
        label = f"best of {point['n']}"
        lines.append(f"{label:<24}{point['kl']:>7.2f}{cells}")
    said = results["verdict"]
    return "\n".join([*lines, "", said["headline"], *(f"  {sentence}" for sentence in said["sentences"])])
