"""One pass over a set with fixed randomness: what Fishers and saliency scores are made from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from datasets import cycled, ordered
from functions.config.passes import Drawn
from functions.config.schema import Config
from functions.progress import Progress
from functions.randomness import keyed_generator
from functions.storage.cost import Cost
from functions.tasks import Draw, Rows
from functions.training import distributed
from runners.setup import Materials

EVERYTHING = Rows()
Numbered = tuple[tuple[int, ...], tuple[Tensor, Tensor]]  # a batch (x, c) with its number


def fixed_draws(
    cfg: Config,
    materials: Materials,
    indices: Tensor,
    *key: str,
    batch_size: int,
    draws: int = 1,
    part: Rows = EVERYTHING,
    n_iters: int | None = None,
) -> Iterator[Draw]:
    """Every image `draws` times, each with its own (t, eps), the same in every run of this seed and key.

    With `n_iters`: that many full batches from the set in a shuffled order, over and over. `part` = (rank, size) takes
    every `size`-th batch from number `rank` on: the parts of all processes are everything.
    """
    if n_iters is None:
        n, batches = _in_order(cfg, materials, indices, batch_size, draws, part)
    else:
        n, batches = _cycled(cfg, materials, indices, key, batch_size, n_iters, part)
    with Progress(" ".join(key), n, "batches", leave=True) as bar:
        for number, (x, c) in batches:
            generator = keyed_generator(cfg.seeds.of("order"), *key, *number, device=materials.device)
            yield materials.task.draw(x, c, generator=generator)
            bar.update()


def _in_order(cfg: Config, materials: Materials, indices: Tensor, batch_size: int, draws: int, part: Rows):
    """How many batches, and the batches with their numbers (d, b): number b of the d-th time through the set."""
    chunks, work = indices.split(batch_size), []
    for d in range(draws):
        work.append([b for b in range(len(chunks)) if (d * len(chunks) + b) % part.size == part.rank])

    def batches() -> Iterator[Numbered]:
        for d, mine in enumerate(work):
            chosen = torch.cat([chunks[b] for b in mine]) if mine else indices[:0]
            found = ordered(materials.images, chosen, batch_size, cfg.data.n_workers)
            yield from zip(((d, b) for b in mine), found)

    return sum(map(len, work)), batches()


def _cycled(cfg: Config, materials: Materials, indices: Tensor, key, batch_size: int, n_iters: int, part: Rows):
    """How many batches, and the batches with their numbers (k,)."""
    mine, seed = range(part.rank, n_iters, part.size), cfg.seeds.of("order")
    shuffled = {"seed": seed, "purpose": " ".join(key), "n_workers": cfg.data.n_workers, "part": part}
    found = cycled(materials.images, indices, batch_size, n_iters, **shuffled)
    return len(mine), zip(((k,) for k in mine), found)


def n_drawn(section: Drawn, n_images: int) -> int:
    """How many examples a pass over a set of so many images averages over; each image is one, however often drawn."""
    return n_images if section.n_iters is None else section.n_iters * section.batch_size


def amount_drawn(section: Drawn) -> str:
    """What of a set a pass draws, for `--dry_run`."""
    return f"{section.draws} draws" if section.n_iters is None else f"{section.n_iters} batches of {section.batch_size}"


def pass_folder(cfg: Config, section: Drawn, name: str, own: Path) -> Path:
    """Where the pass of a forget set of this name writes: `save_dir`, or its folder below `mask_path`, or `own`."""
    if cfg.save_dir:
        return Path(cfg.save_dir)
    return Path(section.mask_path) / name if section.mask_path else own


def counted_together(cost: Cost) -> Cost:
    """After a pass whose items the processes shared: the images of all of them, in place."""
    images = distributed.gather((cost.forward, cost.backward))
    cost.forward, cost.backward = (sum(counts) for counts in zip(*images))
    return cost
