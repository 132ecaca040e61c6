"""A GGUF file to an ordinary checkpoint: whole weights, tokenizer, chat template, stop tokens."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.data import chat
from align.run.errors import FOREIGN, ConfigError, RunError
from align.run.received import permission

MAGIC = b"GGUF"
BYTES = {"float32": 4, "bfloat16": 2}
TRIAL = "The capital of France is"


@dataclass
class Contents:
    """What a GGUF file says about itself."""

    path: Path
    architecture: str
    name: str
    licence: str
    parameters: int
    kinds: str  # of its weights, the commonest first: `Q4_1, F32`

    def __str__(self) -> str:
        return f"{self.name}, {self.architecture}, {self.parameters:,} parameters as {self.kinds}"


def read(path: Path) -> Contents:
    """A file's header.

    Raises:
        ConfigError: no file, no GGUF, a broken one, or one of an architecture that transformers cannot read.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    with path.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise ConfigError(f"{path} is no GGUF file (it does not begin with {MAGIC.decode()})")
    check_package()
    from gguf import GGUFReader
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    try:
        reader = GGUFReader(path)
        kinds = Counter(tensor.tensor_type.name for tensor in reader.tensors)
        size = sum(int(tensor.n_elements) for tensor in reader.tensors)
        architecture, pieces = _said(reader, "general.architecture"), _said(reader, "split.count")
    except FOREIGN as error:
        raise ConfigError(f"{path} is a broken GGUF file ({_first(error)}); fetch it again") from error
    if architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        raise ConfigError(
            f"{path}: transformers cannot read GGUF of the architecture {architecture or 'that it does not name'}; it "
            f"reads {', '.join(sorted(GGUF_SUPPORTED_ARCHITECTURES))}"
        )
    if pieces not in ("", "0", "1"):
        raise ConfigError(
            f"{path} is one of {pieces} pieces of a model; join them (llama-gguf-split --merge) and give the whole"
        )
    name, licence = _said(reader, "general.name") or path.stem, _said(reader, "general.license") or "not named"
    return Contents(path, architecture, name, licence, size, ", ".join(kind for kind, _ in kinds.most_common()))


def check_package() -> None:
    """Is the package there that reads and writes GGUF?

    Raises:
        ConfigError: if not, with what to type.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError("reading and writing GGUF needs the package gguf: pip install 'gguf>=0.10'")


def _said(reader: Any, key: str) -> str:
    field = reader.get_field(key)
    return "" if field is None else str(field.contents())


def check_room(folder: Path, needed: int, what: str) -> None:
    """Is there disk for so many bytes, and memory for twice as many?

    Raises:
        RunError: if not, with how much is needed and there.
    """
    import psutil

    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free, memory = shutil.disk_usage(there).free, psutil.virtual_memory().available
    for kind, has, wants, way in (
        ("disk space", free, needed, "free some, or name another --output_dir"),
        ("memory", memory, 2 * needed, "close other programs, or use a larger machine"),
    ):
        if has < wants:
            raise RunError(f"{what} needs {wants / 2**30:.1f} GiB of {kind}, and {has / 2**30:.1f} are free; {way}")


def convert(contents: Contents, dtype: str, out: Path) -> None:
    """Write the checkpoint to the folder `out`, and read it again: it must say what the model in memory says.

    Raises:
        ConfigError: where transformers cannot convert it after all, or the file does not hold all of its model.
        RunError: if what was written says something else.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quietly(), alone(contents.path) as (folder, name):
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, **permission.code(folder))
            model, found = AutoModelForCausalLM.from_pretrained(
                folder, gguf_file=name, dtype=getattr(torch, dtype), output_loading_info=True, **permission.code(folder)
            )
    except (OSError, NotImplementedError, *FOREIGN) as error:
        raise ConfigError(f"{contents.path}: transformers cannot convert it ({_first(error)})") from error
    if lacking := [*found["missing_keys"], *found["mismatched_keys"]]:
        raise ConfigError(f"{contents.path} lacks weights of its model: {len(lacking)}, the first {lacking[0]}")
    _unquantised(model)
    stops = chat.stop_ids(tokenizer, model.generation_config)
    if not stops:
        raise ConfigError(f"{contents.path} names no token that ends a text (tokenizer.ggml.eos_token_id)")
    model.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
    with quietly():
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        again = AutoModelForCausalLM.from_pretrained(out, dtype=model.dtype, **permission.code(str(out)))
    ids = tokenizer(TRIAL, return_tensors="pt")
    with torch.no_grad():
        apart = (model(**ids).logits - again(**ids).logits).abs().max().item()
    if not apart < 1e-4:
        raise RunError(f"{contents.path}: what was written says something else than what was read (by {apart:.2g})")


def _unquantised(model: Any) -> None:
    """Its weights are plain numbers now, and nothing is to take them for packed ones."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False


@contextlib.contextmanager
def alone(path: Path) -> Iterator[tuple[str, str]]:
    """A folder of its own for a file, and its name there: else transformers takes one of the same name from
    the current folder, and a tokenizer that lies beside it."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"{Path(folder).name}.gguf"
        link.symlink_to(path.absolute())
        yield folder, link.name


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' bars: one is drawn for each step of a conversion that takes seconds."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the bar of the GGUF reader is its own
            yield
    finally:
        if bars:
            logging.enable_progress_bar()


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
