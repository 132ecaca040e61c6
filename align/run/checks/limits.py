"""Values that a flag's type allows and that cannot work, as far as the flags alone can say."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from typing import Any

from align.run.checks import hub

Rule = tuple[Callable[[Any], bool], str]
COUNT: Rule = (lambda value: value >= 1, "at least 1")
POSITIVE: Rule = (lambda value: value > 0, "above 0")
NOT_NEGATIVE: Rule = (lambda value: value >= 0, "at least 0")
BELOW_ONE: Rule = (lambda value: 0 <= value < 1, "at least 0 and below 1")
UP_TO_ONE: Rule = (lambda value: 0 <= value <= 1, "between 0 and 1")
FINITE: Rule = (math.isfinite, "a finite number")
TWO: Rule = (lambda value: value >= 2, "at least 2")
SEED: Rule = (lambda value: 0 <= value < 2**32, "between 0 and 4,294,967,295")

RULES: dict[str, Rule] = {
    "learning_rate": POSITIVE,
    "global_batch_size": COUNT,
    "per_device_train_batch_size": COUNT,
    "per_device_eval_batch_size": COUNT,
    "precompute_ref_batch_size": COUNT,
    "num_train_epochs": POSITIVE,
    "max_steps": (lambda value: value == -1 or value >= 1, "at least 1, or -1 for whole epochs"),
    "seed": SEED,
    "data_seed": SEED,
    "weight_decay": NOT_NEGATIVE,
    "max_grad_norm": NOT_NEGATIVE,
    "adam_beta1": BELOW_ONE,
    "adam_beta2": BELOW_ONE,
    "adam_epsilon": POSITIVE,
    "save_steps": POSITIVE,
    "eval_steps": POSITIVE,
    "dataloader_num_workers": NOT_NEGATIVE,
    "max_length": (lambda value: value >= 2, "at least 2 tokens"),
    "pad_to_multiple_of": COUNT,
    "eval_accumulation_steps": COUNT,
    "ref_model_sync_steps": COUNT,
    "ref_model_mixup_alpha": UP_TO_ONE,
    "max_train_rows": COUNT,
    "shuffle_buffer_size": NOT_NEGATIVE,
    "max_eval_rows": COUNT,
    "test_split_size": NOT_NEGATIVE,
    "max_dropped": UP_TO_ONE,
    "max_too_long": UP_TO_ONE,
    "lora_r": COUNT,
    "lora_alpha": COUNT,
    "lora_dropout": BELOW_ONE,
    "neftune_noise_alpha": POSITIVE,
    "beta": POSITIVE,
    "label_smoothing": (lambda value: 0 <= value < 0.5, "at least 0 and below 0.5"),
    "ld_alpha": UP_TO_ONE,
    "discopop_tau": POSITIVE,
    "center_rewards_coefficient": NOT_NEGATIVE,
    "value_learning_rate": POSITIVE,
    "warmup_steps": NOT_NEGATIVE,
    "eval_delay": NOT_NEGATIVE,
    "logging_steps": NOT_NEGATIVE,
    "dataset_num_proc": COUNT,
    "router_aux_loss_coef": NOT_NEGATIVE,
    # what samples
    "max_prompt_length": COUNT,
    "max_new_tokens": COUNT,
    "max_completion_length": COUNT,
    "response_length": COUNT,
    "num_generations": COUNT,
    "temperature": NOT_NEGATIVE,
    "top_p": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "top_k": (lambda value: value >= 0, "at least 0 (0: all tokens)"),
    "min_p": UP_TO_ONE,
    "repetition_penalty": POSITIVE,
    # PPO
    "kl_coef": NOT_NEGATIVE,
    "kl_target": POSITIVE,
    "kl_horizon": COUNT,
    "kl_budget": POSITIVE,
    "cliprange": POSITIVE,
    "cliprange_value": POSITIVE,
    "gamma": UP_TO_ONE,
    "lam": UP_TO_ONE,
    "vf_coef": NOT_NEGATIVE,
    "reward_clip": POSITIVE,
    "missing_eos_penalty": (lambda value: value >= 0, "at least 0; below it would be a prize"),
    "total_episodes": COUNT,
    "num_ppo_epochs": COUNT,
    "num_mini_batches": COUNT,
    "num_sample_generations": NOT_NEGATIVE,
    "local_rollout_forward_batch_size": COUNT,
    "value_warmup_rollouts": NOT_NEGATIVE,
    "collapse_patience": NOT_NEGATIVE,
    "rollout_save_steps": NOT_NEGATIVE,
    # RLOO
    "epsilon": POSITIVE,
    "epsilon_high": POSITIVE,
    "num_iterations": COUNT,
    "num_generations_eval": COUNT,
    "generation_batch_size": COUNT,
    "steps_per_generation": COUNT,
    # a comparison's arms
    "kl_coefs": NOT_NEGATIVE,
    "betas": POSITIVE,
    "rloo_betas": NOT_NEGATIVE,
    "seeds": SEED,
}
# Where a recipe, told by a flag of its own, allows less or more
SAMPLES_TO_LEARN: dict[str, Rule] = {"temperature": POSITIVE}  # greedy samples have no probability to learn from
OF_RECIPES: dict[str, dict[str, Rule]] = {
    "kl_coef": SAMPLES_TO_LEARN,
    "num_iterations": {**SAMPLES_TO_LEARN, "num_generations": TWO, "beta": NOT_NEGATIVE},
}
BY_LAYER = ("galore", "apollo")  # the optimizers that read optim_target_modules
LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters", "lora_modules_to_save",
        "use_rslora", "use_dora")  # fmt: skip


def problems(given: dict[str, Any], values: dict[str, Any], known: Collection[str], gpu: bool) -> list[str]:
    """What is wrong with the values of a configuration, each with what to type instead.

    Args:
        given: what the user set.
        values: the same over the recipe's defaults.
        known: the flags that this recipe has.
        gpu: is there one?
    """
    found = [*numbers(given, known), *_patterns(given)]
    idle = [name for name in LORA if name in given and "use_peft" in known and not values.get("use_peft")]
    if idle:
        found.append(f"{', '.join(idle)}: nothing reads this without --use_peft")
    if given.get("optim_target_modules") and not any(name in str(values.get("optim")) for name in BY_LAYER):
        found.append("optim_target_modules: only GaLore and APOLLO read this; leave it out, or name one with --optim")
    if values.get("save_strategy") == "best":
        found.append("save_strategy=best: the last model is the one that is saved; use steps, epoch or no")
    if given.get("activation_offloading") and not gpu:
        found.append("activation_offloading moves activations off a GPU, and there is none here; leave it out")
    if values.get("attn_implementation") == "flex_attention" and not gpu:
        found.append("attn_implementation=flex_attention cannot train on a CPU; use sdpa")
    if given.get("dataloader_persistent_workers") and not given.get("dataloader_num_workers"):
        found.append("dataloader_persistent_workers: there are none; give --dataloader_num_workers 1 or more as well")
    pushed = hub.problems(given, values) if "hub_model_id" in known else []  # other programs push rows
    return [*found, *pushed, *_of_checkpointing(given), *_of_packing(given, values), *_of_streams(given, values),
            *_of_pairs(values)]  # fmt: skip


def _of_checkpointing(given: dict[str, Any]) -> list[str]:
    """transformers has renamed it; both names are flags."""
    return [
        f"activation_checkpointing{tail}={given['activation_checkpointing' + tail]} and gradient_checkpointing{tail}="
        f"{given['gradient_checkpointing' + tail]} are two names of one thing: give the first alone"
        for tail in ("", "_kwargs")
        if {"activation_checkpointing" + tail, "gradient_checkpointing" + tail} <= set(given)
        and given["activation_checkpointing" + tail] != given["gradient_checkpointing" + tail]
    ]


def numbers(given: dict[str, Any], known: Collection[str]) -> list[str]:
    """Numbers that are none or that their flags do not allow. `known` as above."""
    rules = dict(RULES)
    for flag, others in OF_RECIPES.items():
        rules |= others if flag in known else {}
    found = []
    for name, value in given.items():
        for one in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(one, str) and name in rules and re.fullmatch(r"-?\d+", one):
                one = int(one)  # of a flag that takes words as well: pad_to_multiple_of auto
            if isinstance(one, bool) or not isinstance(one, (int, float)):
                continue
            holds, words = rules.get(name, FINITE)
            if not math.isfinite(one):
                found.append(f"{name}={one:g}: must be a finite number" + (f", {words}" if name in rules else ""))
            elif not holds(one):
                found.append(f"{name}={one:g}: must be {words}")
    return found


def _patterns(given: dict[str, Any]) -> list[str]:
    """One name for LoRA may be a pattern: is it one?"""
    targets = given.get("lora_target_modules")
    targets = [targets] if isinstance(targets, str) else targets or []
    try:
        re.compile(targets[0] if len(targets) == 1 else "")
    except re.error as error:
        return [f"lora_target_modules={targets[0]}: a single one is a regular expression for whole names, and this is "
                f"none ({error}); give names (q_proj v_proj), or for example '.*q_proj'"]  # fmt: skip
    return []


def _of_packing(given: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """What cannot be had of packed rows: whole demonstrations side by side, of which each sees itself alone."""
    strategy = given.get("packing_strategy")
    if not values.get("packing"):
        return ["packing_strategy: nothing reads this without --packing"] if strategy else []
    found = []
    if strategy and strategy != "bfd":
        found.append(f"packing_strategy={strategy} cuts rows in two, and rows are never cut; use bfd, the default")
    if "max_length" in values and values["max_length"] is None:
        found.append("packing fills rows up to --max_length; give one")
    if given.get("neftune_noise_alpha"):
        found.append("neftune_noise_alpha: its noise goes by a row's length, which packing changes; leave out either")
    if given.get("pad_to_multiple_of"):
        found.append("pad_to_multiple_of: packing leaves no padding; leave out either")
    return found


def _of_streams(given: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """What cannot be had of rows that are read as they arrive."""
    if not values.get("dataset_streaming"):
        return ["shuffle_buffer_size: nothing reads this without --dataset_streaming"] * (
            "shuffle_buffer_size" in given
        )
    found = []
    if (values.get("max_steps") or -1) <= 0:
        found.append("dataset_streaming: a stream has no length, so say when to stop: --max_steps 1000")
    if values.get("test_split_size"):
        found.append("test_split_size cannot be cut off a stream; name a split with --dataset_test_split")
    if "max_length" in values and values["max_length"] is None:
        found.append("dataset_streaming: how long a stream's rows are is not known beforehand; give a --max_length")
    return found


def _of_pairs(values: dict[str, Any]) -> list[str]:
    """What DPO's losses exclude."""
    losses = values.get("loss_type") or []
    losses = [losses] if isinstance(losses, str) else losses
    found = []
    if "exo_pair" in losses and not values.get("label_smoothing"):
        found.append("loss_type=exo_pair needs --label_smoothing above 0 (its paper: 1e-3)")
    if values.get("sync_ref_model"):
        if values.get("use_peft") or values.get("precompute_ref_log_probs"):
            found.append("sync_ref_model moves the reference, so it needs full fine-tuning (no --use_peft) and no "
                         "--precompute_ref_log_probs")  # fmt: skip
        if str(values.get("resume_from_checkpoint")).lower() not in ("none", "false"):
            found.append("sync_ref_model: the moved reference is not in a checkpoint, so such a run cannot be resumed; "
                         "start it again with --overwrite")  # fmt: skip
    return found
