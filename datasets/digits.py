"""scikit-learn's 1,797 handwritten digits (UCI optdigits), 8 x 8 grey: real data that needs no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from datasets.images import ImageSet, resized
from datasets.split import train_val_split

N_TEST = 297  # of 1,797; the split is stratified and the same for every seed


def load(path: str, split: str, image_size: int | None, seed: int) -> ImageSet:
    """1,500 train or 297 test images; grey levels 0..16 become 0..255. `path` and `seed` are not used."""
    table = _read()  # (1797, 65): 64 pixels, label
    labels = torch.from_numpy(table[:, 64]).long()
    parts = train_val_split(labels, N_TEST / len(labels), seed=0)
    chosen = dict(zip(("train", "test"), parts))[split]
    pixels = np.rint(table[chosen, :64] * (255 / 16)).astype(np.uint8)
    images = resized(torch.from_numpy(pixels).view(-1, 1, 8, 8), image_size)
    return ImageSet(images, labels[chosen], tuple("0123456789"), "digits", split)


def _read() -> np.ndarray:
    # The file that sklearn.datasets.load_digits reads; importing scikit-learn costs every command a second.
    package = find_spec("sklearn").submodule_search_locations[0]
    return np.loadtxt(Path(package, "datasets", "data", "digits.csv.gz"), delimiter=",")
