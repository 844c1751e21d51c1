"""A data set on disk: one folder of images per class, decoded lazily by a torch DataLoader."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets.images import fit, from_pil, to_unit, upload
from functions.errors import InputError
from functions.files import integers_first

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
GREY = {"1", "L"}
COLOUR = {"RGB", "P", "CMYK", "YCbCr"}
ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
# What Pillow raises for a file that is not, or no longer, an image.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class Decoder:
    """`decoder[indices]` is a batch (B, C, H, W) uint8; all that a worker process needs to know."""

    files: tuple[str, ...]
    # L where every file is grey, else RGB: then palettes, CMYK and grey files are converted
    mode: str
    image_size: int | None

    def __getitem__(self, indices: list[int]) -> Tensor | InputError:
        # An error is returned: raised in a worker process, it would arrive with a traceback for its text.
        try:
            return torch.stack([self.decode(self.files[i]) for i in indices])
        except InputError as error:
            return error

    def decode(self, file: str) -> Tensor:
        """(C, H, W) uint8. Raises InputError naming the file if it is corrupt."""
        try:
            with Image.open(file) as image:
                image = image.convert(self.mode)
        except BROKEN as error:
            raise InputError(f"{file}: not a readable image ({error})") from None
        return from_pil(image if self.image_size is None else fit(image, self.image_size))


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
            pin_memory=self.device.type == "cuda",
            # else it draws from the global one, and resuming shifts dropout
            generator=torch.Generator(),
        )
        for x in loader:
            if isinstance(x, InputError):
                raise x
            yield upload(x, self.device)

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) float32 in [0, 1] and c (B,) of these indices, on the device."""
        return to_unit(next(self.batches([indices]))), self.labels[indices.to(self.device)]


def load(path: str, split: str, image_size: int | None, seed: int) -> FolderImages:
    """The images below `path/<class>/`, or `path/train/<class>/` and `path/test/<class>/` if it has those.

    Classes are the folder names, sorted (integers numerically), of train for both parts. Reads headers only.
    Without `image_size`, images of unequal size are refused. `seed` is not used.
    """
    root, classes = _layout(Path(path), split)
    files, labels = files_by_class(root, classes, may_lack=split == "test")
    mode, (width, height) = _header_of_all(files, image_size)
    if image_size is not None:
        width = height = image_size
    return FolderImages(
        Decoder(files, mode, image_size), labels, classes, "folder", split, (1 if mode == "L" else 3, height, width)
    )


def _layout(path: Path, split: str) -> tuple[Path, tuple[str, ...]]:
    """The folder that holds the class folders of this part, and the class names."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder (data.path)")
    parts = _folders(path)
    if not (parts and set(parts) <= {"train", "val", "test"}):  # else `train` may be a class, beside `car`
        if split == "test":
            raise InputError(f"{path}: no test images; wanted {path}/train and {path}/test (data.path)")
        return path, class_folders(path)
    if split not in parts:
        raise InputError(f"{path}: has no sub-folder {split!r}, only {', '.join(parts)} (data.path)")
    classes = class_folders(path / ("train" if "train" in parts else split))
    check_known(path / split, classes)
    return path / split, classes


def files_by_class(root: Path, classes: tuple[str, ...], may_lack: bool = False) -> tuple[tuple[str, ...], Tensor]:
    """The images below `root/<class>/`, in order, and their labels (N,).

    Raises InputError naming a class folder without images; with `may_lack`, only if none has any.
    """
    listing = tqdm(classes, desc="listing images", disable=None, delay=2, leave=False)
    members = [image_files(root / c) for c in listing]
    files = tuple(str(f) for m in members for f in m)
    empty = [c for c, m in zip(classes, members) if not m]
    if empty and not (may_lack and files):
        raise InputError(f"{root / empty[0]}: no images in this class folder (data.path)")
    return files, torch.repeat_interleave(torch.tensor([len(m) for m in members]))


def check_known(root: Path, classes: tuple[str, ...]) -> None:
    """Raises InputError for a class folder of another part that the train part, which has `classes`, lacks."""
    unknown = set(class_folders(root)) - set(classes)
    if unknown:
        raise InputError(f"{root / min(unknown)}: a class that {root.parent / 'train'} does not have")


def class_folders(root: Path) -> tuple[str, ...]:
    """The names of its sub-folders, sorted. Raises InputError if there are none."""
    names = _folders(root)
    if not names:
        raise InputError(f"{root}: no images; wanted {root}/<class>/<image>.png (data.path)")
    return names


def _folders(root: Path) -> tuple[str, ...]:
    return tuple(sorted((e.name for e in os.scandir(root) if e.is_dir() and e.name[0] != "."), key=integers_first))


def image_files(folder: Path) -> list[Path]:
    files = (f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and f.name[0] != ".")
    return sorted(files, key=lambda f: (str(f.parent), integers_first(f.stem)))


def _header_of_all(files: tuple[str, ...], image_size: int | None) -> tuple[str, tuple[int, int]]:
    """The mode that all files can be decoded to, L or RGB, and their (width, height)."""
    mode, size = "L", None
    for file in tqdm(files, desc="reading image headers", disable=None, delay=2, leave=False):
        colour, found = _header(file)
        size = size or found
        mode = "RGB" if colour else mode
        if image_size is None and found != size:
            one, other = (f"{name} is {w}x{h}" for name, (w, h) in ((files[0], size), (file, found)))
            raise InputError(f"images of unequal size: {one}, {other} (data.image_size resizes all)")
    return mode, size


def _header(file: str) -> tuple[bool, tuple[int, int]]:
    """(is it in colour, (width, height)). Raises InputError for alpha, more than 8 bits, and no image."""
    try:
        with Image.open(file) as image:
            mode, size = image.mode, image.size
            alpha = mode in ALPHA or "transparency" in image.info
    except BROKEN as error:
        raise InputError(f"{file}: not a readable image ({error})") from None
    if alpha:
        raise InputError(f"{file}: has transparency (mode {mode}); flatten it onto a background first")
    if mode not in GREY | COLOUR:
        raise InputError(f"{file}: mode {mode} is not supported; wanted 8-bit grey or RGB")
    return mode in COLOUR, size
