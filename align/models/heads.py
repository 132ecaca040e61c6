"""Reward models: which head they have and how many numbers it gives, told by their files; and the scores they give."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.models import layout
from align.run.errors import ConfigError, RunError, recipe
from align.run.received import permission

if TYPE_CHECKING:
    import torch

ROOM = ("max_position_embeddings", "n_positions", "max_sequence_length")
Shapes = dict[str, tuple[int, ...]]
INDEXES = {
    "model.safetensors.index.json": "model.safetensors",
    "pytorch_model.bin.index.json": "pytorch_model.bin",
    "adapter_model.safetensors.index.json": "adapter_model.safetensors",
    "adapter_model.bin.index.json": "adapter_model.bin",
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the report on a new or missing head where it is expected; `check` has looked already."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def file_of(source: str, name: str, revision: str) -> Path | None:
    """One of a checkpoint's files, here or on the hub (where it is fetched); None where it has none of that name."""
    from transformers.utils import cached_file

    found = cached_file(
        source, name, revision=revision, _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip
    return None if found is None else Path(found)


def check_settings(path: str, settings: dict[str, Any]) -> None:
    """Stop at a checkpoint whose config.json names a dtype that torch has not (nothing can read that config), or
    attention that is to be fetched from the hub: that is code, and whoever made the checkpoint chose it."""
    import torch

    if (named := settings.get("attn_implementation")) and "/" in str(named):
        raise ConfigError(
            f"{path}: its config.json has attention fetched from the hub ({named}), which is code; take it out there"
        )
    dtype = settings.get("dtype") or settings.get("torch_dtype")
    if isinstance(dtype, str) and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ConfigError(f"{path}: its config.json has the dtype {dtype!r}, which torch has not; write float32 there")


def check(
    path: str, revision: str = "main", *, adapter: Path | None = None, base: tuple[str, str] | None = None
) -> None:
    """Does the checkpoint give one score a sequence?

    Args:
        path: a folder or a hub id, of whole weights or of an adapter.
        adapter: the folder with the adapter's files, if it is one.
        base: what the adapter changes.

    Raises:
        ConfigError: for a model without a trained head, with several outputs, or with a head of values.
    """
    source, source_revision = base or (path, revision)
    heads, outputs = _heads(source, source_revision)
    found = _shapes(str(adapter or path), revision, heads)
    if adapter is not None and not any(_is(name, outputs) for name in found):
        found |= _shapes(source, source_revision, heads)  # an adapter of a reward model may leave its head alone
    if any(name.startswith("v_head.") for name in found):
        raise ConfigError(
            f"{path} holds a value head of TRL's PPO (v_head), which judges single tokens; a reward model gives one "
            f"score a sequence: make one with {recipe('reward')} --model_name_or_path <model> --dataset_name <pairs>"
        )
    if not any(_is(name, outputs) for name in found):
        raise ConfigError(
            f"{path} has no {' or '.join(heads)} head, so it is not a reward model; make one with "
            f"{recipe('reward')} --model_name_or_path {path} --dataset_name <pairs>"
        )
    for name, shape in found.items():
        if _is(name, outputs) and shape and shape[0] != 1:
            raise ConfigError(
                f"{path} gives {shape[0]} numbers a sequence ({name}), and a reward model gives one; choose one that "
                "was trained with num_labels=1"
            )


def class_of(path: str, config: Any, *, reward_model: bool) -> Any:
    """The class of a family's language models, or of its models with a score.

    Raises:
        ConfigError: for a family that transformers has none for.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    families = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING if reward_model else MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) in families:
        return families[type(config)]
    family = config.model_type
    if not reward_model:
        raise ConfigError(f"{path} is of a family ({family}) that transformers has no language model for; take another")
    raise ConfigError(
        f"{path} is of a family ({family}) that transformers has no class with a score for, so it can be neither "
        "reward model nor critic; train the reward model from another family (Llama, Qwen3, Gemma ...), which PPO and "
        "RLOO give their answers as text, and with PPO take --value_model head, or adapter"
    )


def skeleton(path: str, revision: str = "main", *, reward_model: bool, **extra: Any) -> Any:
    """A checkpoint's modules, with their names and shapes and without weights.

    Raises:
        ConfigError: for a family that transformers has no class for, or an encoder where answers are to be written.
    """
    import torch
    from transformers import AutoConfig
    from transformers.modeling_utils import set_zero3_state

    extra |= {"num_labels": 1} if reward_model else {}
    with permission.loading(path):
        config = AutoConfig.from_pretrained(path, revision=revision, **permission.code(path), **extra)
    family = class_of(path, config, reward_model=reward_model)
    with set_zero3_state(), torch.device("meta"):  # under ZeRO-3 a trunk inside it would be sharded, without weights
        model = family(config)  # not by `from_config`, which under ZeRO-3 would shard it too
    if not reward_model:
        layout.check_causal(path, model)
    return model


def encodes(model: Any) -> bool:
    """Is it an encoder, whose head reads the whole sequence? A decoder's `score` reads the last token."""
    return model.get_output_embeddings() is None and not hasattr(model, "score")


def behind_trunk(model: Any) -> list[str]:
    """Names of the parts that make a model's score of what its trunk says."""
    return [
        name for name, part in model.named_children() if name != model.base_model_prefix and list(part.parameters())
    ]


def new_parts(path: str, revision: str = "main") -> list[str]:
    """Names of what a reward model has and its parent may lack: the head, and of an encoder the pooler before it."""
    model = skeleton(path, revision, reward_model=True)
    inside = [name.rpartition(".")[2] for name, _ in model.named_modules()] if encodes(model) else []
    return list(dict.fromkeys([*behind_trunk(model), *(name for name in inside if name == "pooler")]))


def positions(config: Any) -> int | None:
    """How many tokens a model has positions for; None where nothing says so."""
    room = next((value for name in ROOM if (value := getattr(config, name, None))), None)
    if room is not None and "roberta" in config.model_type:
        room -= config.pad_token_id + 1  # it counts from there
    return room


def check_length(model: Any, longest: int) -> None:
    """An encoder has an embedding for each position, and none beyond: BERT's are 512.

    Raises:
        RunError: for a sequence that has more tokens.
    """
    config, room = model.config, positions(model.config)
    if room is None or not encodes(model) or not getattr(config, "position_biased_input", True):
        return
    if longest > room:
        raise RunError(
            f"a prompt with its answer has {longest} tokens, and the reward model {config.name_or_path} reads {room}; "
            "leave out long prompts with --max_prompt_length, shorten the answers, or take another reward model"
        )


def _is(name: str, weights: list[str]) -> bool:
    return any(name == one or name.endswith("." + one) for one in weights)


def _of(name: str, heads: list[str]) -> bool:
    return any(name.startswith(head + ".") or f".{head}." in name for head in heads)


def _heads(source: str, revision: str) -> tuple[list[str], list[str]]:
    """Names of the parts behind the trunk, and of the weights that give the score, in the family's class."""
    try:
        model = skeleton(source, revision, reward_model=True)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        said = permission.reason(error)
        raise ConfigError(f"{source} cannot be used as a reward model: {said}") from error
    parts = behind_trunk(model)
    outputs = [name for name, weight in model.named_parameters() if _of(name, parts) and weight.shape[0] == 1]
    return parts, outputs


def _shapes(source: str, revision: str, heads: list[str]) -> Shapes:
    """Names of a checkpoint's weights, and shapes of those of its head; only the file that holds them is opened."""
    for index, single in INDEXES.items():
        if (file := file_of(source, index, revision)) is not None:
            where: dict[str, str] = json.loads(file.read_text())["weight_map"]
            found: Shapes = {name: () for name in where}
            for shard in {shard for name, shard in where.items() if _of(name, heads)}:
                if (piece := file_of(source, shard, revision)) is not None:
                    found |= shapes(piece)
            return found
        if (file := file_of(source, single, revision)) is not None:
            return shapes(file)
    return {}


def shapes(file: Path) -> Shapes:
    """The weights of one file by name, without reading them: safetensors or `.bin`."""
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(str(file), framework="pt") as weights:
            names = list(weights.keys())
            return {name: tuple(weights.get_slice(name).get_shape()) for name in names}
    import torch

    try:
        held: dict[str, Any] = torch.load(file, map_location="meta", weights_only=True)
    except (RuntimeError, EOFError, ValueError, OSError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{file} cannot be read: {permission.reason(error)}") from error
    return {name: tuple(weight.shape) for name, weight in held.items() if isinstance(weight, torch.Tensor)}


def scores(model: Any, rows: list[list[int]], *, pad_id: int, batch_size: int = 64) -> torch.Tensor:
    """A reward model's score of each sequence (prompt and completion), shape [B], in its own units.

    Sequences that occur more than once go through the model once.
    """
    import torch
    from trl.trainer.utils import pad

    check_length(model, max(map(len, rows), default=0))
    distinct = sorted(set(map(tuple, rows)), key=lambda row: (len(row), row))
    layout.check_room(model, max(map(len, rows), default=0))
    out: dict[tuple[int, ...], float] = {}
    for start in range(0, len(distinct), batch_size):
        some = distinct[start : start + batch_size]
        batch = [torch.tensor(row) for row in some]
        ids = pad(batch, padding_value=pad_id, padding_side="right")
        mask = pad([torch.ones_like(row) for row in batch], padding_value=0, padding_side="right")
        device = next(model.parameters()).device
        with torch.no_grad():
            result = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
        out.update(zip(some, result.logits.squeeze(-1).float().tolist(), strict=True))
    return torch.tensor([out[tuple(row)] for row in rows])
