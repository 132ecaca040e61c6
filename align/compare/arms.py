"""The arms of a comparison: which runs there must be, and training those that are missing.

An arm is one method at one strength with one seed. It is an ordinary run of a recipe, in `<output_dir>/arms/<name>`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from align.compare.config import CompareConfig
from align.models import adapters
from align.run import device, holds, lineage, pipeline, record
from align.run.arguments import DataArguments
from align.run.errors import ConfigError, RunError
from align.run.lineage import identity
from align.run.received import files, permission, records

KNOBS = {"ppo": "kl_coef", "dpo": "beta", "rloo": "beta"}


@dataclass
class Arm:
    """One run: trained here, or taken from elsewhere."""

    recipe: str  # ppo, dpo or rloo
    strength: float
    seed: int
    folder: Path
    stage: pipeline.Stage | None  # None: taken
    config: dict[str, Any] = field(default_factory=dict)  # what it is trained with; of a taken one, as it was
    error: str | None = None

    @property
    def knob(self) -> str:
        """The setting that the strength is of."""
        return KNOBS[self.recipe]

    @property
    def losses(self) -> list[str]:
        """The terms of DPO's loss; TRL's default is the sigmoid of Rafailov et al. 2023 alone."""
        found = self.config.get("loss_type") or "sigmoid"
        return list(found) if isinstance(found, list) else [found]

    @property
    def functions(self) -> list[str]:
        """PPO's reward functions, by name."""
        return [str(where).rpartition(":")[2] for where in self.config.get("reward_funcs") or []]

    @property
    def method(self) -> str:
        """`PPO`, `DPO`, or where loss or reward is another one what it is: `DPO + SFT`, `DPO (ipo)`, `PPO (vader)`."""
        if self.recipe != "dpo":
            joined = " + ".join(self.functions)
            model = self.config.get("reward_model_path")
            return self.recipe.upper() + (f" + {joined}" if joined and model else f" ({joined})" if joined else "")
        first, *more = self.losses
        own = "DPO" if first == "sigmoid" else f"DPO ({first})"
        return " + ".join([own, *("SFT" if term == "sft" else term for term in more)])

    @property
    def label(self) -> str:
        """`PPO, kl_coef 0.05`: the setting, without the seed."""
        return f"{self.method}, {self.knob} {self.strength:g}"

    @property
    def record(self) -> dict[str, Any]:
        """The run's own record."""
        return lineage.read_record(self.folder) or {}


def plan(args: CompareConfig, prompts: DataArguments, recipes: Path) -> list[Arm]:
    """Every arm, method by method, strength by strength, seed by seed; taken runs come as they are.

    Args:
        recipes: the folder that holds the programs `ppo.py`, `dpo.py` and `rloo.py`.
    """
    if args.take:
        taken = [_taken(path) for path in args.take]
        twice = [arm for arm in taken if [(a.label, a.seed) for a in taken].count((arm.label, arm.seed)) > 1]
        if twice:
            raise ConfigError(f"take: {twice[0].label} with seed {twice[0].seed} is there more than once: {args.take}")
        return taken
    programs = recipes.relative_to(Path.cwd()) if recipes.is_relative_to(Path.cwd()) else recipes
    arms, methods = [], dict[str, str]()
    for one in args.grid():
        mine = [
            _planned(args, prompts, programs / f"{one['recipe']}.py", one, strength, seed)
            for strength in one["strengths"]
            for seed in args.seeds
        ]
        for arm in mine[:1]:
            if (other := methods.setdefault(arm.method, one["name"])) != one["name"]:
                raise ConfigError(
                    f"{other} and {one['name']} are both {arm.method}: groups that differ in more than loss and reward "
                    "are comparisons of their own"
                )
        arms += mine
    return arms


def _taken(path: str) -> Arm:
    run = lineage.read_record(path) or {}
    recipe = str(run.get("recipe"))
    if recipe not in KNOBS:
        raise ConfigError(f"take: {path} is a run of {recipe}; PPO, DPO and RLOO runs can be compared")
    return Arm(recipe, float(run["config"][KNOBS[recipe]]), int(run["seed"]), Path(path), None, run["config"])


