"""From checkpoints and functions to a trainer: ours, or TRL's own as the baseline."""

from __future__ import annotations

import copy
import re
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from align.data import arrow
from align.models import adapters, checkpoints, scorers
from align.models.fast import layers
from align.ppo import baseline, roles
from align.ppo.arithmetic import Plan
from align.ppo.config import PPOArguments, trained_whole
from align.ppo.sharding import place_frozen
from align.ppo.trainer import PolicyTrainer
from align.run.errors import ConfigError, one_sentence
from align.run.lineage import identity, same
from align.train import loop, preflight

TRAINED = re.compile(r"(lora_|modules_to_save).*\.(default|value)(\.|$)|^value_head\.|^critic\.")

RANDOM = re.compile("drop|jitter")  # numbers that layers use in training mode, which checkpointing needs


def make_trainer(
    parent: str, args: PPOArguments, plan: Plan, model_args: Any, tokenizer: Any, rows: Any, callbacks: list
) -> Any:
    """Load policy, critic, reference and rewards, and build the trainer.

    Args:
        parent: whole weights that the policy starts from; the reference is the same, without an adapter or as a copy.
        rows: `Splits` of prompts; with a test split and `eval_strategy`, held-out prompts are scored as well.
    """
    args.push_to_hub = False  # the trainer pushes nothing: `loop.finish` does
    if args.engine == "trl":
        return baseline.make_trainer(parent, args, plan, model_args, tokenizer, rows, callbacks)
    functions = [scorers.load_function(where) for where in [*args.reward_funcs, *args.eval_reward_funcs]]
    assert all(functions)
    longest = int(arrow.lengths(rows.train, "input_ids").max()) + args.response_length
    both = build(
        parent, args.reward_model_path, args.value_model, model_args, tokenizer, longest=longest,
        output_dir=args.output_dir,
    )  # fmt: skip
    reference = (
        None if model_args.use_peft else roles.Frozen(checkpoints.load_policy(parent, model_args, tokenizer), longest)
    )
    reward = scorers.Reward([], clip=args.reward_clip)
    held_out = [scorers.from_function(where) for where in args.eval_reward_funcs]
    trainer = PolicyTrainer(
        args=args, plan=plan, both=both, reference=reference, reward=reward, processing_class=tokenizer,
        train_dataset=rows.train, eval_dataset=rows.test if args.eval_strategy != "no" else None,
        eval_reward=scorers.Reward(held_out) if held_out else None, callbacks=callbacks,
    )  # fmt: skip
    if loop.keeps_whole(trainer):
        layers.use(both.policy, both.critic, reference and reference.inner)
    weights = iter(args.reward_weights or [1.0] * (1 + len(args.reward_funcs)))
    if args.reward_model_path:
        reward.scorers.append(_reward_model(trainer, args, model_args, tokenizer, next(weights)))
    reward.scorers += [scorers.from_function(where, next(weights)) for where in args.reward_funcs]
    return trainer


def _reward_model(trainer: PolicyTrainer, args: PPOArguments, model_args: Any, tokenizer: Any, weight: float) -> Any:
    """The reward model as an adapter of the policy's backbone where it is one, else as a frozen model of its own."""
    assert args.reward_model_path is not None
    own = checkpoints.load_tokenizer(args.reward_model_path, beside=tokenizer)
    if trainer.both.reward_head is not None:
        print(f"reward model: an adapter on the policy's own backbone ({args.reward_model_path})", flush=True)
        scorer, packs = partial(trainer.model, "score"), trainer.both.packs
    else:
        path = checkpoints.resolve_parent(args.reward_model_path, args.output_dir, role="reward")
        longest = own.model_max_length if own.model_max_length < 1e9 else 2**30
        frozen = roles.Frozen(checkpoints.load_reward_model(path, model_args, own), longest)
        if loop.keeps_whole(trainer):
            layers.use(frozen.inner)
        scorer, packs = place_frozen(frozen, trainer.accelerator), frozen.packs
    return scorers.from_model(lambda ids: trainer.sampler.score_sequences(ids, scorer, packs), tokenizer, own, weight)


def build(
    parent: str,
    reward_path: str | None,
    value_model: str,
    model_args: Any,
    tokenizer: Any,
    *,
    longest: int,
    output_dir: str,
) -> roles.ActorCritic:
    """Load the policy and put critic and reward adapter beside it. Seed before: heads and adapters are new.

    Args:
        parent: whole weights that the policy starts from and that the reference is.
        reward_path: the reward model's folder or hub id, or None where functions give the reward.
        longest: tokens of the longest prompt with the longest completion.
        output_dir: where a reward adapter's merged weights go, if the critic starts from them.
    """
    from peft import get_peft_model

    critic, start = None, parent
    if value_model == "full":
        if reward_path and same_tokens(reward_path, tokenizer):
            start = checkpoints.resolve_parent(reward_path, output_dir, role="reward")
        preflight.skeleton(start, model_args, reward_model=True)  # a family without a score is told before weights load
    policy = checkpoints.load_policy(parent, model_args, tokenizer)
    lora = checkpoints.lora_config(model_args)
    if value_model == "full":
        critic = checkpoints.load_reward_model(start, trained_whole(model_args), tokenizer)
        if start == parent:
            nn.init.zeros_(critic.score.weight)
    with one_sentence("PEFT refuses these settings"):
        policy = policy if lora is None else get_peft_model(policy, lora)
        both = roles.ActorCritic(policy, value_model, critic, longest)
        if lora is not None and value_model == "adapter":
            policy.add_adapter("value", _of_critic(lora, policy))
    both.starts_as_reward_model = critic is not None and start != parent
    if lora is not None and reward_path and shares_backbone(reward_path, parent) and not _clash(policy, reward_path):
        _add_reward_adapter(both, reward_path)
    for name, weight in both.named_parameters():
        weight.requires_grad_(bool(TRAINED.search(name)) if lora is not None else True)
    both.switch.set("default")
    _check_dora(policy)
    checkpoints.trained_in_fp32(policy)
    _without_dropout(both)
    return both


