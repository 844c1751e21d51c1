"""Classifiers for images of 32 x 32 pixels and the like: ResNets without an early halving, and VGG-16 with BatchNorm.

Like those of `models/classifiers.py`: images (N,C,H,W) in [0,1], normalised inside; `features` (N,D), then `classify`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock
from torchvision.models.vgg import cfgs, make_layers

from functions.errors import InputError
from models.classifiers import ResNet, TwoSteps, add_normalisation, moments

SMALL_STEM = ("resnet18", "resnet34", "resnet50")
N_BLOCKS = {"resnet20s": 3, "resnet44s": 7, "resnet56s": 9}  # n of 6n + 2 layers
CIFAR_ARCHS = (*SMALL_STEM, *N_BLOCKS, "vgg16_bn")


def cifar(arch: str, n_classes: int, in_channels: int = 3, image_size: int = 32, mean=None, std=None) -> nn.Module:
    """One of CIFAR_ARCHS, weights random. Raises InputError for any other name.

    resnet18, 34, 50: torchvision's, first layer 3x3 with stride 1, no max-pool. resnet20s, 44s, 56s: those of the
    ResNet paper for CIFAR-10. vgg16_bn: convolutions of VGG-16, global mean, one linear layer. `image_size`
    decides how many pools VGG has, and nothing else.
    """
    if arch not in CIFAR_ARCHS:
        raise InputError(f"model.arch: {arch!r} is not one of cifar's: {', '.join(CIFAR_ARCHS)}")
    if arch in SMALL_STEM:
        return _with_small_stem(ResNet(arch, n_classes, in_channels, mean=mean, std=std), in_channels)
    if arch in N_BLOCKS:
        net = ThinResNet(N_BLOCKS[arch], n_classes, in_channels)
    else:
        net = VGG(n_classes, in_channels, image_size)
    add_normalisation(net, *moments(in_channels, mean, std))
    return net


class ThinResNet(TwoSteps, nn.Module):
    """ResNet of 6n + 2 layers (He et al. 2015, section 4.2): n blocks each of 16, 32, 64 channels, at 1, 1/2, 1/4 size.

    Parameter names are those of torchvision's ResNet: conv1, bn1, layer1..3, fc. 64 features.
    """

    def __init__(self, n: int, n_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(16, 16, n, stride=1)
        self.layer2 = _stage(16, 32, n, stride=2)
        self.layer3 = _stage(32, 64, n, stride=2)
        self.fc = nn.Linear(64, n_classes)
        _initialise(self)

    def features(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))

    def classify(self, features: Tensor) -> Tensor:
        return self.fc(features)


class ZeroShortcut(nn.Module):
    """Option A of He et al. 2015, section 4.1: every second pixel, new channels are zero; no weights.

    (N,C,H,W) -> (N,C + 2 pad,ceil(H/2),ceil(W/2)). Where the zeros go the paper does not say: here half on either side.
    """

    def __init__(self, pad: int) -> None:
        super().__init__()
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))


class VGG(TwoSteps, nn.Module):
    """torchvision's vgg16_bn up to its last pool, then a global mean and one linear layer. 512 features.

    `body.<i>` is torchvision's `features.<i>`. Pools that would leave less than one pixel of an image of `image_size`
    are left out; the others keep their numbers.
    """

    def __init__(self, n_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.body = make_layers(cfgs["D"], batch_norm=True)
        self.body[0] = nn.Conv2d(in_channels, 64, 3, padding=1)
        size = image_size
        for i, layer in enumerate(self.body):
            if isinstance(layer, nn.MaxPool2d):
                size //= 2
                if size < 1:
                    self.body[i] = nn.Identity()
        self.head = nn.Linear(512, n_classes)
        _initialise(self)

    def features(self, x: Tensor) -> Tensor:
        return self.body((x - self.mean) / self.std).mean((2, 3))

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features)


def _with_small_stem(net: ResNet, in_channels: int) -> ResNet:
    net.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    _initialise(net.conv1)  # the rest is torchvision's
    return net


def _stage(channels: int, out: int, n: int, stride: int) -> nn.Sequential:
    """n basic blocks, the first of them with `stride` and, where the shape changes, a shortcut without weights."""
    shortcut = ZeroShortcut((out - channels) // 2) if stride > 1 else None
    return nn.Sequential(BasicBlock(channels, out, stride, shortcut), *(BasicBlock(out, out) for _ in range(n - 1)))


def _initialise(net: nn.Module) -> None:
    """As torchvision: convolutions He-normal, std = sqrt(2 / fan_out), their biases 0; BatchNorm starts as 1 and 0."""
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            if m.bias is not None:
                nn.init.zeros_(m.bias)
