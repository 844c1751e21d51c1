"""Toy images in memory and on disk, and what tests of data sets read off them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import ImageSet, Stream
from datasets.shards import claimed


def toy(n: int = 10, size: int = 4) -> ImageSet:
    """Image k is constant k; labels 0 1 2 0 1 2 ..."""
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, size, size).contiguous()
    return ImageSet(images, torch.arange(n) % 3, ("a", "b", "c"), "toy", "train")


def which(x: torch.Tensor) -> list[int]:
    """The indices of toy images in a batch."""
    return (x[:, 0].amax((1, 2)) * 255).round().long().tolist()


def take(stream: Stream, n: int) -> list[torch.Tensor]:
    return [next(stream)[0] for _ in range(n)]


def grey_levels(x: torch.Tensor) -> list[int]:
    """The first pixel of each image of a batch, 0..255."""
    return (x[:, 0, 0, 0] * 255).round().long().tolist()


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def write(path, pixels, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).convert(mode).save(path)


def write_and_die(identity: dict) -> None:
    """Two shards in kept/, and kill -9 while the file of a third is written. For a process of its own."""
    there = claimed(Path("kept"), identity)
    for images in ([5, 2], [7, 0], [1, 3]):
        if images == [1, 3]:
            os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        there.write(images, np.ones((2, 2, *identity["moments"]), np.float16))
