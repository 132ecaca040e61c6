"""Configuration: dataclasses <- recipe defaults <- YAML (`--config`) <- command line. Strict, and resolved once.

Everything that can be wrong with a configuration is found before a model is loaded and reported in one message:
unknown keys with the nearest right one, values of the wrong type, combinations that cannot work.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from align.run import device
from align.run.arguments import DataArguments
from align.run.errors import ConfigError, fail

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL pings its maker at every trainer; not from here
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # the reason for using its PPO is in pyproject.toml
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
# Said at every start of a machine without a GPU; our own first lines name the device
logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
# TRL 1.12 sets the old name; transformers 5.23 warns of it at every start
warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)


# Fields of TRL's and transformers' own classes that our recipes decide, and what to do instead of setting them.
REFUSED = {
    "gradient_accumulation_steps": "it is derived: state --global_batch_size and --per_device_train_batch_size",
    "assistant_only_loss": "the loss is always on the assistant's tokens and the stop token only",
    "completion_only_loss": "the loss is always on the completion and the stop token only",
    "dataset_text_field": "map the column instead: --columns body=text",
    "dataset_kwargs": "rows are tokenised by align.data.prepare; there is nothing to pass on",
    "truncation_mode": "rows are never truncated; see --max_length and --max_dropped",
    "pad_token": "the pad token is chosen so that it differs from every stop token; see align.data.chat",
    "eos_token": "the stop token is read off the chat template; see --chat_template_path",
    "model_init_kwargs": "use --dtype, --attn_implementation and --model_revision",
    "lora_task_type": "each recipe sets it (SEQ_CLS for reward models, CAUSAL_LM elsewhere)",
    "auto_find_batch_size": "it would change the recipe unseen; lower --per_device_train_batch_size",
    "stop_token": "the stop token is read off the chat template",
    "stop_token_id": "the stop token is read off the chat template",
    "sft_model_path": "use --model_name_or_path",
    "ignore_data_skip": "a resumed run must see the rows that it has not seen yet",
    "deepspeed": "launch with accelerate_configs/zero2.yaml (or zero1, zero3)",
    "fsdp": "launch with accelerate_configs/fsdp2.yaml",
    "load_best_model_at_end": "not supported yet: the last model is the one that is saved",
}


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


class _Parser:
    """TRL's parser, asked about every value by itself so that all problems come out at once."""

    def __init__(self, classes: list[type]):
        from trl import TrlParser

        self.classes = classes
        self.parser = TrlParser(classes, allow_abbrev=False, formatter_class=argparse.HelpFormatter)
        # a flag that is on by default has a second action, `--no_flag`, which knows no type
        self.actions = {a.dest: a for a in self.parser._actions if f"--{a.dest}" in a.option_strings}
        self.actions.pop("help")
        self.known = sorted(self.actions)

    def problem(self, key: str, value: Any) -> str | None:
        """Why `value` cannot be given to `key`; None where it can."""
        if key not in self.actions:
            return f"unknown key {key}{_nearest(key, self.known)}"
        action = self.actions[key]
        if value is None or isinstance(value, dict):
            return None
        values = value if isinstance(value, list) else [value]
        if isinstance(value, list) and action.nargs != "+":
            return f"{key} takes one value, not a list: {value!r}"
        for item in values:
            if isinstance(item, dict):
                continue
            text = str(item).lower() if isinstance(item, bool) else str(item)
            try:
                self.parser._check_value(action, self.parser._get_value(action, text))
            except argparse.ArgumentError as error:
                return f"{key}: {str(error).split(': ', 1)[-1]}"
        return None

    def command_line(self, argv: list[str]) -> tuple[dict[str, Any], list[str]]:
        """`--key value`, `--key=value`, `--flag` and `--no_flag` into keys and raw values, and what is not one."""
        given: dict[str, Any] = {}
        stray: list[str] = []
        index = 0
        while index < len(argv):
            token = argv[index]
            index += 1
            if not token.startswith("--"):
                stray.append(f"stray argument {token!r}: arguments are --key value")
                continue
            key, equals, inline = token[2:].partition("=")
            values = [inline] if equals else []
            while not equals and index < len(argv) and not argv[index].startswith("--"):
                values.append(argv[index])
                index += 1
            action = self.parser._option_string_actions.get(f"--{key}")
            name = action.dest if action else key
            if not values:
                takes_none = action is None or action.nargs in ("?", 0)
                given[name] = not key.startswith("no_")
                if not takes_none:
                    stray.append(f"{name} needs a value")
            elif action is not None and action.nargs == "+":
                given[name] = values
            else:
                given[name] = values[0]
                stray += [f"stray argument {value!r} after --{key} {values[0]}" for value in values[1:]]
        return given, stray


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


PARENT_KEYS = ("model_name_or_path", "reward_model_path", "tokenizer_name_or_path", "dataset_name")


