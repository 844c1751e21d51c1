"""Tiny ImageNet and ImageNet as their archives unpack, read in place: nothing is moved, renamed or written."""

from __future__ import annotations

from pathlib import Path

import torch

from datasets.folder import Decoder, FolderImages, check_known, class_folders, files_by_class
from functions import pictures
from functions.errors import InputError

TINY = "tiny-imagenet-200"
TINY_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_SIZE = 64
IMAGENET_SIZE = 224


def tinyimagenet(path: str, split: str, image_size: int | None, seed: int) -> FolderImages:
    """100,000 train or 10,000 test images (the archive's val), 64 x 64 RGB, 200 classes in the order of their wnids.

    `path` is the folder tiny-imagenet-200 or the one that holds it. `seed` is not used.
    """
    root = _root(path, TINY, "tinyimagenet", f"get {TINY_URL} and unpack it in {path}")
    classes = class_folders(root / "train")
    files, labels = files_by_class(root / "train", classes) if split == "train" else _listed(root / "val", classes)
    return _rgb(files, labels, classes, "tinyimagenet", split, image_size or TINY_SIZE)


def imagenet(path: str, split: str, image_size: int | None, seed: int) -> FolderImages:
    """torchvision's layout: train/<wnid>/* and, as the test part, val/<wnid>/*; classes in the order of their wnids.

    Images differ in size: of each the middle square, scaled to `image_size` (224). `path` is the folder with train and
    val, or one that holds it under the name imagenet. `seed` is not used.
    """
    root = _root(path, "imagenet", "imagenet", f"make {path}/train/<wnid>/*.JPEG and {path}/val/<wnid>/*.JPEG")
    classes, part = class_folders(root / "train"), root / ("train" if split == "train" else "val")
    check_known(part, classes)
    files, labels = files_by_class(part, classes, may_lack=split == "test")
    return _rgb(files, labels, classes, "imagenet", split, image_size or IMAGENET_SIZE)


def _root(path: str, folder: str, name: str, what_to_do: str) -> Path:
    """`path` or `path/folder`, whichever has train and val."""
    for root in (Path(path), Path(path, folder)):
        if (root / "train").is_dir() and (root / "val").is_dir():
            return root
    wanted = f"{path} and {path}/{folder} lack the folders train and val"
    raise InputError(f"{name} is not there: {wanted} (data.path); {what_to_do}")


def _listed(folder: Path, classes: tuple[str, ...]) -> tuple[tuple[str, ...], torch.Tensor]:
    """Files and labels (N,) of Tiny ImageNet's val, in the order of its list: it must name every image and no other."""
    table = folder / "val_annotations.txt"
    if not table.is_file():
        raise InputError(f"{table}: no such file; it says the classes of the test images (unpack {TINY}.zip again)")
    rows = [line.split("\t")[:2] for line in table.read_text().splitlines() if line]  # name, wnid, then a box
    number = {wnid: c for c, wnid in enumerate(classes)}
    for row in rows:
        if len(row) < 2 or row[1] not in number:
            raise InputError(f"{table}: {' '.join(row)}: wanted an image and a class of {folder.parent / 'train'}")
    found = {file.name for file in pictures.find(folder / "images")}
    odd = found ^ {name for name, _ in rows}
    if odd:
        name = min(odd)
        what = "has no class in" if name in found else "is not there, but is listed in"
        raise InputError(f"{folder / 'images' / name}: {what} {table} (unpack {TINY}.zip again)")
    files = tuple(str(folder / "images" / name) for name, _ in rows)
    return files, torch.tensor([number[wnid] for _, wnid in rows])


def _rgb(
    files: tuple[str, ...], labels: torch.Tensor, classes: tuple[str, ...], name: str, split: str, size: int
) -> FolderImages:
    """All of them as RGB at one size, so that no header need be read before the first batch."""
    return FolderImages(Decoder(files, "RGB", size), labels, classes, name, split, (3, size, size))
