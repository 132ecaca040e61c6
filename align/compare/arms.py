"""The arms of a comparison: which runs there must be, training those that are missing, refusing what does not compare.

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
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from align.compare.config import CompareConfig
from align.models.checkpoints import load_tokenizer
from align.run import lineage, pipeline, record
from align.run.arguments import DataArguments
from align.run.errors import ConfigError
from align.run.lineage import identity

KNOBS = {"PPO": "kl_coef", "DPO": "beta", "RLOO": "beta"}


@dataclass
class Arm:
    """One run: trained here, or taken from elsewhere."""

    method: str
    strength: float
    seed: int
    folder: Path
    stage: pipeline.Stage | None  # None: taken
    error: str | None = None

    @property
    def label(self) -> str:
        """`PPO, kl_coef 0.05`: the setting, without the seed."""
        return f"{self.method}, {KNOBS[self.method]} {self.strength:g}"

    @property
    def record(self) -> dict[str, Any]:
        """The run's own record."""
        return lineage.read_record(self.folder) or {}


def plan(args: CompareConfig, prompts: DataArguments) -> list[Arm]:
    """Every arm, method by method, strength by strength, seed by seed; taken runs come as they are."""
    if args.take:
        taken = [_taken(path) for path in args.take]
        twice = [arm for arm in taken if [(a.label, a.seed) for a in taken].count((arm.label, arm.seed)) > 1]
        if twice:
            raise ConfigError(f"take: {twice[0].label} with seed {twice[0].seed} is there more than once: {args.take}")
        return taken
    grid = [
        ("PPO", args.ppo_config, args.kl_coefs, args.ppo),
        ("DPO", args.dpo_config, args.betas, args.dpo),
        ("RLOO", args.rloo_config, args.rloo_betas, args.rloo),
    ]
    return [
        _planned(args, prompts, method, config, strength, seed, over)
        for method, config, strengths, over in grid
        if config
        for strength in strengths
        for seed in args.seeds
    ]


def _taken(path: str) -> Arm:
    run = lineage.read_record(path) or {}
    method = str(run.get("recipe")).upper()
    if method not in KNOBS:
        raise ConfigError(f"take: {path} is a run of {run.get('recipe')}; PPO, DPO and RLOO runs can be compared")
    return Arm(method, float(run["config"][KNOBS[method]]), int(run["seed"]), Path(path), None)


def _planned(
    args: CompareConfig, prompts: DataArguments, method: str, config: str, strength: float, seed: int, over: dict
) -> Arm:
    """Work out an arm's command line, and the hash of everything that goes into it."""
    if not Path(config).is_file():
        raise ConfigError(f"{method.lower()}_config {config}: no such file")
    folder = Path(str(args.output_dir)) / "arms" / f"{method.lower()}-{KNOBS[method]}-{strength:g}-seed-{seed}"
    settings: dict[str, Any] = {"model_name_or_path": args.model_name_or_path, "output_dir": str(folder)}
    if method == "DPO":
        settings["dataset_name"] = args.rankings
    else:
        plain = asdict(DataArguments())  # what is not said here is the arm's own YAML's to say
        settings |= {key: value for key, value in asdict(prompts).items() if value != plain[key]}
        settings |= {"reward_model_path": args.reward_model_path}
        settings["response_length" if method == "PPO" else "max_completion_length"] = args.max_new_tokens
        settings["temperature"] = args.temperature
    if args.accept_failed:
        settings["accept_failed"] = args.accept_failed
    settings |= {**over, KNOBS[method]: strength, "seed": seed}
    argv = ["--config", config]
    for key, value in settings.items():
        if value is not None:
            argv += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    parents = [args.model_name_or_path]
    parents += [args.rankings] if method == "DPO" else [args.reward_model_path, prompts.dataset_name]
    inputs = [method, settings, yaml.safe_load(Path(config).read_text()), [identity(str(p)) for p in parents if p]]
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    program = [f"recipes/{method.lower()}.py"]
    stage = pipeline.Stage(folder.name, program, folder, argv, args.launch, {}, True, digest)
    return Arm(method, strength, seed, folder, stage)


def train(arms: list[Arm], args: CompareConfig) -> None:
    """Run what is missing, `jobs` at a time. An arm that fails keeps its error and stops nothing else."""
    ledger = Path(str(args.output_dir)) / "arms.json"
    known: dict[str, Any] = json.loads(ledger.read_text()) if ledger.is_file() else {}
    waiting: list[tuple[Arm, list[str]]] = []
    for arm in arms:
        if arm.stage is None:
            continue
        extra = pipeline.how_to_start(arm.stage, known)
        if extra is not None:
            waiting.append((arm, extra))
            known[arm.stage.name] = {"inputs": arm.stage.inputs}
        if extra == ["--overwrite"]:  # what is there was trained with other inputs: it must not be taken for finished
            shutil.rmtree(arm.folder)
    record.write_json(ledger, known)
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


