"""From a checkpoint to weights in memory that are all there, agree with a tokenizer, and can be saved again."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import torch

from align.data import chat
from align.models import heads, layout
from align.run.errors import ConfigError
from align.run.received import permission


def load(auto_class: Any, path: str, model_args: Any, **extra: Any) -> Any:
    """A model to start from, as TRL's `ModelConfig` says: whole in fp32, under LoRA in the configured dtype."""
    from accelerate import PartialState
    from trl import get_quantization_config

    quantization = get_quantization_config(model_args)
    dtype = model_args.dtype if model_args.dtype in ("auto", None) else getattr(torch, model_args.dtype)
    if not model_args.use_peft:
        _note_dtype(dtype)
        dtype = torch.float32  # every weight is trained, or is compared with ones that are
    if quantization is not None:
        extra.update(quantization_config=quantization, device_map={"": PartialState().local_process_index})
    return from_pretrained(
        auto_class, path, revision=model_args.model_revision, dtype=dtype,
        attn_implementation=model_args.attn_implementation, **extra,
    )  # fmt: skip


@functools.cache
def _note_dtype(dtype: Any) -> None:
    if dtype not in ("auto", None, torch.float32) and os.environ.get("RANK", "0") == "0":
        print(
            f"note: without --use_peft every weight is trained, so weights are loaded in float32 and not in {dtype}; "
            "--bf16 true computes in bf16",
            flush=True,
        )


def from_pretrained(auto_class: Any, path: str, **extra: Any) -> Any:
    """Load, and refuse in one sentence. Weights that are not all there would be random: only a head may be new, on a
    trunk that is whole (an encoder's pooler belongs to its head)."""
    with permission.loading(path):
        model, found = auto_class.from_pretrained(
            path, output_loading_info=True, ignore_mismatched_sizes=True, **permission.code(path), **extra
        )
    for name, held, wanted in sorted(found["mismatched_keys"]):
        raise ConfigError(
            f"{path}: {name} has the shape {tuple(held)}, and {tuple(wanted)} is needed; give another checkpoint (a "
            "reward model has one output, num_labels=1; anything else has a config.json that is not its own)"
        )
    lost = sorted(set(found["missing_keys"]) & {name for name, _ in model.named_parameters()})
    if model.get_output_embeddings() is not None:
        layout.check_causal(path, model)
    else:
        lost = [name for name in lost if name.startswith(f"{model.base_model_prefix}.") and "pooler" not in name]
    if lost:
        what = "language model" if model.get_output_embeddings() is not None else f"{model.config.model_type} model"
        raise ConfigError(
            f"{path} is no whole {what}: it has no {', '.join(lost[:3])}; give the model that it was made from"
        )
    return model


def fit_to_tokenizer(model: Any, tokenizer: Any, name: str) -> Any:
    """Make config, embeddings and generation settings agree with the tokenizer; name local parents by full path."""
    grow(model, len(tokenizer))
    for config in (model.config, model.config.get_text_config()):  # a score is read before the first pad token
        config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = chat.stop_ids(tokenizer, model.generation_config)
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    if (head := model.get_output_embeddings()) is not None:
        head.register_forward_pre_hook(_contiguous)
    make_savable(model)
    if Path(name).is_dir():  # an adapter's base has to be found from any folder
        model.name_or_path = model.config._name_or_path = str(Path(name).resolve())
    return model


def _contiguous(_head: Any, inputs: tuple) -> tuple | None:
    """A slice of hidden states [B, T, H], laid out anew before the head reads it in bf16 on a CPU.

    torch 2.13 copies the vocabulary's matrix for each of the B rows instead: 14 s for 32 rows and 49,152 tokens.
    """
    hidden = inputs[0]
    if hidden.device.type != "cpu" or (hidden.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")):
        return None
    return (hidden.contiguous(), *inputs[1:])


def round_once(model: Any) -> None:
    """Under bf16 autocast on a CPU, let LoRA's change be added before a layer's output is rounded, not after.

    PEFT adds it to an output that lies on bf16's grid already, where a change smaller than half a step is lost every
    time: the first steps of a training hardly move the model. Here the product starts from the change, and what is
    rounded is their sum. Layers that this cannot be done in (DoRA, quantised, sharded by ZeRO-3) stay PEFT's.
    """
    from peft.tuners.lora import Linear

    for layer in model.modules():
        base: Any = layer.base_layer if type(layer) is Linear else None
        if type(base) is torch.nn.Linear and not hasattr(base.weight, "ds_id"):
            layer.forward = functools.partial(_accumulate, layer)


def _accumulate(layer: Any, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """x W^T + s (x A^T) B^T with one rounding, [..., in] to [..., out]; by PEFT where more is asked for."""
    names = layer.active_adapters
    plain = len(names) == 1 and names[0] in layer.lora_A and names[0] not in layer.lora_variant
    other = layer.merged or args or kwargs
    if other or not plain or hidden.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return type(layer).forward(layer, hidden, *args, **kwargs)
    if layer.disable_adapters:  # the reference: what the policy is, to the bit, before it has learnt anything
        return _with_bias(torch.nn.functional.linear(hidden, layer.base_layer.weight), layer.base_layer)
    name = names[0]
    inner = layer.lora_A[name](layer.lora_dropout[name](hidden))
    return accumulated(layer.base_layer, hidden, layer.lora_B[name](inner) * layer.scaling[name])


def accumulated(base: torch.nn.Linear, hidden: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """A linear layer's output for `hidden` [..., in] on top of `change` [..., out], rounded once."""
    whole = torch.addmm(change.flatten(0, -2), hidden.flatten(0, -2), base.weight.T).view(change.shape)
    return _with_bias(whole, base)


def _with_bias(whole: torch.Tensor, base: torch.nn.Linear) -> torch.Tensor:
    return whole if base.bias is None else whole + base.bias.to(whole.dtype)


def grow(model: Any, count: int) -> None:
    """Give embeddings rows for `count` tokens; where they have rows to spare they stay as they are.

    A new row, of the embeddings and of the head, is the mean of the others: its probability is then at most one in V
    (Jensen), and a pad token's is never attended to, so that nothing has to learn it.
    """
    before = model.get_input_embeddings().num_embeddings
    if count <= before:
        return
    with heads.quiet():
        model.resize_token_embeddings(count)
    for part in filter(None, (model.get_input_embeddings(), model.get_output_embeddings())):
        for rows in filter(lambda one: one is not None, (part.weight, getattr(part, "bias", None))):
            if not hasattr(rows, "ds_id"):  # transformers' own, under ZeRO-3: the mean but for a little noise
                rows.data[before:] = rows.data[:before].float().mean(0).to(rows.dtype)


def make_savable(model: Any) -> Any:
    """Let `save_pretrained` take the model's settings: it refuses some that it reads, and a run's weights with them.

    Many published generation configs name a temperature and not `do_sample`, which then is what they mean. Our own
    sampling does not read either.
    """
    config = getattr(model, "generation_config", None)
    if config is None:
        return model
    for key in model.config._get_generation_parameters():  # of older checkpoints: they belong to the generation config
        setattr(config, key, getattr(model.config, key))
        delattr(model.config, key)
    for change in ({}, {"do_sample": True}):
        for name, value in change.items():
            setattr(config, name, value)
        try:
            config.validate(strict=True)
            return model
        except ValueError as error:
            problem = str(error).strip().splitlines()[0]
    kept = {key: getattr(config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = type(config)(**kept)
    print(
        f"note: the generation config is not one that can be saved ({problem}); only its token ids are kept", flush=True
    )
    return model
