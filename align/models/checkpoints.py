"""Checkpoints to models: tokenizer, policy, reference, reward model, LoRA. Adapters are merged where a run starts.

What a run starts from is an ordinary checkpoint: `bases.py` writes one where the parent is none. So a reference is
always the recorded parent, never an adapter that happens to be switched off, and a new adapter's
`base_model_name_or_path` names weights that exist.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from align.data import chat
from align.models import adapters, bases, heads, weights
from align.models.fast.quicken import quicken
from align.run import device
from align.run.errors import ConfigError
from align.run.received import files, outside, permission

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
# Parts of a model that text does not reach, by the words in their modules' names: LoRA there would never learn.
TOWERS = r".*(vision|visual|image|audio|speech|multi_modal).*"
# Encoders that score were trained on pairs, `[CLS] prompt [SEP] completion [SEP]`; their tokenizers have no template.
ENCODER_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] | trim }}"
    "{% if not loop.last or add_generation_prompt %}BETWEEN{% endif %}{% endfor %}"
    "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
)


def check(path: str, *, reward_model: bool = False, revision: str = "main") -> None:
    """Check a checkpoint by its files, before anything is loaded.

    Raises:
        ConfigError: for a folder without a model or a tokenizer, for an adapter that cannot be merged or whose base is
            gone, or (with `reward_model`) for a model that does not give one score a sequence.
    """
    adapter = adapters.located(path, revision)
    folder = adapter or Path(path)
    if adapter is not None:
        adapters.check(path, adapter)
    elif folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigError(f"{path} holds no model (neither config.json nor adapter_config.json)")
    owner = Path(tokenizer_source(path, revision)[0])
    for place in (folder, owner, Path(adapters.whole_below(path, revision)[0])):
        outside.check_texts(place)
    heads.check_settings(path, _settings(str(folder), "config.json", revision))
    if owner.is_dir() and not any((owner / name).is_file() for name in TOKENIZER_FILES):
        raise ConfigError(
            f"{path} holds a model without a tokenizer; save one there: tokenizer.save_pretrained({path!r})"
        )
    if reward_model:
        heads.check(path, revision, adapter=adapter, base=adapters.base_of(adapter) if adapter else None)


def tokenizer_source(path: str, revision: str = "main") -> tuple[str, str]:
    """Where a checkpoint's tokenizer is, and in which revision: an adapter that came without one has its base's."""
    adapter = adapters.located(path, revision)
    if adapter is None:
        return path, revision
    if any((adapter / name).is_file() for name in TOKENIZER_FILES):
        return str(adapter), "main"
    return tokenizer_source(*adapters.base_of(adapter))


def load_tokenizer(
    path: str, *, chat_template: str | None = None, revision: str = "main", date: str | None = None, beside: Any = None
) -> Any:
    """A checkpoint's tokenizer, set up for training: template, stop token, a pad token that is none of its stop tokens.

    Args:
        date: for a template that reads today's date, the one that it is to have.
        beside: the tokenizer of the model that it is used with, whose date it takes if it has none.

    Raises:
        ConfigError: if there is none, or if its template could not teach a model to stop.
    """
    from transformers import AutoTokenizer

    source, own = tokenizer_source(path, revision)
    try:
        with permission.loading(f"the tokenizer of {path}"):
            tokenizer = AutoTokenizer.from_pretrained(source, revision=own, **permission.code(source))
            if tokenizer.chat_template is None and tokenizer.cls_token and tokenizer.sep_token:
                _as_encoder(tokenizer)
            if beside is not None and chat.pinned(tokenizer) is None:
                date = chat.pinned(beside)
            chat.set_up_tokenizer(tokenizer, chat_template, stops=named_stops(path, revision), date=date)
    except chat.TemplateError as error:
        raise ConfigError(f"{path}: {error}") from error
    tokenizer.padding_side = "left"
    return tokenizer


def _as_encoder(tokenizer: Any) -> None:
    """Let an encoder's tokenizer render a conversation as it lays out a pair of texts."""
    tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
    pair = tokenizer.convert_ids_to_tokens(tokenizer("a", "a")["input_ids"])
    between = "".join(token for token in pair[1:-1] if token == tokenizer.sep_token) or tokenizer.sep_token
    tokenizer.chat_template = ENCODER_TEMPLATE.replace("BETWEEN", between)


def named_stops(path: str, revision: str = "main") -> list[int]:
    """The token ids that a checkpoint's own settings name as ends of an answer; an adapter has its base's as well."""
    adapter = adapters.located(path, revision)
    found = [] if adapter is None else named_stops(*adapters.base_of(adapter))
    for name in ("generation_config.json", "config.json"):
        settings = _settings(str(adapter or path), name, revision)
        for part in (settings, settings.get("text_config") or {}):
            named = part.get("eos_token_id")
            found += [one for one in (named if isinstance(named, list) else [named]) if isinstance(one, int)]
    return list(dict.fromkeys(found))


