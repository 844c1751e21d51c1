"""An image set of which the posterior moments of an autoencoder are kept, and read in place of its images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from datasets.images import upload
from datasets.shards import Shards


@dataclass(frozen=True, eq=False)
class LatentImages:
    """Like ImageSet, but a batch is what an encoder takes in place of images: means and log variances (B, 2 Cz, h, w).

    Indices, labels and `shape` are those of the images themselves, so that whatever hangs on them is the same. What is
    drawn from the moments is drawn by the encoder.
    """

    shards: Shards
    labels: Tensor  # (N,) int64
    classes: tuple[str, ...]
    name: str
    split: str
    shape: tuple[int, int, int]  # (C, H, W) of an image

    index_device = torch.device("cpu")  # files are mapped by the host

    @classmethod
    def of(cls, images, shards: Shards) -> LatentImages:
        """In place of `images`."""
        return cls(shards, images.labels, images.classes, images.name, images.split, images.shape)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    @property
    def device(self) -> torch.device:
        return self.labels.device

    def to(self, device: torch.device | str) -> LatentImages:
        """The same set with its batches on another device."""
        return replace(self, labels=self.labels.to(device))

    def batches(self, indices: Iterable[Tensor], n_workers: int = 0) -> Iterator[Tensor]:
        """For each LongTensor (B,), the moments of images and mirror images (B, 2, 2 Cz, h, w) float16; no workers."""
        return (upload(torch.from_numpy(self.shards.read(i.tolist())), self.device) for i in indices)

    @staticmethod
    def finish(x: Tensor, flip: Tensor | None = None, shift: Tensor | None = None, crop: int = 0) -> Tensor:
        """(B, 2, 2 Cz, h, w) -> (B, 2 Cz, h, w) float32: the mirror image's where `flip` (B,). There are no crops."""
        return (x[:, 0] if flip is None else x[torch.arange(len(x), device=x.device), flip.long()]).float()

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Moments (B, 2 Cz, h, w) float32 and c (B,) of these indices, on the device."""
        return self.finish(next(self.batches([indices]))), self.labels[indices.to(self.device)]
