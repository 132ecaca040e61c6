"""Checkpoints to models: tokenizer, policy, reference, reward model, LoRA. Adapters are merged where a run starts.

A run that starts from an adapter first writes the merged weights to `<output_dir>/base`; from there on its parent is
an ordinary checkpoint. So a reference is always the recorded parent, never an adapter that happens to be switched off,
and a new adapter's `base_model_name_or_path` names weights that exist.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from align.data import chat
from align.run.errors import ConfigError, recipe

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


def is_adapter(path: str | Path) -> bool:
    """Does the folder hold a PEFT adapter instead of whole weights?"""
    return (Path(path) / "adapter_config.json").is_file()


def check(path: str, *, reward_model: bool = False) -> None:
    """Check a local checkpoint by its files, before anything is loaded.

    Raises:
        ConfigError: for a folder without a model, without a tokenizer, or (with `reward_model`) without a score head.
    """
    folder = Path(path)
    if not folder.is_dir():
        return  # a hub id: the hub client says what is missing
    if not is_adapter(folder) and not (folder / "config.json").is_file():
        raise ConfigError(f"{path} holds no model (neither config.json nor adapter_config.json)")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ConfigError(
            f"{path} holds a model without a tokenizer; save one there: tokenizer.save_pretrained({path!r})"
        )
    if reward_model and not any("score" in name for name in _weight_names(folder)):
        raise ConfigError(
            f"{path} has no score head, so it is not a reward model; make one with "
            f"{recipe('reward')} --model_name_or_path {path} --dataset_name <pairs>"
        )


def _weight_names(folder: Path) -> list[str]:
    from safetensors import safe_open

    names: list[str] = []
    for file in folder.glob("*.safetensors"):
        with safe_open(str(file), framework="pt") as weights:
            names += list(weights.keys())
    return names


def load_tokenizer(path: str, *, chat_template: str | None = None, revision: str = "main") -> Any:
    """A checkpoint's tokenizer, set up for training: template, stop token, a pad token of its own.

    Raises:
        ConfigError: if there is none, or if its template could not teach a model to stop.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
        chat.set_up_tokenizer(tokenizer, chat_template)
    except chat.TemplateError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"the tokenizer of {path} cannot be loaded: {str(error).splitlines()[0]}") from error
    tokenizer.padding_side = "left"
    return tokenizer


def resolve_parent(path: str, output_dir: str, *, role: str = "base") -> str:
    """The path of whole weights for a parent: itself, or for an adapter its merged weights in `<output_dir>/<role>`."""
    if not is_adapter(path):
        return path
    from accelerate import PartialState

    base = Path(output_dir) / role
    state = PartialState()
    if state.is_main_process and not base.exists():
        merge_adapter(path, base)
        print(f"parent {path} is an adapter: its merged weights are in {base}", flush=True)
    state.wait_for_everyone()
    return str(base)


def merge_adapter(path: str | Path, target: Path) -> None:
    """Write an adapter, merged into its base, to `target` as an ordinary checkpoint."""
    import torch
    from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
    from transformers import AutoTokenizer

    settings = json.loads((Path(path) / "adapter_config.json").read_text())
    cls, extra = AutoPeftModelForCausalLM, {}
    if settings.get("task_type") == "SEQ_CLS":
        cls, extra = AutoPeftModelForSequenceClassification, {"num_labels": 1}
    with _quiet_head():
        model = cls.from_pretrained(str(path), dtype=torch.float32, **extra).merge_and_unload()
    part = target.with_name(target.name + ".part")  # a half-written base must never be taken for one
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    AutoTokenizer.from_pretrained(path).save_pretrained(part)
    part.rename(target)


