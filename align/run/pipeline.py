"""A chain of recipes: which stages still have to run, how they are launched, and the gates between them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import multiprocessing
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from align.run import gates, lineage
from align.run.arguments import TrialArguments
from align.run.errors import ConfigError, RunError
from align.run.received import files, records

# Loaded once by a server process from which each stage is forked: nine times six seconds of imports saved.
PRELOAD = ["align.run.parse", "transformers", "datasets", "trl.trainer.sft_trainer", "trl.trainer.dpo_trainer",
           "trl.trainer.reward_trainer", "deepspeed"]  # fmt: skip
STAGE_KEYS = {"name", "run", "config", "launch", "gate", "resumable", "seeded"}


@dataclass
class PipelineConfig(TrialArguments):
    """What the pipeline recipe takes. Paths in the stages' YAML that begin with `family_dir` follow `output_dir`."""

    output_dir: str | None = field(default=None, metadata={"help": "Folder of the chain's runs."})
    family_dir: str | None = field(
        default=None, metadata={"help": "That folder as the stages' YAML files write it, where it is another one."}
    )
    seed: int = field(default=0, metadata={"help": "Given to every stage that draws."})
    until: str | None = field(default=None, metadata={"help": "Name of the last stage to run."})
    stages: list[dict] = field(
        default_factory=list, metadata={"help": "YAML only: list of {name, run, config, launch, gate, …}."}
    )

    def __post_init__(self) -> None:
        for stage in self.stages:
            if unknown := set(stage) - STAGE_KEYS:
                raise ValueError(
                    f"stages: {stage.get('name')}: unknown key {sorted(unknown)}; allowed: {sorted(STAGE_KEYS)}"
                )
            if missing := {"name", "run", "config"} - set(stage):
                raise ValueError(f"stages: {stage.get('name', stage)}: {sorted(missing)} is needed")
        if not self.stages:
            raise ValueError("stages: the pipeline is empty; see recipes/nano/pipeline.yaml")
        names = [stage["name"] for stage in self.stages]
        if self.until is not None:
            if self.until not in names:
                raise ValueError(f"until={self.until}: there is no such stage; there are {', '.join(names)}")
            self.stages = self.stages[: names.index(self.until) + 1]


@dataclass
class Stage:
    """One stage with its arguments worked out."""

    name: str
    program: list[str]  # a recipe's path, or `-m module`
    folder: Path
    argv: list[str]
    launch: str | None
    gate: dict[str, str]
    resumable: bool
    inputs: str  # hash of configuration and parents


