"""What is saved of PPO: the policy as others load it, the critic beside it, and what a resumed run needs to go on."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TrainerState

from align.ppo.roles import ActorCritic
from align.ppo.watch import guards
from align.run.errors import ConfigError, RunError

VALUE = re.compile(r"\.value(\.|$)")  # the critic's adapter, in names of weights
STATE = "ppo_state.json"  # what a checkpoint holds beside transformers' own files


@dataclass
class RolloutState(TrainerState):
    """transformers' state of a training, whose steps are rollouts, and the episodes that were sampled."""

    episode: int = 0


def save(both: ActorCritic, weights: dict[str, Tensor], folder: Path) -> None:
    """The policy as plain `from_pretrained` (or PEFT) loads it, the critic in `critic/`.

    Args:
        weights: the whole state dict of `both`, gathered from wherever it is sharded.
    """
    from safetensors.torch import save_file

    lora = hasattr(both.policy, "peft_config")
    mine = {name.removeprefix("policy."): w for name, w in weights.items() if name.startswith("policy.")}
    only = {"selected_adapters": ["default"]} if lora else {}
    both.policy.save_pretrained(folder, state_dict=mine, **only)
    critic = folder / "critic"
    if both.critic is not None:
        parts = {name.removeprefix("critic."): w for name, w in weights.items() if name.startswith("critic.")}
        both.critic.save_pretrained(critic, state_dict=parts)
    critic.mkdir(exist_ok=True)
    parts = {n: w.contiguous() for n, w in weights.items() if n.startswith("value_head.") or VALUE.search(n)}
    if parts:
        save_file(parts, str(critic / "value.safetensors"))
    facts = dict(value_model=both.value_model, shift=both.values_shift, scale=both.values_scale)
    (critic / "critic.json").write_text(json.dumps(facts) + "\n")


def restore(both: ActorCritic, folder: Path) -> None:
    """The opposite of `save`, into a freshly built module: for resuming, and for a critic to be used again.

    Raises:
        ConfigError: if the folder's critic is of another kind.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    facts = json.loads((folder / "critic" / "critic.json").read_text())
    if facts["value_model"] != both.value_model:
        raise ConfigError(f"{folder}: its critic is a {facts['value_model']}, this run asks for {both.value_model}")
    both.values_shift, both.values_scale = facts["shift"], facts["scale"]
    if hasattr(both.policy, "peft_config"):
        found = load_file(str(folder / "adapter_model.safetensors"))
        loaded = set_peft_model_state_dict(both.policy, found, "default")
        missing = [name for name in loaded.missing_keys if re.search(r"\.default(\.|$)", name)]
        assert not missing and not loaded.unexpected_keys, (folder, missing, loaded.unexpected_keys)
    else:
        _load_whole(both.policy, folder)
    if both.critic is not None:
        _load_whole(both.critic, folder / "critic")
    if (folder / "critic" / "value.safetensors").is_file():
        _, unknown = both.load_state_dict(load_file(str(folder / "critic" / "value.safetensors")), strict=False)
        assert not unknown, unknown


def _load_whole(target: Any, folder: Path) -> None:
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        found |= load_file(str(file))
    missing, unknown = target.load_state_dict(found, strict=False)
    tied = set(getattr(target, "_tied_weights_keys", None) or {})
    assert found and not unknown and not set(missing) - tied, (folder, missing, unknown)


def write_state(trainer: Any, folder: Path) -> None:
    """Coefficient, scale, guards and best score: what a checkpoint has beside weights and optimizer."""
    own = dict(
        kl_coef=trainer.kl_coef, mean=trainer.reward.mean, std=trainer.reward.std, suspicion=trainer.guard.seen,
        best=trainer.best, before=asdict(trainer.before) if trainer.before else None, shift=trainer.both.values_shift,
        scale=trainer.both.values_scale, episodes=trainer.plan.episodes, processes=trainer.plan.processes,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STATE).write_text(json.dumps(own) + "\n")
    if trainer.args.sync_ref_model:  # it follows the policy, so it is no longer the parent
        trainer.reference.inner.save_pretrained(folder / "reference")


def restore_state(trainer: Any, folder: Path) -> None:
    """The opposite, with counters; weights and optimizer have been loaded by now.

    Raises:
        RunError: if a rollout had another number of episodes, or for a reference that followed and was not kept.
    """
    trainer.state = RolloutState.load_from_json(str(folder / "trainer_state.json"))
    own = json.loads((folder / STATE).read_text())
    if own["episodes"] != trainer.plan.episodes:
        raise RunError(f"{folder} was made with {own['episodes']} episodes a rollout, not {trainer.plan.episodes}")
    trainer.kl_coef, trainer.best, trainer.guard.seen = own["kl_coef"], own["best"], own["suspicion"]
    trainer.reward.mean, trainer.reward.std = own["mean"], own["std"]
    trainer.both.values_shift, trainer.both.values_scale = own["shift"], own["scale"]
    trainer.before = guards.Vitals(**own["before"]) if own["before"] else None
    if trainer.args.sync_ref_model:
        if not (folder / "reference").is_dir():
            raise RunError(f"{folder} does not hold the reference that followed the policy: it was made without "
                           "sync_ref_model; resume without it, or begin a new run")  # fmt: skip
        _load_whole(trainer.reference.inner, folder / "reference")
