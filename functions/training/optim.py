"""Optimisers by name. Fused updates: one kernel (or one vectorised loop on the CPU) for all weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch

OPTIMIZERS = {
    "adam": lambda params, o, wd: torch.optim.Adam(params, lr=o.lr, weight_decay=wd, fused=True),
    "adamw": lambda params, o, wd: torch.optim.AdamW(params, lr=o.lr, weight_decay=wd, fused=True),
    "sgd": lambda params, o, wd: torch.optim.SGD(params, lr=o.lr, momentum=o.momentum, weight_decay=wd, fused=True),
}


def make_optimizer(params: Iterable[torch.nn.Parameter], optim, decay: bool = True) -> torch.optim.Optimizer:
    """The optimiser that the `optim` section names; without its weight decay where the caller sees to that."""
    return OPTIMIZERS[optim.name](params, optim, optim.weight_decay if decay else 0.0)


def set_lr(optimizers: Iterable[torch.optim.Optimizer], lr: float) -> None:
    """The same learning rate for every group of every optimiser."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
