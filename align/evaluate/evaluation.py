"""Several frozen models beside each other, for `recipes/eval.py`: what to measure, and the results as one mapping."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align import stats
from align.data import prepare
from align.evaluate import extras, policy
from align.evaluate.measures import wins
from align.evaluate.policy import Bench, MeasureArguments, Rows
from align.judge.endpoint import Endpoint
from align.judge.protocol import JudgeConfig
from align.run import gates, lineage
from align.run.arguments import DataArguments
from align.run.lineage import parent_problem

TRAINED = ("ppo", "dpo", "rloo")  # recipes whose runs get their gate here


@dataclass
class EvalConfig(MeasureArguments):
    """What `recipes/eval.py` takes beside the prompts' data arguments and the judge's."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "The model to evaluate, adapters included."})
    models: list[str] = field(
        default_factory=list, metadata={"help": "Several: name=path each, in the order of the table's columns."}
    )
    reference_model_path: str | None = field(
        default=None, metadata={"help": "What KL and win rates are measured against; the SFT model, as a rule."}
    )
    pairs: str | None = field(default=None, metadata={"help": "Held-out preference pairs or rankings: accuracies."})
    texts: str | None = field(default=None, metadata={"help": "Held-out plain text: perplexity, the alignment tax."})
    max_texts: int = field(default=200, metadata={"help": "At most so many documents of it."})
    suites: list[str] = field(
        default_factory=list, metadata={"help": "name=file each: safe and unsafe prompts (XSTest's format), or skills."}
    )
    personas: str | None = field(default=None, metadata={"help": "A sheet of topics and personas (YAML)."})
    lm_eval_tasks: list[str] = field(default_factory=list, metadata={"help": "Standard suites by lm-eval's names."})
    lm_eval_limit: int | None = field(default=None, metadata={"help": "At most so many items of each."})
    kl_budget: float = field(default=gates.KL_BUDGET, metadata={"help": "Of the gate of PPO and DPO runs, in nats."})
    max_pairs: int = field(default=1000, metadata={"help": "At most so many pairs."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.models and self.model_name_or_path:
            self.models = [f"{Path(self.model_name_or_path).name}={self.model_name_or_path}"]
        named = dict(entry.partition("=")[::2] for entry in self.models)
        problems = [f"models: {entry!r} is not name=path" for entry in self.models if "=" not in entry]
        problems += [f"suites: {entry!r} is not name=file" for entry in self.suites if "=" not in entry]
        if not self.models:
            problems.append("models is needed: --models sft=runs/mine/sft ppo=runs/mine/ppo, or --model_name_or_path")
        if len(named) != len(self.models):
            problems.append("models: every model needs a name of its own")
        for path in filter(None, [*named.values(), self.reference_model_path, self.pairs, self.texts]):
            if problem := parent_problem(path, allow_hub=True):
                problems.append(problem)
        if problems:
            raise ValueError("; ".join(problems))

    def named(self) -> dict[str, str]:
        """Paths by name. The reference is one of them, or the first."""
        return dict(entry.partition("=")[::2] for entry in self.models)

    def reference(self) -> str:
        """The reference's path."""
        return self.reference_model_path or next(iter(self.named().values()))


def prompts(data_args: DataArguments, tokenizer: Any, args: MeasureArguments) -> tuple[Rows, prepare.Report]:
    """The held-out prompts: the test split, or where there is none all rows."""
    splits = prepare.splits(data_args, "prompt", tokenizer, max_length=args.max_prompt_length, seed=args.seed)
    name = "train" if splits.test is None else "test"
    if splits.test is None:
        print(f"note: {data_args.dataset_name} has no test split; every row counts as held out", flush=True)
    return list(splits.train if splits.test is None else splits.test), splits.reports[name]


def evaluate(
    args: EvalConfig, tokenizer: Any, rows: Rows, judge: JudgeConfig
) -> tuple[dict[str, Any], dict[str, Rows]]:
    """Measure every model.

    Returns:
        `models`, `reward_model`, `gates` and `notes`, as `results.json` holds them; and each model's rows.
    """
    paths, reference = args.named(), args.reference()
    bench = Bench(args, tokenizer, rows, reference)
    measured = {name: policy.cached(bench, path, name, seed=args.seed) for name, path in paths.items()}
    mine = [name for name, path in paths.items() if Path(path) == Path(reference)]
    base = measured[mine[0]] if mine else policy.cached(bench, reference, "reference", seed=args.seed)
    endpoint = Endpoint(judge, Path(str(args.output_dir)) / "judge.sqlite") if judge.judge_url else None
    parents = [path for path in [*paths.values(), args.reward_model_path] if path and _recipe(path) not in TRAINED]
    results: dict[str, Any] = {"models": {}, "gates": gates.of_parents(parents)}
    for name, path in paths.items():
        found = {"path": path, **_origin(path), "sampled": policy.summary(measured[name])}
        if judged := policy.rates(measured[name]):
            found["rates"] = judged
        if name not in mine:
            found["win_rate"] = wins.win_rates([measured[name]], [base], endpoint)
        if found["recipe"] in TRAINED and _began_from(path, reference):
            results["gates"].append({"run": name, **_gate(measured[name], base, path, args)})
        results["models"][name] = found | extras.measure(bench, args, name, path)
    results["notes"] = []
    if endpoint is not None:
        results["notes"] += filter(None, [endpoint.summary()])
        endpoint.close()
    if args.reward_model_path and args.pairs:
        results["reward_model"] = extras.reward_model(args, tokenizer)
    return results, measured


def _gate(rows: Rows, base: Rows, path: str, args: EvalConfig) -> dict[str, Any]:
    """Judge a trained policy, and keep the gate with its run where that is here."""
    key = next((k for k in ("gold", "reward") if k in rows[0]), None)
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


def _origin(path: str) -> dict[str, Any]:
    run = lineage.read_record(path) or {}
    return {"recipe": _recipe(path) or "not recorded", "hash": (run.get("hash") or "")[:12]}
