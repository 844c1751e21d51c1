"""The model zoo. `MODELS` maps the names used in configs and in `meta.json` to what builds them."""

from __future__ import annotations

from torch import nn

from functions.errors import InputError
from models.budget import MOST, Budget
from models.cifar import cifar
from models.classifiers import ResNet, SmallCNN, timm_classifier
from models.dit import DiT
from models.encoders import ENCODERS, Latents, Pixels, encoder_meta
from models.unet import UNet

__all__ = ["ENCODERS", "MODELS", "build", "encoder", "encoder_meta"]

MODELS = {"unet": UNet, "dit": DiT, "cnn": SmallCNN, "cifar": cifar, "torchvision": ResNet, "timm": timm_classifier}


def build(meta: dict, most: int = MOST) -> nn.Module:
    """The model described by `{"name": ..., "kwargs": {...}}`, as `meta.json` stores it. Else InputError.

    So it is where it would come to more than `most` numbers: a few letters of JSON ask for any number of them.
    """
    with Budget(most):
        return _named(MODELS, "model", meta["name"])(**meta["kwargs"])


def encoder(meta: dict) -> Pixels | Latents:
    """The encoder described in the same way."""
    return _named(ENCODERS, "encoder", meta["name"])(**meta["kwargs"])


def _named(known: dict, what: str, name: str):
    if name not in known:
        raise InputError(f"{what}: {name!r} is none that this version knows: {', '.join(known)}")
    return known[name]
