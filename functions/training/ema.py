"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class EMA:
    """theta_bar = rate theta_bar + (1 - rate) theta, in one fused call; after the first step a copy of the weights.

    Buffers (BatchNorm's statistics) are the model's own, copied. The count lives in Python: torch's `AveragedModel`
    copies it to the device in every step.
    """

    def __init__(self, model: nn.Module, rate: float):
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.rate, self.n_averaged = rate, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        ours, theirs = list(self.module.parameters()), [p.detach() for p in model.parameters()]
        if self.n_averaged == 0:
            torch._foreach_copy_(ours, theirs)
        else:
            torch._foreach_lerp_(ours, theirs, 1 - self.rate)
        for own, buffer in zip(self.module.buffers(), model.buffers()):
            own.copy_(buffer)
        self.n_averaged += 1
