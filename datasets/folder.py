"""A data set on disk: one folder of images per class, decoded lazily by a torch DataLoader."""

from __future__ import annotations

import functools
import os
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets.images import FITS, ImageSet, from_pil, to_unit, upload
from datasets.split import train_val_split
from functions import pictures
from functions.errors import InputError
from functions.files import integers_first
from functions.interrupts import ignore

# How folders of parts are called, in any case.
NAMES = {"train": "train training", "val": "val valid validation dev", "test": "test testing eval evaluation"}
PART_OF = {name: part for part, names in NAMES.items() for name in names.split()}
# image_size auto: one size up to LARGEST is kept, others become a square of at most USUAL pixels.
USUAL, LARGEST = 64, 256

Files = tuple[tuple[str, ...], Tensor]  # files, and their labels (N,)


@dataclass(frozen=True)
class Decoder:
    """`decoder[indices]` is a batch (B, C, H, W) uint8; all that a worker process needs to know."""

    files: tuple[str, ...]
    # L where every file is grey, else RGB: then palettes, CMYK and grey files are converted
    mode: str
    image_size: int | None
    fit: str = "middle"

    def __getitem__(self, indices: list[int]) -> Tensor | InputError:
        # An error is returned: raised in a worker process, it would arrive with a traceback for its text.
        try:
            return torch.stack([self.decode(self.files[i]) for i in indices])
        except InputError as error:
            return error

    def decode(self, file: str) -> Tensor:
        """(C, H, W) uint8. Raises InputError naming the file if it is corrupt."""
        with pictures.opened(file) as image:
            image = image.convert(self.mode)
        return from_pil(image if self.image_size is None else FITS[self.fit](image, self.image_size))


@dataclass(frozen=True, eq=False)
class FolderImages:
    """Like ImageSet, with files in place of `images`; batches arrive on the device of `labels`."""

    decoder: Decoder
    labels: Tensor  # (N,) int64
    classes: tuple[str, ...]
    name: str
    split: str
    shape: tuple[int, int, int]  # (C, H, W)

    index_device = torch.device("cpu")  # files are opened by the host

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    @property
    def device(self) -> torch.device:
        return self.labels.device

    def to(self, device: torch.device | str) -> FolderImages:
        """The same set with its batches on another device."""
        return replace(self, labels=self.labels.to(device))

    def batches(self, indices: Iterable[Tensor], n_workers: int = 0) -> Iterator[Tensor]:
        """For each LongTensor (B,), its images (B, C, H, W) uint8, decoded ahead by `n_workers` processes."""
        loader = DataLoader(
            self.decoder,
            batch_size=None,  # the sampler's elements are whole batches
            sampler=(i.tolist() for i in indices),
            num_workers=n_workers,
            worker_init_fn=ignore,
            pin_memory=self.device.type == "cuda",
            # else it draws from the global one, and resuming shifts dropout
            generator=torch.Generator(),
        )
        for x in loader:
            if isinstance(x, InputError):
                raise x
            yield upload(x, self.device)

    finish = staticmethod(ImageSet.finish)

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) float32 in [0, 1] and c (B,) of these indices, on the device."""
        return to_unit(next(self.batches([indices]))), self.labels[indices.to(self.device)]


def load(
    path: str,
    split: str,
    image_size: int | Literal["auto"] | None,
    seed: int,
    fit: str = "middle",
    test_fraction: float | None = None,
) -> FolderImages:
    """The images below `path/<class>/`, or below `path/train/<class>/` and `path/test/<class>/` (see `layout`).

    Colour and size are decided once over all parts, from headers alone: L where all are grey, otherwise RGB. Without
    `image_size`, images of unequal size are refused; `auto` makes them squares of `USUAL` pixels or less. Of a folder
    without a test part `test_fraction` of each class is the test part, the same for every seed. `seed` is not used.
    """
    place = layout(Path(path))
    if split not in place.parts and not test_fraction:
        raise InputError(
            f"{path}: no test images; wanted {path}/train and {path}/test, or a share of all to be set aside "
            "(data.path, data.test_fraction)"
        )
    parts = {part: files_by_class(root, place.classes, part == "test") for part, root in place.parts.items()}
    everything = [file for files, _ in parts.values() for file in files]
    if "test" not in parts:
        parts |= _set_aside(path, *parts["train"], place.classes, test_fraction)
    mode, sizes = _header_of_all(everything)
    size = _common_size(path, everything, sizes, image_size)
    width, height = (size, size) if size else sizes[0]
    files, labels = parts[split]
    shape = (1 if mode == "L" else 3, height, width)
    return FolderImages(Decoder(files, mode, size, fit), labels, place.classes, "folder", split, shape)


class Layout(NamedTuple):
    """Where the parts of a data set lie, `train` and, where there is one, `test`; and the names of its classes."""

    parts: dict[str, Path]
    classes: tuple[str, ...]


def layout(path: Path) -> Layout:
    """Parts are folders named like `train`, `valid` or `Testing`; where there is none, `path` is all training images.

    Classes are the folder names, sorted (integers numerically), of train for both parts. Without a test folder the
    validation folder stands for it. Raises InputError where folders of parts and other folders lie side by side.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such folder (data.path)")
    found = _parts(path)
    if not found:
        return Layout({"train": path}, class_folders(path))
    if "train" not in found:
        there = ", ".join(p.name for p in found.values())
        raise InputError(f"{path}: has no sub-folder 'train', only {there} (data.path)")
    if "val" in found and "test" not in found:
        _once(f"{found['val']}: stands for the test part, which is not there")
        found["test"] = found.pop("val")
    elif "val" in found:
        _once(f"{found.pop('val')}: not read; validation images are drawn from train (data.val_fraction)")
    classes = class_folders(found["train"])
    if "test" in found:
        check_known(found["test"], classes)
    return Layout({part: found[part] for part in ("train", "test") if part in found}, classes)


