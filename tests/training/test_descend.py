"""The one update of weights: zero, backward, mask, clip, step, against formulas and against torch's own optimisers."""

import types

import pytest
import torch

from functions.training.optim import make_optimizer
from functions.training.update import Update

LR, WD = 0.1, 0.5
THETA, G, M = (
    torch.tensor([1.0, -2.0, 3.0, 0.5]),
    torch.tensor([0.3, 0.4, -0.6, 0.1]),
    torch.tensor([True, False, True, False]),
)


class Weights:
    """One weight vector, its optimiser and its update."""

    def __init__(self, name, strict, clip_first=False, decay=WD):
        optim = types.SimpleNamespace(name=name, lr=LR, weight_decay=decay, momentum=0.9)
        self.params = (torch.nn.Parameter(THETA.clone()),)
        self.optimizer = make_optimizer(self.params, optim, decay=not strict)
        self.update = Update(("w",), self.params, optim, strict, clip_first)

    def descend(self, loss, mask=None, clip=None):
        self.update(loss, self.optimizer, mask, clip)


def loss(r):
    """Its gradient is G."""
    return (r.params[0] * G).sum()


def test_strict_sgd_masks_the_decay_with_the_gradient():
    r = Weights("sgd", strict=True)
    r.descend(loss(r), {"w": M})
    assert torch.allclose(r.params[0], THETA - LR * M * (G + WD * THETA))


def test_strict_adamw_decays_the_weights_in_the_mask_by_hand():
    r = Weights("adamw", strict=True)
    r.descend(loss(r), {"w": M})
    first = G / (G.abs() + 1e-8)  # Adam's first step, m / sqrt(v)
    assert torch.allclose(r.params[0], THETA - M * (LR * WD * THETA + LR * first))


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_strict_mask_of_ones_is_torchs_own_step(name, clip):
    """Three steps, so that moments and momentum count; the decay is not clipped."""
    ours, theirs = Weights(name, strict=True), Weights(name, strict=False)
    for k in range(3):
        for r, mask in ((ours, {"w": torch.ones(4, dtype=torch.bool)}), (theirs, None)):
            r.descend((1 + k) * loss(r), mask, clip)
    assert torch.allclose(ours.params[0], theirs.params[0], rtol=1e-6)


def test_a_gradient_mask_leaves_decay_to_the_optimiser():
    r = Weights("sgd", strict=False)
    r.descend(loss(r), {"w": M})
    assert torch.allclose(r.params[0], THETA - LR * (M * G + WD * THETA))


def test_clip_comes_after_the_mask_unless_published():
    masked = (M * G).norm()
    r = Weights("sgd", strict=True, decay=0.0)
    r.descend(loss(r), {"w": M}, clip=0.1)
    assert torch.allclose(r.params[0], THETA - LR * M * G * 0.1 / masked, rtol=1e-4)
    r = Weights("sgd", strict=True, decay=0.0, clip_first=True)
    r.descend(loss(r), {"w": M}, clip=0.1)
    assert torch.allclose(r.params[0], THETA - LR * M * G * 0.1 / G.norm(), rtol=1e-4)


def test_gradients_can_be_given_instead_of_a_loss():
    r = Weights("sgd", strict=True, decay=0.0)
    r.params[0].grad = torch.ones(4)  # of an earlier step
    r.descend([2 * G], {"w": M})
    assert torch.allclose(r.params[0], THETA - LR * M * 2 * G)
