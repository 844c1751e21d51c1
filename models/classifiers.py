"""Classifiers that judge samples (and that the classification world unlearns).

All take images (N,C,H,W) in [0,1]: normalisation, and resizing where asked for, happen inside, in buffers that travel
with the weights. All have `features(x)` (N,D), the penultimate features, and `classify(features)` (N,K), the logits;
`model(x)` is the one after the other. Parameter names are those of the plain torchvision or timm model.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
import torchvision.models
from safetensors import SafetensorError
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from functions.errors import InputError
from functions.files import sha256_file
from models.hub import WeightsError, config_of, weights_file

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RESNETS = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
    "resnet152": (Bottleneck, [3, 8, 36, 3]),
}
# timm's `create_model` has arguments of its own that read files; these say what the data set and we decide.
SET_BY_DATA = ("num_classes", "in_chans", "features_only", "out_indices")
# What timm's models raise for an option they do not know, or for a value of it that fits no model.
BAD_OPTION = (TypeError, ValueError, AssertionError, LookupError, ArithmeticError, RuntimeError)


class TwoSteps:
    """`forward` as penultimate features and then logits, said once. Comes before the module's class."""

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))


class SmallCNN(TwoSteps, nn.Module):
    """Two 3x3 convolutions with BatchNorm per resolution, halving down to 4 pixels or less, then a global mean.

    `width` channels at full resolution, then 2 and at most 4 times as many: 64 features on 8x8, 128 from 16x16 on.
    """

    def __init__(self, in_channels: int, n_classes: int, image_size: int, width: int = 32) -> None:
        super().__init__()
        layers, channels, out, size = [], in_channels, width, image_size
        while True:
            layers += [*_block(channels, out), *_block(out, out)]
            channels = out
            if size <= 4:
                break
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            size, out = (size + 1) // 2, min(2 * out, 4 * width)
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels, n_classes)
        add_normalisation(self, (0.5,) * in_channels, (0.5,) * in_channels)

    def features(self, x: Tensor) -> Tensor:
        return self.body((x - self.mean) / self.std).mean((2, 3))

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features)


class ResNet(TwoSteps, torchvision.models.ResNet):
    """torchvision's ResNet by name, for any number of channels; `resize`: the side that images are scaled to.

    Raises InputError for an unknown name, and for `options`, which only timm's models take.
    """

    def __init__(
        self,
        arch: str,
        n_classes: int,
        in_channels: int = 3,
        resize: int | None = None,
        mean=None,
        std=None,
        options: dict | None = None,
    ) -> None:
        if options:
            raise InputError(
                f"model.options: {', '.join(options)} given, but torchvision's {arch} takes none; timm's models do"
            )
        if arch not in RESNETS:
            raise InputError(f"architecture {arch!r}: torchvision's here are {', '.join(RESNETS)}; others are timm's")
        block, layers = RESNETS[arch]
        super().__init__(block, layers, num_classes=n_classes)
        if in_channels != 3:
            self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.resize = resize
        add_normalisation(self, *moments(in_channels, mean, std))

    def features(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(_prepare(self, x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.maxpool(x)))))
        return self.avgpool(x).flatten(1)

    def classify(self, features: Tensor) -> Tensor:
        return self.fc(features)


class TimmMethods(TwoSteps):
    """What a timm model lacks: normalisation inside, `features` and `classify`. Mixed in before the model's class."""

    def features(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(_prepare(self, x)), pre_logits=True)

    def classify(self, features: Tensor) -> Tensor:
        head = self.get_classifier()
        # some timm models end in a 1x1 convolution
        if isinstance(head, nn.Conv2d):
            return head(features[..., None, None]).flatten(1)
        return head(features)


