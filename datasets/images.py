"""Images as one uint8 tensor, and the two ways through any image set: an endless `Stream`, and `ordered`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from functions.errors import InputError
from functions.randomness import order_generator


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A data set that lives as one tensor on the device, where batches are gathers and need no workers."""

    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64
    classes: tuple[str, ...]
    name: str
    split: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        return tuple(self.images.shape[1:])

    @property
    def device(self) -> torch.device:
        return self.labels.device

    index_device = device  # where `batches` wants its indices

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set on another device; this one stays as it is."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def batches(self, indices: Iterable[Tensor], n_workers: int = 0) -> Iterator[Tensor]:
        """For each LongTensor (B,), its images (B, C, H, W), uint8; `n_workers` has nothing to do here."""
        return (self.images[i] for i in indices)

    @staticmethod
    def finish(x: Tensor, flip: Tensor | None = None, shift: Tensor | None = None, crop: int = 0) -> Tensor:
        """A batch as it is handed out, in [0, 1]: moved by `augment` where `flip` and `shift` are given."""
        return to_unit(x if flip is None else augment(x, flip, shift, crop))

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) float32 in [0, 1] and c (B,) of these indices, on the device."""
        indices = indices.to(self.device)
        return to_unit(self.images[indices]), self.labels[indices]


@dataclass(frozen=True, eq=False)
class Shuffle:
    """An endless order of images with their augmentation. Epoch e depends on (seed, purpose, e) alone."""

    indices: Tensor  # (n,) int64
    seed: int
    purpose: str
    flip: bool
    crop: int
    device: torch.device
    frozen: bool = False

    def epoch(self, e: int) -> Tensor:
        """Rows (n, 4) = index, flip, dy, dx. All is drawn always: augmentation does not change the order."""
        n, g = len(self.indices), order_generator(self.seed, self.purpose, e)
        order = torch.randperm(n, generator=g)
        a = order_generator(self.seed, self.purpose, "frozen") if self.frozen else g
        flip = torch.randint(2, (n, 1), generator=a) * self.flip
        shift = torch.randint(2 * self.crop + 1, (n, 2), generator=a)
        # these belong to the images, the fresh ones to places in the epoch
        if self.frozen:
            flip, shift = flip[order], shift[order]
        return upload(torch.cat([self.indices[order][:, None], flip, shift], dim=1), self.device)

    def batches(self, batch_size: int, position: int) -> Iterator[Tensor]:
        """Rows (B, 4) of the batches `position`, `position` + 1, ..., which run across the ends of epochs."""
        e, start = divmod(position * batch_size, len(self.indices))
        rest = self.epoch(e)[start:]
        while True:
            while len(rest) < batch_size:
                e += 1
                rest = torch.cat([rest, self.epoch(e)])
            yield rest[:batch_size]
            rest = rest[batch_size:]


class Stream:
    """Endless shuffled training batches: x (B, C, H, W) float32 in [0, 1] and c (B,), on the images' device.

    Every epoch is a permutation of `indices`; batches are always full. Batch i depends on (seed, purpose, i)
    alone: setting `position` (the number of batches handed out) resumes. `flip` mirrors half of the images;
    `crop` pads with that many zero pixels and cuts out a random window; `n_workers` processes decode folders.
    `frozen` draws flip and window once for each image instead of afresh in each epoch (as published).
    With `marked`, indices of some images, a batch is (x, c, m) and m (B,) says which of its images are among them.
    `part` = (rank, size) hands out the rank-th of `size` equal parts of every batch.
    """

    def __init__(
        self,
        images,
        indices: Tensor,
        batch_size: int,
        seed: int,
        purpose: str,
        flip: bool = False,
        crop: int = 0,
        n_workers: int = 0,
        frozen: bool = False,
        marked: Tensor | None = None,
        part: tuple[int, int] = (0, 1),
    ):
        if len(indices) == 0:
            raise InputError(f"{images.name} ({images.split}): no images to draw {purpose} batches from")
        self.images, self.batch_size, self.n_workers = images, batch_size, n_workers
        self.shuffle = Shuffle(indices.cpu(), seed, purpose, flip, crop, images.index_device, frozen)
        self.part, self.marked = part, None
        if marked is not None:
            self.marked = torch.zeros_like(images.labels, dtype=torch.bool)
            self.marked[marked.to(images.labels.device)] = True
        self.position = 0

    @property
    def position(self) -> int:
        """Number of batches handed out: the next one is batch `position`. Setting it stops the workers."""
        return self._position

    @position.setter
    def position(self, i: int) -> None:
        self._position, self._batches = i, None

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> tuple[Tensor, ...]:
        # built at the first use, so that workers do not start twice on resume
        if self._batches is None:
            # Nothing in here refers to the Stream: workers end at once if freed by count, after 5 s if by gc.
            rank, size = self.part
            whole = self.shuffle.batches(self.batch_size, self._position)
            rows, ahead = itertools.tee(batch.chunk(size)[rank] for batch in whole)
            self._batches = zip(rows, self.images.batches((r[:, 0] for r in ahead), self.n_workers))
        rows, x = next(self._batches)
        rows = upload(rows, x.device)
        self._position += 1
        moved = (rows[:, 1], rows[:, 2:], self.shuffle.crop) if self.shuffle.flip or self.shuffle.crop else ()
        x, i = self.images.finish(x, *moved), rows[:, 0]
        if self.marked is None:
            return x, self.images.labels[i]
        return x, self.images.labels[i], self.marked[i]


def ordered(images, indices: Tensor, batch_size: int, n_workers: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """`indices` once, in order, as they are: x (B, C, H, W) in [0, 1], c (B,); the last may be short."""
    chunks = upload(indices, images.index_device).split(batch_size)
    for i, x in zip(chunks, images.batches(chunks, n_workers)):
        yield images.finish(x), images.labels[upload(i, x.device)]


def cycled(
    images, indices: Tensor, batch_size: int, n: int, seed: int, purpose: str, n_workers: int = 0, part=(0, 1)
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every `size`-th of `n` full batches from number `rank` on, `part` = (rank, size): x, c as `ordered` gives them.

    The order is a `Shuffle`'s of (seed, purpose), over and over; images as they are. Raises InputError for no image.
    """
    if len(indices) == 0:
        raise InputError(f"{images.name} ({images.split}): no images to draw {purpose} batches from")
    shuffle = Shuffle(indices.cpu(), seed, purpose, False, 0, images.index_device)
    rows = itertools.islice(shuffle.batches(batch_size, 0), part[0], n, part[1])
    chosen, ahead = itertools.tee(batch[:, 0] for batch in rows)
    for i, x in zip(chosen, images.batches(ahead, n_workers)):
        yield images.finish(x), images.labels[upload(i, x.device)]


