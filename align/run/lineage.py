"""Where a run comes from: run folders and their records, parents by hash, and what may not be a parent."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from align.run.errors import HERE, LIBRARIES, RunError, recipe
from align.run.received import files, records

# What is read of a model: weights, settings, tokenizer, template
MODEL_FILES = (
    "*.safetensors", "*.bin", "config.json", "adapter_config.json", "generation_config.json", "*.jinja",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "vocab.txt", "merges.txt",
)  # fmt: skip
# What a run or a trainer writes beside: about the work, not its result
BOOKKEEPING = ("run.json", "metrics.jsonl", "training_args.bin", "optimizer.bin", "scheduler.bin")
# Roles of parents that are no models, as they begin: rows, and functions
NO_MODELS = ("data", "reward_func", "eval_reward_func")


def read_record(path: str | Path) -> dict[str, Any] | None:
    """The `run.json` of a run directory, or None where there is none."""
    file = Path(path) / "run.json"
    if not file.is_file():
        return None
    try:
        found = files.parsed(files.text(file))
    except (ValueError, RunError):
        found = None
    return found if records.is_record(found) else {"status": "unreadable"}


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
        return (  # not with the record's own command: whoever made the folder wrote that
            f"{folder} is a run that did not finish (status: {record.get('status')}); "
            "finish it first: the command that began it, with --resume_from_checkpoint last"
        )
    return None


FILE_SUFFIXES = {
    ".json",
    ".jsonl",
    ".ndjson",
    ".csv",
    ".tsv",
    ".parquet",
    ".txt",
    ".arrow",
    ".gz",
    ".bz2",
    ".xz",
    ".zst",
}


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
    """SHA-256 over the names and contents of what is read from a folder.

    Of a model or a tokenizer its own files, and not its checkpoints or other models in folders below, and where there
    are no weights also the rows that lie there (a `config.json` does not make a data set a model); of anything else all
    files, but for bookkeeping and what is hidden or half-written.
    """
    found = _model_files(folder)
    if not found or not _weights(folder):
        files = [file for file in folder.rglob("*") if file.is_file() and _is_content(file.relative_to(folder))]
        found = sorted({*found, *(file for file in files if not found or file.suffix.lower() in FILE_SUFFIXES)})
    hashed = hashlib.sha256()
    for file in found:
        # no name holds a zero byte; the length says where the contents end
        hashed.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\0".encode())
        _add(hashed, file)
    return hashed.hexdigest()


def _model_files(folder: Path) -> list[Path]:
    found = {file for pattern in MODEL_FILES for file in folder.glob(pattern) if file.name not in BOOKKEEPING}
    names = {file.name for file in found}
    whole = names & {"config.json", "adapter_config.json", "tokenizer.json", "tokenizer.model", "vocab.json"}
    return sorted(found) if whole or any(name.endswith((".safetensors", ".bin")) for name in names) else []


def _is_content(file: Path) -> bool:
    """A file of a data set, by its path inside the folder."""
    hidden = any(part.startswith(".") for part in file.parts)
    return not hidden and file.name not in BOOKKEEPING and file.suffix != ".part"


def _add(hashed: Any, file: Path) -> None:
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            hashed.update(block)


def hash_weights(folder: Path) -> str:
    """SHA-256 over a checkpoint's weights alone, whatever their files are called; `.bin` where there are no others."""
    hashed = hashlib.sha256()
    for file in _weights(folder):
        _add(hashed, file)
    return hashed.hexdigest()


def _weights(folder: Path) -> list[Path]:
    """The files that a checkpoint's weights are read from."""
    found = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    return [file for file in found if file.name not in BOOKKEEPING]


