"""How training steps call a model: compiled, in bfloat16, channels last. Weights and names stay the plain model's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from functions.config.schema import Training
from functions.training.distributed import parallel


class Forward(nn.Module):
    """`model(x, ...)` under autocast, with images in the memory format asked for; the prediction is float32."""

    def __init__(self, model: nn.Module, bf16: bool, channels_last: bool) -> None:
        super().__init__()
        self.model, self.bf16 = model, bf16
        self.format = torch.channels_last if channels_last else torch.preserve_format

    def forward(self, x: Tensor, *args: Tensor) -> Tensor:
        if self.format is torch.channels_last:
            x = x.contiguous(memory_format=self.format)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model(x, *args).float()


def counted(model: nn.Module) -> nn.Module:
    """The module whose calls are all forward passes: the plain model inside a `Forward`, else what is called."""
    return model.model if isinstance(model, Forward) else model


def training_forward(model: nn.Module, device: torch.device, training: Training | None) -> nn.Module:
    """What a runner calls in place of `model`. With `channels_last` the weights change their format, in place."""
    if training is None:
        return model
    if training.channels_last:
        model.to(memory_format=torch.channels_last)
    called = torch.compile(model) if training.compile else model
    if training.bf16 or training.channels_last:
        called = Forward(called, training.bf16, training.channels_last)
    return parallel(called, device)
