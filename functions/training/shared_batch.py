"""Layers that couple the rows of a batch, or draw numbers for it, where processes share the batch.

Each process has its rows of it: dropout draws the whole batch's numbers and takes its own, BatchNorm normalises by the
moments of the whole batch. So several processes compute what one would.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from functions.errors import InputError
from functions.tasks import Rows
from functions.training import distributed


def share_batch(model: nn.Module, parts: int = 1) -> None:
    """Its Dropout, DropPath and BatchNorm layers work on the whole batch of all processes; nothing with one process.

    Raises InputError for what cannot be shared: other random layers, and random layers in a model that takes a batch in
    `parts`, whose rows would not be those of one process's parts.
    """
    if distributed.size() == 1:
        return
    rows = Rows(distributed.rank(), distributed.size())
    for name, layer in model.named_modules():
        drops = _drop_rate(layer)
        if drops and parts > 1:
            raise InputError(f"training.accumulate: {name} drops at random: not with several processes")
        if _unshared(layer):
            raise InputError(
                f"{name} ({type(layer).__name__}) draws or couples rows in a way of its own: several "
                "processes would not compute what one does (model.options)"
            )
        if drops:
            layer.forward = functools.partial(dropout, layer, rows)
        elif isinstance(layer, _BatchNorm):
            layer.forward = functools.partial(batch_norm, layer)


def _drop_rate(layer: nn.Module) -> float:
    """The share that a layer drops at random: torch's Dropout, or the DropPath of timm and torchvision."""
    if type(layer) is nn.Dropout:
        return layer.p
    return layer.drop_prob or 0.0 if type(layer).__name__ == "DropPath" else 0.0


def _unshared(layer: nn.Module) -> bool:
    """Layers that are random or couple rows and are none of those above: attention's own dropout among them."""
    other = isinstance(layer, nn.modules.dropout._DropoutNd) and type(layer) is not nn.Dropout and layer.p > 0
    attention = getattr(layer, "attn_drop", None)
    fused = (isinstance(attention, nn.Dropout) and attention.p > 0) or (isinstance(attention, float) and attention > 0)
    untracked = isinstance(layer, _BatchNorm) and not layer.track_running_stats
    functional = isinstance(getattr(layer, "drop_rate", None), float) and layer.drop_rate > 0
    return other or fused or untracked or functional or type(layer).__name__ == "StochasticDepth"


def dropout(layer: nn.Module, rows: Rows, x: Tensor) -> Tensor:
    """x scaled by this process's rows of what is dropped of the whole batch: 0, or 1 / (1 - p).

    Dropout draws one number for each of x in the order of its memory, DropPath one for each row.
    """
    p = _drop_rate(layer)
    if not layer.training or p == 0:
        return x
    if type(layer) is nn.Dropout:
        last = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        order = torch.channels_last if last else torch.contiguous_format
        return x * rows.of(lambda n: F.dropout(x.new_ones(n, *x.shape[1:]).contiguous(memory_format=order), p), len(x))
    kept = rows.of(lambda n: x.new_empty(n, *[1] * (x.ndim - 1)).bernoulli_(1 - p), len(x))
    return x * (kept / (1 - p) if layer.scale_by_keep else kept)


def batch_norm(layer: _BatchNorm, x: Tensor) -> Tensor:
    """(x - mean) / sqrt(var + eps) weight + bias by the whole batch's moments, which the running ones follow.

    In at least float32, whatever the autocast.
    """
    if not layer.training:
        return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, False, 0.0, layer.eps)
    dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
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
    return (x_hat * layer.weight.view(shape) + layer.bias.view(shape) if layer.affine else x_hat).to(dtype)


class Total(torch.autograd.Function):
    """The sum over the processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return distributed.total(x)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return distributed.total(g.contiguous())
