"""Adapters, ours and other people's: told by their files, here or on the hub, and merged into their base."""

from __future__ import annotations

import functools
import pickle
import warnings
from pathlib import Path
from typing import Any

from align.models import weights
from align.models.heads import quiet
from align.run.errors import FOREIGN, ConfigError
from align.run.received import files, permission, screen

NAME = "adapter_config.json"
# What they learn is no change of weights (prompts, layers beside, a choice of the moment), so nothing can be merged.
UNMERGEABLE = (
    "ADAPTION_PROMPT", "CARTRIDGE", "CPT", "LILY", "MULTITASK_PROMPT_TUNING", "POLY", "PREFIX_TUNING", "PROMPT_TUNING",
    "P_TUNING", "SHADOW", "XLORA",
)  # fmt: skip


def looks_like_hub_id(path: str) -> bool:
    """Could it be `name` or `owner/name`, with nothing of that name here?"""
    parts = path.rstrip("/").split("/")
    return len(parts) <= 2 and all(parts) and not path.startswith((".", "~")) and not Path(path).exists()


def located(path: str | Path, revision: str = "main") -> Path | None:
    """The folder that holds an adapter's files: a local one, or the hub's copy in the cache. None for other things.

    Raises:
        ConfigError: if the hub has the adapter and its files cannot be had.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder if (folder / NAME).is_file() else None
    return _from_hub(str(path), revision) if looks_like_hub_id(str(path)) else None


@functools.cache
def _from_hub(name: str, revision: str) -> Path | None:
    """Ask once a process: the answer of a hub that cannot be reached is what the cache holds."""
    from huggingface_hub import snapshot_download
    from transformers.utils.peft_utils import find_adapter_config_file

    if find_adapter_config_file(name, revision=revision) is None:
        return None
    try:
        return Path(snapshot_download(name, revision=revision, ignore_patterns=["*/*"]))
    except OSError as error:
        raise ConfigError(f"the adapter {name} cannot be loaded: {str(error).splitlines()[0]}") from error


def is_adapter(path: str | Path, revision: str = "main") -> bool:
    """Is it a PEFT adapter, here or on the hub, instead of whole weights?"""
    return located(path, revision) is not None


def settings(folder: Path) -> dict[str, Any]:
    """An adapter's configuration.

    Raises:
        ConfigError: if it is not JSON.
    """
    try:
        found = files.parsed((folder / NAME).read_bytes())
    except ValueError as error:
        raise ConfigError(f"{folder / NAME} is not valid JSON ({error}); save the adapter again") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{folder / NAME} holds no settings (a {type(found).__name__}); save the adapter again")
    return found


def base_of(folder: Path) -> tuple[str, str]:
    """The weights that an adapter changes: `(path or hub id, revision)`.

    Raises:
        ConfigError: if it names none, or a folder that is not there.
    """
    found = settings(folder)
    base, revision = found.get("base_model_name_or_path"), str(found.get("revision") or "main")
    base = base if isinstance(base, str) else None
    if base and (Path(base).is_dir() or looks_like_hub_id(base)):
        permission.withhold(base)  # whoever made the adapter chose it
        if not Path(base).is_dir():
            screen.say_once(f"{folder} is an adapter of {base}, which is read from the hub")
        return base, revision
    moved = [
        place / "base" for place in (folder, folder.resolve().parent) if (place / "base" / "config.json").is_file()
    ]
    if moved and Path(str(base)).name == "base":
        return str(moved[0]), revision  # a run of ours was moved, and its base with it
    named = f"an adapter of {base}, which is not there" if base else "an adapter that does not say of what"
    raise ConfigError(
        f"{folder} is {named}; write the folder or hub id of its base model into base_model_name_or_path of "
        f"{folder / NAME}"
    )


def whole_below(path: str, revision: str = "main") -> tuple[str, str]:
    """The whole weights that a checkpoint is, or that all its adapters change: `(path or hub id, revision)`."""
    while (folder := located(path, revision)) is not None:
        path, revision = base_of(folder)
    return path, revision


def parameters(path: str, revision: str = "main") -> int | None:
    """Weights of the model that a checkpoint is, or that its adapters change, without a head of its own. None where its
    files do not tell: what is wrong with them is said where it is checked."""
    import torch
    from transformers import AutoConfig, AutoModel

    try:
        path, revision = whole_below(path, revision)
        with permission.loading(path), torch.device("meta"):
            config = AutoConfig.from_pretrained(path, revision=revision, **permission.code(path))
            model = AutoModel.from_config(config, **permission.code(path))
    except (OSError, *FOREIGN):
        return None
    return sum(weight.numel() for weight in model.parameters())


def of_settings(values: dict[str, Any]) -> int | None:
    """The same, of the model that a recipe's settings name."""
    return parameters(str(values.get("model_name_or_path")), values.get("model_revision") or "main")


