"""What crosses from numbers to an image, a feature, a metric or a saved model is finite: the one check of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from functions.errors import InputError


def bad_values(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """How many values are NaN or infinite, by name, of the tensors that have any. Waits for the device once."""
    numbers = {name: t for name, t in tensors.items() if t.is_floating_point()}
    if not numbers:
        return {}
    counts = torch.stack([t.numel() - t.isfinite().sum() for t in numbers.values()]).tolist()
    return {name: n for name, n in zip(numbers, counts) if n}


def check_finite(what: str, tensors: Mapping[str, Tensor], why: str = "the model diverged") -> None:
    """Raises InputError where values are NaN or infinite: how many, and in which tensors. `what` is a file or a set."""
    if bad := bad_values(tensors):
        total = sum(t.numel() for t in tensors.values())
        names = ", ".join(list(bad)[:5]) + (", ..." if len(bad) > 5 else "")
        raise InputError(f"{what}: {sum(bad.values()):,} of {total:,} values are NaN or infinite, in {names}: {why}")


def bad_rows(x: Tensor) -> list[int]:
    """The rows of (N, ...) that hold a NaN or an infinity. Waits for the device once."""
    return (~x.flatten(1).isfinite().all(1)).nonzero()[:, 0].tolist()
