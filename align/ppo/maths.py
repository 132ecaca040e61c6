"""The maths of PPO as pure functions: no model, no state, no randomness.

Letters: B episodes, T completion tokens (padded on the right), N real completion tokens of a batch (its rows one after
the other, without padding), H width of the model, V vocabulary. Log-probabilities, KL and entropies are in nats. `mask`
is True on the completion's tokens, its stop token included, and False on padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from align.train.pieces import LOGITS_AT_ONCE, HeadLogps


def token_logps(
    hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], *, temperature: float = 1.0, entropy: bool = True
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target token and entropy of its distribution, without keeping all logits.

        logits = head(hidden) / temperature;  logp = logits[target] - logsumexp(logits);  H = -sum_v p_v log p_v

    The logits of N tokens are N x V floats, for a real vocabulary the largest tensor of PPO. They are made in pieces of
    LOGITS_AT_ONCE floats, and the backward pass makes each piece again instead of keeping it.

    Args:
        hidden: [N, H], the last hidden state at the position before each target.
        targets: [N], token ids.
        head: maps [n, H] to logits [n, V]. A bare, unsharded matrix (`nn.Linear` without bias) takes the shortest way.
        temperature: of the sampling; the same for behaviour, reference and update, or the ratios mean nothing.
        entropy: without it the second result is zeros (an update does not need it).

    Returns:
        logps [N], differentiable, and entropy [N], detached; both fp32.
    """
    weight = getattr(head, "weight", None)
    bare = type(head) is torch.nn.Linear and getattr(head, "bias", None) is None and not hasattr(weight, "ds_id")
    if bare and type(weight) in (Tensor, torch.nn.Parameter):
        wanted = ("entropy",) if entropy else ()
        logps, spread, *_ = HeadLogps.apply(hidden, weight, None, targets, temperature, None, 1.0, wanted)
        return logps, torch.zeros_like(logps) if spread is None else spread.detach()

    def piece(h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(h).float() / temperature
        with torch.no_grad():
            everything = logits.detach().log_softmax(-1)
        spread = -(everything.exp() * everything).sum(-1) if entropy else torch.zeros_like(logits[:, 0])
        return -cross_entropy(logits, y, reduction="none"), spread

    rows = max(1, LOGITS_AT_ONCE // (getattr(head, "out_features", None) or head(hidden[:1]).shape[-1]))
    pieces = []
    for h, y in zip(hidden.split(rows), targets.split(rows), strict=True):
        again = torch.is_grad_enabled() and h.requires_grad
        pieces.append(checkpoint(piece, h, y, use_reentrant=False) if again else piece(h, y))
    logps, entropies = zip(*pieces, strict=True)
    return torch.cat(logps), torch.cat(entropies)


def kl_per_token(logps: Tensor, ref_logps: Tensor, estimator: Literal["k1", "k3"] = "k1") -> Tensor:
    """Estimate KL(policy || reference) at each token of the policy's own samples.

        r = ref_logp - logp;  k1 = -r (unbiased, may be negative);  k3 = e^r - 1 - r (unbiased, never negative)

    Args:
        logps, ref_logps: [B, T] of the sampled tokens under policy and reference.

    Returns:
        [B, T], nats; summed over a row, an estimate of the sequence's KL.

    Source: Schulman 2020, "Approximating KL divergence" (joschu.net/blog/kl-approx.html).
    """
    r = ref_logps - logps
    return -r if estimator == "k1" else torch.expm1(r) - r


def place_rewards(kl: Tensor, scores: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Reward of each token: the KL penalty everywhere, and the score on the last real token.

        r_t = -kl_coef * kl_t + [t is the last real token] * score

    Args:
        kl: [B, T], nats, from `kl_per_token`.
        scores: [B], higher is better.
        mask: [B, T]; every row holds at least one token.

    Returns:
        [B, T], zero on padding.

    Source: Ziegler et al. 2019, arXiv 1909.08593, eq. 2 (there as one reward for the sequence); Stiennon et al. 2020.
    Differs: TRL 1.12 puts the score one position later, on the first token of padding (lm-human-preferences does too).
    """
    rewards = -kl_coef * kl * mask
    last = mask.sum(1) - 1
    rewards[torch.arange(len(rewards), device=rewards.device), last] += scores
    return rewards


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over each episode; after its last token there is nothing more to come.

        delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lam A_{t+1};  return_t = A_t + V_t

    Args:
        rewards: [B, T], from `place_rewards`.
        values: [B, T], the value of the state before each token.
        mask: [B, T].

    Returns:
        advantages and returns, both [B, T] and zero on padding. With gamma = lam = 1 the returns are the sums of the
        rewards from t on.

    Source: Schulman et al. 2015, arXiv 1506.02438, eqs. 11, 12 and 16.
    """
    values = values * mask
    advantages = torch.zeros_like(rewards)
    coming = torch.zeros_like(rewards[:, 0])
    after = torch.zeros_like(coming)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * after - values[:, t]
        coming = (delta + gamma * lam * coming) * mask[:, t]
        advantages[:, t] = coming
        after = values[:, t]
    return advantages, (advantages + values) * mask


def whiten(
    x: Tensor, mask: Tensor, *, shift_mean: bool = True, total: Callable[[Tensor], Tensor] = lambda sums: sums
) -> Tensor:
    """Scale the unmasked entries to variance 1 and, with `shift_mean`, to mean 0.

        y = (x - mean) / sqrt(var + 1e-8) [+ mean],  var with Bessel's correction

    Args:
        x: [B, T].
        mask: [B, T].
        total: sums a tensor over all processes, so that N of them whiten as one does.

    Returns:
        [B, T], zero on padding.

    Source: Huang et al. 2024, arXiv 2403.17031, detail 22; Xu et al. 2024, arXiv 2404.10719, section 4 (why it helps).
    Differs: TRL 1.12 whitens each process's episodes by themselves.
    """
    kept = x * mask
    count, first = total(torch.stack([mask.sum(), kept.sum()]).double())
    mean = first / count
    second = total(((x - mean) * mask).double().square().sum())
    scale = torch.rsqrt(second / (count - 1).clamp(min=1) + 1e-8)
    white = (x - mean) * scale + (0.0 if shift_mean else mean)
    return (white * mask).to(x.dtype)


def policy_loss(logps: Tensor, old_logps: Tensor, advantages: Tensor, cliprange: float) -> tuple[Tensor, Tensor]:
    """PPO's clipped objective at each token, as a loss.

        ratio = exp(logp - old_logp);  loss = max(-A ratio, -A clip(ratio, 1 - eps, 1 + eps))

    Args:
        logps: [N], differentiable; old_logps: [N], of the policy that sampled; advantages: [N].

    Returns:
        losses [N], to be averaged over tokens, and clipped [N], True where the clip binds.

    Source: Schulman et al. 2017, arXiv 1707.06347, eq. 7 (with the sign of a loss).
    """
    ratio = (logps - old_logps).exp()
    free = -advantages * ratio
    held = -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    return torch.maximum(free, held), held > free


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, cliprange: float) -> tuple[Tensor, Tensor]:
    """Half the squared error of the value at each token, clipped around the old value.

        loss = 1/2 max((V - R)^2, (clip(V, V_old - eps, V_old + eps) - R)^2)

    Args:
        values: [N], differentiable; old_values: [N], at the time of sampling; returns: [N].

    Returns:
        losses [N], to be averaged over tokens, and clipped [N], True where the clip binds.

    Source: Huang et al. 2024, arXiv 2403.17031, detail 21 (as in OpenAI baselines).
    """
    near = old_values + (values - old_values).clamp(-cliprange, cliprange)
    free, held = (values - returns).square(), (near - returns).square()
    return 0.5 * torch.maximum(free, held), held > free


def next_kl_coef(kl_coef: float, kl: float, *, target: float, episodes: int, horizon: int) -> float:
    """The KL coefficient after a rollout whose mean sequence KL was `kl`.

        e = clip(kl / target - 1, -0.2, 0.2);  coef <- coef (1 + e * episodes / horizon)

    Source: Ziegler et al. 2019, arXiv 1909.08593, section 2.2, as in their code.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * episodes / horizon)


def explained_variance(returns: Tensor, values: Tensor, total: Callable[[Tensor], Tensor] = lambda sums: sums) -> float:
    """1 - Var(R - V) / Var(R): 1 for a perfect critic, 0 for a constant one, below 0 for one that harms.

    Args:
        returns, values: [N]; total: sums a tensor over all processes, as in `whiten`.
    """
    left, n = (returns - values).double(), torch.ones_like(returns, dtype=torch.float64)
    parts = [n, left, left.square(), returns.double(), returns.double().square()]
    count, one, two, first, second = total(torch.stack([part.sum() for part in parts])).tolist()
    spread = second / count - (first / count) ** 2
    return 1 - (two / count - (one / count) ** 2) / spread if spread > 0 else math.nan