def _moved(value: Any, args: PipelineConfig) -> Any:
    """`<family_dir>/sft` as `<output_dir>/sft`, wherever a stage's YAML names it: also as `name=<family_dir>/sft`, and
    in the entries of a mixture."""
    home = args.family_dir or str(args.output_dir)
    if isinstance(value, list):
        return [_moved(item, args) for item in value]
    if isinstance(value, dict):
        return {key: _moved(item, args) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    name, equals, path = value.rpartition("=")
    if path == home or path.startswith(home + "/"):
        return name + equals + str(args.output_dir) + path[len(home) :]
    return value


def _paths(settings: dict[str, Any]) -> set[str]:
    """What a stage reads: every value, or `path` of `name=path:split`, that is there, but its own folder."""
    values = [v for k, v in settings.items() if k != "output_dir"]
    found = [item for value in values for item in (value if isinstance(value, list) else [value])]
    found += [entry["path"] for entry in settings.get("datasets") or []]
    paths = [re.sub(r":\w+$", "", item.rpartition("=")[2]) for item in found if isinstance(item, str)]
    return {path for path in paths if path and Path(path).exists()}


def plan(entry: dict[str, Any], args: PipelineConfig) -> Stage:
    """Read a stage's YAML and work out its command line, its folder and the hash of what goes into it."""
    path = Path(entry["config"])
    if not path.is_file():
        raise ConfigError(f"stage {entry['name']}: {path} is not there")
    settings = yaml.safe_load(path.read_text()) or {}
    moved = {key: _moved(value, args) for key, value in settings.items()}
    changed = {key: value for key, value in moved.items() if value != settings[key]}
    if any(_is_nested(value) for value in changed.values()):  # what only YAML can say
        path, changed = _written(moved, args, entry["name"]), {}
    argv = ["--config", str(path), *(["--seed", str(args.seed)] if entry.get("seeded", True) else [])]
    for key, value in changed.items():
        argv += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    program = shlex.split(entry["run"])
    folder = Path(moved["output_dir"])
    if not folder.absolute().is_relative_to(Path(str(args.output_dir)).absolute()):
        raise ConfigError(
            f"stage {entry['name']} would write to {folder}, which is not below output_dir {args.output_dir}: name the "
            "folder that the stages' YAML files write as --family_dir, and it moves"
        )
    ingredients = {"program": program, "settings": moved, "seed": args.seed, "code": _code_hash(program)}
    ingredients["parents"] = {parent: _parent_hash(parent, folder) for parent in sorted(_paths(moved))}
    digest = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()
    return Stage(
        entry["name"], program, folder, argv, entry.get("launch"), entry.get("gate") or {},
        bool(entry.get("resumable", True)), digest,
    )  # fmt: skip


def stage_of(chain: str, name: str) -> dict[str, Any]:
    """A chain's entry of that name, for programs that run one of its stages their own way.

    Raises:
        ConfigError: where there is none.
    """
    entries = yaml.safe_load(Path(chain).read_text())["stages"]
    found = next((entry for entry in entries if entry["name"] == name), None)
    if found is None:
        raise ConfigError(f"{chain} has no stage {name}; it has {', '.join(entry['name'] for entry in entries)}")
    return found


def _is_nested(value: Any) -> bool:
    """Is it, or does it hold, a mapping? A command line cannot say that."""
    return isinstance(value, dict) or isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _written(settings: dict[str, Any], args: PipelineConfig, name: str) -> Path:
    """A stage's settings in a file of the chain's own folder, for what its own YAML does not say."""
    path = Path(str(args.output_dir)) / "stages" / f"{name}.yaml"
    if not args.dry_run:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    return path


def _code_hash(program: list[str]) -> str:
    """For a stage that is a module and no recipe: a hash of its room's text, since there the code is the data."""
    if program[0] != "-m":
        return ""
    try:
        room = importlib.util.find_spec(".".join(program[1].split(".")[:2]))
    except ModuleNotFoundError as error:
        raise ConfigError(f"there is no module {program[1]} to run as a stage") from error
    folders = (room.submodule_search_locations if room else None) or []
    files = sorted(file for folder in folders for file in Path(folder).rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _parent_hash(path: str, child: Path) -> Any:
    """What a parent is: a run's own hash, the hashes of all runs in a folder (but `child`), or a hash of its files."""
    run = lineage.read_record(path)
    if run is not None:
        return run.get("hash")
    if not Path(path).is_dir():
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    runs = sorted(run.parent for run in Path(path).glob("*/run.json") if run.parent != child)
    return [(lineage.read_record(run) or {}).get("hash") for run in runs] or lineage.hash_files(Path(path))


def _follow_parent() -> None:
    """End with the pipeline, also where it was killed: a stage that went on would write beside the next start's."""
    parent: Any = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)  # the record says `interrupted`

    threading.Thread(target=follow, daemon=True).start()


def _in_process(program: list[str], argv: list[str], log: Path | None = None) -> None:
    """The body of a forked stage: the recipe as `__main__`, as if launched."""
    _follow_parent()
    if log is not None:
        with log.open("a") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
    if threads := os.environ.get("OMP_NUM_THREADS"):  # torch is loaded already, and asks no more
        import torch

        torch.set_num_threads(int(threads))
    module = program[0] == "-m"
    sys.argv = [program[-1] if module else program[0], *argv]
    if module:
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(program[0]).parent))
        runpy.run_path(program[0], run_name="__main__")