def check(arms: list[Arm], args: CompareConfig, prompts: DataArguments) -> None:
    """Refuse to compare runs that differ in anything but method, strength and seed.

    Raises:
        ConfigError: naming every run and in what it differs.
    """
    wanted = lineage.parents(
        {"model": args.model_name_or_path, "reward_model": args.reward_model_path, "prompts": prompts.dataset_name,
         "rankings": args.rankings}
    )  # fmt: skip
    problems = _reward_model_problems(args, wanted)
    template = _template(str(args.model_name_or_path))
    others: dict[str, list[tuple[Arm, dict[str, Any]]]] = {}
    rows: dict[tuple[str, str], set[str]] = defaultdict(set)
    for arm in arms:
        run = arm.record
        if arm.error or run.get("status") != "complete":
            continue
        parents = run.get("parents", {})
        roles = {"model": "model", "data": "rankings" if arm.method == "DPO" else "prompts"}
        if arm.method != "DPO":
            roles["reward_model"] = "reward_model"
        for role, name in roles.items():
            mine, theirs = parents.get(role) or {}, wanted.get(name) or {}
            if _who(mine) != _who(theirs):
                problems.append(f"{arm.folder}: its {name} is {_named(mine)}, not {_named(theirs)}")
        if _template(str(arm.folder)) != template:
            problems.append(f"{arm.folder}: its chat template differs from that of {args.model_name_or_path}")
        length = run["config"].get("response_length" if arm.method == "PPO" else "max_completion_length")
        if arm.method != "DPO" and length != args.max_new_tokens:
            problems.append(f"{arm.folder}: trained on answers of {length} tokens, judged on {args.max_new_tokens}")
        heat = run["config"].get("temperature")
        if arm.method != "DPO" and heat != args.temperature:
            problems.append(f"{arm.folder}: trained at temperature {heat}, judged at {args.temperature}")
        rows[("rankings" if arm.method == "DPO" else "prompts", arm.method)].add(run["data"]["train"]["fingerprint"])
        others.setdefault(arm.method, []).append((arm, settings_of(run, arm.method)))
    for method, members in others.items():
        keys = {k for _, one in members for k in one if one[k] != members[0][1].get(k)}
        if keys:
            problems.append(f"{method}: the runs differ in {', '.join(sorted(keys))}, not only in strength and seed")
    for (what, method), found in rows.items():
        if len(found) > 1:
            problems.append(f"{method}: the runs were trained on different rows of the {what}")
    if problems:
        raise ConfigError("these runs cannot be compared:\n" + "\n".join(f"  - {problem}" for problem in problems))


def _reward_model_problems(args: CompareConfig, wanted: dict[str, Any]) -> list[str]:
    """PPO's reward model and DPO must have seen the same rankings, and start from the same SFT model."""
    run = lineage.read_record(str(args.reward_model_path)) if args.reward_model_path else None
    if run is None:
        return []
    problems: list[str] = []
    for role, name in (("data", "rankings"), ("model", "model")):
        mine, theirs = run.get("parents", {}).get(role) or {}, wanted.get(name) or {}
        if theirs and _who(mine) != _who(theirs):
            problems.append(
                f"{args.reward_model_path}: the reward model's {name} is {_named(mine)}, not {_named(theirs)}"
            )
    return problems


def _who(parent: dict[str, Any]) -> str | None:
    """A parent by its hash; a hub id, which has none here, by its name."""
    return parent.get("hash") or parent.get("path")


def _named(parent: dict[str, Any]) -> str:
    return f"{parent.get('path')} ({str(parent.get('hash'))[:12]})"


def _template(path: str) -> str:
    """A checkpoint's chat template."""
    file = Path(path) / "chat_template.jinja"
    return file.read_text() if file.is_file() else str(load_tokenizer(path).chat_template)


def settings_of(run: dict[str, Any], method: str) -> dict[str, Any]:
    """A run's configuration without what may differ between the arms of one method."""
    return {k: v for k, v in run["config"].items() if k not in (*OWN_KEYS, KNOBS[method])}


OWN_KEYS = ("seed", "data_seed", "output_dir", "logging_dir", "run_name", "overwrite", "resume_from_checkpoint",
            "hub_model_id", "exp_name", "accept_failed")  # fmt: skip
