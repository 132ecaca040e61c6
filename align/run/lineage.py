"""Where a run comes from: run folders and their records, parents by hash, and what may not be a parent."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from align.run.errors import recipe

CONTENTS = ("*.safetensors", "*.bin", "tokenizer.json", "data/*.jsonl", "*/t*.jsonl", "t*.jsonl", "raw/*")


def read_record(path: str | Path) -> dict[str, Any] | None:
    """The `run.json` of a run directory, or None where there is none."""
    file = Path(path) / "run.json"
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError:
        return {"status": "unreadable"}


def run_directory(path: str | Path) -> Path | None:
    """The run that `path` is or lies in (a data set inside a run's directory); None for anything else."""
    path = Path(path)
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "run.json").is_file():
            return folder
    return None


def parent_problem(path: str, *, allow_hub: bool) -> str | None:
    """Why `path` cannot be a parent (missing, unfinished); None where it can, or where it is a hub id."""
    local = Path(path)
    if not local.exists():
        looks_local = path.startswith(("/", "./", "../", "runs/", "~")) or local.suffix in FILE_SUFFIXES
        if allow_hub and not looks_local and path.count("/") <= 1:
            return None
        return f"{path} does not exist{_command_for(local)}"
    folder = run_directory(local)
    if folder is None:
        return None
    record = read_record(folder) or {}
    if record.get("status") != "complete":
        again = record.get("command", "the same command")
        return (
            f"{folder} is a run that did not finish (status: {record.get('status')}); "
            f"finish it first: {again} --resume_from_checkpoint last"
        )
    return None


FILE_SUFFIXES = {".json", ".jsonl", ".csv", ".parquet", ".txt", ".arrow", ".gz", ".zst"}


CHAINS = "recipes/*/pipeline.yaml"  # below the current folder: whose stages say what makes a missing run


def _command_for(path: Path) -> str:
    """What to do about a missing path: the stage that makes it, where a chain that is here has one."""
    import yaml

    for chain in sorted(Path().glob(CHAINS)):
        try:
            for stage in yaml.safe_load(chain.read_text())["stages"]:
                made = Path(yaml.safe_load(Path(stage["config"]).read_text())["output_dir"])
                if path.absolute().is_relative_to(made.absolute()):
                    return (
                        f"; make it with: python {stage['run']} --config {stage['config']} "
                        f"(or the whole chain: {recipe('pipeline')} --config {chain})"
                    )
        except (OSError, yaml.YAMLError, KeyError, TypeError):  # a chain that somebody is still writing
            continue
    return "; give an existing path or a hub id"


def hash_files(folder: Path) -> str:
    """SHA-256 over the names and contents of a run's weights, tokenizer and data; of all files where there is none."""
    digest = hashlib.sha256()
    known = sorted({f for pattern in CONTENTS for f in folder.glob(pattern)})
    for file in known or sorted(f for f in folder.rglob("*") if f.is_file()):
        digest.update(str(file.relative_to(folder)).encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def hash_weights(folder: Path) -> str:
    """SHA-256 over a checkpoint's weights alone, whatever their files are called."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def parents(paths: dict[str, str | None]) -> dict[str, dict[str, Any]]:
    """Parents by role (`model`, `reward_model`, `data`, …): where they are and what they were, by hash."""
    found: dict[str, dict[str, Any]] = {}
    for role, path in paths.items():
        if not path:
            continue
        folder = run_directory(path) if Path(path).exists() else None
        if folder is not None:
            record = read_record(folder) or {}
            found[role] = {"path": path, "recipe": record.get("recipe"), "hash": record.get("hash")}
        elif Path(path).is_dir():
            found[role] = {"path": path, "hash": hash_files(Path(path))}
        elif Path(path).is_file():
            with Path(path).open("rb") as stream:
                found[role] = {"path": path, "hash": hashlib.file_digest(stream, "sha256").hexdigest()}
        else:
            found[role] = {"path": path, "hash": None}
    return found


def identity(path: str) -> str:
    """A model by its weights, rows by their bytes; a hub id by its name."""
    place = Path(path)
    if place.is_file():
        return hashlib.sha256(place.read_bytes()).hexdigest()
    if not place.is_dir():
        return path
    return hash_weights(place) if any(place.glob("*.safetensors")) else hash_files(place)
