"""Where rows come from: files and folders of many kinds, finished runs, the hub; several sources mixed into one.

What becomes of them is align.data.prepare's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from align.data.forms import schemas
from align.run.arguments import DataArguments
from align.run.errors import DataError

READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text", ".arrow": "arrow"}
# Columns that are read as words or messages (see align.data.forms), beside those that --columns names
WORDS = {
    "text", "messages", "conversations", "prompt", "completion", "completions", "chosen", "rejected", "question",
    "answer", "instruction", "input", "output", "system", "user", "assistant",
}  # fmt: skip
WHOLE = 2**30  # bytes of JSON that may be typed in one piece where reading it in pieces failed


def load(args: DataArguments, split: str, *, seed: int, stream: bool = False) -> Any:
    """Read one split as a `datasets.Dataset` (or `IterableDataset`), mixed and cut as the configuration says.

    Returns None where the source has no such split. Raises DataError where there is nothing to read.
    """
    if args.datasets:
        if split != args.dataset_train_split and any("split" in entry for entry in args.datasets):
            return None  # an entry that names its split has said what to train on; test_split_size may cut some off
        parts = [_mapped(_read(e["path"], e.get("name"), e.get("split", split), stream), e) for e in args.datasets]
        if any(part is None for part in parts):
            if split != args.dataset_train_split:
                return None
            raise DataError(f"datasets: {args.datasets[parts.index(None)]['path']} has no such split")
        for part, entry in zip(parts, args.datasets, strict=True):
            _check_words(part, entry["path"], args.columns)
        rows = _mix(parts, args, seed, stream)
    else:
        rows = _read(str(args.dataset_name), args.dataset_config, split, stream)
        _check_words(rows, str(args.dataset_name), args.columns)
    limit = args.max_train_rows if split == args.dataset_train_split else args.max_eval_rows
    if rows is not None and limit is not None:
        rows = rows.take(limit) if stream else rows.select(range(min(limit, len(rows))))
    return rows


def _mapped(rows: Any, entry: dict[str, Any]) -> Any:
    """One part of a mixture: its columns renamed, its rows limited."""
    if rows is None:
        return None
    unknown = set(entry) - {"path", "name", "split", "columns", "fraction", "rows"}
    if unknown:
        raise DataError(
            f"datasets: unknown key {sorted(unknown)}; an entry has path, name, split, columns, fraction, rows"
        )
    rows = schemas.rename(rows, entry.get("columns") or [])
    if entry.get("rows"):
        rows = rows.take(entry["rows"])
    return rows


def _mix(parts: list[Any], args: DataArguments, seed: int, stream: bool) -> Any:
    """TRL's rule: `fraction` is a share of the final mixture, and no part is oversampled. Shuffled by the seed."""
    import datasets

    shares: list[Any] = [entry.get("fraction") for entry in args.datasets]
    if any(s is not None for s in shares) and any(s is None for s in shares):
        raise DataError("datasets: give every entry a fraction, or none")
    parts = [_shared_columns(part, parts) for part in parts]
    if stream:
        if shares[0] is None:
            return datasets.concatenate_datasets(parts)
        weights = [s / sum(shares) for s in shares]
        return datasets.interleave_datasets(parts, probabilities=weights, seed=seed)
    if shares[0] is not None:
        weights = [s / sum(shares) for s in shares]
        total = min(len(part) / w for part, w in zip(parts, weights, strict=True) if w > 0)
        parts = [p.shuffle(seed=seed).select(range(round(w * total))) for p, w in zip(parts, weights, strict=True)]
    return datasets.concatenate_datasets(parts).shuffle(seed=seed)


def _shared_columns(part: Any, parts: list[Any]) -> Any:
    shared = set.intersection(*(set(p.column_names) for p in parts))
    if not shared:
        raise DataError("datasets: the parts have no column in common; map them with `columns:` in each entry")
    return part.select_columns([name for name in part.column_names if name in shared])