def _settings(source: str, name: str, revision: str) -> dict[str, Any]:
    """One of a checkpoint's JSON files, here or on the hub; empty where it has none."""
    file = heads.file_of(source, name, revision)
    try:
        found = {} if file is None else files.parsed(file.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{source}: its {name} is not valid JSON ({error}); save the checkpoint again") from error
    if not isinstance(found, dict):
        raise ConfigError(
            f"{source}: its {name} holds no settings (a {type(found).__name__}); save the checkpoint again"
        )
    return found


def resolve_parent(
    path: str, output_dir: str, model_args: Any = None, tokenizer: Any = None, *, role: str = "base"
) -> str:
    """The path of whole weights for a parent: itself, or what `bases` writes to `<output_dir>/<role>`.

    That is an adapter's merged weights, and under LoRA also those of a checkpoint whose embeddings lack a row for a
    token of `tokenizer` (a pad token that had to be added): the new adapter then fits its base as it is on the disk.
    """
    revision = model_args.model_revision if model_args is not None else "main"
    adapter = adapters.located(path, revision)
    if adapter is None:
        lora = tokenizer is not None and model_args is not None and model_args.use_peft
        if not (lora and bases.lacks_rows(path, revision, tokenizer)):
            return path
    from accelerate import PartialState

    base = Path(output_dir) / role
    state = PartialState()
    if state.is_main_process and not base.exists():
        source = tokenizer_source(path, revision)
        print(bases.write(path, adapter, base, revision, source, None if adapter else tokenizer), flush=True)
    state.wait_for_everyone()
    return str(base)


def load_policy(path: str, model_args: Any, tokenizer: Any) -> Any:
    """A causal language model that agrees with `tokenizer`: in fp32, or under LoRA in the configured dtype."""
    from transformers import AutoModelForCausalLM

    return weights.fit_to_tokenizer(weights.load(AutoModelForCausalLM, path, model_args), tokenizer, path)


def load_reward_model(path: str, model_args: Any, tokenizer: Any) -> Any:
    """A model with one score per sequence. A fresh head comes from the seed, so seed before calling this."""
    from transformers import AutoModelForSequenceClassification

    with heads.quiet():
        model = weights.load(AutoModelForSequenceClassification, path, model_args, num_labels=1)
    return weights.fit_to_tokenizer(model, tokenizer, path)


def load_trained(path: str, tokenizer: Any, *, reward_model: bool = False, dtype: Any = None) -> Any:
    """A frozen checkpoint of any kind (whole or adapter, policy or reward model) for sampling and scoring.

    Args:
        dtype: of the weights. By default fp32 for adapters, whose small changes would round away when they are merged
            in bf16, and for others bf16 on a GPU and on a CPU where a model of that size is faster in it. An adapter
            that is to be in less than fp32 is not merged.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    auto_class = AutoModelForSequenceClassification if reward_model else AutoModelForCausalLM
    extra = {"num_labels": 1} if reward_model else {}
    gpu = torch.cuda.is_available()
    adapter = adapters.located(path)
    if dtype is None:
        low = adapter is None and (gpu or device.bf16_pays(adapters.parameters(path)))
        dtype = torch.bfloat16 if low else torch.float32
    if adapter is None:
        with heads.quiet():
            model = weights.from_pretrained(auto_class, path, dtype=dtype, **extra)
    elif dtype == torch.float32:
        model = adapters.merged(path, adapter, dtype)
    else:
        model = adapters.attached(path, adapter, dtype).get_base_model()
    model = weights.fit_to_tokenizer(model, tokenizer, path).to("cuda" if gpu else "cpu").eval().requires_grad_(False)
    quicken(model)
    return model


def trained_in_fp32(model: Any) -> Any:
    """Cast what is trained to fp32, in place, and let it be called from a trunk in lower precision.

    In bf16 a weight has 8 bits: at a learning rate of 1e-5 most of Adam's steps are too small to move it. Call it on
    the model that is trained once its adapters are there and `requires_grad` is set, before the optimizer is made.
    Weights that ZeRO-3 has sharded stay as they are: its optimizer keeps their fp32 copies.

    Returns:
        The model itself.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    weights.round_once(model)
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

    All linear layers by default (Schulman et al. 2025, "LoRA Without Regret"); what a reward model has and its parent
    may lack (`score`; an encoder's `classifier`, `pooler`) is trained whole and saved with the adapter.
    """
    if not model_args.use_peft:
        return None
    from peft import LoraConfig

    path, revision = adapters.whole_below(model_args.model_name_or_path, model_args.model_revision)
    new = heads.new_parts(path, revision) if reward_model else []
    # PEFT leaves `score` out by itself, and warns where there is nothing else to leave out
    apart = rf"(.*\.)?({'|'.join(new)})(\..*)?" if set(new) - {"score"} else None
    return LoraConfig(
        task_type="SEQ_CLS" if reward_model else "CAUSAL_LM",
        r=model_args.lora_r,
        lora_alpha=model_args.lora_alpha,
        lora_dropout=model_args.lora_dropout,
        target_modules=lora_targets(model_args),
        exclude_modules=TOWERS if _has_towers(path, revision) else apart,
        target_parameters=model_args.lora_target_parameters,
        use_rslora=model_args.use_rslora,
        use_dora=model_args.use_dora,
        modules_to_save=[*(model_args.lora_modules_to_save or []), *new] or None,
        revision=None if model_args.model_revision == "main" else model_args.model_revision,  # of a base on the hub
    )


def _has_towers(path: str, revision: str) -> bool:
    """Is the language model one part among others (Gemma 3 from 4B on, Qwen-VL, Mistral 3)? Text reaches no other."""
    from transformers import AutoConfig

    with permission.loading(path):
        config = AutoConfig.from_pretrained(path, revision=revision, **permission.code(path))
    return config.get_text_config() is not config


def lora_targets(model_args: Any) -> str | list[str]:
    """What LoRA is put on: names of modules, a pattern of whole names, or `all-linear`.

    TRL makes a string of a list of one name, which PEFT then takes for a pattern that the whole name must match.
    """
    targets = model_args.lora_target_modules or "all-linear"
    return [targets] if isinstance(targets, str) and targets != "all-linear" and targets.isidentifier() else targets
