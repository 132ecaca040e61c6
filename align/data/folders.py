"""Which files of a folder are which split: as the hub and `datasets` lay them out, a run's own folder included.

A split is in a file's name (`train.jsonl`, `test-00000-of-00002.parquet`, `my_valid.csv.gz`) or in its folder's
(`train/a.parquet`, `data/dev/b.parquet`), at any depth. Where no name says anything, all files are the train split.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from align.run.errors import DataError, RunError
from align.run.received import files, outside, screen

READERS = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
           ".txt": "text", ".arrow": "arrow"}  # fmt: skip
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
READABLE = f"readable are {', '.join(READERS)}, each also with {', '.join(COMPRESSED)}"
# The hub's words for a split (https://huggingface.co/docs/hub/datasets-file-names-and-splits)
SPLITS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "val", "dev"},
    "test": {"test", "testing", "eval", "evaluation"},
}
_SHARD = re.compile(r"(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}.*")
# What lies beside rows and is none: the card, the terms, what `datasets` and our runs write about them
_BESIDE = {"readme", "license", "licence", "notice", "citation", "changelog", "guidelines"}
PARTS = 100_000  # of what a card says of its configurations: names of files
_ABOUT = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "run.json"}


def _is_beside(file: Path) -> bool:
    name = file.name.lower()
    return (
        name in _ABOUT
        or file.suffix == ".md"
        or (name.partition(".")[0] in _BESIDE and name[-4:] in (".txt", ".rst", ".cff") or name in _BESIDE)
    )


def suffix(file: Path) -> str:
    """What a file's name says it holds: its ending, without that of a compression."""
    name = file.name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return Path(name).suffix


def split_of(file: Path) -> str | None:
    """The split that a file's name, or else the nearest folder's, stands for.

    Args:
        file: relative to the folder that was named.
    """
    if shard := _SHARD.fullmatch(file.name):
        return next((split for split, words in SPLITS.items() if shard["split"] in words), shard["split"])
    stem = file.name.lower().partition(".")[0]
    for name in (stem, *(folder.name.lower() for folder in file.parents)):
        words = set(re.split(r"[-._ \d]+", name))
        if found := next((split for split, known in SPLITS.items() if words & known), None):
            return found
    return None


def _named(file: Path, split: str) -> bool:
    """Is a file of a split that has a name of its own (`train_sft`): `train_sft.jsonl`, `train_sft/a.parquet`?"""
    return split in (file.name.partition(".")[0], *(folder.name for folder in file.parents))


def files_of(folder: Path, split: str) -> list[Path] | None:
    """The files of one split, sorted; None where the folder has no such split. What is passed over is named.

    Raises:
        DataError: nothing to read, or no train split although other splits are there.
    """
    every = [file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file()]
    every = [file for file in every if not any(part.startswith((".", "__")) for part in file.parts)]
    every = [file for file in every if not _is_beside(file)]
    rows = [file for file in every if suffix(file) in READERS]
    if not rows:
        raise DataError(f"{folder}: no file to read; {READABLE}")
    outside.check_inside(folder, [folder / file for file in rows])
    splits = {file: split_of(file) for file in rows}
    found = [file for file in rows if _named(file, split)] or [file for file in rows if splits[file] == split]
    here = sorted({name for name in splits.values() if name})
    if not found and split == "train" and not here:
        found = rows
        if len(rows) > 1:
            screen.say_once(f"{folder}: no file's name says its split, so all make the split train: {_listed(rows)}")
    elif not found and split == "train":
        raise DataError(f"{folder} has no split train; it has {', '.join(here)}: --dataset_train_split {here[0]}")
    if not found and (others := [name for name in here if name != "train"]):
        screen.say_once(
            f"note: {folder} has no split {split}; it has {', '.join(others)} (--dataset_test_split {others[0]})"
        )
    stray = [file for file in rows if here and splits[file] is None and file not in found]
    if passed := [file for file in every if file not in rows or file in stray]:
        screen.say_once(f"not read in {folder}: {_listed(passed)}")
    return [folder / file for file in found] or None


def _listed(files: list[Path]) -> str:
    more = f" and {len(files) - 5} more" if len(files) > 5 else ""
    return ", ".join(map(str, files[:5])) + more


