"""The two halves of a Llama layer around its attention as autograd functions, which keep less and call less.

B sequences of T tokens, N = B T, H width of the layer, D width of a head. Between the halves stands whatever attention
the model has, with its cache, its mask and its packing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from align.models.fast.formulas import Projection, gate_back, normalise, normalise_back, project, project_back, rotate


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
        ys, inner = project(h, half.projections(tensors))
        q, k, v = (y.view(*x.shape[:2], -1, half.head) for y in ys)
        ctx.half = half
        ctx.save_for_backward(flat, r, cos, sin, inner, *tensors)
        return rotate(q, cos, sin).transpose(1, 2), rotate(k, cos, sin).transpose(1, 2), v.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        flat, r, cos, sin, inner, *rest = ctx.saved_tensors
        tensors = tuple(rest)
        z = flat.float() * r
        h = (z * tensors[0]).to(flat.dtype)
        q, k, v = (g.transpose(1, 2) for g in grads)
        turned = (rotate(q, cos, sin, back=True), rotate(k, cos, sin, back=True), v)
        to_ys = [g.reshape(len(flat), -1) for g in turned]
        to_h, found = project_back(to_ys, h, inner, ctx.half.projections(tensors), ctx.needs_input_grad[5:])
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
        out, gates, down = _split(half.projections(tensors))
        (first,), inner_out = project(mixed, out)
        first.add_(flat)
        h, r = normalise(first, tensors[0], half.eps)
        (g, u), inner_gates = project(h, gates)
        s = silu(g)
        product = s * u
        (y,), inner_down = project(product, down)
        ctx.half = half
        ctx.save_for_backward(mixed, first, r, g, u, s, product, inner_out, inner_gates, inner_down, *tensors)
        return y.add_(first).view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        """grad [B, T, H]."""
        mixed, first, r, g, u, s, product, inner_out, inner_gates, inner_down, *rest = ctx.saved_tensors
        tensors, needs = tuple(rest), ctx.needs_input_grad
        out, gates, down = _split(ctx.half.projections(tensors))
        flat = grad.flatten(0, 1)
        z = first.float() * r
        to_product, of_down = project_back([flat], product, inner_down, down, needs[16:20])
        to_gates = gate_back(to_product, g, u, s)
        to_h, of_gates = project_back(to_gates, (z * tensors[0]).to(first.dtype), inner_gates, gates, needs[8:16])
        to_first, to_norm = normalise_back(to_h, z, r, tensors[0], needs[3])
        to_first.add_(flat)
        to_mixed, of_out = project_back([to_first], mixed, inner_out, out, needs[4:8])
        shape = grad.shape
        return to_first.view(shape), to_mixed.view(*shape[:2], -1), None, to_norm, *of_out, *of_gates, *of_down


def _split(parts: list[Projection]) -> tuple[list[Projection], list[Projection], list[Projection]]:
    """Those of the attention's output, of the MLP's input, and of its output."""
    return parts[:1], parts[1:3], parts[3:]
