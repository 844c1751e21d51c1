"""Encoders: images in [0, 1] to the space a model works in, and back."""

from __future__ import annotations

from torch import Tensor


class Pixels:
    """The identity up to scale: [0, 1] <-> [-1, 1]."""

    def encode(self, x: Tensor) -> Tensor:
        """x in [0, 1] -> 2x - 1 in [-1, 1]."""
        return 2 * x - 1

    def decode(self, z: Tensor) -> Tensor:
        """z -> (clamp(z, -1, 1) + 1) / 2 in [0, 1]."""
        return (z.clamp(-1, 1) + 1) / 2

    def shape(self, data_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, H, W) of images -> (C, H, W) of what the model sees."""
        return data_shape
