"""What Fishers and scores share: sums over many parameters at once, of gradients that autograd may have shared."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from functions.curvature.fisher import batch
from functions.curvature.gradients import add_, check_diagonal, clip_scale, gradients_of
from functions.curvature.influence import direction, mean_gradient, published_product
from functions.curvature.saliency import gradient_score
from functions.errors import InputError
from functions.tasks import Draw


class Sum(nn.Module):
    """theta_a + theta_b: both have the same gradient, and autograd returns one tensor for the two."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return (self.a + self.b) * x


def losses(model, draw):
    return model(draw.x).sum(1)  # gradient x_n, for a and for b


X = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
DRAWS = [Draw(x=X[:1], c=None), Draw(x=X[1:], c=None)]


def same(found, wanted):
    return all(f.tolist() == pytest.approx(wanted) for f in found.values()) and found.keys() == {"a", "b"}


def test_autograd_shares_them():
    model = Sum()
    a, b = gradients_of(losses(model, DRAWS[0]).sum(), dict(model.named_parameters())).values()
    assert a.data_ptr() == b.data_ptr()  # else the tests below would test nothing


def test_shared_gradients_are_each_counted_once():
    assert same(batch(Sum(), losses, DRAWS), [5, 20])  # (1 + 9) / 2, (4 + 36) / 2
    norm = math.sqrt(2 * 5)  # of the first batch, three times that of the second; clipped to 1 in both
    assert same(batch(Sum(), losses, DRAWS, clip=1.0), [1 / norm**2, 4 / norm**2])
    assert same(gradient_score(Sum(), losses, DRAWS), [2, 4])
    assert same(gradient_score(Sum(), losses, DRAWS, clip=1.0), [2 / norm, 4 / norm])
    mean = mean_gradient(Sum(), losses, DRAWS)
    assert same(mean, [2, 4])
    first = mean_gradient(Sum(), losses, DRAWS[:1])
    assert same(direction(mean, first, 1, 3), [0.25, 0.5]) and same(first, [1, 2])


def test_the_published_recursion_over_shared_gradients():
    """g_1 = (1, 2), g_2 = (3, 6), n = 1: t = <o, g_2> = 30, k -= <k, g_2> / 31 g_1 with k = (1, 0) twice."""
    v = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0, 0.0])}
    # <k, g_2> = 2 * 3
    assert same(published_product(Sum(), losses, DRAWS, v, 1), [1 - 6 / 31, -12 / 31])
    assert same(v, [1, 0])
    # a third example meets o = g_1 / 31 once more: t = 10 / 31, <k, g_1> = 2 (1 - 30 / 31)
    k = [1 - 6 / 31, -12 / 31]
    s = 2 * (k[0] + 2 * k[1]) / (1 + 10 / 31)
    wanted = [k[0] - s / 31, k[1] - 2 * s / 31]
    assert same(published_product(Sum(), losses, [*DRAWS, DRAWS[0]], v, 1), wanted)


def test_sums_keep_their_type_and_names():
    total = {"w": torch.zeros(2), "v": torch.ones(())}
    found = add_(total, {"v": torch.tensor(2.0), "w": torch.ones(2, dtype=torch.bfloat16)})
    assert found is total and total["w"].tolist() == [1, 1] and total["v"] == 3 and total["w"].dtype == torch.float32


def test_the_clip_is_that_of_all_gradients_together():
    gradients = {"w": torch.tensor([3.0, 0.0]), "v": torch.tensor(4.0)}
    assert float(clip_scale(gradients, 1.0)) == pytest.approx(1 / 5)
    assert float(clip_scale(gradients, 6.0)) == 1


@pytest.mark.parametrize("value", [-1e-30, math.nan, math.inf])
def test_a_diagonal_that_cannot_be_one_is_named(value):
    check_diagonal({"w": torch.zeros(2)}, "Fisher")
    with pytest.raises(InputError, match="Fisher: negative, NaN or infinite values in 1 tensors: v"):
        check_diagonal({"w": torch.zeros(2), "v": torch.tensor([1.0, value])}, "Fisher")
