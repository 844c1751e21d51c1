"""Layers that couple the rows of a batch, or draw numbers for it, where processes share the batch.

Each process has its rows of it: dropout draws the whole batch's numbers and takes its own, BatchNorm normalises by the
moments of the whole batch. So several processes compute what one would.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from functions.tasks import Rows
from functions.training import distributed
from functions.training.batchnorm import batch_norms


def share_batch(model: nn.Module) -> nn.Module:
    """The model, its Dropout and BatchNorm layers working on the whole batch of all processes; nothing with one."""
    if distributed.size() == 1:
        return model
    rows = Rows(distributed.rank(), distributed.size())
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.forward = functools.partial(dropout, layer, rows)
    for layer in batch_norms(model):
        layer.forward = functools.partial(batch_norm, layer)
    return model


def dropout(layer: nn.Dropout, rows: Rows, x: Tensor) -> Tensor:
    """x scaled by this process's rows of the whole batch's dropout, 0 or 1 / (1 - p)."""
    if not layer.training or layer.p == 0:
        return x
    return x * rows.of(lambda n: F.dropout(x.new_ones(n, *x.shape[1:]), layer.p), len(x))


def batch_norm(layer: nn.modules.batchnorm._BatchNorm, x: Tensor) -> Tensor:
    """(x - mean) / sqrt(var + eps) weight + bias by the whole batch's moments, which the running ones follow."""
    if not layer.training:
        return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, False, 0.0, layer.eps)
    others = [d for d in range(x.ndim) if d != 1]
    shape = [1, -1] + [1] * (x.ndim - 2)
    n = distributed.size() * x.numel() // x.shape[1]
    mean = Total.apply(x.sum(others)) / n
    centred = x - mean.view(shape)
    var = Total.apply(centred.square().sum(others)) / n
    with torch.no_grad():
        layer.num_batches_tracked += 1
        rate = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
        layer.running_mean.lerp_(mean, rate)
        layer.running_var.lerp_(var * n / max(n - 1, 1), rate)
    x_hat = centred * (var + layer.eps).rsqrt().view(shape)
    return x_hat * layer.weight.view(shape) + layer.bias.view(shape) if layer.affine else x_hat


class Total(torch.autograd.Function):
    """The sum over the processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return distributed.total(x)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return distributed.total(g.contiguous())