def timm_classifier(
    arch: str,
    n_classes: int,
    in_channels: int = 3,
    resize: int | None = None,
    mean=None,
    std=None,
    options: dict | None = None,
) -> nn.Module:
    """A timm model by name, weights random; `options` are the model's own, e.g. img_size, patch_size, depth.

    Raises InputError for an unknown name, for models with two heads, and for options that do not build one.
    """
    # a second of import, paid only by those who ask for it
    import timm

    if not timm.is_model(arch):
        close = timm.list_models(f"{arch[:4]}*")[:3]
        hint = f" (e.g. {', '.join(close)})" if close else ""
        raise InputError(f"architecture {arch!r} is neither 'cnn', a torchvision resnet nor a timm model{hint}")
    net = _create(timm.create_model, arch, n_classes, in_channels, options or {})
    if not isinstance(net.get_classifier(), nn.Module):
        raise InputError(f"architecture {arch}: has more than one head, which no single feature vector feeds")
    return _adapted(net, resize, *moments(in_channels, mean, std))


def pretrained(name: str) -> tuple[nn.Module, dict]:
    """timm's model with its ImageNet classifier, ready (eval, no gradients), and `{arch, sha256, side, interpolation}`.

    `name` with or without a tag (`resnet18`, `resnet18.a1_in1k`); `arch` has it, `sha256` is that of the weights' file.
    Raises InputError for an unknown name and for other classes than ImageNet's 1000, WeightsError where weights cannot
    be had.
    """
    import timm

    config = config_of(name)
    arch = f"{config.architecture}.{config.tag}"
    if config.num_classes != 1000 or "in1k" not in config.tag:
        raise InputError(f"timm's {arch} has {config.num_classes} outputs; wanted those of ImageNet's 1000 classes")
    with _having(name):
        file = weights_file(config)
        if file is None:
            raise WeightsError(f"ImageNet weights of {name} cannot be had (timm has them elsewhere than on the hub)")
        net = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(file)})
    if not isinstance(net.get_classifier(), nn.Module):
        raise InputError(f"timm's {arch} has more than one head, which no single feature vector feeds")
    config = timm.data.resolve_model_data_config(net)
    found = {"arch": arch, "sha256": sha256_file(file), "side": config["input_size"][-1]}
    net = _adapted(net, None, config["mean"], config["std"])
    return net.eval().requires_grad_(False), {**found, "interpolation": config["interpolation"]}


def _adapted(net: nn.Module, resize: int | None, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """timm's model with what ours have. A subclass, not a wrapper: names in checkpoints, masks and Fishers stay."""
    net.__class__ = _with_methods(type(net))
    net.resize = resize
    add_normalisation(net, mean, std)
    return net


def _create(create_model: Callable, arch: str, n_classes: int, in_channels: int, options: dict) -> nn.Module:
    """timm's `create_model`, with options that it, or the model, does not take made one line."""
    own = {*inspect.signature(create_model).parameters, *SET_BY_DATA}
    forbidden = sorted(own & set(options))
    if forbidden:
        raise InputError(f"model.options: {forbidden[0]} is not for options to set, only what {arch} takes")
    try:
        return create_model(arch, num_classes=n_classes, in_chans=in_channels, pretrained=False, **options)
    except BAD_OPTION as error:
        if not options:
            raise
        given = ", ".join(f"{k}={v!r}" for k, v in options.items())
        raise InputError(f"model.options: timm's {arch} cannot be built with {given} ({_short(error)})") from error


def check_takes(model: nn.Module, shape: Sequence[int]) -> None:
    """Raises InputError where a library's model takes no images of this shape (C,H,W): it is shown a black one."""
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *shape))
    except BAD_OPTION as error:
        size = "x".join(map(str, shape[1:]))
        raise InputError(
            f"model.arch: {type(model).__name__} takes no images of {size} ({_short(error)}); model.resize scales them"
        ) from error
    finally:
        model.train(training)


@functools.cache
def _with_methods(cls: type) -> type:
    return type(cls.__name__, (TimmMethods, cls), {})


