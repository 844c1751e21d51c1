"""Optimisers by name. Fused updates: one kernel (or one vectorised loop on the CPU) for all weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch

OPTIMIZERS = {
    "adam": lambda params, o: torch.optim.Adam(params, lr=o.lr, weight_decay=o.weight_decay, fused=True),
    "adamw": lambda params, o: torch.optim.AdamW(params, lr=o.lr, weight_decay=o.weight_decay, fused=True),
    "sgd": lambda params, o: torch.optim.SGD(
        params, lr=o.lr, momentum=o.momentum, weight_decay=o.weight_decay, fused=True
    ),
}


def make_optimizer(params: Iterable[torch.nn.Parameter], optim) -> torch.optim.Optimizer:
    """The optimiser that the `optim` section names."""
    return OPTIMIZERS[optim.name](params, optim)


def set_lr(optimizers: Iterable[torch.optim.Optimizer], lr: float) -> None:
    """The same learning rate for every group of every optimiser."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
