"""Data sets by name. Each is labelled uint8 images, in memory (`ImageSet`) or on disk (`FolderImages`)."""

from __future__ import annotations

import functools
from typing import Literal

from datasets import digits, downloads, folder, imagenet, shapes
from datasets.facts import FACTS, MOMENTS
from datasets.folder import FolderImages
from datasets.images import ImageSet, Stream, cycled, ordered
from functions.errors import InputError

__all__ = ["DATASETS", "MOMENTS", "FolderImages", "ImageSet", "Stream", "cycled", "describe", "load", "ordered"]

SPLITS = ("train", "test")
ON_DISK = ("folder", "tinyimagenet", "imagenet")  # of pictures that may differ in size

# name -> loader(path, split, image_size, seed); of those on disk also (..., fit)
DATASETS = {
    "digits": digits.load,
    "shapes": shapes.load,
    "shapes_upright": functools.partial(shapes.load, upright=True),
    "cifar10": downloads.cifar10,
    "cifar100": downloads.cifar100,
    "svhn": downloads.svhn,
    "stl10": downloads.stl10,
    "folder": folder.load,
    "tinyimagenet": imagenet.tinyimagenet,
    "imagenet": imagenet.imagenet,
}


def load(
    name: str,
    path: str = "data",
    split: str = "train",
    image_size: int | Literal["auto"] | None = None,
    seed: int = 0,
    test_fraction: float | None = None,
    fit: str = "middle",
) -> ImageSet | FolderImages:
    """The `train` or `test` part of a data set, on the CPU.

    `path` is where downloads go, or the folder that holds the images (`folder`, `tinyimagenet`, `imagenet`);
    `image_size` makes every image that many pixels square; `seed` chooses the images of `shapes` and nothing else.
    `image_size` auto (for others: None) and `test_fraction` are for `folder`, `fit` (a key of `FITS`) is for data sets
    on disk. Raises InputError if any is wrong.
    """
    if name not in DATASETS:
        raise InputError(f"data.dataset: {name!r} is not one of {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise InputError(f"split: {split!r} is not one of {', '.join(SPLITS)}")
    if name == "folder":
        return folder.load(path, split, image_size, seed, fit, test_fraction)
    on_disk = {} if fit == "middle" else {"fit": fit}
    if on_disk and name not in ON_DISK:
        raise InputError(f"data.fit: {fit} is for dataset {', '.join(ON_DISK)}, this is {name}")
    return DATASETS[name](path, split, None if image_size == "auto" else image_size, seed, **on_disk)


def describe(
    name: str, path: str = "data", image_size: int | Literal["auto"] | None = None
) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """(C, H, W) and class names of a data set. Those of which neither is known without reading them are loaded."""
    if name == "imagenet":
        side = image_size or imagenet.IMAGENET_SIZE
        return (3, side, side), imagenet.wnids()
    if name in FACTS:
        channels, side, classes = FACTS[name]
        return (channels, image_size or side, image_size or side), classes
    images = load(name, path, image_size=image_size)
    return images.shape, images.classes
