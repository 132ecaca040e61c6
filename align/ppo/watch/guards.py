"""Signs that a policy has collapsed, measured against the reference's own samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from align.run.errors import RunError


@dataclass
class Vitals:
    """What the guards look at, of one rollout over all processes."""

    entropy: float  # nats a token
    length: float  # tokens
    eos_rate: float
    commonest: float  # share of episodes whose completion is the most frequent one


def symptoms(now: Vitals, before: Vitals, longest: int) -> list[str]:
    """What looks collapsed in `now`; `before` is the reference on the same kind of prompts, `longest` response_length.

    The bounds are wide: a policy that has learnt to refuse gives one answer often, and a good one is surer than its
    reference. What they catch is what ends in useless text.
    """
    found = []
    if now.commonest > max(0.9, before.commonest):
        found.append(
            f"{now.commonest:.0%} of the completions are the same text (the policy says one thing to everything)"
        )
    if now.entropy < 0.01 * before.entropy:
        found.append(
            f"entropy fell from {before.entropy:.3g} to {now.entropy:.3g} nats a token (it no longer explores)"
        )
    if now.eos_rate < 0.5 * before.eos_rate:
        found.append(f"{now.eos_rate:.0%} of the completions stop, {before.eos_rate:.0%} did (it talks until cut off)")
    if now.length < 0.2 * before.length:
        found.append(f"completions shrank from {before.length:.1f} to {now.length:.1f} tokens (it says nothing)")
    if now.length > 4 * before.length and now.length > 0.9 * longest:
        found.append(f"completions grew from {before.length:.1f} to {now.length:.1f} tokens (length is what it found)")
    return found


@dataclass
class Patience:
    """Counts rollouts in a row with symptoms."""

    patience: int
    seen: int = 0

    def check(self, found: list[str], advice: str) -> None:
        """Raise once `patience` rollouts in a row had symptoms.

        Raises:
            RunError: with the symptoms, and where the last good weights are.
        """
        self.seen = self.seen + 1 if found else 0
        if self.patience and self.seen >= self.patience:
            raise RunError(
                f"the policy has collapsed for {self.seen} rollouts: {'; '.join(found)}. Usual causes: kl_coef too "
                f"low, learning_rate too high, a reward that can be fooled. {advice}"
            )


def check_finite(rollout: int, **tensors: Tensor) -> None:
    """Every tensor of a rollout must be finite.

    Raises:
        RunError: naming the tensor, the rollout and the first episode that is not.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            bad = (~tensor.isfinite()).reshape(len(tensor), -1).any(1).nonzero()[0].item()
            raise RunError(
                f"{name} of rollout {rollout} is not finite, first in episode {bad}: the weights are of no use from "
                "here on. Lower --learning_rate; the last checkpoint is untouched"
            )


def check_start(logps: Tensor, ref_logps: Tensor, mask: Tensor, allowed: float) -> None:
    """Before anything is learnt the policy is its reference, to `allowed` nats a token. All [B, T]."""
    kl = ((logps - ref_logps) * mask).abs().max().item()
    assert kl <= allowed, f"the policy is not its reference at the start: log-probs differ by {kl}"


def check_ratio(apart: float, allowed: float) -> None:
    """Nothing has been learnt yet: the update must see the log-probs that the rollout saw, `apart` nats at most."""
    assert apart <= allowed, f"before any step the ratio is not 1: log-probs differ by {apart} nats"


def check_norm(rollout: int, norm: float) -> None:
    """The norm of a gradient must be finite.

    Raises:
        RunError: naming the rollout.
    """
    if not math.isfinite(norm):
        raise RunError(
            f"the gradient of rollout {rollout} is not finite: the weights are of no use from here on. "
            "Lower --learning_rate; the last checkpoint is untouched"
        )
