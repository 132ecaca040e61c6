"""What a Llama layer computes beside its attention, forward and backward, as pure functions.

N tokens, H width of the layer, D width of a head, I and O widths of a projection's input and output, R rank of LoRA.
Everything is in the dtype of the hidden states but for means over a token, which are fp32. Source: Zhang and Sennrich
2019 (RMSNorm), Su et al. 2021 (rotary positions), Shazeer 2020 (SwiGLU), Hu et al. 2021 (LoRA).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear


class Projection(NamedTuple):
    """A linear layer, and what LoRA adds to it: y = x W^T + s (x A^T) B^T + b."""

    weight: Tensor  # W [O, I]
    bias: Tensor | None  # b [O]
    down: Tensor | None  # A [R, I]
    up: Tensor | None  # B [O, R]
    scale: float  # s


def project(x: Tensor, p: Projection) -> tuple[Tensor, Tensor | None]:
    """x [N, I] to y [N, O] and, with LoRA, x A^T [N, R].

    The product starts from LoRA's change, so that in bf16 their sum is rounded, once: a change that is smaller than
    half a step of the output would be lost if it were added afterwards.
    """
    inner = None
    if p.down is None or p.up is None:
        y = linear(x, p.weight)
    else:
        inner = linear(x, p.down.to(x.dtype))
        y = linear(inner, (p.up * p.scale).to(x.dtype)).addmm_(x, p.weight.T)
    return (y if p.bias is None else y.add_(p.bias)), inner


def project_back(
    g: Tensor, x: Tensor, inner: Tensor | None, p: Projection, to: Tensor | None, needs: tuple[bool, ...]
) -> tuple[Tensor, list[Tensor | None]]:
    """Gradients of a projection.

    Args:
        g: with respect to y, [N, O].
        inner: as `project` gave it.
        to: what the gradient with respect to x is added to, in place; None for nothing yet.
        needs: whether W, b, A and B want theirs.

    Returns:
        the gradient with respect to x [N, I], and those of W, b, A, B.
    """
    to = g @ p.weight if to is None else to.addmm_(g, p.weight)
    weight = g.T @ x if needs[0] else None
    bias = g.sum(0) if needs[1] else None
    down = up = None
    if p.down is not None and p.up is not None:
        small = g @ (p.up * p.scale).to(g.dtype)
        to.addmm_(small, p.down.to(g.dtype))
        down = (small.T @ x).to(p.down.dtype) if needs[2] else None
        up = (g.T @ inner).to(p.up.dtype).mul_(p.scale) if needs[3] else None
    return to, [weight, bias, down, up]


def normalise(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """RMSNorm: x [N, H] to w x r [N, H], and r = 1 / sqrt(mean(x^2) + eps) [N, 1], fp32."""
    wide = x.float()
    r = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (wide * r).mul_(weight).to(x.dtype), r


def normalise_back(g: Tensor, z: Tensor, r: Tensor, weight: Tensor, learns: bool) -> tuple[Tensor, Tensor | None]:
    """Gradients of RMSNorm with respect to x [N, H] and, where it learns, to w [H].

    dx = r (g w - z mean(g w z)) with z = x r [N, H], fp32; the mean is over a token.
    """
    to_weight = (g * z).sum(0).to(weight.dtype) if learns else None
    scaled = g.float() * weight
    mean = torch.linalg.vecdot(scaled, z).div_(z.shape[-1])[:, None]
    return scaled.addcmul_(z, mean, value=-1).mul_(r).to(g.dtype), to_weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
    """Rotary positions: each head's halves (a, b) to (a cos - b sin, b cos + a sin); `back` by the opposite angle,
    which is the gradient.

    Args:
        x: [..., heads, D]; cos, sin: [..., 1, D / 2].
    """
    half, sign = x.shape[-1] // 2, -1 if back else 1
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    a, b = x[..., :half], x[..., half:]
    torch.mul(a, cos, out=out[..., :half]).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=out[..., half:]).addcmul_(a, sin, value=sign)
    return out


def gate_back(grad: Tensor, g: Tensor, u: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of SwiGLU's product s u with s = silu(g), with respect to g and u, [N, M] each; `grad` is used up."""
    to_u = grad * s
    to_g: Tensor = torch.ops.aten.silu_backward(grad.mul_(u), g)
    return to_g, to_u
