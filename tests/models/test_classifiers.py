"""Classifiers: shapes, plain parameter names, normalisation inside, ImageNet weights fitted to other inputs."""

import copy

import bounds
import pytest
import timm
import torch
import torchvision

import models
from functions.errors import InputError
from models import classifiers
from models.classifiers import WeightsError, describe, load_imagenet


def build(arch, n_classes=5, in_channels=3, image_size=32, **kwargs):
    return models.build(describe(arch, n_classes, in_channels, image_size, **kwargs)).eval()


CASES = [
    ("cnn", 1, 8, {}, 64),
    ("cnn", 3, 32, {"width": 16}, 64),
    ("resnet18", 1, 32, {"resize": 40}, 512),
    ("mobilenetv3_small_050", 3, 32, {}, 1024),
    ("resnetv2_18", 3, 32, {}, 512),  # its head is a 1x1 convolution
]


@pytest.mark.parametrize("arch, channels, size, kwargs, dims", CASES)
def test_features_then_classify_is_the_model(arch, channels, size, kwargs, dims):
    net = build(arch, 5, channels, size, **kwargs)
    x = torch.rand(3, channels, size, size, generator=torch.Generator().manual_seed(0))
    features = net.features(x)
    assert features.shape == (3, dims) and net(x).shape == (3, 5)
    assert torch.equal(net(x), net.classify(features))
    assert torch.equal(copy.deepcopy(net)(x), net(x))


@pytest.mark.parametrize("size", [4, 8, 9, 28, 32])
def test_small_cnn_takes_any_size(size):
    net = build("cnn", 5, 1, size, width=8)
    assert net(torch.rand(2, 1, size, size)).shape == (2, 5)


@pytest.mark.parametrize(
    "arch, plain",
    [
        ("resnet18", lambda: torchvision.models.resnet18(num_classes=5)),
        ("mobilenetv3_small_050", lambda: timm.create_model("mobilenetv3_small_050", num_classes=5)),
    ],
)
def test_names_and_numbers_are_the_plain_models(arch, plain):
    net, plain = build(arch), plain().eval()
    own = net.state_dict()
    assert set(own) - {"mean", "std"} == set(plain.state_dict())
    plain.load_state_dict({k: v for k, v in own.items() if k not in ("mean", "std")})
    assert own["mean"].flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert own["std"].flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    x = torch.rand(2, 3, 32, 32)
    normalised = (x.double() - own["mean"].double()) / own["std"].double()
    assert bounds.error(net.double()(x.double()), plain.double()(normalised)) < bounds.TIGHT


def test_images_are_resized_inside():
    net = build("resnet18", resize=64)
    x = torch.rand(2, 3, 32, 32)
    large = torch.nn.functional.interpolate(x, size=(64, 64), mode="bilinear", antialias=True)
    assert torch.equal(net(x), net(large))
    net.resize = None
    assert not torch.allclose(net(x), net(large))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_imagenet_weights_all_but_the_head_and_grey_like_colour(monkeypatch, channels):
    imagenet = torchvision.models.resnet18(num_classes=1000).state_dict()
    monkeypatch.setattr(classifiers, "_resnet_weights", lambda arch: dict(imagenet))
    net = build("resnet18", 1000, channels)
    head = net.fc.weight.clone()
    load_imagenet(net, "resnet18")
    assert torch.equal(net.layer3[0].conv1.weight, imagenet["layer3.0.conv1.weight"])
    assert torch.equal(net.layer3[0].bn1.running_mean, imagenet["layer3.0.bn1.running_mean"])
    assert torch.equal(net.fc.weight, head)  # even where it has the same number of classes
    grey = torch.rand(1, 1, 32, 32)  # equal channels answer as a grey image in three channels does
    own = torch.nn.functional.conv2d(grey.expand(-1, channels, -1, -1).double(), net.conv1.weight.double())
    plain = torch.nn.functional.conv2d(grey.expand(-1, 3, -1, -1).double(), imagenet["conv1.weight"].double())
    # rounded to float32 are the fitted weights, each of them a sum of three times a factor
    assert bounds.error(own, plain) < bounds.rounding(4)


def test_imagenet_weights_that_do_not_fit_are_refused(monkeypatch):
    imagenet = torchvision.models.resnet18().state_dict()
    del imagenet["layer1.0.bn1.weight"]
    monkeypatch.setattr(classifiers, "_resnet_weights", lambda arch: imagenet)
    with pytest.raises(WeightsError, match=r"layer1\.0\.bn1\.weight is missing"):
        load_imagenet(build("resnet18"), "resnet18")


def test_unknown_architectures_are_refused_with_a_hint():
    with pytest.raises(InputError, match=r"'resnot50' is neither .* \(e\.g\. "):
        build("resnot50")
    with pytest.raises(InputError, match="more than one head"):
        build("deit_tiny_distilled_patch16_224")


VIT = {"img_size": 8, "patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2}
SWIN = {"img_size": 8, "patch_size": 1, "window_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2]}


@pytest.mark.parametrize(
    "arch, options, dims, blocks", [("vit_tiny_patch16_224", VIT, 32, 2), ("swin_tiny_patch4_window7_224", SWIN, 32, 2)]
)
def test_options_make_small_transformers(arch, options, dims, blocks):
    kwargs = {"arch": arch, "n_classes": 5, "in_channels": 1, "options": options}
    net = models.build({"name": "timm", "kwargs": kwargs}).eval()
    x = torch.rand(3, 1, 8, 8)
    assert net.features(x).shape == (3, dims) and torch.equal(net(x), net.classify(net.features(x)))
    attention = [m for m in net.modules() if hasattr(m, "qkv")]
    assert len(attention) == blocks  # the library's own has 12


@pytest.mark.parametrize(
    "arch, options, message",
    [
        ("vit_tiny_patch16_224", {"image_size": 8}, "cannot be built with image_size=8 .*unexpected keyword argument"),
        ("vit_tiny_patch16_224", {"embed_dim": 33, "num_heads": 2}, "embed_dim=33, num_heads=2 .*divisible"),
        ("vit_tiny_patch16_224", {"num_heads": 0}, "num_heads=0"),
        ("mobilenetv3_small_050", {"norm_layer": "no"}, "'no'"),
        ("vit_tiny_patch16_224", {"num_classes": 3}, "num_classes is not for options to set"),
        ("vit_tiny_patch16_224", {"checkpoint_path": "x.pth"}, "checkpoint_path is not for options to set"),
        ("resnet18", {"img_size": 8}, "img_size given, but torchvision's resnet18 takes none"),
    ],
)
def test_options_that_a_model_does_not_take(arch, options, message):
    described = describe(arch, 5, 1, 8)
    described["kwargs"]["options"] = options
    with pytest.raises(InputError, match=f"model.options: .*{message}") as error:
        models.build(described)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("arch", ["resnet18", "mobilenetv3_small_050"])
def test_no_options_are_no_options(arch):
    described = describe(arch, 5, 3, 8)
    for none in (None, {}):
        described["kwargs"]["options"] = none
        assert models.build(described).eval()(torch.rand(1, 3, 32, 32)).shape == (1, 5)
