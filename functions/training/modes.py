"""Train and eval mode for a while, and afterwards as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def training_mode(model: nn.Module, train: bool) -> Iterator[None]:
    """Put the whole model into train or eval mode, and afterwards every module back into the mode it had."""
    before = [(module, module.training) for module in model.modules()]
    model.train(train)
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
