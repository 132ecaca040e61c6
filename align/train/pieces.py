"""Log-probabilities from a head's matrix without keeping all logits: made in blocks, and made again backward.

N positions, H width of the model, V vocabulary. Everything is in nats.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LOGITS_AT_ONCE = 2**22  # floats; 16 MB: logits are made and reduced in blocks of this size
ROWS = 4096  # positions of a block; its width is what is left


class HeadLogps(torch.autograd.Function):
    """What a language model says of each target: log-probabilities, and on demand more of its distribution.

        y = hidden weight^T + bias;  z = cap tanh(scale y / cap) / T;  logp = z[target] - logsumexp(z)

    (without a cap z = scale y / T). With p = softmax(z), g the gradient of each logp and e that of each entropy S,

        d/dz = g (onehot(target) - p) - e p (log p + S);  dz/dy = scale (1 - (T z / cap)^2) / T,
        d/dhidden = d/dy weight;  d/dweight = (d/dy)^T hidden.

    Blocks are of all positions and some of the vocabulary, so that each of the matrix's rows is read once: a block's
    logsumexp L_b gives logsumexp(z) = logsumexp_b(L_b), and sum_v p_v z_v = sum_b exp(L_b - L) (that sum in the block).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float = 1.0,
        cap: float | None = None, scale: float = 1.0, outputs: tuple[str, ...] = (),
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        """hidden [N, H], weight [V, H], bias [V], targets [N]; `outputs` names what is wanted beside `log_probs`.

        Returns:
            Five of [N], fp32, None where not asked for: log_probs, entropy, log_sum_sq_probs (log sum_v p_v^2),
            mean_logits, is_top1 (is the target the likeliest?).
        """
        ctx.set_materialize_grads(False)
        device = hidden.device.type
        ctx.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        ctx.temperature, ctx.cap, ctx.scale = temperature, cap, scale
        groups = [_reduce(ctx, hidden[some], weight, bias, targets[some], outputs) for some in _groups(len(targets))]
        logps, sums, *rest = (None if x[0] is None else torch.cat(x) for x in zip(*groups, strict=True))
        ctx.save_for_backward(hidden, weight, bias, targets, sums, rest[0])
        ctx.mark_non_differentiable(*(x for x in rest[1:] if x is not None))
        return logps, *rest

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, of_entropy: Tensor | None = None, *_: Any) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, sums, entropy = ctx.saved_tensors
        _, learns, shifts = ctx.needs_input_grad[:3]
        to_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if learns else None
        to_bias = torch.zeros(len(weight), dtype=torch.float32, device=weight.device) if shifts else None
        to_hidden = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        for some in _groups(len(targets)):
            mine = hidden[some]
            for block in _blocks(len(mine), len(weight)):
                z = _logits(ctx, mine, weight, bias, block)
                slope = _slope(ctx, z, targets[some], block, sums[some], None if grad is None else grad[some],
                               None if of_entropy is None else (of_entropy[some], entropy[some]))  # fmt: skip
                to_hidden[some] += slope.to(ctx.dtype) @ weight[block].to(ctx.dtype)
                if to_weight is not None:  # in fp32: added up in bf16, small parts would be lost beside the sum
                    to_weight[block].addmm_(slope.T, mine.float())
                if to_bias is not None:
                    to_bias[block] += slope.sum(0)
        to_weight = None if to_weight is None else to_weight.to(weight.dtype)
        to_bias = None if to_bias is None else to_bias.to(bias.dtype)
        return to_hidden.to(hidden.dtype), to_weight, to_bias, None, None, None, None, None


def _groups(count: int) -> list[slice]:
    """Positions that are treated together."""
    return [slice(at, at + ROWS) for at in range(0, count, ROWS)] or [slice(0, 0)]


