"""What a folder of rows names outside of itself: files by links, cards and saved states; pictures by their addresses.

Who sent the folder would have rows made of the reader's own files, or have an address fetched. So only what lies in a
folder is its rows, and pictures, sounds and films are not read at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from align.run.errors import DataError, RunError
from align.run.received import files, screen

# Of a checkpoint: what is read as text, or written beside a child
TEXTS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*templates", "*templates/*.jinja")


def check_inside(folder: Path, found: Iterable[Path]) -> None:
    """Refuse what lies outside of a folder. The hub's cache is made of links, and is whole with its `blobs`.

    Raises:
        DataError: naming it, and what to do.
    """
    home = folder.resolve()
    homes = [home, *([home.parent.parent / "blobs"] if home.parent.name == "snapshots" else ())]
    for path in found:
        if not any(path.resolve().is_relative_to(one) for one in homes):
            raise DataError(f"{path} leads out of {folder}, and only what is in it is read; put the file itself there")
        if "::" in str(path):
            raise DataError(f"{path}: what reads it takes '::' in a name for one file within another; rename it")


def check_texts(folder: Path) -> None:
    """The same of a checkpoint's files of text; weights may be links to another disk.

    Raises:
        DataError: naming the first that leads elsewhere.
    """
    check_inside(folder, sorted(file for pattern in TEXTS for file in folder.glob(pattern) if file.is_symlink()))


def check_saved(folder: Path) -> None:
    """What a data set saved to disk says of its files: plain names, beside what says so.

    Raises:
        DataError: for a name that leads elsewhere, and for what is not built as `save_to_disk` does.
    """
    try:
        about = folder / "dataset_dict.json"
        for part in files.parsed(files.text(about))["splits"] if about.exists() else [""]:
            state = files.parsed(files.text(folder / part / "state.json"))
            named = [folder / part / one["filename"] for one in state["_data_files"]]
            check_inside(folder, named)
            if odd := [path for path in named if path.parent != folder / part or "/" in part]:
                raise DataError(f"{folder}: {odd[0]} is named for its rows, and is not among its files; save it again")
    except (OSError, RunError, ValueError, LookupError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder} is no data set as save_to_disk writes one ({error}); save it again") from error


def without_media(rows: Any, where: str) -> Any:
    """Rows without columns of pictures, sounds and films: a row that is looked at fetches them from where it says."""
    if getattr(rows, "features", None) is None:
        return rows
    named = [name for name, feature in rows.features.items() if _is_media(feature)]
    if named:
        screen.say_once(f"not read of {where}: {', '.join(named)} (pictures, sounds or films)")
    return rows.remove_columns(named) if named else rows


def _is_media(feature: Any) -> bool:
    if isinstance(feature, dict):
        return any(map(_is_media, feature.values()))
    return _is_media(feature.feature) if hasattr(feature, "feature") else hasattr(feature, "embed_storage")


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Nothing is asked of the hub inside the block; what its cache holds is read."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
