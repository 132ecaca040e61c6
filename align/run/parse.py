"""Configuration: dataclasses <- recipe defaults <- YAML (`--config`) <- command line. Strict, and resolved once.

Everything that can be wrong with a configuration is found before a model is loaded and reported in one message:
unknown keys with the nearest right one, values of the wrong type, combinations that cannot work.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from align.run import device, gates, lineage
from align.run.arguments import DataArguments
from align.run.checks import limits, resumed
from align.run.errors import ConfigError, fail
from align.run.flags import Flags
from align.run.launch import asked_kind
from align.run.received import permission
from align.run.trial import again, throwaway


def _read_yaml(path: str) -> dict[str, Any]:
    import yaml

    if not Path(path).is_file():
        raise ConfigError(f"--config {path}: no such file. Shipped ones: recipes/nano/*.yaml, recipes/<model>/*.yaml")
    try:
        values = yaml.safe_load(Path(path).read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--config {path} must hold `key: value` lines, got a {type(values).__name__}")
    return values


def _config_path(argv: list[str], nano: str | None) -> tuple[str | None, list[str]]:
    """The YAML file to read, and the command line without `--config`. Nothing named means the nano family's."""
    rest, path = [], None
    tokens = iter(argv)
    for token in tokens:
        if token == "--config":
            path = next(tokens, None)
            if path is None:
                raise ConfigError("--config needs a file: --config recipes/nano/sft.yaml")
        elif token.startswith("--config="):
            path = token.removeprefix("--config=")
        else:
            rest.append(token)
    names = {token.split("=")[0] for token in rest}
    if path is None and not names & {"--model_name_or_path", "--dataset_name", "--input", "--help", "-h"}:
        path = nano
        if nano and not Path(nano).is_file():
            raise ConfigError(f"no --config given, and the nano family's {nano} is not here: run from the repository")
    return path, rest


_named: list[str] = []  # what the command and its YAML set, of the configuration that was read last
PARENT_KEYS = ("model_name_or_path", "reward_model_path", "tokenizer_name_or_path", "dataset_name")


def _parent_problems(values: dict[str, Any], gated: bool = True) -> list[str]:
    """Paths that are named and are not there, parents that did not finish or failed: before anything is loaded."""
    accepted = values.get("accept_failed") or []
    problems = []
    for key in PARENT_KEYS:
        value = values.get(key)
        if value:
            problem = lineage.parent_problem(str(value), allow_hub=True)
            folder = lineage.run_directory(str(value))
            if problem is None and gated and folder and str(value) not in accepted and str(folder) not in accepted:
                problem = gates.problem(str(value), folder)
                for line in gates.unmeasured(str(value), folder):
                    print(line, flush=True)
            if problem:
                problems.append(f"{key}: {problem}")
    parent, revision = str(values.get("model_name_or_path") or ""), values.get("model_revision") or "main"
    if revision != "main" and Path(parent).is_dir():
        problems.append(f"model_revision={revision}: {parent} is a folder here, and only hub ids have revisions; leave "
                        "it out")  # fmt: skip
    inputs = [values.get(key) for key in PARENT_KEYS]
    inputs += [entry.get("path") for entry in values.get("datasets") or [] if isinstance(entry, dict)]
    for entry in values.get("datasets") or []:
        if not isinstance(entry, dict) or "path" not in entry:
            problems.append(f"datasets: every entry needs a path, got {entry!r}")
        elif problem := lineage.parent_problem(str(entry["path"]), allow_hub=True):
            problems.append(f"datasets: {problem}")
    out = Path(str(values.get("output_dir") or "\0")).absolute()
    for path in filter(None, inputs):
        if Path(str(path)).exists() and Path(str(path)).absolute().is_relative_to(out):
            problems.append(f"output_dir {values['output_dir']} holds this run's own input {path}; name another folder")
    if values.get("dataset_name") and values.get("datasets"):
        problems.append("dataset_name and datasets were both given: name one source, or put all into datasets")
    return problems


def _lacking(values: dict[str, Any], required: tuple[str, ...], broken: set[str], *, rows: bool) -> list[str]:
    """Values that must be given and are not; what was given wrongly is told elsewhere."""
    problems = []
    if rows and not (values.get("dataset_name") or values.get("datasets") or "dataset_name" in broken):
        problems.append("dataset_name is needed: --dataset_name rows.jsonl (or a hub id, a folder, a finished run)")
    return problems + [
        f"{key} is needed: --{key} …"
        for key in required
        if values.get(key) in (None, "") and key not in broken and not (key == "output_dir" and values.get("preview"))
    ]


