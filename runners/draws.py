"""One pass over a set with fixed randomness: what Fishers and saliency scores are made from."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from tqdm import tqdm

from datasets import ordered
from functions.config.schema import Config
from functions.randomness import keyed_generator
from functions.tasks import Draw
from runners.setup import Materials


def fixed_draws(
    cfg: Config, materials: Materials, indices: Tensor, *key: str, batch_size: int, draws: int = 1
) -> Iterator[Draw]:
    """Every image `draws` times, each with its own (t, eps), the same in every run of this seed and key."""
    total = draws * -(-len(indices) // batch_size)
    with tqdm(total=total, desc=" ".join(key), disable=None) as bar:
        for d in range(draws):
            batches = ordered(materials.images, indices, batch_size, cfg.data.n_workers)
            for b, (x, c) in enumerate(batches):
                generator = keyed_generator(cfg.seeds.of("order"), *key, d, b, device=materials.device)
                yield materials.task.draw(x, c, generator=generator)
                bar.update()