def check(path: str, folder: Path) -> None:
    """Look at an adapter's files, before anything is loaded.

    Raises:
        ConfigError: for a kind that cannot be merged, for missing weights, for a base that is not there.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = str(settings(folder).get("peft_type"))
    if kind in UNMERGEABLE:
        raise ConfigError(
            f"{path} is an adapter of the kind {kind}, which cannot be merged into its base model; give one that can "
            "(LoRA, DoRA, IA3 and others), or whole weights"
        )
    if kind not in {known.value for known in PEFT_TYPE_TO_CONFIG_MAPPING}:
        raise ConfigError(f"{path} is an adapter of the kind {kind}, which this version of PEFT does not know")
    if not any((folder / f"adapter_model.{suffix}").is_file() for suffix in ("safetensors", "bin")):
        raise ConfigError(f"{path} holds an adapter's settings without its weights (adapter_model.safetensors)")
    base_of(folder)


def attached(path: str, folder: Path, dtype: Any) -> Any:
    """The adapter on its base, not merged.

    Raises:
        ConfigError: if the two do not fit together.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    scores = settings(folder).get("task_type") == "SEQ_CLS"
    auto_class = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    extra = {"num_labels": 1} if scores else {}
    base, revision = base_of(folder)
    below = located(base, revision)
    try:
        if below is not None:
            model = merged(base, below, dtype)
        else:
            with quiet():
                model = auto_class.from_pretrained(
                    base, revision=revision, dtype=dtype, **permission.code(base), **extra
                )
        _make_room(model, folder)
        with warnings.catch_warnings():  # PEFT warns where half of an adapter is left out
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return PeftModel.from_pretrained(model, str(folder))
    except (OSError, ValueError, ImportError, RuntimeError, UserWarning, pickle.UnpicklingError) as error:
        if isinstance(error, ConfigError):
            raise
        said = permission.reason(error)
        raise ConfigError(f"the adapter {path} cannot be put on its base model {base}: {said}") from error


def merged(path: str, folder: Path, dtype: Any) -> Any:
    """The base with the adapter's change added to its weights.

    Raises:
        ConfigError: if it cannot be.
    """
    try:
        model = attached(path, folder, dtype)
        _untie(model.get_base_model())
        return model.merge_and_unload()
    except (NotImplementedError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        said = permission.reason(error)
        raise ConfigError(f"the adapter {path} cannot be merged into its base model: {said}") from error


def _untie(base: Any) -> None:
    """Two matrices where input and output embeddings share one and only one of them is changed, or each differently:
    PEFT adds both changes to the one that they share."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    into, out = base.get_input_embeddings(), base.get_output_embeddings()
    config = base.config.get_text_config()
    if not config.tie_word_embeddings or not any(isinstance(layer, BaseTunerLayer) for layer in (into, out)):
        return
    inner = out.get_base_layer() if isinstance(out, BaseTunerLayer) else out
    inner.weight = nn.Parameter(inner.weight.detach().clone(), requires_grad=False)
    config.tie_word_embeddings = base.config.tie_word_embeddings = False


def _make_room(model: Any, folder: Path) -> None:
    """Rows for tokens that came with the adapter: it may hold embeddings of them."""
    from transformers import AutoTokenizer

    if not (folder / "tokenizer_config.json").is_file():
        return
    with permission.loading(f"the tokenizer of {folder}"):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **permission.code(str(folder)))
    weights.grow(model, len(tokenizer))
