"""Who may judge samples of a class: our classifier by its file, EfficientNet-Lite0, or a model of timm's by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from functions.errors import InputError, nearest
from functions.imagenet import names, wnids
from functions.judging import libraries
from functions.judging.classifier import feature_network, load_classifier, require_shape
from functions.judging.features import Features

LITE0, TIMM = "lite0", "timm:"


class Judge(NamedTuple):
    """A classifier, ready on its device.

    `run` is the feature network, `record` what its JSON says or would say, `check` raises where images (C,H,W) of a
    source are not what it can read, `batch_size` is how many it sees at once unless told otherwise.
    """

    model: nn.Module
    run: Callable[[Tensor], Features]
    record: dict
    check: Callable[[tuple[int, ...], Path | str], None]
    batch_size: int

    @property
    def called(self) -> Sequence[str]:
        """What people call its classes: ImageNet's are listed by wnid."""
        classes = self.record["classes"]
        return names() if tuple(classes) == tuple(wnids()) else classes

    @property
    def title(self) -> str:
        return f"{self.record['dataset']} {self.record['arch']}"


def open_judge(
    name: str,
    build: Callable[[dict], nn.Module],
    pretrained: Callable[[str], tuple[nn.Module, dict]],
    device: torch.device,
) -> Judge:
    """`lite0`, `timm:NAME` or the path of a file of train_classifier.py. Raises InputError where it cannot be had.

    `build` is models.build, `pretrained` models.classifiers.pretrained.
    """
    if name != LITE0 and not name.startswith(TIMM):
        if not Path(name).is_file() and (hint := nearest(name, [LITE0, TIMM])):
            raise InputError(f"{name}: no such classifier{hint}")
        model, record = load_classifier(name, build)
        check = lambda shape, source: require_shape(record, shape, source)
        return Judge(model.to(device), feature_network(model), record, check, 256)
    model, found = libraries.lite0(build, "--classifier lite0") if name == LITE0 else pretrained(name[len(TIMM) :])
    run = libraries.resizing(feature_network(model.to(device)), found)
    return Judge(model, run, libraries.record(model, found), lambda shape, source: None, 64)


def require_same_classes(judge: Judge, made: dict | None, source: Path | str) -> None:
    """Raises InputError where `made`, the contract of samples, lists other classes than the judge's, or another order.

    Class 3 of a model of ten ImageNet classes is not ImageNet's class 3. Samples without a list say nothing.
    """
    drawn, known = (made or {"record": {}})["record"].get("names"), judge.record["classes"]
    if drawn is None or drawn in (known, list(judge.called)):
        return
    first = next((c for c, (one, other) in enumerate(zip(drawn, known)) if one != other), min(len(drawn), len(known)))
    theirs, ours = (of[first] if first < len(of) else "none" for of in (drawn, known))
    raise InputError(
        f"{source}: drawn by a model of {len(drawn)} classes, the classifier knows {len(known)}: class {first} is "
        f"{theirs} there and {ours} here (--classifier)"
    )


@torch.inference_mode()
def neighbours(judge: Judge, classes: Sequence[int], n: int) -> list[tuple[int, float]]:
    """The `n` classes nearest to any of `classes` in the judge's last layer, nearest first, with their cosine.

    For logits W f + b: the cosine between rows of W minus their mean row, which adds the same to all logits and so
    changes no answer. Classes that the judge tells apart by nearly the same features are those it would confuse.
    """
    at = next(judge.model.parameters()).device
    features = judge.run(torch.zeros(1, *judge.record["shape"], device=at)).pool  # (1,D): how many there are
    eye = torch.eye(features.shape[1], device=at)
    rows = (judge.model.classify(eye) - judge.model.classify(torch.zeros_like(features))).T  # W (K,D)
    rows = F.normalize(rows.double() - rows.double().mean(0), dim=1)
    cosine = (rows @ rows[list(classes)].T).amax(1).tolist()
    others = sorted((c for c in range(len(rows)) if c not in classes), key=lambda c: -cosine[c])
    return [(c, cosine[c]) for c in others[:n]]
