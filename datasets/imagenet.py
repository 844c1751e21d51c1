"""Tiny ImageNet and ImageNet as their archives unpack, read in place: nothing is moved, renamed or written."""

from __future__ import annotations

from pathlib import Path

import torch

from datasets.folder import Decoder, FolderImages, check_known, class_folders, files_by_class
from functions import pictures
from functions.errors import InputError, nearest
from functions.files import note
from functions.imagenet import N_CLASSES, names, wnids

TINY = "tiny-imagenet-200"
TINY_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_SIZE = 64
IMAGENET_SIZE = 224


def tinyimagenet(path: str, split: str, image_size: int | None, seed: int, fit: str = "middle") -> FolderImages:
    """100,000 train or 10,000 test images (the archive's val), 64 x 64 RGB, 200 classes in the order of their wnids.

    `path` is the folder tiny-imagenet-200 or the one that holds it. `seed` is not used.
    """
    root = _root(path, TINY, "tinyimagenet", f"get {TINY_URL} and unpack it in {path}")
    classes = class_folders(root / "train")
    files, labels = files_by_class(root / "train", classes) if split == "train" else _listed(root / "val", classes)
    return _rgb(files, labels, classes, "tinyimagenet", split, image_size or TINY_SIZE, fit)


def imagenet(path: str, split: str, image_size: int | None, seed: int, fit: str = "middle") -> FolderImages:
    """torchvision's layout: train/<wnid>/* and, as the test part, val/<wnid>/*; any of ImageNet's 1000 classes.

    Labels and classes are always those of all 1000 (functions.imagenet), so that a missing folder shifts none; a line
    says how many have no images. A folder that is no wnid of them is refused: of any other folders `dataset: folder`
    makes classes. Images differ in size: each becomes a square of `image_size` (224) as `fit` says. `path` is the
    folder with train, or one that holds it under the name imagenet. `seed` is not used.
    """
    needed = ("train",) if split == "train" else ("train", "val")
    todo = " and ".join(f"{path}/{part}/<wnid>/*.JPEG" for part in ("train", "val"))
    root = _root(path, "imagenet", "imagenet", f"make {todo}", needed)
    part = root / ("train" if split == "train" else "val")
    here = _known(part)
    if split == "test":
        check_known(part, _known(root / "train"))
    files, among = files_by_class(part, here, may_lack=True)
    number = torch.tensor([wnids().index(wnid) for wnid in here])
    labels = number[among]
    _say_missing(part, labels)
    return _rgb(files, labels, wnids(), "imagenet", split, image_size or IMAGENET_SIZE, fit)


def _known(part: Path) -> tuple[str, ...]:
    """The class folders of a part, sorted. Raises InputError for one that is no class of ImageNet."""
    found = class_folders(part)
    for folder in sorted(set(found) - set(wnids())):
        raise InputError(
            f"{part / folder}: {folder} is no wnid of ImageNet's {N_CLASSES} classes{nearest(folder, wnids())}; of "
            "other class folders data.dataset folder makes a data set (data.path)"
        )
    return found


def _say_missing(part: Path, labels: torch.Tensor) -> None:
    """A line on stderr about the classes without an image."""
    n = torch.bincount(labels, minlength=N_CLASSES)
    missing = [f"{c} {wnid} ({names()[c]})" for c, wnid in enumerate(wnids()) if n[c] == 0]
    if missing:
        few = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        note(f"{part}: no images of {len(missing)} of ImageNet's {N_CLASSES} classes: {few}; labels stay those of all")


def _root(path: str, folder: str, name: str, what_to_do: str, needed: tuple[str, ...] = ("train", "val")) -> Path:
    """`path` or `path/folder`, whichever has the folders `needed`."""
    for root in (Path(path), Path(path, folder)):
        if all((root / part).is_dir() for part in needed):
            return root
    lacking = f"the folder{'s' * (len(needed) > 1)} {' and '.join(needed)}"
    wanted = f"{path} and {path}/{folder} lack {lacking}"
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
    files: tuple[str, ...], labels: torch.Tensor, classes: tuple[str, ...], name: str, split: str, size: int, fit: str
) -> FolderImages:
    """All of them as RGB at one size, so that no header need be read before the first batch."""
    return FolderImages(Decoder(files, "RGB", size, fit), labels, classes, name, split, (3, size, size))
