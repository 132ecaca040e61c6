"""What a run starts from where its parent is no whole checkpoint that fits: written once, shared by all who need it.

An adapter is merged in fp32 and written in fp32: in bf16 its changes, often smaller than a weight's last bit, would
round away, and the run's reference would be another model than its parent. To keep the price down to one copy of the
weights, runs that lie beside each other share the files: the second run's folder holds hard links to the first one's.
Either folder can be deleted, and the other is whole. What counts as the same is told by hash.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from align.models import adapters, weights
from align.run import lineage
from align.run.errors import ConfigError
from align.run.received import files, permission, records

NOTE = "made_from.json"  # in a written base: of what, and the hash of all that went into it


def lacks_rows(path: str, revision: str, tokenizer: Any) -> bool:
    """Has the tokenizer more tokens than the checkpoint has embeddings?"""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, revision=revision, **permission.code(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be loaded: {permission.reason(error)}") from error
    return len(tokenizer) > config.get_text_config().vocab_size


def write(
    path: str, adapter: Path | None, target: Path, revision: str, tokenizer_of: tuple[str, str], tokenizer: Any
) -> str:
    """Write whole weights to `target`: an adapter merged into its base, or a checkpoint with rows for all tokens.

    Args:
        path: the parent, as it was named.
        adapter: the folder with its files, if it is an adapter.
        tokenizer_of: folder or hub id and revision of the tokenizer to put beside the weights.
        tokenizer: the one to put there instead, with the tokens that need rows.

    Returns:
        A line that says what was done.
    """
    import torch
    from filelock import FileLock

    key = _key(path, adapter, revision, tokenizer)
    what = "an adapter: its merged weights are" if adapter else "without a row for its pad token: weights with one are"
    said = f"parent {path} is {what} in {target}"
    part = target.with_name(target.name + ".part")  # a half-written base must never be taken for one
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    home = _home()
    # the arms of a comparison begin together: the first writes, the others wait and link
    with FileLock(home / "bases.lock"):
        ledger = home / "bases.json"
        if (found := _same(key, [target.parent.parent, Path(path).absolute().parent], part, ledger)) is not None:
            for file in found.iterdir():
                _link(file, part / file.name)
            said += f" (the same files as in {found})"
        else:
            with torch.random.fork_rng(devices=[]):  # a head that is drawn later must not depend on who wrote the base
                _make(path, adapter, revision, tokenizer_of, tokenizer, part)
            (part / NOTE).write_text(json.dumps({"parent": path, "key": key}) + "\n")
            known = records.read_ledger(ledger) | {key: {"files": _digest(part)}}
            files.replace(ledger, json.dumps(known) + "\n", 0o600)
        part.rename(target)
    return said


def _make(
    path: str, adapter: Path | None, revision: str, tokenizer_of: tuple[str, str], tokenizer: Any, part: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if adapter is not None:
        model = adapters.merged(path, adapter, torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(
            tokenizer_of[0], revision=tokenizer_of[1], **permission.code(tokenizer_of[0])
        )
    else:
        model = AutoModelForCausalLM.from_pretrained(
            path, revision=revision, dtype=torch.float32, **permission.code(path)
        )
        weights.grow(model, len(tokenizer))
    weights.make_savable(model).save_pretrained(part)
    tokenizer.save_pretrained(part)


def _key(path: str, adapter: Path | None, revision: str, tokenizer: Any) -> str:
    """The hash of all that a base is made from."""
    parts: list[Any] = [_weights(path, revision) if adapter is None else lineage.hash_files(adapter)]
    below, where = adapter, revision
    while below is not None:
        base, where = adapters.base_of(below)
        below = adapters.located(base, where)
        parts.append(_weights(base, where) if below is None else lineage.hash_files(below))
    parts.append(tokenizer and [len(tokenizer), tokenizer.chat_template])
    return lineage.digest(parts)


def _weights(path: str, revision: str) -> Any:
    """A folder by its weights; a checkpoint on the hub by its commit."""
    from transformers import AutoConfig

    if Path(path).is_dir():
        return lineage.identity(path)
    return [
        path,
        revision,
        getattr(AutoConfig.from_pretrained(path, revision=revision, **permission.code(path)), "_commit_hash", None),
    ]


def _home() -> Path:
    """The user's own folder for the lock, and for what is known of the bases that were written."""
    from huggingface_hub import constants

    home = Path(constants.HF_HOME) / "align"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return home


def _same(key: str, places: list[Path], own: Path, ledger: Path) -> Path | None:
    """A base made from the very same, in a run beside this one or beside the parent. Its note says so; whether it is
    what was written then, and no folder that somebody sent, the user's own ledger knows."""
    made = records.read_ledger(ledger).get(key, {}).get("files")
    for place in places if made else ():
        for note in sorted(place.glob(f"*/*/{NOTE}")):
            other = note.parent
            if other != own and other.suffix != ".part" and key in files.text(note) and _digest(other) == made:
                return other
    return None


def _digest(folder: Path) -> str | None:
    """The hash of all that a folder holds; None where that is not files alone."""
    found = sorted(file for file in folder.iterdir() if file.name != NOTE)
    if any(file.is_symlink() or not file.is_file() for file in found):
        return None
    return lineage.digest([[file.name, lineage.identity(str(file))] for file in found])


def _link(file: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no such links."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copy2(file, target)
