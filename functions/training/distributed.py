"""Several devices in one place: today DataParallel for the forward of training loops."""

from __future__ import annotations

import torch
from torch import nn

from functions.errors import InputError


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; anything else is taken as torch understands it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch's words for an unknown name and for a missing driver
        raise InputError(f"device: {name}: {str(error).splitlines()[0]}") from None
    return device


def parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """The model to call in a training step: DataParallel where several CUDA devices are visible, else the model.

    Losses stay per example and are reduced after the gather, so the mean is over the whole batch. Checkpoints, Fishers
    and masks always use the plain model and its names.
    """
    several = device.type == "cuda" and device.index is None and torch.cuda.device_count() > 1
    return nn.DataParallel(model) if several else model