def _planned(
    args: CompareConfig, prompts: DataArguments, program: Path, group: dict[str, Any], strength: float, seed: int
) -> Arm:
    """Work out an arm's configuration, and the hash of all that goes into it. `group` is an entry of the grid."""
    recipe, config, over = group["recipe"], group["config"], group["over"]
    if not Path(config).is_file():
        raise ConfigError(f"{group['name']}: config {config}: no such file")
    folder = Path(str(args.output_dir)) / "arms" / f"{group['name']}-{KNOBS[recipe]}-{strength:g}-seed-{seed}"
    settings: dict[str, Any] = {"model_name_or_path": args.model_name_or_path, "output_dir": str(folder)}
    unsaid = asdict(DataArguments())  # what is not said here is the arm's own YAML's to say
    said = {key: value for key, value in asdict(prompts).items() if value != unsaid[key]}
    if recipe == "dpo":
        settings |= {
            "dataset_name": args.rankings,
            **{key: said[key] for key in said if key in ("prompt_format", "template_date")},
        }
    else:
        settings |= said
        settings |= {"reward_model_path": args.reward_model_path}
        settings["response_length" if recipe == "ppo" else "max_completion_length"] = args.max_new_tokens
        settings |= {"temperature": args.temperature, "max_prompt_length": args.max_prompt_length}
    if args.trust_remote_code:  # by the command that compares: no record is asked
        settings[permission.FLAG] = True
    if args.accept_failed:
        settings["accept_failed"] = args.accept_failed
    settings |= {**over, KNOBS[recipe]: strength, "seed": seed}
    own = yaml.safe_load(Path(config).read_text()) or {}
    rows = ("dataset_name", "datasets")  # the comparison says which; the arm's own YAML may name others
    whole = {key: value for key, value in own.items() if key not in rows}
    whole |= {key: value for key, value in settings.items() if value is not None}
    whole = {key: value for key, value in whole.items() if key not in over or over[key] is not None}  # null: without it
    parents = [args.model_name_or_path]
    parents += [args.rankings] if recipe == "dpo" else [whole.get("reward_model_path"), *prompts.parents().values()]
    inputs = [recipe.upper(), settings, own, [identity(str(p)) for p in parents if p]]
    if functions := whole.get("reward_funcs"):
        inputs.append([lineage.parents({"reward_func": where}) for where in functions])
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    argv = ["--config", str(_config_of(folder))]
    stage = pipeline.Stage(folder.name, [str(program)], folder, argv, args.launch, {}, True, digest)
    return Arm(recipe, strength, seed, folder, stage, whole)


def _config_of(folder: Path) -> Path:
    """Where an arm's whole configuration is written: YAML, since a mixture of rows cannot be said on a command line."""
    return folder.with_name(folder.name + ".yaml")


def train(arms: list[Arm], args: CompareConfig) -> None:
    """Run what is missing, `jobs` at a time. An arm that fails keeps its error and stops nothing else."""
    ledger = Path(str(args.output_dir)) / "arms.json"
    known: dict[str, Any] = records.read_ledger(ledger)
    waiting: list[tuple[Arm, list[str]]] = []
    for arm in arms:
        if arm.stage is None:
            continue
        extra = pipeline.how_to_start(arm.stage, known)
        if extra is not None:
            waiting.append((arm, extra))
            known[arm.stage.name] = {"inputs": arm.stage.inputs}
        if extra == ["--overwrite"]:  # what is there was trained with other inputs: it must not be taken for finished
            if why := holds.refusal(arm.folder):
                raise RunError(why)
            shutil.rmtree(arm.folder)
    record.write_json(ledger, known)
    _one_precision(arms, args)
    trained = sum(arm.stage is not None for arm in arms)
    print(f"{trained} arms to compare, {trained - len(waiting)} finished before", flush=True)
    if not waiting:
        return
    threads = max(1, (os.cpu_count() or 1) // args.jobs) if args.jobs > 1 else None
    begun = time.time()
    with _threads(threads), ThreadPoolExecutor(args.jobs) as pool:
        try:
            for number, done in enumerate(pool.map(lambda job: _run(*job), waiting), 1):
                print(
                    f"  {number} of {len(waiting)}  {done}  ({(time.time() - begun) / 60:.1f} min so far)", flush=True
                )
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()  # recorded as interrupted; the same command goes on
            raise


def _one_precision(arms: list[Arm], args: CompareConfig) -> None:
    """Hand down to every arm the rates that an arm was trained by, or those of this machine: one choice for all."""
    if device.has_gpu() or (adapters.parameters(str(args.model_name_or_path)) or 0) < device.FROM:
        return
    known = [found for arm in arms if arm.stage is not None and (found := arm.record.get("matrix_gflops"))]
    device.hand_down(device.Rates(known[0]["fp32"], known[0]["bf16"]) if known else None)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let every arm compute with `count` threads: several arms with all cores each are slower than one at a time."""
    before = os.environ.get("OMP_NUM_THREADS")
    if count is not None:
        os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        if count is not None:
            os.environ.pop("OMP_NUM_THREADS")
            os.environ |= {"OMP_NUM_THREADS": before} if before is not None else {}


def _run(arm: Arm, extra: list[str]) -> str:
    """Train one arm, its output in `<arm>.log`; a line that says how it went."""
    assert arm.stage is not None
    log = arm.folder.with_name(arm.folder.name + ".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    files.replace(_config_of(arm.folder), yaml.safe_dump(arm.config, sort_keys=False, allow_unicode=True))
    pipeline.execute(arm.stage, extra, log=log)  # its own record says how it ended
    run = arm.record
    if run.get("status") != "complete":
        arm.error = run.get("error") if run.get("status") == "failed" else _last_words(log)
        return f"{arm.label}, seed {arm.seed}: failed ({arm.error})"
    return f"{arm.label}, seed {arm.seed}: {run['wall_seconds']:.0f} s"


def _last_words(log: Path) -> str:
    """The error at the end of an arm's output."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it left no message"])[-1].removeprefix("error: ")[:300]