def augment(x: Tensor, flip: Tensor, shift: Tensor, crop: int) -> Tensor:
    """x (B, C, H, W) padded with `crop` zeros, cut at `shift` (B, 2), mirrored where `flip` (B,): one gather.

    shift = (dy, dx) in 0..2 crop; shift = crop leaves an image where it was.
    """
    h, w = x.shape[-2:]
    rows = torch.arange(h, device=x.device) + shift[:, :1]  # (B, H)
    cols = torch.arange(w, device=x.device).expand(len(x), w)
    cols = torch.where(flip[:, None].bool(), w - 1 - cols, cols) + shift[:, 1:]  # (B, W)
    pixels = (rows[:, :, None] * (w + 2 * crop) + cols[:, None, :]).flatten(1)  # (B, HW), places in `padded`
    padded = F.pad(x, (crop,) * 4).flatten(2)
    return padded.gather(2, pixels[:, None].expand(-1, x.shape[1], -1)).view(x.shape)


def to_unit(x: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [0, 1]"""
    return x.float().div_(255)


def upload(x: Tensor, device: torch.device) -> Tensor:
    """x on the device, without making the host wait: a copy to CUDA from pageable memory would."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def fit(image: Image.Image, size: int) -> Image.Image:
    """`size` pixels square, bilinear; of an oblong image, the middle."""
    wanted = (size, size)
    return image if image.size == wanted else ImageOps.fit(image, wanted, Image.Resampling.BILINEAR)


def fit_adm(image: Image.Image, size: int) -> Image.Image:
    """`size` pixels square as ADM and DiT were trained: halved by averages while the short side is 2 `size` or more,
    bicubic until it is `size`, the middle cut out (arXiv 2105.05233; the published code's centre crop).
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


# data.fit -> how an image of a folder becomes a square
FITS = {"middle": fit, "adm": fit_adm}


def resized(images: Tensor, size: int | None) -> Tensor:
    """`fit` for a tensor (N, C, H, W) uint8 with C = 1 or 3; None leaves it as it is."""
    if size is None or tuple(images.shape[2:]) == (size, size):
        return images
    return torch.stack([from_pil(fit(to_pil(x), size)) for x in images])


def to_pil(x: Tensor) -> Image.Image:
    """(C, H, W) uint8, C = 1 or 3"""
    return Image.fromarray(x.squeeze(0).numpy() if len(x) == 1 else x.permute(1, 2, 0).numpy())


def from_pil(image: Image.Image) -> Tensor:
    """mode L or RGB -> (C, H, W) uint8"""
    x = torch.from_numpy(np.array(image))  # (H, W) or (H, W, 3)
    return x[None] if x.ndim == 2 else x.permute(2, 0, 1).contiguous()
