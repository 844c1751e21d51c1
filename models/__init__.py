"""The model zoo. `MODELS` maps the names used in configs and in `meta.json` to what builds them."""

from __future__ import annotations

from torch import nn

from functions.errors import InputError
from models.budget import MOST, Budget
from models.cifar import cifar
from models.classifiers import ResNet, SmallCNN, timm_classifier
from models.encoders import Pixels
from models.unet import UNet

MODELS = {"unet": UNet, "cnn": SmallCNN, "cifar": cifar, "torchvision": ResNet, "timm": timm_classifier}
ENCODERS = {"pixels": Pixels}


def build(meta: dict, most: int = MOST) -> nn.Module:
    """The model described by `{"name": ..., "kwargs": {...}}`, as `meta.json` stores it. Else InputError.

    So it is where it would come to more than `most` numbers: a few letters of JSON ask for any number of them.
    """
    with Budget(most):
        return _named(MODELS, "model", meta["name"])(**meta["kwargs"])


def encoder(meta: dict) -> Pixels:
    """The encoder described in the same way."""
    return _named(ENCODERS, "encoder", meta["name"])(**meta["kwargs"])


def _named(known: dict, what: str, name: str):
    if name not in known:
        raise InputError(f"{what}: {name!r} is none that this version knows: {', '.join(known)}")
    return known[name]
