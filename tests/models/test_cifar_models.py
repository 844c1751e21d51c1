"""Classifiers for small images: numbers of weights counted by hand, shapes, names, and the same numbers as simpler code."""

import itertools

import bounds
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import models
from functions.errors import InputError
from models.cifar import CIFAR_ARCHS, ZeroShortcut

PLAIN = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}


def build(arch, n_classes=10, **kwargs):
    torch.manual_seed(0)
    return models.build({"name": "cifar", "kwargs": {"arch": arch, "n_classes": n_classes, **kwargs}}).eval()


def images(n=2, channels=3, size=32, dtype=torch.float32):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)


def conv(channels, out, kernel=3, bias=0):
    """Weights of a convolution and of the BatchNorm after it."""
    return channels * out * kernel**2 + bias * out + 2 * out


def thin(n):
    """6n + 2 layers: 16 16..., 32 32..., 64 64..., no weights in shortcuts, 64 x 10 + 10 at the end."""
    stages = (16, 16), (16, 32), (32, 64)
    return conv(3, 16) + sum(conv(c, out) + (2 * n - 1) * conv(out, out) for c, out in stages) + 650


def wide(blocks):
    """Two 3x3 convolutions a block, a 1x1 convolution in the three shortcuts that change the shape, 512 x 10 + 10."""
    stages = zip((64, 64, 128, 256), (64, 128, 256, 512), blocks)
    shortcuts = conv(64, 128, 1) + conv(128, 256, 1) + conv(256, 512, 1)
    return conv(3, 64) + shortcuts + sum(conv(c, k) + (2 * n - 1) * conv(k, k) for c, k, n in stages) + 5130


VGG_WIDTHS = [3, 64, 64, 128, 128, 256, 256, 256] + [512] * 6
VGG = sum(conv(c, out, bias=1) for c, out in itertools.pairwise(VGG_WIDTHS)) + 5130


def test_counts_by_hand_are_the_published_ones():
    assert (wide([2, 2, 2, 2]), thin(3), VGG) == (11_173_962, 269_722, 14_728_266)


@pytest.mark.parametrize(
    "arch, count, dims",
    [
        ("resnet18", wide([2, 2, 2, 2]), 512),
        ("resnet34", wide([3, 4, 6, 3]), 512),
        # torchvision's 25,557,032 with 2048 x 10 + 10 for 2048 x 1000 + 1000 and 3x3 for 7x7 in the first layer
        ("resnet50", 25_557_032 - 990 * 2049 - 3 * 64 * 40, 2048),
        ("resnet20s", thin(3), 64),
        ("resnet44s", thin(7), 64),
        ("resnet56s", thin(9), 64),
        ("vgg16_bn", VGG, 512),
    ],
)
def test_weights_and_features(arch, count, dims):
    net = build(arch)
    assert sum(p.numel() for p in net.parameters()) == count
    x = images()
    with torch.no_grad():
        assert net.features(x).shape == (2, dims) and net(x).shape == (2, 10)
        assert torch.equal(net(x), net.classify(net.features(x)))


def test_every_architecture_is_counted_above():
    counted = next(m for m in test_weights_and_features.pytestmark if m.name == "parametrize").args[1]
    assert tuple(row[0] for row in counted) == CIFAR_ARCHS


@pytest.mark.parametrize("arch", ["resnet18", "resnet20s", "vgg16_bn"])
@pytest.mark.parametrize("size", [4, 8, 28])
def test_small_grey_images(arch, size):
    net = build(arch, 5, in_channels=1, image_size=size)
    assert net(images(3, 1, size)).shape == (3, 5)


@pytest.mark.parametrize("arch", ["resnet18", "resnet20s", "vgg16_bn"])
def test_normalisation_is_inside(arch):
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.1]
    net, plain = build(arch, mean=mean, std=std).double(), build(arch, **PLAIN).double()
    x = images(dtype=torch.float64)
    # the numbers as the model keeps them, in float32
    normalised = (x - torch.tensor(mean).double()[:, None, None]) / torch.tensor(std).double()[:, None, None]
    assert bounds.error(net(x), plain(normalised)) < bounds.TIGHT
    assert not torch.allclose(net(x), plain(x), atol=1e-3)
    assert {"mean", "std"} <= set(net.state_dict()) and net.mean.shape == (3, 1, 1)