def describe(
    arch: str, n_classes: int, in_channels: int, image_size: int, width: int = 32, resize: int | None = None
) -> dict:
    """`{"name", "kwargs"}` for `models.build`: `cnn` is ours, `resnet*` torchvision's, any other name timm's."""
    if arch == "cnn":
        kwargs = {"in_channels": in_channels, "n_classes": n_classes, "image_size": image_size, "width": width}
        return {"name": "cnn", "kwargs": kwargs}
    kwargs = {"arch": arch, "n_classes": n_classes, "in_channels": in_channels, "resize": resize}
    return {"name": "torchvision" if arch in RESNETS else "timm", "kwargs": kwargs}


def load_imagenet(model: nn.Module, arch: str) -> None:
    """ImageNet weights into a fresh `model`, all but the head; a first layer for C channels gets the colours' mean.

    torchvision keeps them under `TORCH_HOME`, timm under `HF_HOME`. Raises WeightsError where they cannot be had.
    """
    state = _resnet_weights(arch) if arch in RESNETS else _timm_weights(arch)
    own = model.state_dict()
    first = next(name for name, weight in own.items() if weight.ndim == 4)
    if state[first].shape[1] != own[first].shape[1]:
        # sum over colours / C: an image whose C channels are equal gives what a grey RGB image gives
        channels = own[first].shape[1]
        state[first] = state[first].sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels
    fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    head = {f"{name}.{k}" for name, m in model.named_modules() if m is _head(model) for k, _ in m.named_parameters()}
    lacking = sorted(set(own) - set(fitting) - head - {"mean", "std"})
    if lacking:
        raise WeightsError(f"ImageNet weights of {arch}: {lacking[0]} is missing or has another shape")
    model.load_state_dict({k: v for k, v in fitting.items() if k not in head}, strict=False)


def _head(model: nn.Module) -> nn.Module:
    return model.fc if isinstance(model, ResNet) else model.get_classifier()


def _resnet_weights(arch: str) -> dict[str, Tensor]:
    with _having(arch):
        return torchvision.models.get_model_weights(arch).DEFAULT.get_state_dict(progress=False, check_hash=True)


def _timm_weights(arch: str) -> dict[str, Tensor]:
    import timm

    with _having(arch):
        file = weights_file(config_of(arch))
        overlay = {"pretrained_cfg_overlay": {"file": str(file)}} if file else {}
        return timm.create_model(arch, pretrained=True, **overlay).state_dict()


@contextlib.contextmanager
def _having(arch: str) -> Iterator[None]:
    """Weights that cannot be had are a WeightsError: no network, no room, a wrong hash, a damaged file, none at all."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"ImageNet weights of {arch} cannot be had ({_short(error)})") from error


def _short(error: Exception) -> str:
    text = " ".join(str(getattr(error, "reason", error)).split())
    return text if len(text) <= 100 else text[:100] + "..."


def _block(channels: int, out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]


def moments(in_channels: int, mean, std) -> tuple[Sequence[float], Sequence[float]]:
    """The given mean and std, one per channel; by default ImageNet's (its average for other than three channels)."""
    if in_channels == 3:
        mean, std = mean or IMAGENET_MEAN, std or IMAGENET_STD
    else:
        mean = mean or (sum(IMAGENET_MEAN) / 3,) * in_channels
        std = std or (sum(IMAGENET_STD) / 3,) * in_channels
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != in_channels:
            wanted = f"one for each of the images' {in_channels} channels"
            raise InputError(f"model.{name}: has {len(values)} numbers, wanted {wanted}")
    return mean, std


def add_normalisation(module: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
    """Buffers `mean` and `std`, (C,1,1)."""
    module.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
    module.register_buffer("std", torch.tensor(std).view(-1, 1, 1))


def _prepare(module: nn.Module, x: Tensor) -> Tensor:
    """(N,C,H,W) in [0,1] -> normalised, scaled to `resize` x `resize` where that is set."""
    if module.resize and x.shape[-2:] != (module.resize, module.resize):
        x = F.interpolate(x, size=(module.resize, module.resize), mode="bilinear", align_corners=False, antialias=True)
    return (x - module.mean) / module.std