def digest(parts: Any) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def parents(paths: dict[str, str | None], revision: str = "main") -> dict[str, dict[str, Any]]:
    """Parents by role (`model`, `reward_model`, `data`, …): where they are and what they were, by hash.

    A run's own folder goes by the hash in its record; a checkpoint, the best policy or a file inside it by its own; a
    function (`file.py:name`, `package.module:name`) by that of its file and of what that imports; a model on the hub by
    the commit that was read. Of rows from the hub `run.json` has the commit under `data`, beside their fingerprint.

    Args:
        revision: of `model` and `reference`, where they are on the hub.
    """
    found: dict[str, dict[str, Any]] = {}
    for role, path in paths.items():
        if not path:
            continue
        place = Path(path)
        folder = run_directory(place) if place.exists() else None
        run = {} if folder is None else read_record(folder) or {}
        entry: dict[str, Any] = {"path": path} | ({} if folder is None else {"recipe": run.get("recipe")})
        if folder is not None and place.resolve() == folder.resolve():
            entry["hash"] = run.get("hash")
        elif place.is_dir():
            entry["hash"] = hash_files(place)
        else:
            file = place if place.is_file() else None
            source = None if file else _source(path)
            commit = _commit(path, revision if role in ("model", "reference") else "main")
            entry["hash"] = identity(str(file)) if file else _hash_code(source) if source else commit
        found[role] = entry
    return found


def _source(function: str) -> Path | None:
    """The file of `file.py:name` or `package.module:name`, found without running it or the packages above it."""
    module, colon, _ = function.rpartition(":")
    if not colon:
        return None
    if module.endswith(".py"):
        return Path(module) if Path(module).is_file() else None
    top, *below = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
        for name in below:
            spec = PathFinder.find_spec(f"{spec.name}.{name}", spec.submodule_search_locations) if spec else None
    except (ImportError, ValueError):  # not the name of a module
        return None
    return Path(spec.origin) if spec and spec.origin and Path(spec.origin).is_file() else None


def _hash_code(file: Path) -> str:
    """The hash of a file of Python; where it imports others of ours (nothing installed), of all of them."""
    found, waiting = [], [file]
    while waiting:
        one = waiting.pop()
        if one in found:
            continue
        found.append(one)
        try:
            nodes = [*ast.walk(ast.parse(one.read_bytes()))]
        except (SyntaxError, ValueError):  # to be told when it is run
            continue
        waiting += [other for node in nodes for other in _imported(node, one.parent)]
    own, *others = (identity(str(one)) for one in found)
    return digest([own, *sorted(others)]) if others else own


def _imported(node: ast.AST, folder: Path) -> list[Path]:
    """The files that a statement of a file in `folder` imports, but for those of libraries and of this one."""
    if not isinstance(node, (ast.Import, ast.ImportFrom)):
        return []
    level = node.level if isinstance(node, ast.ImportFrom) else 0
    names = [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        names = [".".join(filter(None, [node.module, name])) for name in names if name != "*"] or [node.module or ""]
    found = []
    for name in names:
        where: Any = [str([folder, *folder.parents][level - 1])] if level else [str(folder), *sys.path]
        for part in name.split("."):
            spec = PathFinder.find_spec(part, where) if part and where else None
            if spec and spec.origin:
                found.append(Path(spec.origin))
            where = spec.submodule_search_locations if spec else None
    standard = sysconfig.get_paths()["stdlib"]
    return [file for file in found if file.suffix == ".py" and LIBRARIES not in file.parts
            and not file.is_relative_to(standard) and not file.is_relative_to(HERE)]  # fmt: skip


def _commit(name: str, revision: str) -> str | None:
    """The commit of a model on the hub that is in the cache under this revision; None where none is."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE) / f"models--{name.rstrip('/').replace('/', '--')}"
    known = cache / "refs" / revision
    if known.is_file():
        return known.read_text().strip()
    return revision if (cache / "snapshots" / revision).is_dir() else None


def identity(path: str) -> str:
    """A model by its weights, rows by their bytes; a hub id by its name."""
    place = Path(path)
    if place.is_file():
        with place.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    if not place.is_dir():
        return path.rstrip("/")
    return hash_weights(place) if _weights(place) else hash_files(place)


def place(path: str) -> str:
    """One spelling for all that name a place (`runs/a`, `runs/a/`, `/home/me/runs/a`), or a hub id."""
    return str(Path(path).resolve()) if Path(path).exists() else path.rstrip("/")


def same(a: str | None, b: str | None) -> bool:
    """Do two spellings name one place, or one hub id?"""
    return bool(a and b) and place(str(a)) == place(str(b))


def same_function(a: str | None, b: str | None) -> bool:
    """Do `file.py:name` and another spelling of it name one function?"""
    if not a or not b:
        return False
    (file, _, name), (other, _, theirs) = a.rpartition(":"), b.rpartition(":")
    return name == theirs and (file == other or (file.endswith(".py") and same(file, other)))