@contextlib.contextmanager
def _quiet_head() -> Iterator[None]:
    """Silence the report on a new or missing head where it is expected; `check` has looked already."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _load(auto_class: Any, path: str, model_args: Any, **extra: Any) -> Any:
    import torch
    from accelerate import PartialState
    from trl import get_quantization_config

    quantization = get_quantization_config(model_args)
    dtype = model_args.dtype if model_args.dtype in ("auto", None) else getattr(torch, model_args.dtype)
    if not model_args.use_peft:
        dtype = torch.float32  # every weight is trained, or is compared with ones that are
    if quantization is not None:
        extra.update(quantization_config=quantization, device_map={"": PartialState().local_process_index})
    try:
        return auto_class.from_pretrained(
            path,
            revision=model_args.model_revision,
            dtype=dtype,
            attn_implementation=model_args.attn_implementation,
            **extra,
        )
    except OSError as error:
        raise ConfigError(f"{path} cannot be loaded: {str(error).splitlines()[0]}") from error


def _fit_to_tokenizer(model: Any, tokenizer: Any, name: str) -> Any:
    """Make config, embeddings and generation settings agree with the tokenizer; name local parents by full path."""
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = chat.stop_ids(tokenizer, model.generation_config)
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    if Path(name).is_dir():  # an adapter's base has to be found from any folder
        model.name_or_path = model.config._name_or_path = str(Path(name).resolve())
    return model


def load_policy(path: str, model_args: Any, tokenizer: Any) -> Any:
    """A causal language model in fp32 (or the configured dtype), agreeing with `tokenizer`."""
    from transformers import AutoModelForCausalLM

    return _fit_to_tokenizer(_load(AutoModelForCausalLM, path, model_args), tokenizer, path)


def load_reward_model(path: str, model_args: Any, tokenizer: Any) -> Any:
    """A model with one score per sequence. A fresh head comes from the seed, so seed before calling this."""
    from transformers import AutoModelForSequenceClassification

    with _quiet_head():
        model = _load(AutoModelForSequenceClassification, path, model_args, num_labels=1)
    return _fit_to_tokenizer(model, tokenizer, path)


def load_trained(path: str, tokenizer: Any, *, reward_model: bool = False) -> Any:
    """A frozen checkpoint of any kind (whole or adapter, policy or reward model) for sampling and scoring."""
    import torch
    from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    if reward_model:
        cls = AutoPeftModelForSequenceClassification if is_adapter(path) else AutoModelForSequenceClassification
        extra = {"num_labels": 1}
    else:
        cls, extra = (AutoPeftModelForCausalLM if is_adapter(path) else AutoModelForCausalLM), {}
    gpu = torch.cuda.is_available()
    with _quiet_head():
        # merged in bf16, an adapter's small changes would round away: it is measured in fp32
        dtype = torch.bfloat16 if gpu and not is_adapter(path) else torch.float32
        model = cls.from_pretrained(path, dtype=dtype, **extra)
    if is_adapter(path):
        model = model.merge_and_unload()
    model = _fit_to_tokenizer(model, tokenizer, path)
    return model.to("cuda" if gpu else "cpu").eval().requires_grad_(False)


def trained_in_fp32(model: Any) -> Any:
    """Cast what is trained to fp32, in place, and let it be called from a trunk in lower precision.

    In bf16 a weight has 8 bits: at a learning rate of 1e-5 most of Adam's steps are too small to move it. Call it on the
    model that is trained once its adapters are there and `requires_grad` is set, before the optimizer is made. Weights
    that ZeRO-3 has sharded stay as they are: its optimizer keeps their fp32 copies.

    Returns:
        The model itself.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    trunk = getattr(bare, "base_model_prefix", "")
    heads = {part for name, child in bare.named_children() if name != trunk for part in child.modules()}
    adapters = {part for layer in model.modules() if isinstance(layer, BaseTunerLayer) for part in layer.modules()}
    mixed = any(weight.is_floating_point() and not weight.requires_grad for weight in model.parameters())
    for part in list(model.modules()):
        low = [weight for weight in part.parameters(recurse=False) if _too_low(weight)]
        rest = low[0].dtype if low else None
        for weight in low:
            weight.data = weight.data.to(torch.float32)
        if low and mixed and part not in adapters:  # PEFT's own layers know of a trunk in lower precision
            part.register_forward_pre_hook(_to_own_dtype)
            if part not in heads:  # what a head says is the result: it keeps its precision
                part.register_forward_hook(partial(_to_dtype, rest))
    return model


def assert_trained_in_fp32(model: Any) -> None:
    """Our own invariant, for every trainer just before it trains: no trained weight is in lower precision than fp32."""
    low = {name: str(weight.dtype) for name, weight in model.named_parameters() if _too_low(weight)}
    assert not low, f"{len(low)} trained weights are not fp32, the first: {next(iter(low.items()))}"


def _too_low(weight: Any) -> bool:
    """Is it trained in less than fp32?"""
    sharded = hasattr(weight, "ds_id")
    return weight.requires_grad and weight.is_floating_point() and weight.element_size() < 4 and not sharded


def _to_own_dtype(part: Any, inputs: tuple) -> tuple:
    """Inputs in the dtype of the module's own weights."""
    own = next(part.parameters(recurse=False)).dtype
    return tuple(x.to(own) if hasattr(x, "is_floating_point") and x.is_floating_point() else x for x in inputs)


def _to_dtype(dtype: Any, _part: Any, _inputs: tuple, output: Any) -> Any:
    """The output in the dtype that the layers around expect."""
    return output.to(dtype) if hasattr(output, "is_floating_point") and output.is_floating_point() else output


def lora_config(model_args: Any, *, reward_model: bool = False) -> Any:
    """The LoRA configuration, or None without `--use_peft`.

    All linear layers by default (Schulman et al. 2025, "LoRA Without Regret"); a reward model's `score` head is new, so
    it is trained whole and saved with the adapter.
    """
    if not model_args.use_peft:
        return None
    from peft import LoraConfig

    extra = list(model_args.lora_modules_to_save or [])
    return LoraConfig(
        task_type="SEQ_CLS" if reward_model else "CAUSAL_LM",
        r=model_args.lora_r,
        lora_alpha=model_args.lora_alpha,
        lora_dropout=model_args.lora_dropout,
        target_modules=model_args.lora_target_modules or "all-linear",
        target_parameters=model_args.lora_target_parameters,
        use_rslora=model_args.use_rslora,
        use_dora=model_args.use_dora,
        modules_to_save=extra + ["score"] if reward_model else extra or None,
    )
