"""Values that a flag's type allows and that cannot work, as far as the flags alone can say."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

Rule = tuple[Callable[[Any], bool], str]
COUNT: Rule = (lambda value: value >= 1, "at least 1")
POSITIVE: Rule = (lambda value: value > 0, "above 0")
NOT_NEGATIVE: Rule = (lambda value: value >= 0, "at least 0")
BELOW_ONE: Rule = (lambda value: 0 <= value < 1, "at least 0 and below 1")
UP_TO_ONE: Rule = (lambda value: 0 <= value <= 1, "between 0 and 1")
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
}
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
    found = []
    for name, (holds, words) in RULES.items():
        value = given.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not holds(value):
            found.append(f"{name}={value:g}: must be {words}")
    idle = [name for name in LORA if name in given and "use_peft" in known and not values.get("use_peft")]
    if idle:
        found.append(f"{', '.join(idle)}: nothing reads this without --use_peft")
    if values.get("save_strategy") == "best":
        found.append("save_strategy=best: the last model is the one that is saved; use steps, epoch or no")
    if given.get("activation_offloading") and not gpu:
        found.append("activation_offloading moves activations off a GPU, and there is none here; leave it out")
    if values.get("attn_implementation") == "flex_attention" and not gpu:
        found.append("attn_implementation=flex_attention cannot train on a CPU; use sdpa")
    if given.get("push_to_hub") and not _logged_in():
        found.append(
            "push_to_hub needs an account: log in first (hf auth login), or leave it out and upload afterwards"
        )
    if given.get("dataloader_persistent_workers") and not given.get("dataloader_num_workers"):
        found.append("dataloader_persistent_workers: there are none; give --dataloader_num_workers 1 or more as well")
    return [*found, *_of_pairs(values)]


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


def _logged_in() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None
