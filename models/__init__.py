"""The model zoo. `MODELS` maps the names used in configs and in `meta.json` to what builds them."""

from __future__ import annotations

from torch import nn

from models.cifar import cifar
from models.classifiers import ResNet, SmallCNN, timm_classifier
from models.encoders import Pixels
from models.unet import UNet

MODELS = {"unet": UNet, "cnn": SmallCNN, "cifar": cifar, "torchvision": ResNet, "timm": timm_classifier}
ENCODERS = {"pixels": Pixels}


def build(meta: dict) -> nn.Module:
    """The model described by `{"name": ..., "kwargs": {...}}`, as `meta.json` stores it."""
    return MODELS[meta["name"]](**meta["kwargs"])
