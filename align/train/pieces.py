"""Log-probabilities from a head's matrix without keeping all logits: made in pieces, and made again backward.

N positions, H width of the model, V vocabulary. Everything is in nats.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LOGITS_AT_ONCE = 2**22  # floats; 16 MB: logits are made and reduced in pieces of this size


class HeadLogps(torch.autograd.Function):
    """What a language model says of each target: log-probabilities, and on demand more of its distribution.

        y = hidden weight^T + bias;  z = cap tanh(scale y / cap) / T;  logp = z[target] - logsumexp(z)

    (without a cap z = scale y / T). With p = softmax(z), g the gradient of each logp and e that of each entropy S,

        d/dz = g (onehot(target) - p) - e p (log p + S);  dz/dy = scale (1 - (T z / cap)^2) / T,
        d/dhidden = d/dy weight;  d/dweight = (d/dy)^T hidden,

    the last added up in one [V, H] buffer, where one for each piece would cost more than the products themselves.
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
        ctx.rows = max(1, LOGITS_AT_ONCE // len(weight))
        count = len(targets)
        logps, sums = (torch.zeros(count, device=hidden.device) for _ in range(2))
        entropy, squares, means, top1 = (
            torch.zeros(count, device=hidden.device, dtype=kind) if name in outputs else None
            for name, kind in (("entropy", torch.float32), ("log_sum_sq_probs", torch.float32),
                               ("mean_logits", torch.float32), ("is_top1", torch.bool))
        )  # fmt: skip
        matrix = weight.to(ctx.dtype)
        for at in range(0, count, ctx.rows):
            some = slice(at, at + ctx.rows)
            z = _logits(ctx, hidden[some], matrix, bias)
            sums[some] = z.logsumexp(-1)
            logps[some] = z.gather(-1, targets[some, None]).squeeze(-1) - sums[some]
            if means is not None:
                means[some] = z.mean(-1)
            if top1 is not None:
                top1[some] = z.argmax(-1) == targets[some]
            if entropy is not None or squares is not None:
                chances = (z - sums[some, None]).exp_()
                if squares is not None:
                    squares[some] = chances.square().sum(-1).log()
                if entropy is not None:
                    entropy[some] = sums[some] - chances.mul_(z).sum(-1)
        ctx.save_for_backward(hidden, weight, bias, targets, sums, entropy)
        ctx.mark_non_differentiable(*(x for x in (squares, means, top1) if x is not None))
        return logps, entropy, squares, means, top1

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, of_entropy: Tensor | None = None, *_: Any) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, sums, entropy = ctx.saved_tensors
        _, learns, shifts = ctx.needs_input_grad[:3]
        to_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if learns else None
        to_bias = torch.zeros(len(weight), dtype=torch.float32, device=weight.device) if shifts else None
        to_hidden = torch.zeros_like(hidden)
        matrix = weight.to(ctx.dtype)
        for at in range(0, len(targets), ctx.rows):
            some = slice(at, at + ctx.rows)
            slope = _slope(ctx, _logits(ctx, hidden[some], matrix, bias), targets[some], sums[some],
                           None if grad is None else grad[some],
                           None if of_entropy is None else (of_entropy[some], entropy[some]))  # fmt: skip
            low = slope.to(ctx.dtype)
            to_hidden[some] = (low @ matrix).to(hidden.dtype)
            if to_weight is not None:  # in fp32: added up in bf16, small pieces would be lost beside the sum
                to_weight.addmm_(slope.T, hidden[some].float())
            if to_bias is not None:
                to_bias += slope.sum(0)
        to_weight = None if to_weight is None else to_weight.to(weight.dtype)
        return to_hidden, to_weight, None if to_bias is None else to_bias.to(bias.dtype), None, None, None, None, None


def _logits(ctx: Any, hidden: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """z of one piece, [n, V], fp32. The same call forward and backward."""
    with torch.autocast(hidden.device.type, enabled=False):
        z = (hidden.to(ctx.dtype) @ matrix.T).float()
    if bias is not None:
        z += bias.float()
    if ctx.scale != 1.0:
        z *= ctx.scale
    if ctx.cap is not None:
        z = z.div_(ctx.cap).tanh_().mul_(ctx.cap)
    return z if ctx.temperature == 1.0 else z.div_(ctx.temperature)


def _slope(
    ctx: Any, z: Tensor, targets: Tensor, sums: Tensor, grad: Tensor | None, of_entropy: tuple[Tensor, Tensor] | None
) -> Tensor:
    """The loss's gradient with respect to y of one piece, [n, V]; `z` is used up.

    Args:
        targets, sums, grad: [n]; of_entropy: the gradient of the entropy, and the entropy, [n] each.
    """
    bends = None if ctx.cap is None else 1 - (z * (ctx.temperature / ctx.cap)).square()
    logp = z.sub_(sums[:, None])
    spread = None
    if of_entropy is not None:
        spread = logp.exp() * (logp + of_entropy[1][:, None]) * of_entropy[0][:, None]
    slope = logp.exp_().neg_()
    slope[torch.arange(len(slope), device=slope.device), targets] += 1
    slope = slope.mul_(((0.0 if grad is None else grad[:, None]) * ctx.scale) / ctx.temperature)
    if spread is not None:
        slope -= spread * (ctx.scale / ctx.temperature)
    return slope if bends is None else slope.mul_(bends)
