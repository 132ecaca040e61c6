"""What a training recipe asks before it loads weights: do its settings go with its rows and with the model's layout?"""

from __future__ import annotations

import re
from typing import Any

from accelerate import PartialState
from trl import DPOConfig, RLOOConfig, SFTConfig

from align.data import arrow
from align.models import adapters, checkpoints, heads
from align.run.errors import fail, one_sentence
from align.run.trial import throwaway
from align.train import logits, packed

BY_LAYER = ("galore", "apollo", "lomo")  # optimizers that are made of a model's layers


def check(
    args: Any, model_args: Any, path: str | None, rows: Any, *, reward_model: bool = False, answer: int = 0
) -> bool:
    """Stop at settings that cannot work with these rows and this checkpoint.

    Args:
        path: the checkpoint or adapter that training starts from; None for a new model.
        rows: the splits, as `align.data.prepare` gives them.
        answer: where rows are prompts, the most tokens that are sampled after one.

    Returns:
        Does SFT have to compute the model's own loss, because TRL's would be another one?

    Raises:
        ConfigError: with every problem found; no weights have been loaded by then.
    """
    problems, whole = _evaluation(args, rows), False
    model = None if path is None else skeleton(path, model_args, reward_model=reward_model)
    _optimizer(args, model)
    if model is not None:
        problems += _room(model.config.get_text_config(), rows, answer)
        problems += _lora(model, model_args) if model_args.use_peft else []
        problems += packed.problems(args, model) if isinstance(args, SFTConfig) else []
        if not reward_model:  # last: the model is of no use afterwards
            found, whole = _logits(args, model, model_args)
            problems += found
    if problems:
        fail(problems)
    return whole


def skeleton(path: str, model_args: Any, *, reward_model: bool = False) -> Any:
    """The model's modules, with their names and shapes and without weights.

    Raises:
        ConfigError: for an attention that is not there, or a layout that transformers does not know.
    """
    path, revision = adapters.whole_below(path, model_args.model_revision)
    with one_sentence(f"{path} cannot be trained like this"):
        return heads.skeleton(
            path, revision, reward_model=reward_model, attn_implementation=model_args.attn_implementation
        )


def _evaluation(args: Any, rows: Any) -> list[str]:
    """Evaluation that was asked for needs rows."""
    asked = args.eval_strategy != "no" or args.eval_on_start
    if not asked or (rows.test is not None and len(rows.test)):
        return []
    name = f"eval_strategy={args.eval_strategy.value}" if args.eval_strategy != "no" else "eval_on_start"
    return [f"{name}: there are no held-out rows; hold some out with --test_split_size 0.05, name a split with "
            "--dataset_test_split, or leave it out"]  # fmt: skip


def _optimizer(args: Any, model: Any) -> None:
    """Make optimizer, schedule and trackers as the trainer will, on one number: packages that are missing show up.
    A dry run then tells no tracker anything.

    Args:
        model: whose layers some optimizers choose by name (GaLore, APOLLO, LOMO); None for a new one.

    Raises:
        ConfigError: for the first that cannot be made.
    """
    import torch
    from transformers import Trainer, get_scheduler
    from transformers.integrations import get_reporting_integration_callbacks

    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer: Any = torch.optim.SGD([weight])
    with one_sentence(f"optim={args.optim.value} cannot be used here", "; leave it out, or use adamw_torch"):
        if model is not None or not any(name in args.optim.value for name in BY_LAYER):
            cls, settings = Trainer.get_optimizer_cls_and_kwargs(args, model)
            if not {"optimizer_dict", "model", "params"} & settings.keys():
                optimizer = cls([weight], **settings)
    schedule = args.lr_scheduler_type.value
    with one_sentence(
        f"lr_scheduler_type={schedule} cannot be used", "; what it needs goes into lr_scheduler_kwargs (YAML)"
    ):
        get_scheduler(schedule, optimizer, 1, 10, args.lr_scheduler_kwargs or {})
    with one_sentence(
        f"report_to={' '.join(args.report_to)} cannot be used here", "; or leave it out: metrics.jsonl has all"
    ):
        for tracker in get_reporting_integration_callbacks(args.report_to):
            tracker()
    if throwaway.asked():
        args.report_to, args.push_to_hub = [], False


def _room(config: Any, rows: Any, answer: int) -> list[str]:
    """No row, with what is sampled after it, may be longer than the model has positions for."""
    room = heads.positions(config)
    if room is None:
        return []
    longest = max((_longest(split) for split in (rows.train, rows.test) if hasattr(split, "__len__")), default=0)
    most = rows.stream.report.limit if rows.stream is not None else None
    if most is not None and most > room:
        return [f"max_length={most}: rows of a stream may be as long, and the model has positions for {room:,}; give "
                f"--max_length {room} (longer rows are dropped and counted)"]  # fmt: skip
    if longest + answer <= room:
        return []
    if answer:
        return [f"the longest prompt has {longest:,} tokens, an answer may have {answer:,}, and the model has room "
                f"for {room:,} positions: lower --max_prompt_length (longer prompts are dropped and counted), or the "
                "longest answer"]  # fmt: skip
    return [f"max_length: the longest row has {longest:,} tokens and the model has positions for {room:,}; give "
            f"--max_length {room} (longer rows are dropped and counted)"]  # fmt: skip


