"""The numbers of a rollout and of its update, under TRL's names, as means over real tokens and all processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from align.ppo import maths
from align.ppo.rollout import Rollout
from align.ppo.sharding import Everyone
from align.ppo.watch.guards import Vitals

Total = Callable[[Tensor], Tensor]  # sums a tensor over all processes


def seen(logps: Tensor, old: Tensor, losses: tuple[Tensor, Tensor], clips: tuple[Tensor, Tensor]) -> Tensor:
    """What `of_update` sums up, of one pass over N tokens: [9].

    Args:
        logps, old: [N], now and when sampled; losses: of policy and value, [N] each; clips: where they bind, [N] each.
    """
    with torch.no_grad():
        apart = logps - old
        ratio = apart.exp()
        parts = (*losses, *clips, 0.5 * apart.square(), ratio, ratio.square(), torch.ones_like(ratio))
        return torch.stack([part.sum(dtype=torch.float32) for part in parts] + [apart.abs().max()])


def of_update(sums: Tensor, norms: list[float], total: Total) -> dict[str, float]:
    """Per-token means over all passes of an update.

    Args:
        sums: [passes, 9], what `seen` gave: policy loss, value loss, both clips, squared distance of
            log-probs, ratio, its square, tokens, and the largest distance.
        norms: the gradient's norm at each optimizer step.
    """
    totals = total(sums[:, :-1].sum(0).double())
    policy, value, clipped, held, approx, ratio, squared, _ = (totals / totals[-1]).tolist()
    return {
        "loss/policy_avg": policy, "loss/value_avg": value, "policy/clipfrac_avg": clipped, "val/clipfrac_avg": held,
        "policy/approxkl_avg": approx, "val/ratio": ratio, "val/ratio_var": max(0.0, squared - ratio**2),
        "grad_norm": sum(norms) / len(norms),
    }  # fmt: skip


def of_rollout(rollout: Rollout, kl_coef: float, total: Total) -> dict[str, float]:
    """TRL's `objective/*` and `val/*`, and ours: spread of the scores, length, share that stopped, critic's fit."""
    mask, stopped = rollout.mask, rollout.stopped.float()
    kl = (rollout.kl * mask).sum(1)
    rows = torch.stack([
        kl, (-rollout.logps * mask).sum(1), rollout.scores, rollout.scores.square(), (rollout.rewards * mask).sum(1),
        stopped, rollout.lengths.float(), (rollout.entropy * mask).sum(1), torch.ones_like(stopped),
    ]).double()  # fmt: skip
    sums = total(rows.sum(1))
    episodes = sums[-1].item()
    nats, entropy, score, squared, whole, stops, length, spread, _ = (sums / episodes).tolist()
    return {
        "objective/kl": nats, "objective/entropy": entropy, "objective/non_score_reward": -kl_coef * nats,
        "objective/rlhf_reward": whole, "objective/scores": score,
        "objective/scores_std": max(0.0, squared - score**2) ** 0.5, "objective/kl_coef": kl_coef,
        "policy/entropy_avg": spread / length, "val/num_eos_tokens": round(stops * episodes),
        "val/explained_variance": maths.explained_variance(rollout.returns[mask], rollout.values[mask], total),
        "rollout/length": length, "rollout/eos_rate": stops,
    }  # fmt: skip


def of_held_out(rollout: Rollout, everyone: Everyone) -> dict[str, float]:
    """Mean score, length and share that stopped, of held-out prompts over all processes."""
    columns = {
        "eval_objective/scores": rollout.scores,
        "eval_rollout/length": rollout.lengths,
        "eval_rollout/eos_rate": rollout.stopped.float(),
    }
    return {name: everyone.mean(column.tolist()) for name, column in columns.items()}


def vitals(rollout: Rollout, everyone: Everyone) -> Vitals:
    """What the guards look at, over the episodes of all processes."""
    texts = everyone.gather([completion.text for completion in rollout.completions])
    mask = rollout.mask
    sums = everyone.total(
        torch.stack([(rollout.entropy * mask).sum(), mask.sum(), rollout.stopped.sum()]).double()
    ).tolist()
    commonest = Counter(texts).most_common(1)[0][1] / len(texts)
    return Vitals(sums[0] / sums[1], sums[1] / len(texts), sums[2] / len(texts), commonest)


class Flops:
    """Floating-point operations of passes of one model: 2 x weights x tokens forward, as much again for the gradient of
    the activations, and once more for that of the weights; the head only where it is applied."""

    def __init__(self, policy: Any):
        def size(weight: Any) -> int:
            return getattr(weight, "ds_numel", weight.numel())

        head, table = policy.get_output_embeddings().weight, policy.get_input_embeddings().weight
        everything = sum(size(weight) for weight in policy.parameters())
        self.head = size(head)
        self.trunk = everything - size(table) - (0 if head is table else self.head)

    def __call__(self, tokens: int, predicted: int, passes: int = 1) -> float:
        return 2.0 * passes * (self.trunk * tokens + self.head * predicted)
