"""The judging classifier on disk: `{dataset}_{arch}.pth`, a plain state dict, and a JSON beside it.

The JSON: dataset, arch, model {"name", "kwargs"}, classes, shape (C,H,W) of the images, preprocessing, test_accuracy,
n_test, sha256 of the .pth, version, and how it was trained.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from functions.errors import InputError
from functions.files import sha256_bytes, write_atomic, write_json
from functions.finite import check_finite
from functions.judging.contract import other_data
from functions.judging.features import Features
from functions.records import Amount, Count, Record, Sha, read_record
from functions.storage.checkpoint import load_into
from functions.storage.meta import Described, Side, check_model
from functions.storage.pickles import load_torch, tensors_by_name

REMEDY = "train_classifier.py writes it beside the classifier"


class Judge(Record):
    dataset: str
    arch: str
    model: Described
    classes: list[str]
    shape: Annotated[list[Side], Field(min_length=3, max_length=3)]
    preprocessing: str
    test_accuracy: Amount
    n_test: Count
    sha256: Sha


def classifier_path(dataset: str, arch: str, folder: Path | str = ".") -> Path:
    """`{dataset}_{arch}.pth`, by default in the working directory, as the published commands expect."""
    return Path(folder) / f"{dataset}_{arch}.pth"


def save_classifier(path: Path | str, model: nn.Module, record: dict) -> None:
    """Weights, then the JSON with their hash, each atomically: a new .pth never passes with an old JSON.

    Raises InputError for weights and statistics that are not finite, before anything is written.
    """
    check_finite(f"{path}: not saved", model.state_dict(), "its training diverged (--lr)")
    buffer = io.BytesIO()
    torch.save({name: value.detach().cpu() for name, value in model.state_dict().items()}, buffer)
    data = buffer.getvalue()
    write_atomic(path, data)
    write_json(Path(path).with_suffix(".json"), {**record, "sha256": sha256_bytes(data)})


def read_judge(path: Path | str) -> dict:
    """The JSON beside a classifier. Raises InputError where the classifier or a key of its JSON is missing."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such classifier; train_classifier.py makes it (--classifier names another place)")
    beside = path.with_suffix(".json")
    record = read_record(beside, Judge, REMEDY)
    check_model(record["model"], beside)
    return record


def load_classifier(path: Path | str, build: Callable[[dict, int], nn.Module]) -> tuple[nn.Module, dict]:
    """The classifier, ready (eval, no gradients), and its record. `build` is `models.build`.

    Raises InputError where the file is missing, is not what its JSON's sha256 says, or has other weights.
    """
    record = read_judge(path)
    data = Path(path).read_bytes()
    if sha256_bytes(data) != record["sha256"]:
        raise InputError(
            f"{path}: cut short or changed, its sha256 is not the one in {Path(path).with_suffix('.json')}"
        )
    try:
        model = build(record["model"], len(data))
    except InputError as error:
        raise InputError(f"{Path(path).with_suffix('.json')}: {error}") from None
    weights = tensors_by_name(load_torch(io.BytesIO(data), path), path)
    load_into(model, weights, f"{path} (model {record['model']})")
    return model.eval().requires_grad_(False), record


def feature_network(model: nn.Module) -> Callable[[Tensor], Features]:
    """The classifier as a feature network: float (B,C,H,W) in [0,1] -> penultimate features and logits, one pass."""

    def network(x: Tensor) -> Features:
        pool = model.features(x)
        return Features(pool=pool, logits=model.classify(pool))

    return network


def noting_colours(network: Callable[[Tensor], Features], one_colour: list[Tensor]) -> Callable[[Tensor], Features]:
    """The network, that also appends to `one_colour` which images (B,) of each batch are of one colour."""

    def noting(x: Tensor) -> Features:
        one_colour.append((x.amax((2, 3)) == x.amin((2, 3))).all(1))
        return network(x)

    return noting


def classifier_protocol(record: dict) -> dict:
    """What of a classifier belongs to a contract's protocol: a number by another classifier is another number."""
    return {key: record[key] for key in ("dataset", "arch", "sha256", "test_accuracy", "preprocessing")}


def require_data(record: dict, made: dict | None, source: Path | str) -> None:
    """Raises InputError where `made`, the contract of samples, names another data set than the classifier's.

    Samples without a contract say nothing.
    """
    drawn = made["record"].get("dataset") if made else None
    if other_data(drawn, record["dataset"]):
        raise InputError(
            f"{source}: drawn by a model of {drawn}, and the classifier knows the classes of {record['dataset']} "
            "(--classifier)"
        )


def require_shape(record: dict, shape: tuple[int, ...], source: Path | str) -> None:
    """Raises InputError where images (C,H,W) are not of the size that the classifier was trained on."""
    if tuple(record["shape"]) != tuple(shape):
        trained, got = ("x".join(map(str, s[1:][::-1])) for s in (record["shape"], shape))
        raise InputError(
            f"{source}: images of {got} pixels, the classifier was trained on {trained} ({record['dataset']})"
        )
