"""Latents that are kept, read by training in place of the images."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from datasets import shards
from datasets.latents import LatentImages
from functions.config.schema import Config
from functions.errors import InputError
from models.encoders import Latents


def identity(cfg: Config, data: dict, encoder: Latents, vae: str) -> dict:
    """What moments are of; `data` as `meta.json` keeps it, `vae` the hash of the autoencoder."""
    channels, *sides = encoder.shape(tuple(data["shape"]))
    return {
        "format": shards.FORMAT,
        "vae": vae,
        "dataset": data["dataset"],
        "n": data["n"],
        "content": data["content"],
        "shape": data["shape"],
        "fit": cfg.data.fit,
        "moments": [2 * channels, *sides],
    }


def kept(cfg: Config, images, data: dict, encoder, needed: Tensor) -> LatentImages:
    """The images as their moments in `data.latents`; `needed` are the indices of those that the run will ask for.

    An autoencoder that goes by its published name and has not been fetched is taken to be the one that made them.
    Raises InputError where there are none, where they are of anything else, and where some are missing.
    """
    if not isinstance(encoder, Latents):
        raise InputError("data.latents: has no meaning where the model sees pixels (encoder.name)")
    folder = Path(cfg.data.latents)
    found = shards.identity_of(folder)
    encoder.sha256 = encoder.sha256 or found["vae"]
    shards.check_same(folder, found, identity(cfg, data, encoder, encoder.sha256))
    there = shards.Shards(folder, found)
    missing = there.missing(needed.numpy())
    if len(missing):
        raise InputError(
            f"{folder}: has no latents of {len(missing):,} of the {len(needed):,} images that this run needs (first: "
            f"image {missing[0]}); encode_dataset.py with the same flags adds them"
        )
    return LatentImages.of(images, there)
