"""Several frozen models beside each other: what an evaluation measures of each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from align import stats
from align.data import prepare, splits
from align.evaluate import extras, policy, trying
from align.evaluate.config import EvalConfig, MeasureArguments
from align.evaluate.measures import refusals, wins
from align.evaluate.policy import Bench, Rows
from align.evaluate.results import EvaluationResults, Gate, ModelResult, SafetyGrades, read
from align.judge.endpoint import Endpoint
from align.judge.protocol import JudgeConfig
from align.run import gates, lineage
from align.run.arguments import DataArguments
from align.run.trial import throwaway
from align.train import progress

TRAINED = ("ppo", "dpo", "rloo")  # recipes whose runs get their gate here


def prompts(data_args: DataArguments, tokenizer: Any, args: MeasureArguments) -> tuple[Rows, splits.Report]:
    """The held-out prompts: the test split, or where there is none all rows."""
    splits = prepare.rows(data_args, "prompt", tokenizer, max_length=args.max_prompt_length, seed=args.seed)
    print(splits, flush=True)
    name = "train" if splits.test is None else "test"
    if splits.test is None:
        print(f"note: {data_args.dataset_name} has no test split; every row counts as held out", flush=True)
    return list(splits.train if splits.test is None else splits.test), splits.reports[name]


def evaluate(
    args: EvalConfig, tokenizer: Any, rows: Rows, judge: JudgeConfig
) -> tuple[EvaluationResults, dict[str, Rows]]:
    """Measure every model.

    Returns:
        What was found, and each model's rows. Where it comes from is `program.write`'s to add.
    """
    paths, reference = args.named(), args.reference()
    if throwaway.asked():
        trying.rehearse(args, tokenizer, rows)
    bench = Bench(args, tokenizer, rows, reference)
    measured = {
        name: policy.cached(bench, path, name, seed=args.seed)
        for name, path in progress.told(list(paths.items()), "models measured")
    }
    mine = [name for name, path in paths.items() if lineage.same(path, reference)]
    base = measured[mine[0]] if mine else policy.cached(bench, reference, "reference", seed=args.seed)
    endpoint = Endpoint(judge, Path(str(args.output_dir)) / "judge.sqlite") if judge.judge_url else None
    parents = [path for path in [*paths.values(), args.reward_model_path] if path and _recipe(path) not in TRAINED]
    models: dict[str, ModelResult] = {}
    checked = gates.of_parents(parents)
    for name, path in progress.told(list(paths.items()), "models compared with the reference"):
        recipe, own_hash = _origin(path)
        if recipe in TRAINED and _began_from(path, reference):
            checked.append({"run": name, **_gate(measured[name], base, path, args)})
        models[name] = ModelResult(
            path=path,
            recipe=recipe,
            hash=own_hash,
            sampled=policy.summary(measured[name]),
            rates=policy.rates(measured[name]) or None,
            win_rate=None if name in mine else wins.win_rates([measured[name]], [base], endpoint),
            **extras.measure(bench, args, name, path, endpoint),
        )
    said = None
    if endpoint is not None:
        said = endpoint.summary()
        endpoint.close()
    both = args.reward_model_path and args.pairs
    results = EvaluationResults(
        models=models,
        gates=read(tuple[Gate, ...], checked),
        notes=(*bench.rounding(), *((said,) if said else ())),
        reward_model=extras.reward_model(args) if both else None,
        refusal_judge=refusals.judge_error() if any(_told_refusals(model) for model in models.values()) else None,
    )
    return results, measured


def _told_refusals(model: ModelResult) -> bool:
    return any(isinstance(found, SafetyGrades) for found in (model.suites or {}).values())


def _gate(rows: Rows, base: Rows, path: str, args: EvalConfig) -> dict[str, Any]:
    """Check a trained policy, and keep the gate with its run where that is here."""
    key = policy.decides(rows[0])
    gain = None
    if key:
        gain = stats.mean(policy.by_prompt(rows, key) - policy.by_prompt(base, key), seed=args.seed)
    kl = float(policy.by_prompt(rows, "kl").mean())
    return gates.keep(path, gates.policy(gain, kl, key or "", args.kl_budget), say=False)


def _began_from(path: str, reference: str) -> bool:
    """Is the reference the very model that the run was trained from? Only then is a gate about its KL."""
    parent = ((lineage.read_record(path) or {}).get("parents") or {}).get("model") or {}
    own = lineage.parents({"model": reference})["model"]["hash"]
    return own is not None and parent.get("hash") == own


def _recipe(path: str) -> str | None:
    return (lineage.read_record(path) or {}).get("recipe")


def _origin(path: str) -> tuple[str, str]:
    """The recipe that made a model, and the first digits of its run's hash."""
    run = lineage.read_record(path) or {}
    return _recipe(path) or "not recorded", (run.get("hash") or "")[:12]
