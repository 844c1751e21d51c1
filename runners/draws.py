"""One pass over a set with fixed randomness: what Fishers and saliency scores are made from."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from datasets import ordered
from functions.config.schema import Config
from functions.progress import Progress
from functions.randomness import keyed_generator
from functions.storage.cost import Cost
from functions.tasks import Draw, Rows
from functions.training import distributed
from runners.setup import Materials

EVERYTHING = Rows()


def fixed_draws(
    cfg: Config,
    materials: Materials,
    indices: Tensor,
    *key: str,
    batch_size: int,
    draws: int = 1,
    part: Rows = EVERYTHING,
) -> Iterator[Draw]:
    """Every image `draws` times, each with its own (t, eps), the same in every run of this seed and key.

    `part` = (rank, size) takes every `size`-th batch from number `rank` on: the parts of all processes are everything.
    """
    chunks, work = indices.split(batch_size), []
    for d in range(draws):
        work.append([b for b in range(len(chunks)) if (d * len(chunks) + b) % part.size == part.rank])
    with Progress(" ".join(key), sum(map(len, work)), "batches", leave=True) as bar:
        for d, mine in enumerate(work):
            chosen = torch.cat([chunks[b] for b in mine]) if mine else indices[:0]
            batches = ordered(materials.images, chosen, batch_size, cfg.data.n_workers)
            for b, (x, c) in zip(mine, batches):
                generator = keyed_generator(cfg.seeds.of("order"), *key, d, b, device=materials.device)
                yield materials.task.draw(x, c, generator=generator)
                bar.update()


def counted_together(cost: Cost) -> Cost:
    """After a pass whose items the processes shared: the images of all of them, in place."""
    images = distributed.gather((cost.forward, cost.backward))
    cost.forward, cost.backward = (sum(counts) for counts in zip(*images))
    return cost
