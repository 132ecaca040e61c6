"""What a Llama layer computes beside its attention, forward and backward, as pure functions.

N tokens, H width of the layer, D width of a head, I and O widths of a projection's input and output, R rank of LoRA.
Everything is in the dtype of the hidden states but for means over a token, which are fp32. Source: Zhang and Sennrich
2019 (RMSNorm), Su et al. 2021 (rotary positions), Shazeer 2020 (SwiGLU), Hu et al. 2021 (LoRA).
"""

from __future__ import annotations

from collections.abc import Sequence
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


def project(x: Tensor, parts: Sequence[Projection]) -> tuple[list[Tensor], Tensor | None]:
    """x [N, I] to the y [N, O] of each projection and, with LoRA, what all their A make of it: [N, R], R their sum.

    Each product starts from LoRA's change, so that in bf16 their sum is rounded, once: a change that is smaller than
    half a step of the output would be lost if it were added afterwards.
    """
    down = _downs(parts, x.dtype)
    inner = None if down is None else linear(x, down)
    ys = []
    for p, mine in zip(parts, _shares(inner, parts), strict=True):
        if p.up is None or mine is None:
            y = linear(x, p.weight)
        else:
            y = linear(mine, (p.up * p.scale).to(x.dtype)).addmm_(x, p.weight.T)
        ys.append(y if p.bias is None else y.add_(p.bias))
    return ys, inner


def project_back(
    grads: Sequence[Tensor], x: Tensor, inner: Tensor | None, parts: Sequence[Projection], needs: Sequence[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    """Gradients of projections of one input.

    Args:
        grads: with respect to each y, [N, O].
        inner: as `project` gave it.
        needs: whether W, b, A and B want theirs, of each projection in turn.

    Returns:
        the gradient with respect to x [N, I], and those of W, b, A and B, of each projection in turn.
    """
    to_x = grads[0] @ parts[0].weight
    for g, p in zip(grads[1:], parts[1:], strict=True):
        to_x.addmm_(g, p.weight)
    small = to_down = None
    if (down := _downs(parts, x.dtype)) is not None:
        small = torch.cat([g @ (p.up * p.scale).to(g.dtype) for g, p in zip(grads, parts, strict=True)
                           if p.up is not None], 1)  # fmt: skip
        to_x.addmm_(small, down)
        to_down = small.T @ x if any(needs[2::4]) else None
    found: list[Tensor | None] = []
    rows = [None] * len(parts) if to_down is None else _shares(to_down.T, parts)
    for i, (g, p, mine, row) in enumerate(zip(grads, parts, _shares(inner, parts), rows, strict=True)):
        weight, bias, of_down, of_up = needs[4 * i : 4 * i + 4]
        found += [
            g.T @ x if weight else None,
            g.sum(0) if bias else None,
            row.T.to(p.down.dtype) if of_down and row is not None and p.down is not None else None,
            (g.T @ mine).to(p.up.dtype).mul_(p.scale) if of_up and mine is not None and p.up is not None else None,
        ]
    return to_x, found


def _downs(parts: Sequence[Projection], dtype: torch.dtype) -> Tensor | None:
    """All A below each other; None without LoRA."""
    found = [p.down for p in parts if p.down is not None]
    return torch.cat(found).to(dtype) if found else None


def _shares(x: Tensor | None, parts: Sequence[Projection]) -> list[Tensor | None]:
    """The columns of x that belong to each projection's A; None for one without."""
    if x is None:
        return [None] * len(parts)
    shares = iter(x.split([len(p.down) for p in parts if p.down is not None], 1))
    return [None if p.down is None else next(shares) for p in parts]


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
