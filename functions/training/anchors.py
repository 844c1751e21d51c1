"""Elastic weight consolidation: how far weights have moved from an anchor, weighted by a Fisher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class _Penalty(torch.autograd.Function):
    """sum_i r_i^2 (theta_i - theta*_i)^2 with r = sqrt(F), in a handful of fused passes over all weights."""

    @staticmethod
    def forward(ctx, roots: Sequence[Tensor], anchors: Sequence[Tensor], *params: Tensor) -> Tensor:
        moved = torch._foreach_sub(params, anchors)
        torch._foreach_mul_(moved, roots)
        ctx.moved, ctx.roots = moved, roots
        return torch.stack(torch._foreach_norm(moved)).square().sum()

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple:
        gradients = torch._foreach_mul(ctx.moved, ctx.roots)
        torch._foreach_mul_(gradients, 2 * g)
        return None, None, *gradients


class Anchor:
    """EWC's penalty sum_i F_i (theta_i - theta*_i)^2; theta* are the weights when it is made (SA, METHODS)."""

    def __init__(self, params: Sequence[Tensor], fishers: Sequence[Tensor]):
        self.params = list(params)
        self.anchors = [p.detach().clone() for p in params]
        self.roots = [f.to(p.device, p.dtype).sqrt() for f, p in zip(fishers, params, strict=True)]

    def penalty(self) -> Tensor:
        """() >= 0, differentiable in the weights."""
        return _Penalty.apply(self.roots, self.anchors, *self.params)


def soft_threshold(params: Sequence[Tensor], anchors: Sequence[Tensor], share: float) -> Tensor:
    """theta = theta_0 + sign(d) max(|d| - tau, 0), d = theta - theta_0, in place; returns tau, the k-th smallest |d|.

    k = int(share N) over all N weights together; nothing moves for k = 0. Needs three copies of all d.
    """
    moved = torch._foreach_sub(params, anchors)
    sizes = torch._foreach_abs(moved)
    k = int(share * sum(s.numel() for s in sizes))
    if k == 0:
        return sizes[0].new_zeros(())
    tau = torch.cat([s.flatten() for s in sizes]).kthvalue(k).values
    torch._foreach_add_(sizes, -tau)
    torch._foreach_clamp_min_(sizes, 0)
    torch._foreach_sign_(moved)
    torch._foreach_mul_(moved, sizes)
    torch._foreach_copy_(params, torch._foreach_add(anchors, moved))
    return tau
