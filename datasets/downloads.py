"""CIFAR-10, CIFAR-100, SVHN and STL-10 through torchvision, downloaded on first use into `data.path`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.error import URLError

import numpy as np
import torch

from datasets.images import ImageSet, resized
from functions.errors import InputError
from functions.locks import writing_file

T = TypeVar("T")


def cifar10(path: str, split: str, image_size: int | None, seed: int) -> ImageSet:
    """50,000 train or 10,000 test images, 32 x 32 RGB, 10 classes. `seed` is not used."""
    from torchvision.datasets import CIFAR10

    return _cifar(CIFAR10, "cifar10", path, split, image_size)


def cifar100(path: str, split: str, image_size: int | None, seed: int) -> ImageSet:
    """50,000 train or 10,000 test images, 32 x 32 RGB, the 100 fine classes. `seed` is not used."""
    from torchvision.datasets import CIFAR100

    return _cifar(CIFAR100, "cifar100", path, split, image_size)


def svhn(path: str, split: str, image_size: int | None, seed: int) -> ImageSet:
    """73,257 train or 26,032 test images, 32 x 32 RGB, 10 classes: class c is digit c. `seed` is not used."""
    from torchvision.datasets import SVHN

    url, archive = SVHN.split_list[split][:2]
    raw = _fetch("svhn", path, archive, url, lambda download: SVHN(path, split=split, download=download))
    return _image_set("svhn", split, raw.data, raw.labels, "0123456789", image_size)


def stl10(path: str, split: str, image_size: int | None, seed: int) -> ImageSet:
    """5,000 train or 8,000 test images, 96 x 96 RGB, 10 classes. `seed` is not used."""
    from torchvision.datasets import STL10

    raw = _fetch("stl10", path, STL10.filename, STL10.url, lambda download: STL10(path, split=split, download=download))
    return _image_set("stl10", split, raw.data, raw.labels, raw.classes, image_size)


def _cifar(source: type, name: str, path: str, split: str, image_size: int | None) -> ImageSet:
    archive, url = source.filename, source.url
    raw = _fetch(name, path, archive, url, lambda download: source(path, train=split == "train", download=download))
    return _image_set(name, split, raw.data.transpose(0, 3, 1, 2), raw.targets, raw.classes, image_size)


def _fetch(name: str, path: str, archive: str, url: str, get: Callable[[bool], T]) -> T:
    """`get(download)`, with what torchvision raises offline or for a broken archive made one line that helps.

    Of several processes one downloads: torchvision writes the archive where it belongs, half as it comes.
    """
    with contextlib.suppress(RuntimeError):  # not there, or not whole
        return get(False)
    try:
        with writing_file(Path(path) / archive, math.inf):
            return get(True)
    except (URLError, ConnectionError, TimeoutError, RuntimeError) as error:
        raise InputError(
            f"{name} is not in {path} (data.path) and could not be downloaded ({error}): "
            f"get {url} and put {archive} there"
        ) from error


def _image_set(
    name: str, split: str, data: np.ndarray, labels: Sequence[int], classes: Sequence[str], image_size: int | None
) -> ImageSet:
    images = torch.from_numpy(np.ascontiguousarray(data))  # (N, 3, H, W) uint8
    return ImageSet(resized(images, image_size), torch.as_tensor(labels).long(), tuple(classes), name, split)