def _parts(path: Path) -> dict[str, Path]:
    """The folders of the parts, none where `path` holds class folders. Raises InputError where it cannot be told."""
    names = pictures.folders(path)
    named = [name for name in names if name.lower() in PART_OF]
    others = [name for name in names if name not in named]
    if others and not any(pictures.folders(path / name) for name in named):
        return {}  # pictures lie in them: classes that are called so
    empty = [name for name in others if pictures.any_below(path / name) is None] if named else []
    if empty:
        _once(f"{path}: left out {', '.join(empty)}, without a picture")
    if named and (others := [name for name in others if name not in empty]):
        raise InputError(
            f"{path}: holds parts of a data set ({', '.join(named)}) beside other folders ({', '.join(others[:3])}): "
            "cannot tell parts from classes; move one kind away (data.path)"
        )
    parts: dict[str, Path] = {}
    for name in named:
        if (earlier := parts.setdefault(PART_OF[name.lower()], path / name)) != path / name:
            raise InputError(f"{path}: {earlier.name} and {name} both say {PART_OF[name.lower()]} (data.path)")
    return parts


def _set_aside(
    path: str, files: tuple[str, ...], labels: Tensor, classes: tuple[str, ...], fraction: float | None
) -> dict[str, Files]:
    """Train and test part of a folder that has none; no test part where `fraction` is None or 0."""
    if not fraction:
        _once(f"{path}: has no test part (data.test_fraction sets a share aside)")
        return {}
    train, test = train_val_split(labels, fraction, seed=0, key="data.test_fraction")
    left = torch.bincount(labels[train], minlength=len(classes))
    if (left == 0).any():
        name = classes[int(left.argmin())]
        raise InputError(f"{path}: data.test_fraction {fraction} leaves no image of class {name} to train on")
    _once(f"{path}: {len(test)} of {len(labels)} images are set aside as its test part (data.test_fraction)")
    return {part: (tuple(files[i] for i in of), labels[of]) for part, of in (("train", train), ("test", test))}


def files_by_class(root: Path, classes: tuple[str, ...], may_lack: bool = False) -> Files:
    """The images below `root/<class>/`, in order, and their labels (N,).

    Raises InputError naming a class folder without images; with `may_lack`, only if none has any.
    """
    members: dict[str, list[Path]] = {c: [] for c in classes}
    start, outside = len(os.path.join(root, "")), []
    for file in pictures.find(root):
        folder, _, within = str(file)[start:].partition(os.sep)
        (members[folder] if within and folder in members else outside).append(file)
    if outside:
        _once(f"{root}: left out {len(outside)} pictures outside the class folders ({min(outside).name})")
    files = tuple(str(f) for m in members.values() for f in sorted(m, key=_in_order))
    empty = [c for c, m in members.items() if not m]
    if empty and not (may_lack and files):
        raise InputError(f"{root / empty[0]}: no images in this class folder (data.path)")
    return files, torch.repeat_interleave(torch.tensor([len(m) for m in members.values()]))


def _in_order(file: Path) -> tuple:
    """Index lists hang on this order."""
    return str(file.parent), integers_first(file.stem), file.name


def check_known(root: Path, classes: tuple[str, ...]) -> None:
    """Raises InputError for a class folder of another part that the train part, which has `classes`, lacks."""
    unknown = set(class_folders(root)) - set(classes)
    if unknown:
        raise InputError(f"{root / min(unknown)}: a class that {root.parent / 'train'} does not have")


def class_folders(root: Path) -> tuple[str, ...]:
    """The names of its sub-folders, sorted. Raises InputError if there are none."""
    names = pictures.folders(root)
    if not names:
        raise InputError(f"{root}: no images; wanted {root}/<class>/<image>.png (data.path)")
    return tuple(names)


def _header_of_all(files: list[str]) -> tuple[str, list[tuple[int, int]]]:
    """The mode that all files can be decoded to, L or RGB, and the (width, height) of each."""
    grey, sizes = True, []
    for file in tqdm(files, desc="reading image headers", disable=None, delay=2, leave=False):
        with pictures.opened(file) as image:
            grey &= pictures.is_grey(image, file)
            sizes.append(image.size)
    return "L" if grey else "RGB", sizes


def _common_size(
    path: str, files: list[str], sizes: list[tuple[int, int]], image_size: int | Literal["auto"] | None
) -> int | None:
    """The side of the square that all become; None: they stay as they are, which all are of one size then."""
    other = next((i for i, size in enumerate(sizes) if size != sizes[0]), None)
    if image_size is None and other is not None:
        one, two = (f"{files[i]} is {sizes[i][0]}x{sizes[i][1]}" for i in (0, other))
        raise InputError(f"images of unequal size: {one}, {two} (data.image_size resizes all)")
    if image_size != "auto":
        return image_size
    if other is None and max(sizes[0]) <= LARGEST:
        return None
    side = min(USUAL, max(16, int(statistics.median(min(size) for size in sizes)) // 16 * 16))
    _once(f"{path}: images of {len(set(sizes))} sizes: of each the middle square, at {side} pixels (data.image_size)")
    return side


@functools.cache
def _once(line: str) -> None:
    """To stderr; parts are loaded one by one, and all of it holds for both."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(line, file=sys.stderr)
