"""Which examples to forget: by class, number, fraction or index file; and a validation part.

Each returns two sorted, disjoint LongTensors of indices into `labels`: (forget, remain) or (train, val).
Their union is everything, or `within`: a subset such as the indices that the original model was trained on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.images import DataError, keyed_generator

Classes = int | Sequence[str]  # their number, or their names


def by_class(
    labels: Tensor, label: int, classes: Classes, name: str = "the data set", within: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Forget every example of class `label`. `name` is the data set's, for the error message."""
    pool, chosen = _candidates(labels, label, classes, name, within)
    return _cut(chosen, pool, f"label_to_forget {label}")


def by_count(
    labels: Tensor, n: int, seed: int, label: int | None = None, classes: Classes = 0,
    name: str = "the data set", within: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Forget n examples drawn without replacement from all classes, or from class `label` of `classes`."""
    pool, candidates = _candidates(labels, label, classes, name, within)
    if not 0 < n <= len(candidates):
        source = name if label is None else f"class {label} of {name}"
        raise DataError(f"number to forget: {n} is not in 1..{len(candidates)}, the examples of {source}")
    order = torch.randperm(len(candidates), generator=keyed_generator(seed, "forget"))
    return _cut(candidates[order[:n]], pool, f"number to forget {n}")


def by_fraction(
    labels: Tensor, fraction: float, seed: int, label: int | None = None, classes: Classes = 0,
    name: str = "the data set", within: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`by_count` with n = round(fraction * N), N the number of examples, of class `label` if given."""
    if not 0 < fraction <= 1:
        raise DataError(f"fraction to forget: {fraction} is not in (0, 1]")
    available = len(_candidates(labels, label, classes, name, within)[1])
    n = round(fraction * available)
    if n == 0:
        raise DataError(f"fraction to forget: {fraction} of {available} examples is none")
    return by_count(labels, n, seed, label, classes, name, within)


def by_index_file(path: str | Path, n: int, within: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Forget the indices listed in a file (see `load_indices`) of a data set of n examples."""
    indices, pool = load_indices(path), _pool(n, within)
    for wrong, why in (
        (indices[(indices < 0) | (indices >= n)], f"is not in 0..{n - 1}, the examples of the data set"),
        (indices[~torch.isin(indices, pool)], "is not among the examples the model was trained on"),
        (indices[1:][indices[1:] == indices[:-1]], "is listed more than once"),
    ):
        if len(wrong):
            raise DataError(f"{path}: index {int(wrong[0])} {why}")
    return _cut(indices, pool, str(path))


def train_val_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """(train, val): round(fraction * N) examples for validation, of each class its share to within one.

    Shares are rounded by largest remainder, so the sizes are exact. fraction 0: no validation part.
    """
    if not 0 <= fraction < 1:
        raise DataError(f"val_fraction: {fraction} is not in [0, 1)")
    labels, n = labels.cpu(), round(fraction * len(labels))
    if n == 0 < fraction:
        raise DataError(f"val_fraction: {fraction} of {len(labels)} examples is none")
    share = fraction * torch.bincount(labels).double()  # (n_classes,)
    take = share.floor().long()
    missing = n - int(take.sum())
    take[(share - take).argsort(descending=True, stable=True)[:missing]] += 1
    g = keyed_generator(seed, "validation")
    members = [(labels == c).nonzero()[:, 0] for c in range(len(take))]
    val = torch.cat([m[torch.randperm(len(m), generator=g)[:t]] for m, t in zip(members, take)])
    return _complement(torch.arange(len(labels)), val), val.sort().values


def save_indices(path: str | Path, indices: Tensor) -> None:
    """A JSON list of integers, written whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(indices.tolist()) + "\n")
    os.replace(part, path)


def load_indices(path: str | Path) -> Tensor:
    """Sorted LongTensor of a JSON list of integers or a one-dimensional integer .npy file."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such index file")
    try:
        loaded = np.load(path, allow_pickle=False) if path.suffix == ".npy" else json.loads(path.read_text())
        array = np.asarray(loaded)
    except (ValueError, EOFError) as error:  # broken JSON, broken or pickled .npy, lists of unequal lengths
        raise DataError(f"{path}: neither a JSON list nor an .npy array of indices ({error})") from None
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise DataError(f"{path}: wanted a list of integers that is not empty")
    return torch.from_numpy(array.astype(np.int64)).sort().values


def _pool(n: int, within: Tensor | None) -> Tensor:
    return torch.arange(n) if within is None else within.cpu().sort().values


def _candidates(
    labels: Tensor, label: int | None, classes: Classes, name: str, within: Tensor | None
) -> tuple[Tensor, Tensor]:
    """All indices to split, and those among them that may be forgotten: of class `label`, or all."""
    pool = _pool(len(labels), within)
    if label is None:
        return pool, pool
    n = classes if isinstance(classes, int) else len(classes)
    if not 0 <= label < n:
        known = f"{name}, which has {n} classes (0..{n - 1})"
        raise DataError(f"label_to_forget: {label} is not a class of {known}")
    found = pool[labels.cpu()[pool] == label]
    if len(found) == 0:
        raise DataError(f"label_to_forget: class {label} of {name} has no examples to forget")
    return pool, found


def _cut(chosen: Tensor, pool: Tensor, setting: str) -> tuple[Tensor, Tensor]:
    if len(chosen) == len(pool):
        raise DataError(f"{setting}: forgets all {len(pool)} examples and leaves none to remain")
    return chosen.sort().values, _complement(pool, chosen)


def _complement(pool: Tensor, chosen: Tensor) -> Tensor:
    return pool[~torch.isin(pool, chosen)]