def _of_critic(lora: Any, policy: Any) -> Any:
    """The policy's LoRA settings for a critic on the same backbone, which has no use for the matrix to the vocabulary:
    weights that are in no pass would get no gradient."""
    settings, bare = copy.deepcopy(lora), policy.get_base_model()
    head = next(name for name, part in bare.named_modules() if part is bare.get_output_embeddings())
    if hasattr(bare.get_output_embeddings(), "lora_A"):
        settings.target_modules = [name for name in policy.base_model.targeted_module_names if name != head]
    kept = [name for name in settings.modules_to_save or [] if not f".{head}".endswith(f".{name}")]
    settings.modules_to_save = kept or None
    return settings


def _check_dora(policy: Any) -> None:
    """DoRA divides each row by its length: rows of zeros, as of tokens that were never trained, would become NaN."""
    for name, part in policy.named_modules():
        lengths = getattr(part, "lora_magnitude_vector", {})
        zero = int((lengths["default"].weight == 0).sum()) if "default" in lengths else 0
        if zero:
            raise ConfigError(
                f"use_dora divides each row by its length, and {name.removeprefix('base_model.model.')} has {zero} "
                f"row{'s' * (zero > 1)} of zeros; leave it out of --lora_target_modules, or leave --use_dora out"
            )


def same_tokens(path: str, tokenizer: Any) -> bool:
    """Does the checkpoint read the policy's token ids as they are?"""
    return checkpoints.load_tokenizer(path).get_vocab() == tokenizer.get_vocab()


def _without_dropout(module: nn.Module) -> None:
    """Ratios are between two passes over the same tokens: nothing random may lie between them."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name, value in vars(part).items():
            if RANDOM.search(name) and isinstance(value, float):
                setattr(part, name, 0.0)


def shares_backbone(reward_path: str, parent: str) -> bool:
    """Is the reward model a LoRA adapter of the weights that the policy starts from? Told by the files' contents."""
    folder = adapters.located(reward_path)
    if folder is None or not (folder / "adapter_model.safetensors").is_file():
        return False
    if adapters.settings(folder).get("peft_type") != "LORA":
        return False
    base, _ = adapters.base_of(folder)
    return same(base, parent) or (Path(base).is_dir() and Path(parent).is_dir() and identity(base) == identity(parent))


def _clash(policy: Any, path: str) -> bool:
    """Does one adapter train a module whole that the other has LoRA on? PEFT cannot keep both in one model."""
    folder = adapters.located(path)
    assert folder is not None, path
    mine, theirs = policy.peft_config["default"], adapters.settings(folder)
    whole, targets = theirs.get("modules_to_save") or [], theirs.get("target_modules") or []
    taken = {name.rpartition(".")[2] for name in policy.base_model.targeted_module_names}
    here = {name.rpartition(".")[2] for name in mine.modules_to_save or []}
    there = {targets} if isinstance(targets, str) else {name.rpartition(".")[2] for name in targets}
    pattern = isinstance(targets, str) and bool(here)  # of names that nobody has listed
    return bool(taken & {name.rpartition(".")[2] for name in whole}) or bool(here & there) or pattern


def _add_reward_adapter(both: roles.ActorCritic, path: str) -> None:
    """Put a trained reward adapter and its head beside the policy's adapter, frozen."""
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors.torch import load_file

    folder = adapters.located(path)
    assert folder is not None, path
    config = LoraConfig.from_pretrained(str(folder))
    config.task_type, config.inference_mode = "CAUSAL_LM", True
    config.modules_to_save = [name for name in config.modules_to_save or [] if name != "score"] or None
    weights = load_file(str(folder / "adapter_model.safetensors"))
    head = [name for name in weights if re.search(r"(^|\.)score(\.|$)", name)]
    if len(head) != 1:
        raise ConfigError(f"{path}: expected one score head in the adapter, found {head}")
    score = weights.pop(head[0])
    both.policy.add_adapter("reward", config)
    loaded = set_peft_model_state_dict(both.policy, weights, adapter_name="reward")
    if loaded.unexpected_keys:
        raise ConfigError(f"{path}: the reward adapter has weights that the policy lacks: {loaded.unexpected_keys[:3]}")
    if missing := [name for name in loaded.missing_keys if re.search(r"\.reward(\.|$)", name)]:
        raise ConfigError(f"{path}: the reward adapter lacks weights that its settings speak of: {missing[:3]}")
    both.reward_head = nn.Linear(score.shape[1], score.shape[0], bias=False, dtype=score.dtype)
    both.reward_head.weight.data.copy_(score)