def test_resnet18_is_torchvisions_with_another_stem():
    net, plain = build("resnet18", **PLAIN).double(), torchvision.models.resnet18(num_classes=10).double().eval()
    state = {k: v for k, v in net.state_dict().items() if k not in ("mean", "std")}
    assert list(state) == list(plain.state_dict())
    stem = state.pop("conv1.weight")
    assert stem.shape == (64, 3, 3, 3)
    plain.load_state_dict(state, strict=False)
    x = images(dtype=torch.float64)
    h = F.relu(plain.bn1(F.conv2d(x, stem, padding=1)))  # (N,64,32,32): nothing is halved before layer2
    h = plain.layer4(plain.layer3(plain.layer2(plain.layer1(h))))
    assert bounds.error(net(x), plain.fc(h.mean((2, 3)))) < bounds.TIGHT


def test_thin_resnet_is_the_papers():
    """The whole forward pass again, from the weights by name: conv-bn-relu-conv-bn, plus shortcut, relu."""
    net = build("resnet20s", **PLAIN).double()
    for m in net.modules():  # statistics that are not 0 and 1
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.uniform_(-0.1, 0.1)
            m.running_var.uniform_(0.5, 2)
    w = net.state_dict()

    def conv_bn(h, prefix, i, stride=1):
        h = F.conv2d(h, w[f"{prefix}conv{i}.weight"], stride=stride, padding=1)
        bn = [w[f"{prefix}bn{i}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(h, *bn)

    x = images(dtype=torch.float64)
    h = F.relu(conv_bn(x, "", 1))
    for stage in (1, 2, 3):
        for block in range(3):
            prefix, shortcut = f"layer{stage}.{block}.", h
            stride = 2 if stage > 1 and block == 0 else 1
            if stride == 2:
                zeros = h.new_zeros(2, h.shape[1] // 2, h.shape[2] // 2, h.shape[3] // 2)
                shortcut = torch.cat([zeros, h[:, :, ::2, ::2], zeros], 1)
            out = conv_bn(F.relu(conv_bn(h, prefix, 1, stride)), prefix, 2)
            h = F.relu(out + shortcut)
    assert h.shape == (2, 64, 8, 8)
    assert bounds.error(net.features(x), h.mean((2, 3))) < bounds.TIGHT


def test_shortcut_without_weights():
    x = torch.arange(9.0).view(1, 1, 3, 3)
    zero = [[0.0, 0.0], [0.0, 0.0]]
    assert ZeroShortcut(1)(x).tolist() == [[zero, [[0, 2], [6, 8]], zero]]


def test_vgg_is_torchvisions_up_to_the_last_pool():
    net, plain = build("vgg16_bn", **PLAIN).double(), torchvision.models.vgg16_bn().double().eval()
    names = {k for k in plain.state_dict() if k.startswith("features.")}
    state = {k.replace("body.", "features."): v for k, v in net.state_dict().items() if k.startswith("body.")}
    assert set(state) == names
    plain.load_state_dict(state, strict=False)
    x = images(dtype=torch.float64)
    assert bounds.error(net.features(x), plain.features(x)[:, :, 0, 0]) < bounds.TIGHT


@pytest.mark.parametrize("size, pools", [(3, 1), (4, 2), (8, 3), (28, 4), (32, 5), (64, 5)])
def test_vgg_leaves_out_pools_that_small_images_lack_pixels_for(size, pools):
    net = build("vgg16_bn", image_size=size)
    assert sum(isinstance(m, nn.MaxPool2d) for m in net.body) == pools
    assert set(net.state_dict()) == set(build("vgg16_bn").state_dict())  # names do not depend on the size


@pytest.mark.parametrize(
    "arch, layer, fan_out",
    [
        ("resnet18", "conv1", 64 * 9),
        ("resnet18", "layer3.0.conv1", 256 * 9),
        ("resnet20s", "layer3.0.conv2", 64 * 9),
        ("vgg16_bn", "body.10", 128 * 9),
    ],
)
def test_convolutions_start_he_normal(arch, layer, fan_out):
    weight = build(arch).get_submodule(layer).weight.detach()
    wanted, n = (2 / fan_out) ** 0.5, weight.numel()
    assert abs(weight.std() / wanted - 1) < 4 / (2 * n) ** 0.5  # four standard deviations of a standard deviation
    assert weight.abs().max() > 2.5 * wanted  # a uniform distribution ends at 1.7


def test_mistakes_are_one_line():
    with pytest.raises(InputError, match=r"model\.arch: 'resnet20' is not .*: resnet18, resnet34") as error:
        build("resnet20")
    assert all(name in str(error.value) for name in CIFAR_ARCHS) and "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"model\.std: has 3 numbers, wanted one .* 1 channel"):
        build("resnet20s", in_channels=1, mean=[0.5], std=[0.2, 0.2, 0.2])
