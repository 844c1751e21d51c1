"""BatchNorm's running statistics while a model is changed: keep them, or make them anew."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from functions.training.modes import training_mode


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Its BatchNorm layers that keep statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def freeze_statistics(model: nn.Module) -> None:
    """BatchNorm layers in eval mode, in a model that trains: they normalise by the statistics they have."""
    for layer in batch_norms(model):
        layer.eval()


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Running mean and variance become the average over `batches` (x, c) of the weights as they are now.

    Batches count alike, a short last one too, but one of a single image, of which no variance can be had, is left out
    after others. Everything but BatchNorm is in eval mode meanwhile. Of several processes each does all of it.
    """
    layers = batch_norms(model)
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    shared = [layer.__dict__.pop("forward", None) for layer in layers]  # what functions.training.shared_batch put there
    try:
        with training_mode(model, train=False):
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # the plain average of all batches
                layer.train()
            for i, (x, _) in enumerate(batches):
                if len(x) > 1 or i == 0:
                    model(x)
    finally:
        for layer, momentum, forward in zip(layers, momenta, shared):
            layer.momentum = momentum
            if forward is not None:
                layer.forward = forward
