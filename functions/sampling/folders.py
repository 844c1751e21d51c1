"""Sets of images on disk: a folder of pictures, walked recursively (`<folder>/<class>/<k>.png`), or an `.npz` batch.

Files are listed and counted first, decoded by threads while the network works, and never held all at once.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from functions import pictures
from functions.arrays import read_npz
from functions.config.classes import leaves_out, parse_classes
from functions.errors import InputError
from functions.files import natural

UNKNOWN = -1  # the label of an image whose folder's name is no integer
AHEAD = 2  # batches decoded while one is in use
BATCH = 1 << 30  # bytes of one batch of decoded pictures


@dataclass(frozen=True)
class SampleSet:
    """Images on disk: `labels` int64 (N,) (-1: unknown) and either `paths` (N) or `array` uint8 (N,H,W,C)."""

    source: Path
    labels: Tensor
    paths: tuple[Path, ...] = ()
    array: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int, channels: int, n_workers: int | None = None) -> Iterator[Tensor]:
        """uint8 (B,C,H,W) with 1 (grey) or 3 channels, in order, decoded by `n_workers` threads (None: the CPUs, at
        most 16). Raises InputError with the name of a bad image.
        """
        if self.array is not None:
            yield from (self._fit(part, channels) for part in self.array.split(batch_size))
            return
        first = self.paths[0]
        width, height = pictures.size(first)
        if (needed := width * height * channels * batch_size) > BATCH:
            at_once = f"{batch_size} at once are {needed:,} bytes, wanted at most {BATCH:,} (--batch_size)"
            raise InputError(f"{first}: {width}x{height} pixels: {at_once}")
        read = functools.partial(decode, channels=channels, size=(width, height), first=first)
        for images in _decoded(self.paths, batch_size, read, n_workers or _n_cpus()):
            yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()

    def only(self, text: str, names: Sequence[str] | None = None) -> SampleSet:
        """The images of the classes that `text` names (`1,2`, or by `names`) or all but those it names (`x0`).

        Raises InputError where nothing is left, a named class is not there, or images lie outside class folders.
        """
        if bool((self.labels == UNKNOWN).any()):
            raise InputError(f"{self.source}: has no class for every image, so --classes {text} cannot choose")
        n = int(self.labels.max()) + 1
        classes = names if names and len(names) >= n else n
        chosen = parse_classes(text, classes, "--classes")
        keep = torch.isin(self.labels, torch.tensor(chosen)).nonzero().flatten()
        absent = sorted(set(chosen) - set(self.labels.tolist()))
        if absent and (len(keep) == 0 or not leaves_out(text, classes)):
            raise InputError(f"{self.source}: no images of class {absent[0]} (--classes {text})")
        array = None if self.array is None else self.array[keep]
        return replace(
            self, labels=self.labels[keep], paths=tuple(self.paths[i] for i in keep if self.paths), array=array
        )

    def images(self, channels: int) -> Tensor:
        """All of it at once: uint8 (N,C,H,W)."""
        return torch.cat(list(self.batches(1024, channels)))

    def fingerprint(self) -> str:
        """SHA-256 of what the set holds: names, sizes and times of its files. Not their bytes: that would be a pass."""
        paths = self.paths or (self.source,)
        root = self.source if self.paths else self.source.parent
        digest = hashlib.sha256()
        for path in paths:
            stat = path.stat()
            # names need not be UTF-8
            digest.update(os.fsencode(f"{path.relative_to(root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n"))
        return digest.hexdigest()

    def _fit(self, part: Tensor, channels: int) -> Tensor:
        if part.shape[3] == 1 and channels == 3:
            part = part.expand(-1, -1, -1, 3)
        if part.shape[3] == 3 and channels == 1:
            if not _is_grey(part):
                raise InputError(f"{self.source}: colour images, the network reads grey ones")
            part = part[..., :1]
        return part.permute(0, 3, 1, 2).contiguous()


def find_samples(source: Path | str) -> SampleSet:
    """The images of a folder or `.npz`. Raises InputError where there is none."""
    source = Path(source)
    if source.suffix == ".npz" and source.is_file():
        return _read_npz(source)
    if not source.is_dir():
        raise InputError(f"{source}: no such folder of images (or .npz file)")
    paths = sorted(pictures.find(source), key=natural)
    if not paths:
        raise InputError(f"{source}: no picture in it or in its folders")
    return SampleSet(source, torch.tensor([_label(p) for p in paths]), tuple(paths))


def same_images(one: SampleSet, two: SampleSet) -> bool:
    """Whether two sets hold the same pixels in the same order: the same place, a copy, a folder and its `.npz`.

    Ends at the first difference, so it is cheap for sets that are not the same.
    """
    if one.source.resolve() == two.source.resolve():
        return True
    batches = (s.batches(16, 3) for s in (one, two))
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def _read_npz(source: Path) -> SampleSet:
    """`arr_0` uint8 NHWC, `arr_1` (N,) integer labels where there are any; never a pickle."""
    arrays = list(read_npz(source, ("arr_0", "arr_1")).values())
    if not arrays or arrays[0].dtype != np.uint8 or arrays[0].ndim != 4 or arrays[0].shape[3] not in (1, 3):
        got = f"{arrays[0].dtype} {arrays[0].shape}" if arrays else "no such array"
        raise InputError(f"{source}: arr_0 is {got}, wanted uint8 (N,H,W,C) with 1 or 3 channels")
    if len(arrays[0]) == 0:
        raise InputError(f"{source}: no image in it")
    labels = torch.full((len(arrays[0]),), UNKNOWN)
    if len(arrays) == 2:
        if arrays[1].shape != (len(labels),) or arrays[1].dtype.kind not in "iu":
            raise InputError(
                f"{source}: arr_1 is {arrays[1].dtype} {arrays[1].shape}, wanted one integer label an image"
            )
        labels = torch.from_numpy(arrays[1].astype(np.int64))
    return SampleSet(source, labels, array=torch.from_numpy(arrays[0]))


def decode(path: Path, channels: int, size: tuple[int, int] | None = None, first: Path | str = "") -> np.ndarray:
    """One picture as uint8 (H,W,C). Grey and palette images become what `channels` (1 or 3) needs.

    Raises InputError with the file's name: what `pictures.read` refuses, another `size` than the `first` one's, or
    colour where grey is read.
    """
    image = pictures.read(path, size, first)
    grey, pixels = image.mode == "L", np.array(image)
    pixels = pixels[..., None] if grey else pixels
    if channels == 1 and not grey:
        if not _is_grey(torch.from_numpy(pixels)):
            raise InputError(f"{path}: a colour image, the network reads grey ones")
        pixels = pixels[..., :1]
    return pixels.repeat(3, axis=2) if channels == 3 and grey else pixels


def _is_grey(pixels: Tensor) -> bool:
    """Whether the three channels of (...,3) are equal."""
    return bool((pixels == pixels[..., :1]).all())


def _n_cpus() -> int:
    """CPUs this process may use, at most 16: a cluster job owns fewer than the machine has."""
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _decoded(paths: tuple[Path, ...], batch_size: int, read: Callable, n_workers: int) -> Iterator[list[np.ndarray]]:
    """Batches of decoded images, a bounded number of them ahead of the reader."""
    with ThreadPoolExecutor(n_workers) as pool:
        pending = deque()
        try:
            for chunk in _chunks(paths, batch_size):
                pending.append([pool.submit(read, path) for path in chunk])
                if len(pending) > AHEAD:
                    yield [future.result() for future in pending.popleft()]
            while pending:
                yield [future.result() for future in pending.popleft()]
        finally:
            # the reader stopped early: don't decode what nobody waits for
            pool.shutdown(wait=False, cancel_futures=True)


def _chunks(paths: tuple[Path, ...], batch_size: int) -> Iterator[tuple[Path, ...]]:
    return (paths[i : i + batch_size] for i in range(0, len(paths), batch_size))


def _label(path: Path) -> int:
    """The class: the name of the folder in which the picture, or the link to it, stands."""
    name = Path(os.path.abspath(path)).parent.name
    return int(name) if name.isascii() and name.isdecimal() and len(name) < 10 else UNKNOWN