def _blocks(rows: int, vocabulary: int) -> list[slice]:
    """Parts of the vocabulary of which `rows` positions have LOGITS_AT_ONCE logits at most."""
    width = max(1, LOGITS_AT_ONCE // max(1, rows))
    return [slice(at, min(at + width, vocabulary)) for at in range(0, vocabulary, width)]


def _reduce(
    ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, outputs: tuple[str, ...]
) -> tuple[Tensor | None, ...]:
    """log_probs, logsumexp, and the other results of `forward`, [n] each, of one group of positions."""
    found: dict[str, list[Tensor]] = {name: [] for name in ("sums", "means", "squares", "totals", "best")}
    chosen = torch.zeros(len(targets), device=hidden.device)
    for block in _blocks(len(targets), len(weight)):
        z = _logits(ctx, hidden, weight, bias, block)
        inside, place = _inside(targets, block)
        chosen = torch.where(inside, z.gather(-1, place[:, None]).squeeze(-1), chosen)
        highest = z.amax(-1, keepdim=True)
        found["best"].append(highest.squeeze(-1))
        if "mean_logits" in outputs:
            found["totals"].append(z.sum(-1))
        chances = (z - highest).exp_() if "entropy" in outputs else z.sub_(highest).exp_()
        total = chances.sum(-1)
        found["sums"].append(total.log() + highest.squeeze(-1))
        if "entropy" in outputs:
            found["means"].append(torch.linalg.vecdot(chances, z) / total)
        if "log_sum_sq_probs" in outputs:
            found["squares"].append(torch.linalg.vecdot(chances, chances).log() + 2 * highest.squeeze(-1))
    parts = {name: torch.stack(values) for name, values in found.items() if values}  # [blocks, n]
    sums = parts["sums"].logsumexp(0)
    return (
        chosen - sums,
        sums,
        sums - ((parts["sums"] - sums).exp() * parts["means"]).sum(0) if "means" in parts else None,
        parts["squares"].logsumexp(0) - 2 * sums if "squares" in parts else None,
        parts["totals"].sum(0) / len(weight) if "totals" in parts else None,
        chosen >= parts["best"].amax(0) if "is_top1" in outputs else None,
    )


def _inside(targets: Tensor, block: slice) -> tuple[Tensor, Tensor]:
    """Which targets [n] lie in a block of the vocabulary, and their places in it (any, for the others)."""
    inside = (targets >= block.start) & (targets < block.stop)
    return inside, torch.where(inside, targets - block.start, 0)


def _logits(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, block: slice) -> Tensor:
    """z of one block, [n, v], fp32. The same call forward and backward."""
    with torch.autocast(hidden.device.type, enabled=False):
        z = (hidden.to(ctx.dtype) @ weight[block].to(ctx.dtype).T).float()
    if bias is not None:
        z += bias[block].float()
    if ctx.scale != 1.0:
        z *= ctx.scale
    if ctx.cap is not None:
        z = z.div_(ctx.cap).tanh_().mul_(ctx.cap)
    return z if ctx.temperature == 1.0 else z.div_(ctx.temperature)


def _slope(
    ctx: Any, z: Tensor, targets: Tensor, block: slice, sums: Tensor, grad: Tensor | None,
    of_entropy: tuple[Tensor, Tensor] | None,
) -> Tensor:  # fmt: skip
    """The loss's gradient with respect to y of one block, [n, v]; `z` is used up.

    Args:
        targets, sums, grad: [n]; of_entropy: the gradient of the entropy, and the entropy, [n] each.
    """
    bends = None if ctx.cap is None else 1 - (z * (ctx.temperature / ctx.cap)).square()
    logp = z.sub_(sums[:, None])
    spread = None
    if of_entropy is not None:
        spread = logp.exp() * (logp + of_entropy[1][:, None]) * of_entropy[0][:, None]
    slope = logp.exp_()
    inside, place = _inside(targets, block)
    rows = inside.nonzero().squeeze(-1)
    slope[rows, place[rows]] -= 1
    slope.mul_((0.0 if grad is None else grad[:, None]) * (-ctx.scale / ctx.temperature))
    if spread is not None:
        slope -= spread * (ctx.scale / ctx.temperature)
    return slope if bends is None else slope.mul_(bends)