def execute(stage: Stage, extra: list[str], log: Path | None = None) -> int:
    """Run one stage to its end, its output on the screen or in `log`, and return its exit status."""
    argv = [*stage.argv, *extra]
    if stage.launch:
        with log.open("a") if log else contextlib.nullcontext() as stream:
            command = [*shlex.split(stage.launch), *stage.program, *argv]
            return subprocess.call(command, stdout=stream, stderr=subprocess.STDOUT if stream else None)
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(PRELOAD)
    process = server.Process(target=_in_process, args=(stage.program, argv, log))
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:
        process.join(30)
        raise
    return process.exitcode or 0


def how_to_start(stage: Stage, known: dict[str, Any]) -> list[str] | None:
    """Extra arguments to start a stage with; None where it is finished and its inputs have not changed."""
    run = lineage.read_record(stage.folder)
    if run is None:
        return []
    unchanged = known.get(stage.name, {}).get("inputs") == stage.inputs
    if unchanged and run.get("status") == "complete":
        return None
    cut_off = stage.resumable and any(stage.folder.glob("checkpoint-*")) or run.get("resumable")
    if unchanged and cut_off:
        return ["--resume_from_checkpoint", "last"]
    if "reopens" not in run and (unchanged or run.get("status") == "complete"):  # nobody knows what is to be kept
        raise RunError(
            f"stage {stage.name}: {stage.folder} is an earlier version's ({run.get('status')}); remove it to make it "
            f"again, finish it by hand (--resume_from_checkpoint last), or name another --output_dir"
        )
    return [] if run.get("reopens") else ["--overwrite"]


def run_stages(args: PipelineConfig) -> list[dict[str, Any]]:
    """Run the chain. Returns what each stage took; raises RunError at the first one that fails or misses its gate."""
    root = Path(str(args.output_dir))
    root.mkdir(parents=True, exist_ok=True)
    ledger = root / "pipeline.json"
    known: dict[str, Any] = records.read_ledger(ledger)
    done = []
    for number, entry in enumerate(args.stages, 1):
        stage = plan(entry, args)
        title = f"stage {number} of {len(args.stages)}: {stage.name}"
        extra = how_to_start(stage, known)
        if extra is None:
            print(f"{title} — finished before, inputs unchanged", flush=True)
        else:
            print(
                f"\n{title}{' — going on where it stopped' if '--resume_from_checkpoint' in extra else ''}", flush=True
            )
            known[stage.name] = {"inputs": stage.inputs}
            files.replace(ledger, json.dumps(known, indent=2) + "\n")
            started = time.time()
            status = execute(stage, extra)
            if status:
                ended = lineage.read_record(stage.folder) or {}
                if ended.get("status") == "complete":  # it never began: what is there is of other inputs
                    del known[stage.name]
                    files.replace(ledger, json.dumps(known, indent=2) + "\n")
                reason = ended.get("error", "see above")
                raise RunError(f"stage {stage.name} failed with exit status {status}: {reason}")
            print(f"{title} took {time.time() - started:.0f} s", flush=True)
        gates.check_bounds(stage.name, (lineage.read_record(stage.folder) or {}).get("metrics", {}), stage.gate)
        run = lineage.read_record(stage.folder) or {}
        took = {key: run.get(key) for key in ("recipe", "wall_seconds", "peak_memory_bytes")}
        done.append({"name": stage.name, "folder": str(stage.folder), **took})
    return done


def reports(done: list[dict[str, Any]]) -> list[str]:
    """The pages that stages have left, the last stage's last."""
    pages = (Path(stage["folder"]) / "report.html" for stage in done)
    return [str(page) for page in pages if page.is_file()]


def talkers(done: list[dict[str, Any]]) -> list[str]:
    """Folders of the models that can be talked to: those that were fine-tuned."""
    return [stage["folder"] for stage in done if stage["recipe"] in ("sft", "dpo", "ppo")]