def kind_of(files: list[Path], where: str) -> str:
    """What reads these files; they have to be of one kind.

    Raises:
        DataError: with the kinds, or for files that nothing here reads.
    """
    kinds = Counter(READERS.get(suffix(file), "unreadable") for file in files)
    if len(kinds) > 1:
        told = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
        raise DataError(
            f"{where} has files of several kinds ({told}); give one kind a folder of its own, or mix them with "
            "`datasets:`"
        )
    if "unreadable" in kinds:
        raise DataError(f"{where}: cannot read {files[0].suffix or 'a file without an ending'}; {READABLE}")
    return next(iter(kinds))


def card(folder: Path, config: str | None) -> dict[str, list[Path]] | Path | None:
    """The files of each split as the card of a data set (README.md, as the hub reads it) names them; None without.

    Where a configuration names its folder only (`data_dir`), it is that folder, whose files' names say their splits.

    Raises:
        DataError: several configurations and none chosen, one that is not there, or files that are not.
    """
    known = _configs(folder / "README.md")
    configs = {str(one.get("config_name", "default")): one for one in known}
    if not any(one.get("data_files") or one.get("data_dir") for one in known):
        return None
    usual = [one for one in known if one.get("default")] or [
        one for one in known if one.get("config_name") == "default"
    ]
    name = config or (str(usual[0]["config_name"]) if usual else next(iter(configs)) if len(configs) == 1 else None)
    if name not in configs:
        raise DataError(f"{folder} has the configurations {', '.join(configs)}: choose one with --dataset_config")
    base, given = folder / (configs[name].get("data_dir") or ""), configs[name].get("data_files")
    outside.check_inside(folder, [base])
    if not given:
        return base
    given = given if isinstance(given, list) else [given]
    if not all(isinstance(one, dict) for one in given):
        given = [{"split": "train", "path": given}]
    found = {}
    for one in given:
        patterns = one["path"] if isinstance(one["path"], list) else [one["path"]]
        if odd := [pattern for pattern in patterns if not pattern or Path(pattern).is_absolute()]:
            raise DataError(f"{folder}: its card names {odd[0]!r}, and a card names files of its own folder")
        named = sorted({path for pattern in patterns for path in base.glob(pattern)})
        outside.check_inside(folder, named)
        found[str(one["split"])] = named
        if not named:
            raise DataError(
                f"{folder}: its card names {', '.join(patterns)} for {one['split']}, and no such file is there"
            )
    return found


def _configs(file: Path) -> list[dict[str, Any]]:
    """The configurations that a card names: mappings, whose names of files are text."""

    def names(value: Any) -> bool:
        parts = value if isinstance(value, list) else [value]
        return all(isinstance(one, str) or isinstance(one, dict) and "split" in one and names(one.get("path"))
                   for one in parts)  # fmt: skip

    if not file.exists():
        return []
    try:
        head = re.match(r"---\s*\n(.*?)\n---", files.text(file), re.S)
        if head and re.search(r"<<\s*:", head[1]):  # each merge may double what the one before it made
            raise DataError(f"{file}: its head merges mappings (<<:), and no card needs to; write them out")
        known = ((yaml.safe_load(head[1]) or {}).get("configs") if head else None) or []
        if _parts(known) >= PARTS:
            raise DataError(f"{file}: its configurations have over {PARTS:,} parts, by aliases of aliases; write less")
        asked = [one[key] for one in known for key in ("data_files", "data_dir") if one.get(key)]
    except (yaml.YAMLError, AttributeError, TypeError, RecursionError, RunError) as error:
        raise DataError(f"{file}: what stands between its first two lines of --- is not YAML of a card") from error
    if not all(map(names, asked)):
        raise DataError(f"{file}: data_files are names, or {{split, path}}, and data_dir is a name")
    return known


def _parts(value: Any) -> int:
    """How many parts a value has, up to `PARTS`: by aliases of aliases a few lines have more than there are atoms."""
    waiting, found = [value], 0
    while waiting and found < PARTS:
        one = waiting.pop()
        found += 1
        waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
    return found