def _longest(rows: Any) -> int:
    """Tokens of the longest sequence that a model will read."""
    names = [name for name in ("input_ids", "chosen_ids", "rejected_ids") if name in rows.column_names]
    before = [name for name in ("prompt_ids",) if name in rows.column_names]
    return max((int(arrow.lengths(rows, name, *before).max()) for name in names if len(rows)), default=0)


def _logits(args: Any, model: Any, model_args: Any) -> tuple[list[str], bool]:
    """Is the loss that is trained the model's own? Where TRL's without logits is not, SFT takes the whole one.

    Returns:
        Problems, and whether SFT's trainer has to be the one with the whole loss.
    """
    fused = logits.fused() and isinstance(args, (SFTConfig, DPOConfig, RLOOConfig))
    pieces = isinstance(args, SFTConfig) and (fused or args.loss_type == "chunked_nll")
    if not pieces and not fused and not args.use_liger_kernel:
        return [], False
    config = model.config.get_text_config()
    family, cap = model.config.model_type, getattr(config, "final_logit_softcapping", None)
    adapted = model_args.use_peft and _fits(checkpoints.lora_targets(model_args), head := _head(model))
    seen = logits.seen(model)
    if not fused and args.use_liger_kernel and not seen.plain and (cap is None or isinstance(args, DPOConfig)):
        return [f"use_liger_kernel: Liger's losses do not see what {family} models do to their logits after the head; "
                "leave it out"], False  # fmt: skip
    if fused and adapted:
        return [f"lora_target_modules: LoRA on {head} is not seen by TRL's losses, which read the head's own matrix; "
                "leave it out"], False  # fmt: skip
    if adapted or not seen.in_pieces:
        why = "an adapter on the head" if adapted else f"what {family} models do to their logits after the head"
        if not pieces or args.loss_type == "dft":
            return [f"TRL's loss does not see {why}, so another model would be trained; take "
                    + ("--loss_type nll" if pieces else "another base")], False  # fmt: skip
        args.loss_type = "nll"
        PartialState().print(
            f"loss_type: nll, the model's own loss; TRL's without logits does not see {why}", flush=True
        )
        return [], fused
    return (_balance(args, config) if fused else []), False


def _balance(args: Any, config: Any) -> list[str]:
    """TRL computes a mixture's load-balancing loss itself, from settings that some families have under other names."""
    coefficient = args.router_aux_loss_coef
    coefficient = getattr(config, "router_aux_loss_coef", 0.0) if coefficient is None else coefficient
    lacking = [name for name in ("num_experts", "num_experts_per_tok") if not hasattr(config, name)]
    if not hasattr(config, "output_router_logits") or not coefficient or not lacking:
        return []
    return [f"router_aux_loss_coef={coefficient:g}: TRL cannot compute the load-balancing loss of {config.model_type} "
            f"models, whose settings have no {lacking[0]}; give --router_aux_loss_coef 0"]  # fmt: skip


def _head(model: Any) -> str:
    """The name of the matrix to the vocabulary."""
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), "lm_head")


def _fits(targets: str | list[str], name: str) -> bool:
    """Would LoRA be put on the module of this name?"""
    if isinstance(targets, str):  # `all-linear` leaves out the head
        return targets != "all-linear" and re.fullmatch(targets, name) is not None
    return any(name == one or name.endswith(f".{one}") for one in targets)


def _lora(model: Any, model_args: Any) -> list[str]:
    """Names given to LoRA that the model has nothing of: PEFT passes over them if one other name fits."""
    modules = dict(model.named_modules())
    heads = [name for name, m in modules.items() if any(p.ndim == 2 for p in m.parameters(recurse=False))]
    some = ", ".join(sorted({name.rpartition(".")[2] for name in heads}))
    targets = checkpoints.lora_targets(model_args)
    found = []
    if (
        isinstance(targets, str)
        and targets != "all-linear"
        and not any(re.fullmatch(targets, name) for name in modules)
    ):
        found.append(f"lora_target_modules: no module's whole name is like {targets!r}; names are like {heads[0]}")
    for flag, names, all_names in (
        ("lora_target_modules", targets, heads),
        ("lora_modules_to_save", model_args.lora_modules_to_save, modules),
    ):
        for name in names if isinstance(names, list) else ():
            if name != "score" and not any(one == name or one.endswith(f".{name}") for one in all_names):
                found.append(f"{flag}: the model has no {name}; it has {some}")
    if names := model_args.lora_target_parameters:
        found += _parameters([names] if isinstance(names, str) else names, model, modules)
    return found


def _parameters(names: list[str], model: Any, modules: dict[str, Any]) -> list[str]:
    """LoRA on single parameters (experts' weights) takes those that no linear module owns."""
    import torch

    found = []
    for name in names:
        fitting = [one for one, _ in model.named_parameters() if one == name or one.endswith(f".{name}")]
        owners = [modules[one.rpartition(".")[0]] for one in fitting]
        if not fitting:
            found.append(f"lora_target_parameters: the model has no parameter {name}")
        elif any(isinstance(owner, (torch.nn.Linear, torch.nn.Embedding)) for owner in owners):
            module = name.removesuffix(".weight").rpartition(".")[2]
            found.append(
                f"lora_target_parameters: {name} belongs to a linear layer; use --lora_target_modules {module}"
            )
    return found