def _parent_problems(values: dict[str, Any], gates: bool = True) -> list[str]:
    """Paths that are named and are not there, parents that did not finish or failed: before anything is loaded."""
    from align.run.gates import problem as gate_problem
    from align.run.lineage import parent_problem, run_directory

    accepted = values.get("accept_failed") or []
    accepted = [accepted] if isinstance(accepted, str) else accepted

    problems = []
    for key in PARENT_KEYS:
        value = values.get(key)
        if value:
            problem = parent_problem(str(value), allow_hub=True)
            folder = run_directory(str(value))
            if problem is None and gates and folder and str(value) not in accepted and str(folder) not in accepted:
                problem = gate_problem(str(value), folder)
            if problem:
                problems.append(f"{key}: {problem}")
    inputs = [values.get(key) for key in PARENT_KEYS]
    inputs += [entry.get("path") for entry in values.get("datasets") or [] if isinstance(entry, dict)]
    for entry in values.get("datasets") or []:
        if not isinstance(entry, dict) or "path" not in entry:
            problems.append(f"datasets: every entry needs a path, got {entry!r}")
        elif problem := parent_problem(str(entry["path"]), allow_hub=True):
            problems.append(f"datasets: {problem}")
    out = Path(str(values.get("output_dir") or "\0")).absolute()
    for path in filter(None, inputs):
        if Path(str(path)).exists() and Path(str(path)).absolute().is_relative_to(out):
            problems.append(f"output_dir {values['output_dir']} holds this run's own input {path}; name another folder")
    if values.get("dataset_name") and values.get("datasets"):
        problems.append("dataset_name and datasets were both given: name one source, or put all into datasets")
    return problems


def parse(
    *classes: type,
    nano: str | None,
    defaults: dict[str, Any] | None = None,
    lora_defaults: dict[str, Any] | None = None,
    required: tuple[str, ...] = ("output_dir",),
    gates: bool = True,
    argv: list[str] | None = None,
) -> tuple[Any, ...]:
    """Read the configuration of one recipe.

    Args:
        classes: dataclasses to fill, in the order in which they are returned.
        nano: the YAML that is read where nothing was named (no config, model or data set).
        defaults: the recipe's own defaults, over the classes' ones.
        lora_defaults: those that apply under `--use_peft`, over `defaults` (a learning rate of its own).
        required: keys that must have a value in the end.
        gates: refuse parents whose gate failed; not for the recipe that measures them.
        argv: the command line; `sys.argv[1:]` by default.

    Raises:
        ConfigError: with every problem found; no model has been loaded by then.
    """
    path, rest = _config_path(list(sys.argv[1:] if argv is None else argv), nano)
    reader = _Parser(list(classes))
    if "--help" in rest or "-h" in rest:
        reader.parser.print_help()
        raise SystemExit(0)
    from_file = _read_yaml(path) if path else {}
    from_line, problems = reader.command_line(rest)
    for where, values in ((path, from_file), ("command line", from_line)):
        for key, value in values.items():
            if problem := reader.problem(key, value):
                problems.append(f"{problem} ({where})")
            elif key in REFUSED and value not in (None, "auto"):
                problems.append(f"{key} cannot be set: {REFUSED[key]} ({where})")
    explicit = {**from_file, **from_line}
    use_peft = str(explicit.get("use_peft", False)).lower() in ("true", "1", "yes")
    recipe_defaults = {**(defaults or {}), **((lora_defaults or {}) if use_peft else {})}
    values = {**recipe_defaults, **explicit}
    if {"bf16", "dtype"} & set(reader.known):  # a program without a model is spared loading torch, a second and 300 MB
        values = {**device.defaults(reader.known, explicit), **values}
        problems += device.unsupported(explicit)
    problems += _parent_problems(values, gates)
    if DataArguments in classes and not (values.get("dataset_name") or values.get("datasets")):
        problems.append("dataset_name is needed: --dataset_name rows.jsonl (or a hub id, a folder, a finished run)")
    if values.get("dataset_streaming") in (True, "true", "True") and not any("Pretrain" in c.__name__ for c in classes):
        problems.append("dataset_streaming is for pretraining only: other recipes judge and count every row first")
    problems += [f"{key} is needed: --{key} …" for key in required if values.get(key) in (None, "")]
    if problems:
        fail(problems)
    filled = _build(reader, values, explicit)
    if path:
        print(f"config: {path}" + ("" if "--config" in " ".join(argv or sys.argv) else " (nothing was named)"))
    return filled


def _build(reader: _Parser, values: dict[str, Any], explicit: dict[str, Any]) -> tuple[Any, ...]:
    """Fill the dataclasses with checked values; those that came as text get their field's type."""
    typed: dict[str, Any] = {}
    for key, value in values.items():
        action = reader.actions[key]
        nested = isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict))
        if key not in explicit or nested or value is None:
            typed[key] = value
        elif isinstance(value, list):
            typed[key] = [reader.parser._get_value(action, str(item)) for item in value]
        else:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            item = reader.parser._get_value(action, text)
            typed[key] = [item] if action.nargs == "+" else item
    filled, problems = [], []
    for cls in reader.classes:
        names = {f.name for f in dataclasses.fields(cls) if f.init}
        try:
            filled.append(cls(**{key: value for key, value in typed.items() if key in names}))
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
