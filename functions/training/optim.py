"""Optimisers by name. Fused updates: one kernel (or one vectorised loop on the CPU) for all weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from functions.errors import InputError
from functions.training.packed import Packed

Optimizer = torch.optim.Optimizer | Packed


def adamw8bit(params: list[nn.Parameter], optim, decay: float) -> torch.optim.Optimizer:
    """bitsandbytes' AdamW, moments in 8 bits by blocks: a library that only this asks for."""
    try:
        import bitsandbytes
    except ImportError as error:
        missing = f"needs bitsandbytes ({error}): pip install bitsandbytes"
        raise InputError(f"optim.name: adamw8bit {missing}, or optim.name=adamw") from None
    make = bitsandbytes.optim.AdamW8bit
    probe = nn.Parameter(torch.zeros(4096, device=params[0].device))  # fewer would keep moments of 32 bits
    probe.grad = torch.ones_like(probe)
    try:
        make([probe], lr=optim.lr).step()
    except (RuntimeError, ValueError, AttributeError, AssertionError) as error:
        reason = f"bitsandbytes {bitsandbytes.__version__} takes no such step on {probe.device}"
        raise InputError(f"optim.name: adamw8bit: {reason} ({str(error).splitlines()[0]})") from None
    return make(params, lr=optim.lr, weight_decay=decay)


OPTIMIZERS = {
    "adam": lambda params, o, wd: torch.optim.Adam(params, lr=o.lr, weight_decay=wd, fused=True),
    "adamw": lambda params, o, wd: torch.optim.AdamW(params, lr=o.lr, weight_decay=wd, fused=True),
    "sgd": lambda params, o, wd: torch.optim.SGD(params, lr=o.lr, momentum=o.momentum, weight_decay=wd, fused=True),
    "adamw8bit": adamw8bit,
}
DECOUPLED = ("adamw", "adamw8bit")  # weight decay beside the gradient, not in it


def make_optimizer(
    params: Sequence[nn.Parameter], optim, decay: bool = True, masks: Sequence[Tensor] | None = None
) -> Optimizer:
    """The optimiser that the `optim` section names; without its weight decay where the caller sees to that.

    With `masks` it has moments for the weights in them alone, and never moves the others.
    """
    make = lambda params: OPTIMIZERS[optim.name](params, optim, optim.weight_decay if decay else 0.0)
    return make(list(params)) if masks is None else Packed(params, masks, make)


def packs(optim) -> bool:
    """Whether weights that a strict mask freezes are kept from the optimiser: where asked, and from 8-bit moments.

    Those have no exact zero: a weight without any gradient would drift.
    """
    return optim.sparse_moments or optim.name == "adamw8bit"


def set_lr(optimizers: Iterable[Optimizer], lr: float) -> None:
    """The same learning rate for every group of every optimiser."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
