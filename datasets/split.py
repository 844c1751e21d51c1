"""Which examples to forget: by class, number, fraction or index file; and a validation part.

Each returns two sorted, disjoint LongTensors of indices into `labels`: (forget, remain) or (train, val).
Their union is everything, or `within`: a subset such as the indices that the original model was trained on.
`select` is the one that configs use. Messages name the keys of the config section `forget`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from functions.arrays import read_npy
from functions.errors import InputError
from functions.files import read_json, sha256_json, write_json
from functions.randomness import order_generator
from functions.records import Count, Record, Sha, check_record

Classes = int | Sequence[str]  # their number, or their names


class Source(Record):
    """What is said of a list of indices: by people as much as they like."""

    dataset: str | None = None
    n: Count | None = None
    sha256: Sha | None = None  # of the list


def select(
    labels: Tensor,
    classes: Classes,
    name: str,
    seed: int,
    within: Tensor | None = None,
    label: int | Sequence[int] | None = None,
    count: int | None = None,
    fraction: float | None = None,
    index_file: str | Path | None = None,
) -> tuple[Tensor, Tensor]:
    """(forget, remain) of the data set `name` by whichever is given: `index_file` alone, or `count`, or `fraction`, or
    `label` alone, a class or several; `label` beside `count` or `fraction` draws from those. Raises InputError for
    anything else.
    """
    given = {"label": label, "count": count, "fraction": fraction, "index_file": index_file}
    chosen = frozenset(key for key, value in given.items() if value is not None)
    ways = {
        frozenset({"label"}): lambda: by_class(labels, label, classes, name, within),
        frozenset({"index_file"}): lambda: by_index_file(index_file, len(labels), within, name),
        frozenset({"count"}): lambda: by_count(labels, count, seed, label, classes, name, within),
        frozenset({"fraction"}): lambda: by_fraction(labels, fraction, seed, label, classes, name, within),
    }
    way = chosen - {"label"} or chosen
    if way not in ways or (label is not None and way == {"index_file"}):
        got = " and ".join(f"forget.{key}" for key in given if key in chosen) or "none of them"
        raise InputError(
            f"what to forget: got {got}; wanted forget.index_file alone, or one of forget.label, "
            "forget.count and forget.fraction, or forget.label with one of the last two"
        )
    return ways[way]()


def by_class(
    labels: Tensor,
    label: int | Sequence[int],
    classes: Classes,
    name: str = "the data set",
    within: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Forget every example of class `label`, or of several. `name` is the data set's, for the error message."""
    pool, chosen = _candidates(labels, label, classes, name, within)
    return _cut(chosen, pool, f"label_to_forget {label}")


