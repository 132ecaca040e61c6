"""The two halves of a Llama layer around its attention as autograd functions, which keep less and call less.

B sequences of T tokens, N = B T, H width of the layer, D width of a head. Between the halves stands whatever attention
the model has, with its cache, its mask and its packing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from align.models.fast.formulas import (
    Projection,
    gate_back,
    normalise,
    normalise_back,
    project,
    project_back,
    rotate,
)  # fmt: skip


class Half(NamedTuple):
    """Settings of a half, and how its tensors are told apart: the norm's weight, then four of each projection."""

    eps: float  # of the norm
    head: int  # D
    scales: tuple[float, ...]  # LoRA's, of each projection

    def projections(self, tensors: tuple) -> list[Projection]:
        """Those in `tensors`, which begins with the norm's weight."""
        parts = [tensors[at : at + 4] for at in range(1, len(tensors), 4)]
        return [Projection(w, b, down, up, s) for (w, b, down, up), s in zip(parts, self.scales, strict=True)]


class Into(torch.autograd.Function):
    """From the layer's input to its attention: norm, the three projections, rotary positions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, half: Half, *tensors: Any) -> tuple[Tensor, ...]:
        """x [B, T, H]; cos, sin [B or 1, T, 1, D / 2] to query, key and value, [B, heads, T, D] each."""
        flat = x.flatten(0, 1)
        h, r = normalise(flat, tensors[0], half.eps)
        ys, inners = zip(*(project(h, p) for p in half.projections(tensors)), strict=True)
        q, k, v = (y.view(*x.shape[:2], -1, half.head) for y in ys)
        ctx.half, ctx.count = half, len(tensors)
        ctx.save_for_backward(flat, r, cos, sin, *inners, *tensors)
        return rotate(q, cos, sin).transpose(1, 2), rotate(k, cos, sin).transpose(1, 2), v.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        flat, r, cos, sin, *rest = ctx.saved_tensors
        inners, tensors = rest[:3], tuple(rest[-ctx.count :])
        z = flat.float() * r
        h = (z * tensors[0]).to(flat.dtype)
        q, k, v = (g.transpose(1, 2) for g in grads)
        to_h, found = None, []
        turned = (rotate(q, cos, sin, back=True), rotate(k, cos, sin, back=True), v)
        for i, (g, p) in enumerate(zip(turned, ctx.half.projections(tensors), strict=True)):
            needs = ctx.needs_input_grad[5 + 4 * i : 9 + 4 * i]
            to_h, own = project_back(g.reshape(len(flat), -1), h, inners[i], p, to_h, needs)
            found += own
        to_x = to_norm = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[4]:
            to_x, to_norm = normalise_back(to_h, z, r, tensors[0], ctx.needs_input_grad[4])
            to_x = to_x.view(*q.shape[:2], -1)
        return to_x, None, None, None, to_norm, *found


class OutOf(torch.autograd.Function):
    """From the layer's attention to its output: projection, first sum, norm, SwiGLU, second sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, attended: Tensor, half: Half, *tensors: Any) -> Tensor:
        """x [B, T, H], the layer's input, and attended [B, T, heads D] to [B, T, H]."""
        mixed, flat = attended.flatten(0, 1), x.flatten(0, 1)
        out, gated, up, down = half.projections(tensors)
        first, inner_out = project(mixed, out)
        first.add_(flat)
        h, r = normalise(first, tensors[0], half.eps)
        g, inner_gate = project(h, gated)
        u, inner_up = project(h, up)
        y, inner_down = project(silu(g).mul_(u), down)
        ctx.half, ctx.count = half, len(tensors)
        ctx.save_for_backward(mixed, first, r, g, u, inner_out, inner_gate, inner_up, inner_down, *tensors)
        return y.add_(first).view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        """grad [B, T, H]. SwiGLU's product is made again: it costs less than keeping it."""
        mixed, first, r, g, u, inner_out, inner_gate, inner_up, inner_down, *rest = ctx.saved_tensors
        tensors = tuple(rest)
        out, gated, up, down = ctx.half.projections(tensors)
        needs = [ctx.needs_input_grad[4 + 4 * i : 8 + 4 * i] for i in range(4)]
        flat = grad.flatten(0, 1)
        z = first.float() * r
        h = (z * tensors[0]).to(first.dtype)
        s = silu(g)
        to_product, of_down = project_back(flat, s * u, inner_down, down, None, needs[3])
        to_g, to_u = gate_back(to_product, g, u, s)
        to_h, of_gate = project_back(to_g, h, inner_gate, gated, None, needs[1])
        to_h, of_up = project_back(to_u, h, inner_up, up, to_h, needs[2])
        to_first, to_norm = normalise_back(to_h, z, r, tensors[0], ctx.needs_input_grad[3])
        to_first.add_(flat)
        to_mixed, of_out = project_back(to_first, mixed, inner_out, out, None, needs[0])
        shape = grad.shape
        return to_first.view(shape), to_mixed.view(*shape[:2], -1), None, to_norm, *of_out, *of_gate, *of_up, *of_down
