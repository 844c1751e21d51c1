"""The posterior moments of a data set's images, made once by encode_dataset.py, for training to draw from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import datasets
import models
from datasets import shards
from functions.config.schema import Config
from functions.errors import InputError
from functions.locks import remove_leftovers, writing_folder
from functions.progress import Progress
from functions.training import distributed
from functions.training.forward import set_float32
from models.encoders import Latents
from runners import setup
from runners.latents import identity
from runners.original import Original

SHARD = 32 * 2**20  # bytes: what a kill may lose, and what is written, hashed and renamed at once
LARGEST = torch.finfo(torch.float16).max


@dataclass
class Encoding:
    """What encode_dataset.py has to do: the moments of the forget set and of what remains, in `data.latents`."""

    cfg: Config
    images: datasets.ImageSet | datasets.FolderImages
    data: dict
    encoder: Latents
    wanted: np.ndarray  # indices, sorted
    device: torch.device

    @classmethod
    def of(cls, cfg: Config) -> Encoding:
        """Raises InputError where the config has no autoencoder, or nothing that could be encoded."""
        set_float32("fp32")
        d = cfg.data
        images = datasets.load(d.dataset, d.path, "train", d.image_size, test_fraction=d.test_fraction, fit=d.fit)
        cfg = setup.with_class_numbers(cfg, images.classes)
        data, original = setup.data_meta(cfg, images), Original.open(cfg)
        if original is not None:
            original.check(cfg, data, None)
        encoder = models.encoder(setup.encoder_of(cfg, original))
        if not isinstance(encoder, Latents):
            raise InputError("encoder.name: pixels are not encoded; wanted latents, with the autoencoder (encoder.vae)")
        encoder.shape(tuple(images.shape))
        pool, _ = setup.split(cfg, images, original)
        forget, remain, _ = setup.selected(cfg, images, pool)
        wanted = remain if forget is None else torch.cat([forget, remain]).sort().values
        device = distributed.choose_device(cfg.device)
        return cls(cfg, images, data, encoder.to(device), wanted.numpy(), device)

    @property
    def bytes(self) -> int:
        """Of one image: float16 means and log variances, and its mirror image's."""
        channels, height, width = self.encoder.shape(tuple(self.images.shape))
        return 2 * 2 * 2 * channels * height * width

    def plan(self) -> str:
        """What --dry_run prints."""
        n, each = len(self.wanted), self.bytes
        return (
            f"{n:,} of {len(self.images):,} images of {self.images.name}, {each / 1024:,.0f} KiB each: "
            f"{n * each / 2**20:,.0f} MiB in {self.cfg.data.latents}"
        )

    def run(self, batch_size: int) -> Path:
        """Encode what is not there yet, or damaged; returns the folder, which this process holds meanwhile."""
        folder = Path(self.cfg.data.latents)
        with writing_folder(folder):
            remove_leftovers(folder)
            there = shards.claimed(folder, identity(self.cfg, self.data, self.encoder, self.encoder.identity))
            with Progress("looking at what is there", len(there.sha256), "shards") as bar:
                for _ in there.drop_damaged():
                    bar.update()
            missing = there.missing(self.wanted)
            self._check_room(folder, len(missing))
            per_shard = max(1, SHARD // self.bytes)
            with Progress("encoding", len(self.wanted), "images", len(self.wanted) - len(missing), leave=True) as bar:
                for indices, moments in self._encoded(missing, per_shard, batch_size):
                    there.write(indices, moments)
                    bar.update(len(indices))
        print(f"latents of {len(self.wanted):,} images of {self.images.name} ({len(missing):,} new): {folder}")
        return folder

    def _check_room(self, folder: Path, n: int) -> None:
        free = shutil.disk_usage(folder).free
        if n * self.bytes > free:
            raise InputError(
                f"{folder}: {n:,} images take {n * self.bytes / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free "
                "(--latents, --remain_pool)"
            )

    def _encoded(self, missing: np.ndarray, per_shard: int, batch_size: int) -> Iterator[tuple[list[int], np.ndarray]]:
        """(indices, moments (B, 2, 2 Cz, h, w) float16) of one shard after another."""
        images, workers = self.images.to(self.device), self.cfg.data.n_workers
        chunks = [c for part in _parts(missing, per_shard) for c in _parts(part, batch_size)]
        rows: list[np.ndarray] = []
        done: list[int] = []
        for chunk, (x, _) in zip(chunks, _batches(images, chunks, workers)):
            both = torch.stack([self.encoder.moments(x), self.encoder.moments(x.flip(-1))], dim=1)
            rows.append(self._half(both, chunk))
            done += chunk.tolist()
            if len(done) == per_shard or len(done) == len(missing):
                yield done, np.concatenate(rows)
                missing, rows, done = missing[len(done) :], [], []

    def _half(self, moments: Tensor, chunk: np.ndarray) -> np.ndarray:
        """Raises InputError naming the first image whose moments float16 cannot hold."""
        largest = moments.abs().flatten(1).amax(1)  # NaN stays NaN
        bad = (~(largest <= LARGEST)).nonzero()[:, 0].tolist()
        if bad:
            raise InputError(
                f"{self.encoder.place}: the latents of image {chunk[bad[0]]} are as large as {largest[bad[0]]:g}; "
                f"wanted numbers of at most {LARGEST:g}, which half precision can hold (encoder.vae)"
            )
        return moments.half().cpu().numpy()


def _parts(indices: np.ndarray, n: int) -> list[np.ndarray]:
    return [indices[i : i + n] for i in range(0, len(indices), n)]


def _batches(images, chunks: list[np.ndarray], workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    indices = [torch.from_numpy(c).to(images.index_device) for c in chunks]
    for i, x in zip(indices, images.batches(indices, workers)):
        yield images.finish(x), i