def by_count(
    labels: Tensor,
    n: int,
    seed: int,
    label: int | Sequence[int] | None = None,
    classes: Classes = 0,
    name: str = "the data set",
    within: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Forget n examples drawn without replacement from all classes, or from class `label` of `classes`."""
    pool, candidates = _candidates(labels, label, classes, name, within)
    if not 0 < n <= len(candidates):
        source = name if label is None else f"class {label} of {name}"
        raise InputError(f"forget.count: {n} is not in 1..{len(candidates)}, the examples of {source}")
    return _draw(candidates, n, seed, pool, f"forget.count {n}")


def by_fraction(
    labels: Tensor,
    fraction: float,
    seed: int,
    label: int | Sequence[int] | None = None,
    classes: Classes = 0,
    name: str = "the data set",
    within: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`by_count` with n = round(fraction * N), N the number of examples, of class `label` if given."""
    if not 0 < fraction <= 1:
        raise InputError(f"forget.fraction: {fraction} is not in (0, 1]")
    pool, candidates = _candidates(labels, label, classes, name, within)
    n = round(fraction * len(candidates))
    if n == 0:
        raise InputError(f"forget.fraction: {fraction} of {len(candidates)} examples is none")
    return _draw(candidates, n, seed, pool, f"forget.fraction {fraction}")


def by_index_file(
    path: str | Path, n: int, within: Tensor | None = None, name: str | None = None
) -> tuple[Tensor, Tensor]:
    """Forget the indices listed in a file (see `load_indices`) of a data set of n examples called `name`.

    Raises InputError where the file, or `<stem>.source.json` beside it, says that they are those of another data set,
    for an index out of range, outside `within` or listed twice, and where nothing would remain.
    """
    pool = _pool(n, within)
    indices = checked_indices(path, n, pool, name)
    return _cut(indices, pool, str(path))


def checked_indices(
    path: str | Path, n: int, pool: Tensor | None = None, name: str | None = None, key: str = "forget.index_file"
) -> Tensor:
    """The sorted indices in a file, each one of the n examples of `name` and of `pool`, none twice. `key` names it."""
    indices, sources = _read(Path(path), key)
    for source in sources:
        for what, wanted in (("dataset", name), ("n", n)):
            if wanted is not None and source.get(what, wanted) != wanted:
                raise InputError(
                    f"{path}: indices of {_called(source)}, not of {_called({'dataset': name, 'n': n})} ({key})"
                )
    pool = _pool(n, pool)
    for wrong, why in (
        (indices[(indices < 0) | (indices >= n)], f"is not in 0..{n - 1}, the examples of the data set"),
        (indices[~torch.isin(indices, pool)], "is not among the examples the model was trained on"),
        (indices[1:][indices[1:] == indices[:-1]], "is listed more than once"),
    ):
        if len(wrong):
            raise InputError(f"{path}: index {int(wrong[0])} {why} ({key})")
    return indices


def train_val_split(labels: Tensor, fraction: float, seed: int, key: str = "val_fraction") -> tuple[Tensor, Tensor]:
    """(train, val): round(fraction * N) examples for validation, of each class its share to within one.

    Shares are rounded by largest remainder, so the sizes are exact. fraction 0: no validation part. `key` names it.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"{key}: {fraction} is not in [0, 1)")
    labels, n = labels.cpu(), round(fraction * len(labels))
    if n == 0 < fraction:
        raise InputError(f"{key}: {fraction} of {len(labels)} examples is none")
    share = fraction * torch.bincount(labels).double()  # (n_classes,)
    take = share.floor().long()
    missing = n - int(take.sum())
    take[(share - take).argsort(descending=True, stable=True)[:missing]] += 1
    g = order_generator(seed, "validation")
    members = [(labels == c).nonzero()[:, 0] for c in range(len(take))]
    val = torch.cat([m[torch.randperm(len(m), generator=g)[:t]] for m, t in zip(members, take)])
    return _complement(torch.arange(len(labels)), val), val.sort().values


def pool_of(labels: Tensor, remain: Tensor, n: int, seed: int, key: str = "data.remain_pool") -> Tensor:
    """n of the indices `remain`, sorted, of each class its share to within one; a larger pool holds all smaller ones.

    One permutation of the whole data set orders each class: its k-th image of m has the place (k + 1/2) / m, and the
    first n places are the pool. So pools beside different forget sets are almost the same.
    """
    if n > len(remain):
        raise InputError(f"{key}: {n} is more than the {len(remain)} images that remain")
    remain = remain.cpu().sort().values
    order = torch.randperm(len(labels), generator=order_generator(seed, "remain pool"))
    mixed = order[torch.isin(order, remain)]
    of = labels.cpu()[mixed]
    size = torch.bincount(of)
    by_class = of.argsort(stable=True)
    rank = torch.empty_like(mixed)
    rank[by_class] = torch.cat([torch.arange(m) for m in size.tolist()])
    place = (rank.double() + 0.5) / size[of]
    return mixed[place.argsort(stable=True)[:n]].sort().values


def save_indices(path: str | Path, indices: Tensor, source: dict | None = None) -> None:
    """A JSON list of integers, written whole or not at all.

    `source` = {"dataset": name, "split": "train", "n": N} goes to `<stem>.source.json` beside it, with the
    list's hash: the list itself stays in the format that others read.
    """
    path = Path(path)
    # it would speak of the list before
    _sidecar(path).unlink(missing_ok=True)
    write_json(path, indices.tolist(), indent=None)
    if source is not None:
        write_json(_sidecar(path), {**source, "sha256": sha256_json(indices.tolist())}, indent=None)


def load_indices(path: str | Path) -> Tensor:
    """Sorted LongTensor of a JSON list of integers, of a JSON object {"dataset": name, "indices": list}, or of a
    one-dimensional integer .npy file."""
    return _read(Path(path), "index file")[0]


def _read(path: Path, key: str) -> tuple[Tensor, list[dict]]:
    """The indices, and what is said of their data set, in the file itself or beside it."""
    if not path.is_file():
        raise InputError(f"{path}: no such index file ({key})")
    try:
        loaded = read_npy(path) if path.suffix == ".npy" else read_json(path)
        sources = []
        if isinstance(loaded, dict) and {"dataset", "indices"} <= set(loaded):
            sources.append({key: value for key, value in loaded.items() if key != "indices"})
            check_record(sources[0], Source, path)
            loaded = loaded["indices"]
        if _sidecar(path).is_file():
            sources.append(_read_source(_sidecar(path)))
        array = np.asarray(loaded)
    except InputError:
        raise
    except ValueError as error:
        # lists of unequal lengths
        raise InputError(f"{path}: neither a JSON list nor an .npy array of indices ({error})") from None
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise InputError(
            f"{path}: wanted a list of integers that is not empty, or an object with it as `indices` beside `dataset`"
        )
    for source in sources:
        if source.get("sha256") is not None and source["sha256"] != sha256_json(array.tolist()):
            raise InputError(
                f"{path}: damaged, or edited: not the list that {_sidecar(path)} was written for, which you may delete "
                f"({key})"
            )
    return torch.from_numpy(array.astype(np.int64)).sort().values, sources


def _read_source(path: Path) -> dict:
    source = read_json(path)
    check_record(source, Source, path)
    return source


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.stem}.source.json")


def _called(source: dict) -> str:
    """`cifar10 (50000 examples)`, as far as it is known."""
    name, n = source.get("dataset") or "a data set", source.get("n")
    return name if n is None else f"{name} ({n} examples)"


def _pool(n: int, within: Tensor | None) -> Tensor:
    return torch.arange(n) if within is None else within.cpu().sort().values


def _candidates(
    labels: Tensor, label: int | Sequence[int] | None, classes: Classes, name: str, within: Tensor | None
) -> tuple[Tensor, Tensor]:
    """All indices to split, and those among them that may be forgotten: of class `label`, of several, or all."""
    pool = _pool(len(labels), within)
    if label is None:
        return pool, pool
    n = classes if isinstance(classes, int) else len(classes)
    wanted = [label] if isinstance(label, int) else list(label)
    of_pool = labels.cpu()[pool]
    for c in wanted:
        if not 0 <= c < n:
            known = f"{name}, which has {n} classes (0..{n - 1})"
            raise InputError(f"label_to_forget: {c} is not a class of {known}")
        if not (of_pool == c).any():
            called = f" ({classes[c]})" if not isinstance(classes, int) and classes[c] != str(c) else ""
            raise InputError(f"label_to_forget: class {c}{called} of {name} has no examples to forget")
    return pool, pool[torch.isin(of_pool, torch.tensor(wanted))]


def _draw(candidates: Tensor, n: int, seed: int, pool: Tensor, setting: str) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(candidates), generator=order_generator(seed, "forget"))
    return _cut(candidates[order[:n]], pool, setting)


def _cut(chosen: Tensor, pool: Tensor, setting: str) -> tuple[Tensor, Tensor]:
    if len(chosen) == len(pool):
        raise InputError(f"{setting}: forgets all {len(pool)} examples and leaves none to remain")
    return chosen.sort().values, _complement(pool, chosen)


def _complement(pool: Tensor, chosen: Tensor) -> Tensor:
    return pool[~torch.isin(pool, chosen)]
