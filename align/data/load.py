"""Where rows come from: files and folders of many kinds, finished runs, the hub; several sources mixed into one.

What becomes of them is align.data.prepare's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from align.data import folders, merged
from align.data.forms import asked, schemas
from align.run import lineage
from align.run.arguments import DataArguments
from align.run.errors import DataError
from align.run.received import outside

FILES = 64  # of a stream, whose parts are looked up first: a request or two for each
# Columns that are read as words or messages, beside those that --columns names
WORDS = {"text", *asked.COLUMNS, *asked.ANSWERS}


def load(args: DataArguments, split: str, *, seed: int, stream: bool = False) -> Any:
    """Read one split as a `datasets.Dataset` (or `IterableDataset`), mixed and cut as the configuration says.

    Returns None where the source has no such split. Raises DataError where there is nothing to read.
    """
    if args.datasets:
        if split != args.dataset_train_split and any("split" in entry for entry in args.datasets):
            return None  # an entry that names its split has said what to train on; test_split_size may cut some off
        parts = [_mapped(_source(e["path"], e.get("name"), e.get("split", split), stream, args), e, args.columns)
                 for e in args.datasets]  # fmt: skip
        if any(part is None for part in parts):
            if split != args.dataset_train_split:
                return None
            raise DataError(f"datasets: {args.datasets[parts.index(None)]['path']} has no such split")
        for part, entry in zip(parts, args.datasets, strict=True):
            _check_words(part, entry["path"], args.columns)
        rows = _mix(parts, args, seed, stream)
    else:
        rows = _source(str(args.dataset_name), args.dataset_config, split, stream, args)
        rows = merged.without_fillers(rows, args.columns)
        _check_words(rows, str(args.dataset_name), args.columns)
    limit = args.max_train_rows if split == args.dataset_train_split else args.max_eval_rows
    if rows is not None and limit is not None:
        rows = rows.take(limit) if stream else rows.select(range(min(limit, len(rows))))
    return rows


def _mapped(rows: Any, entry: dict[str, Any], later: list[str]) -> Any:
    """One part of a mixture: its columns renamed, its rows limited."""
    if rows is None:
        return None
    unknown = set(entry) - {"path", "name", "split", "columns", "fraction", "rows"}
    if unknown:
        raise DataError(
            f"datasets: unknown key {sorted(unknown)}; an entry has path, name, split, columns, fraction, rows"
        )
    columns = entry.get("columns") or []
    rows = schemas.rename(merged.without_fillers(rows, [*later, *columns]), columns)
    if entry.get("rows"):
        rows = rows.take(entry["rows"])
    return rows


def _mix(parts: list[Any], args: DataArguments, seed: int, stream: bool) -> Any:
    """TRL's rule: `fraction` is a share of the final mixture, and no part is oversampled. Shuffled by the seed."""
    import datasets

    from align.data import arrow

    shares: list[Any] = [entry.get("fraction") for entry in args.datasets]
    if any(s is not None for s in shares) and any(s is None for s in shares):
        raise DataError("datasets: give every entry a fraction, or none")
    names = [set(part.column_names or next(iter(part), {})) for part in parts]  # a stream may not know its own
    if not set.intersection(*names):
        raise DataError("datasets: the parts have no column in common; map them with `columns:` in each entry")
    if stream:
        if shares[0] is None:  # in turns, and what is left of the longer ones in the end
            return datasets.interleave_datasets(parts, stopping_strategy="all_exhausted_without_replacement")
        weights = [s / sum(shares) for s in shares]
        return datasets.interleave_datasets(parts, probabilities=weights, seed=seed)
    if shares[0] is not None:
        weights = [s / sum(shares) for s in shares]
        total = min(len(part) / w for part, w in zip(parts, weights, strict=True) if w > 0)
        parts = [p.shuffle(seed=seed).select(range(round(w * total))) for p, w in zip(parts, weights, strict=True)]
    return datasets.concatenate_datasets(arrow.alike(parts)).shuffle(seed=seed)


