"""Fisher forgetting's noise against the definition, number by number, and which layer is the last."""

from __future__ import annotations

import math

import bounds
import pytest
import timm
import torch
from torch import nn

from functions.curvature import fisher
from functions.curvature.fisher_noise import head_parameters, noise
from functions.errors import InputError
from functions.tasks import Classification, Draw
from models.classifiers import ResNet, SmallCNN

ALPHA, CAP, FACTOR = 1e-6, 1e-3, 10.0


def seeded():
    return torch.Generator().manual_seed(3)


def small():
    """211 weights in eval(), and 12 examples, in float64."""
    torch.manual_seed(0)
    model = SmallCNN(1, 3, 4, width=4).double().eval()
    return model, Draw(torch.rand(12, 1, 4, 4).double(), torch.arange(12) % 3)


def fisher_by_loops(model, draw):
    """1/N sum_n (d l_n / d theta_i)^2 by one autograd.grad per example."""
    names, params = zip(*model.named_parameters())
    total = [torch.zeros_like(p) for p in params]
    for x, c in zip(draw.x, draw.c):
        loss = nn.functional.cross_entropy(model(x[None]), c[None])
        for t, g in zip(total, torch.autograd.grad(loss, params)):
            t += g.square()
    return {n: t / len(draw.x) for n, t in zip(names, total)}


def test_equals_the_definition_weight_by_weight():
    model, draw = small()
    exact = fisher.per_example(model, Classification(3).losses, [draw])
    head = head_parameters(model)
    found = noise(exact, ALPHA, CAP, FACTOR, head, seeded())
    g, capped, total = seeded(), 0, 0
    loops = fisher_by_loops(model, draw)
    for name in sorted(loops):
        z = torch.randn(loops[name].shape, generator=g, dtype=torch.float64).flatten().tolist()
        # an error of the Fisher, in units of its largest value, is seen beside the 1e-8
        rel = bounds.TIGHT * (1 + float(loops[name].max()) / 1e-8)
        assert rel < 1e-3
        for i, f in enumerate(loops[name].flatten().tolist()):
            variance = min(ALPHA / (f + 1e-8), CAP)
            capped, total = capped + (variance == CAP), total + 1
            if name in ("head.weight", "head.bias"):
                variance *= FACTOR
            assert found[name].flatten()[i].item() == pytest.approx(math.sqrt(variance) * z[i], rel=rel)
    assert total == 211 and 0 < capped < total, "one side of the minimum was never taken"
    assert all(found[n].shape == p.shape for n, p in model.named_parameters())


def test_the_head_is_scaled_after_the_cap():
    f = {"body": torch.zeros(1000), "head": torch.zeros(1000)}  # all at the cap
    found = noise(f, 1.0, 1e-3, 10.0, ["head"], seeded())
    again = torch.stack([torch.randn(1000, generator=g) for g in [seeded()] for _ in range(2)])
    assert torch.allclose(found["body"], math.sqrt(1e-3) * again[0])
    assert torch.allclose(found["head"], math.sqrt(1e-2) * again[1])


def test_the_order_of_names_does_not_matter_and_the_generator_does():
    f = {"b": torch.rand(5), "a": torch.rand(2, 3), "c": torch.rand(4)}
    first, same = (noise(f, 1.0, 1.0, 10.0, ["a"], seeded()) for _ in range(2))
    turned = noise(dict(reversed(f.items())), 1.0, 1.0, 10.0, {"a"}, seeded())
    other = noise(f, 1.0, 1.0, 10.0, ["a"], torch.Generator().manual_seed(4))
    for n in f:
        assert torch.equal(first[n], same[n]) and torch.equal(first[n], turned[n])
        assert not torch.equal(first[n], other[n])


@pytest.mark.parametrize(
    ("build", "wanted"),
    [
        (lambda: SmallCNN(1, 10, 8, width=4), ["head.weight", "head.bias"]),
        (lambda: ResNet("resnet18", 10), ["fc.weight", "fc.bias"]),
        (
            lambda: timm.create_model(
                "vit_tiny_patch16_224",
                img_size=8,
                patch_size=4,
                in_chans=1,
                embed_dim=16,
                depth=2,
                num_heads=2,
                num_classes=3,
            ),
            ["head.weight", "head.bias"],
        ),
        # as many outputs before the head as in it: a shape says nothing
        (lambda: nn.Sequential(nn.Linear(4, 10), nn.Linear(10, 10, bias=False)), ["1.weight"]),
        (lambda: nn.Linear(4, 10), ["weight", "bias"]),
    ],
    ids=["cnn", "resnet18", "vit", "sequential", "linear"],
)
def test_the_head_is_the_module_of_the_last_parameter(build, wanted):
    assert head_parameters(build()) == wanted


def test_bad_input_is_refused_in_one_line():
    good = {"a": torch.rand(3), "b": torch.rand(2)}
    for words, arguments in {
        "no Fisher of the last layer's fc.weight": (good, ["a", "fc.weight"]),
        "negative, NaN or infinite values in 1 tensors: b": ({**good, "b": torch.tensor([1.0, torch.nan])}, ["a"]),
        "infinite values in 1 tensors: a": ({**good, "a": torch.tensor([-1.0])}, ["a"]),
    }.items():
        with pytest.raises(InputError, match=words) as error:
            noise(arguments[0], ALPHA, CAP, FACTOR, arguments[1], seeded())
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="no parameters"):
        head_parameters(nn.ReLU())
