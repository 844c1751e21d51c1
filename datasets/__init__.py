"""Data sets by name. Each is labelled uint8 images, in memory (`ImageSet`) or on disk (`FolderImages`)."""

from __future__ import annotations

from datasets import digits, downloads, folder, shapes
from datasets.folder import FolderImages
from datasets.images import DataError, ImageSet, Stream, ordered

__all__ = ["DATASETS", "DataError", "FolderImages", "ImageSet", "Stream", "load", "ordered"]

SPLITS = ("train", "test")

# name -> loader(path, split, image_size, seed)
DATASETS = {
    "digits": digits.load,
    "shapes": shapes.load,
    "cifar10": downloads.cifar10,
    "cifar100": downloads.cifar100,
    "svhn": downloads.svhn,
    "stl10": downloads.stl10,
    "folder": folder.load,
}


def load(
    name: str, path: str = "data", split: str = "train", image_size: int | None = None, seed: int = 0
) -> ImageSet | FolderImages:
    """The `train` or `test` part of a data set, on the CPU.

    `path` is where downloads go, or the folder of `folder`; `image_size` makes every image that many pixels
    square; `seed` chooses the images of `shapes` and nothing else. Raises DataError if any of these is wrong.
    """
    if name not in DATASETS:
        raise DataError(f"data.dataset: {name!r} is not one of {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise DataError(f"split: {split!r} is not one of {', '.join(SPLITS)}")
    return DATASETS[name](path, split, image_size, seed)
