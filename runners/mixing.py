"""One stream over forget and remain images mixed, for methods whose every batch holds both."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from datasets import FolderImages, ImageSet
from runners.setup import Setup


def marked(setup: Setup) -> ImageSet | FolderImages:
    """The images, the forget set's labels c written as c + n_classes: a batch knows without indices what it holds."""
    shift = torch.zeros_like(setup.images.labels)
    shift[setup.forget.to(shift.device)] = setup.images.n_classes
    return replace(setup.images, labels=setup.images.labels + shift)


def everything(setup: Setup) -> Tensor:
    """The indices of forget and remain set."""
    return torch.cat([setup.forget, setup.remain]).sort().values


def unmarked(c: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """True labels, and whether an image is to be forgotten, (N,) each."""
    return c % n_classes, c >= n_classes