def _source(name: str, config: str | None, split: str, stream: bool, args: DataArguments) -> Any:
    """One split of one source. Parquet files that are streamed are read part by part (row group).

    The reader of a whole file reads on while nobody asks: up to its end, in the time of a few steps (pyarrow 24).
    """
    rows = _read(name, config, split, stream, args)
    return rows.reshard() if stream and rows is not None and rows.num_shards <= FILES else rows


def _read(name: str, config: str | None, split: str, stream: bool, args: DataArguments) -> Any:
    import datasets

    datasets.disable_progress_bars()  # one bar a run: the training's, not each file's
    datasets.disable_caching()  # shuffling what `save_to_disk` wrote would leave files in the user's folder
    path = Path(name)
    if not path.exists():
        return _from_hub(name, config, split, stream)
    if any((path / saved).exists() for saved in ("dataset_dict.json", "dataset_info.json")):  # by save_to_disk
        found = _saved(path, split)
        return found.to_iterable_dataset() if stream and found is not None else found
    files = _files(path, config, split)
    if files is None:
        return None
    if all(file.stat().st_size == 0 for file in files):
        raise DataError(f"{name}: the file is empty")
    kind = folders.kind_of(files, f"the split {split} of {name}")
    if kind in ("json", "csv"):
        from align.data import lines

        if stream:
            return datasets.IterableDataset.from_generator(lines.rows_of, gen_kwargs={"files": files})
        return lines.read(files, WORDS | {pair.partition("=")[0] for pair in args.columns})
    options = {"sample_by": args.sample_by} if kind == "text" else {}
    # `datasets` keeps its copy of a file by path and date; another one under both (rsync, cp -p, tar) differs in ctime
    now = lineage.digest([[str(file), (told := file.stat()).st_size, told.st_ctime_ns] for file in files])
    try:
        rows = datasets.load_dataset(
            kind, now[:16], data_files=[*map(str, files)], split="train", streaming=stream, **options
        )
        return outside.without_media(rows, name)
    except Exception as error:  # pyarrow and the readers each have their own; the cause's sentence is the useful one
        raise DataError(f"{name} cannot be read: {error.__cause__ or error}") from error


def _saved(path: Path, split: str) -> Any:
    """A split of a data set that `save_to_disk` wrote."""
    import datasets

    outside.check_saved(path)
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # pyarrow has errors of its own; each means that the files are not what they should be
        raise DataError(f"{path} cannot be read: {error.__cause__ or error}") from error
    if isinstance(found, datasets.DatasetDict):
        found = found.get(split)
    elif split != "train":
        return None
    return outside.without_media(found, str(path))


def _from_hub(name: str, config: str | None, split: str, stream: bool) -> Any:
    """A split of a hub data set. A stream asks for the splits' names first: nothing is downloaded to look for one."""
    import datasets

    try:
        if stream and split not in datasets.get_dataset_split_names(name, config):
            return None
        return outside.without_media(datasets.load_dataset(name, config, split=split, streaming=stream), name)
    except ValueError as error:
        if "Unknown split" in str(error):
            return None
        raise DataError(f"{name}: {error}") from error
    except Exception as error:  # the hub client raises many kinds; each means that the rows cannot be had
        raise DataError(f"{name} is neither here nor to be had from the hub: {error}") from error


def _files(path: Path, config: str | None, split: str) -> list[Path] | None:
    """The files of one split. A file is the train split; a run stands for its `data`; folders are as the hub's.

    Of a folder, a configuration is what its card says, or else a folder below.
    """
    card = folders.card(path, config) if path.is_dir() else None
    if isinstance(card, dict):
        if split == "train" and split not in card:
            raise DataError(
                f"{path} has no split train; its card has {', '.join(card)}: --dataset_train_split {[*card][0]}"
            )
        return card.get(split)
    if card is not None:
        return folders.files_of(card, split)
    if config is not None and not (path / config).is_dir():
        raise DataError(
            f"{path} has no folder {config}: of what is here, a configuration is a folder; leave --dataset_config out"
        )
    if path.is_dir():
        path = path / (config or "")
        return folders.files_of(path / "data" if (path / "run.json").exists() else path, split)
    return [path] if split == "train" else None


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