def _read(name: str, config: str | None, split: str, stream: bool) -> Any:
    import datasets

    datasets.disable_progress_bars()  # one bar a run: the training's, not each file's
    path = Path(name)
    if not path.exists():
        try:
            return datasets.load_dataset(name, config, split=split, streaming=stream)
        except ValueError as error:
            if "Unknown split" in str(error):
                return None
            raise DataError(f"{name}: {error}") from error
        except Exception as error:  # the hub client raises many kinds; each means that the rows cannot be had
            raise DataError(f"{name} is neither here nor to be had from the hub: {error}") from error
    files = _files(path, split)
    if files is None:
        return None
    if isinstance(files, str):  # written by save_to_disk
        saved = datasets.load_from_disk(files)
        return saved.get(split) if isinstance(saved, datasets.DatasetDict) else saved
    kinds = {READERS.get(Path(f.removesuffix(".gz")).suffix, "") for f in files}
    if len(kinds) != 1 or "" in kinds:
        raise DataError(f"{name}: can read {', '.join(READERS)} files of one kind, found {sorted(files)[:3]}")
    if all(Path(f).stat().st_size == 0 for f in files):
        raise DataError(f"{name}: the file is empty")
    (kind,) = kinds
    options: dict[str, Any] = {"sample_by": "paragraph"} if kind == "text" else {}

    def read() -> Any:
        return datasets.load_dataset(kind, data_files=files, split="train", streaming=stream, **options)

    try:
        try:
            return read()
        except datasets.exceptions.DatasetGenerationError:
            if kind != "json" or sum(Path(f).stat().st_size for f in files) > WHOLE:
                raise
            # columns are typed by the first 10 MB: one with only nulls there cannot take text later (datasets 5.2)
            options["chunksize"] = WHOLE
            return read()
    except Exception as error:  # pyarrow, json and csv each have their own; the cause's sentence is the useful one
        raise DataError(f"{name} cannot be read: {error.__cause__ or error}") from error


def _check_words(rows: Any, where: str, columns: list[str]) -> None:
    """Refuse a column of words that `datasets` would change.

    A column in which some rows hold text and others messages or numbers is typed `Json` (datasets 5.2), and a text
    there is decoded as if it were JSON: "6" comes back as the number 6. Objects and lists come back as they were. Rows
    that are streamed are not looked at: they would have to be read first.

    Raises:
        DataError: with the column.
    """
    import datasets

    if not isinstance(rows, datasets.Dataset):
        return
    for name in {*WORDS, *(pair.partition("=")[0] for pair in columns)} & set(rows.column_names):
        for chunk in rows.data.column(name).chunks:
            if path := _mixed(chunk, rows.features[name], name):
                raise DataError(
                    f"{where}: the column {path} is text in some rows and something else in others (messages, lists, "
                    "numbers), and would not be read as it is written; give every row the same: all text, or all "
                    "messages"
                )


def _mixed(values: Any, feature: Any, path: str) -> str | None:
    """Where below `path` a column typed Json holds more than objects and lists; None where it does not."""
    import datasets
    import pyarrow.compute as pc

    if isinstance(feature, datasets.Json):
        firsts = pc.utf8_slice_codeunits(values.storage.drop_null(), 0, 1).unique()
        return None if set(firsts.to_pylist()) <= {"{", "["} else path
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        return _mixed(values.flatten(), feature.feature, f"{path}[]")
    if isinstance(feature, dict):
        found = (_mixed(values.field(name), inner, f"{path}.{name}") for name, inner in feature.items())
        return next(filter(None, found), None)
    return None


def _files(path: Path, split: str) -> list[str] | str | None:
    """The files of one split. A file is the train split; a folder holds `<split>.*`; a run stands for its `data`."""
    if path.is_file():
        return [str(path)] if split == "train" else None
    if (path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists():
        return str(path)
    if (path / "run.json").exists():
        path = path / "data"
    named = sorted(str(f) for f in path.glob(f"{split}*") if f.name.removesuffix(".gz").endswith(tuple(READERS)))
    if named:
        return named
    others = sorted(str(f) for f in path.glob("*") if f.name.removesuffix(".gz").endswith(tuple(READERS)))
    split_names = [f for f in others if Path(f).name.startswith(("train", "test", "validation"))]
    if split == "train" and others and not split_names:
        return others
    if split == "train":
        raise DataError(f"{path}: no file to read for the split {split}; readable: {', '.join(READERS)}")
    return None