def _typed(
    flags: Flags, path: str | None, rest: list[str], refused: dict[str, str]
) -> tuple[dict[str, Any], set[str], list[str]]:
    """What the file and then the command line give: values, keys whose values are wrong, and what is wrong."""
    given: dict[str, Any] = {}
    broken: set[str] = set()
    from_line, problems = flags.command_line(rest)
    for where, raw in ((path, _read_yaml(path) if path else {}), ("command line", from_line)):
        typed, found = flags.typed(raw, refused)
        given |= typed
        broken |= set(raw) - set(typed)
        problems += [f"{problem} ({where})" for problem in found]
    return given, broken, problems


def parse(
    *classes: type,
    nano: str | None,
    defaults: dict[str, Any] | None = None,
    lora_defaults: dict[str, Any] | None = None,
    required: tuple[str, ...] = ("output_dir",),
    refused: dict[str, str] | None = None,
    gated: bool = True,
    size: Callable[[dict[str, Any]], int | None] | None = None,
    argv: list[str] | None = None,
    planned: bool | None = None,
) -> tuple[Any, ...]:
    """Read the configuration of one recipe.

    Args:
        classes: dataclasses to fill, in the order in which they are returned.
        nano: the YAML that is read where nothing was named (no config, model or data set).
        defaults: the recipe's own defaults, over the classes' ones.
        lora_defaults: those that apply under `--use_peft`, over `defaults` (a learning rate of its own).
        required: keys that must have a value in the end.
        refused: keys that this recipe does not honour, each with the reason.
        gated: refuse parents whose gate failed; not for the recipe that measures them.
        size: of a recipe that trains: from settings to the parameters of the model; a CPU's precision depends on it.
        argv: the command line; `sys.argv[1:]` by default.
        planned: nothing is going to run here, and rows need not be named: has the machine that it is planned for a GPU?

    Raises:
        ConfigError: with every problem found; no model has been loaded by then.
    """
    path, rest = _config_path(list(sys.argv[1:] if argv is None else argv), nano)
    flags = Flags(classes)
    if {"--help", "-h"} & set(rest):
        flags.parser.print_help()
        raise SystemExit(0)
    given, broken, problems = _typed(flags, path, rest, refused or {})
    _named[:] = sorted(given)
    given |= resumed.kept(given, flags.known)
    given |= device.launched(flags.known, given)
    values = {**(defaults or {}), **((lora_defaults or {}) if given.get("use_peft") else {}), **given}
    if {"bf16", "dtype"} & set(flags.known):  # a program without a model is spared loading torch, a second and 300 MB
        values = {**device.defaults(flags.known, given, planned), **values}
        problems += device.unsupported(given) if planned is None else []
    gpu = "bf16" in flags.known and (device.has_gpu() if planned is None else planned)
    problems += limits.problems(given, values, flags.known, gpu=gpu)
    problems += [*throwaway.problems(values), *_parent_problems(values, gated)]
    problems += _lacking(values, required, broken, rows=planned is None and DataArguments in classes)
    if problems:
        fail(problems)
    values |= again.sizes(bool(values.get("find_batch_size")))
    filled = _precise(classes, values, given, None if planned else size)
    throwaway.begin(filled, bool(values.get("dry_run")))
    if path:
        print(f"config: {path}" + ("" if "--config" in " ".join(argv or sys.argv) else " (nothing was named)"))
    return filled


def named() -> list[str]:
    """The keys that the command and its YAML set, of the configuration that was read last."""
    return [*_named]


def _precise(classes: tuple[type, ...], values: dict[str, Any], settled: Any, size: Any) -> tuple[Any, ...]:
    """Fill the dataclasses, with the precision that is the faster one on this CPU where nobody has settled it."""
    filled = _build(classes, values)  # by now the processes have met, and can agree
    if size is None or device.has_gpu() or asked_kind() not in ("single", "ddp"):
        return filled
    other = device.precision(values, settled, size(values))
    return _build(classes, values | other) if other else filled  # anew: more follows from precision than flags


def _build(classes: tuple[type, ...], values: dict[str, Any]) -> tuple[Any, ...]:
    """Fill the dataclasses; what they refuse themselves comes out at once as well. What they load may ask for code."""
    permission.give(bool(values.get("trust_remote_code")))
    filled, problems = [], []
    for cls in classes:
        names = {f.name for f in dataclasses.fields(cls) if f.init}
        try:
            filled.append(cls(**{key: value for key, value in values.items() if key in names}))
        except (ValueError, TypeError, ImportError) as error:
            problems.append(str(error))
    if problems:
        fail(problems)
    return tuple(filled)


def resolved(*groups: Any) -> dict[str, Any]:
    """The configuration as one flat, JSON-ready mapping, without secrets."""
    flat: dict[str, Any] = {}
    for group in groups:
        values = group.to_dict() if hasattr(group, "to_dict") else dataclasses.asdict(group)
        flat.update({k: v for k, v in values.items() if not k.endswith("_token") or v is None})
    return flat
