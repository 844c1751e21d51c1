"""Features of image sets: one pass of a feature network over a folder, and the reference's kept beside its folder.

A feature network is a callable: float (B,C,H,W) in [0,1], on the device -> Features. `Network` adds its name, the hash
of its weights and what it can read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from functions.finite import check_finite
from functions.progress import Progress
from functions.sampling.folders import SampleSet
from functions.storage.cache import load_cached, save_cached


class Features(NamedTuple):
    """What a network says about images: pooled (N,D), logits (N,K), spatial features (N,S) if it has any."""

    pool: Tensor
    logits: Tensor
    spatial: Tensor | None = None


class Network(NamedTuple):
    """A feature network with what a contract says of it.

    `run` is the callable, `channels` what it reads (1 or 3), `protocol` what else makes its numbers comparable;
    `check` raises where images (C,H,W) of a source are not what it can read.
    """

    name: str
    sha256: str
    run: Callable[[Tensor], Features]
    channels: int
    protocol: dict
    check: Callable[[tuple[int, ...], Path], None] | None = None


def extract(
    network: Callable[[Tensor], Features],
    samples: SampleSet,
    channels: int,
    batch_size: int,
    device: torch.device | str = "cpu",
    check: Callable[[tuple[int, ...]], None] | None = None,
    n_workers: int | None = None,
) -> Features:
    """Features of all images in order, float32 on `device`, in one pass. `check` sees the images' (C,H,W) first."""
    parts = []
    with Progress(f"features of {samples.source.name}", len(samples), "images") as bar, torch.inference_mode():
        for x in samples.batches(batch_size, channels, n_workers):
            if check and not parts:
                check(tuple(x.shape[1:]))
            parts.append(network(x.to(device).float() / 255))
            bar.update(len(x))
    found = Features(*(None if of[0] is None else torch.cat(of).float() for of in zip(*parts, strict=True)))
    check_finite(f"features of {samples.source}", present(found), "the network that judges diverged")
    return found


def present(features: Features) -> dict[str, Tensor]:
    """Those that there are, by name."""
    return {name: t for name, t in features._asdict().items() if t is not None}


def cache_path(source: Path, network: str) -> Path:
    """Beside the set: `<name>.<network>.safetensors`."""
    source = source.resolve()
    return source.parent / f"{source.name}.{network}.safetensors"


def of_both(
    network: Network,
    samples: SampleSet,
    reference: SampleSet | None,
    batch_size: int,
    device: torch.device | str,
    n_workers: int | None = None,
) -> tuple[Features, Features | None, list[str]]:
    """Features of the samples and of the reference, if any, which are kept beside it; and notes for people."""

    def features(of: SampleSet) -> Features:
        check = network.check and (lambda shape: network.check(shape, of.source))
        return extract(network.run, of, network.channels, batch_size, device, check, n_workers)

    found, notes = features(samples), []
    if reference is None:
        return found, None, notes
    path = cache_path(reference.source, f"{network.name}-{network.sha256[:8]}")
    key = f"{network.sha256} {reference.fingerprint()}"
    kept = load_cached(path, key, device)
    known = kept and Features(**kept)
    if known is None:
        known = features(reference)
        try:
            save_cached(path, key, present(known))
        except OSError as error:
            # a read-only place: the next run pays for the pass again, nothing else
            notes.append(f"the reference's features are not kept: {path}: {error.strerror}")
    return found, known, notes
