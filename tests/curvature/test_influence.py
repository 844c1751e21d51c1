"""Influence unlearning against its dense definition: every gradient, the whole H, one solve."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import bounds
import pytest
import timm
import torch
from torch import nn

from benchmarks.measure import peak_bytes
from functions.curvature import influence
from functions.curvature.gradients import evaluating
from functions.errors import InputError
from functions.tasks import Classification, Draw
from models.classifiers import SmallCNN

N, CLASSES = 24, 3


def losses(model, draw):
    """Five times the cross entropy, so that H is far from the identity."""
    return 5 * Classification(CLASSES).losses(model, draw)


class Encoder(nn.Module):
    """torch's own attention, whose fast path in eval() has no forward-mode derivative."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = (nn.TransformerEncoderLayer(8, 2, 8, 0.5, batch_first=True), nn.Linear(8, CLASSES))

    def forward(self, x):
        return self.head(self.layer(x[:, 0]).mean(1))  # (N,1,8,8) -> 8 tokens


def cnn():
    """211 weights, BatchNorm with moments that are not 0 and 1."""
    model = SmallCNN(1, CLASSES, 4, width=4)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(std=0.3)
            m.running_var.uniform_(0.5, 2)
    return model


def vit():
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=8,
        patch_size=4,
        in_chans=1,
        embed_dim=16,
        depth=2,
        num_heads=2,
        num_classes=CLASSES,
    )
    assert model.blocks[0].attn.fused_attn  # or this would be no test of it
    return model


MODELS = {"cnn": (cnn, 4), "vit": (vit, 8), "encoder": (Encoder, 8)}


def case(name="cnn", dtype=torch.float32):
    """A model in training mode, draws of unequal size, and v: the mean gradient of other examples."""
    torch.manual_seed(0)
    build, size = MODELS[name]
    model = build().train().to(dtype)
    x, c = torch.rand(2 * N, 1, size, size).to(dtype), torch.randint(CLASSES, (2 * N,))
    draws = [Draw(x[:10], c[:10]), Draw(x[10:N], c[10:N])]
    return model, draws, influence.mean_gradient(model, losses, [Draw(x[N:], c[N:])])


def rows(model, draws):
    """G (K,P), float64, by one backward pass per example."""
    found = []
    with evaluating(model) as params:
        for draw in draws:
            for i in range(len(draw.x)):
                loss = losses(model, Draw(draw.x[i : i + 1], draw.c[i : i + 1])).sum()
                grads = torch.autograd.grad(loss, list(params.values()))
                found.append(torch.cat([g.flatten() for g in grads]).double())
    return torch.stack(found)


def flat(vector):
    return torch.cat([t.flatten() for t in vector.values()]).double()


def difference(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


# ---- v


def test_the_mean_gradient_is_over_examples_and_not_over_batches():
    model, draws, _ = case(dtype=torch.float64)
    assert difference(flat(influence.mean_gradient(model, losses, draws)), rows(model, draws).mean(0)) < bounds.TIGHT
    assert len(draws[0].x) != len(draws[1].x)
    with pytest.raises(InputError, match="no examples"):
        influence.mean_gradient(model, losses, [])


def test_the_direction_by_hand():
    # D_f: gradients 1 and 3; D_r: 2, 4, 6.  1/5 (1 + 3) - 2 / (5 * 3) (2 + 4 + 6) = 4/5 - 8/5
    v = influence.direction({"w": torch.tensor([2.0])}, {"w": torch.tensor([4.0])}, 2, 3)
    assert v["w"].item() == pytest.approx(-4 / 5)


# ---- H^-1 v


def in_double(draws):
    return [Draw(d.x.double(), d.c) for d in draws]


@pytest.mark.parametrize("name", MODELS)
def test_products_with_the_gradients(name):
    model, draws, v = case(name, torch.float64)
    g, q = rows(model, draws), torch.randn(N).double()
    assert difference(influence.forward_product(model, losses, draws, v, 7), g @ flat(v)) < bounds.TIGHT
    found = influence.backward_product(model, losses, draws, q, 7)
    assert difference(flat(found), g.T @ q) < bounds.TIGHT
    assert found.keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize("name", MODELS)
def test_products_in_float32_lose_what_the_rows_lose(name):
    """Allowed is the error of G v and G^T q with the rows of G in float32, one backward pass each (bounds.py)."""
    model, draws, v = case(name)
    q, g = torch.randn(N), rows(model, draws)
    exact = rows(deepcopy(model).double(), in_double(draws))
    for found, plain, wanted in (
        (influence.forward_product(model, losses, draws, v, 7), g @ flat(v), exact @ flat(v)),
        (flat(influence.backward_product(model, losses, draws, q, 7)), g.T @ q.double(), exact.T @ q.double()),
    ):
        assert difference(found, wanted) < bounds.allowed(difference(plain, wanted) / bounds.unit(), N)


@cache
def dense(name):
    """G (K,P) in float64, v, H^-1 v and the largest eigenvalue of H = I + G^T G / K."""
    model, draws, v = case(name, torch.float64)
    g = rows(model, draws)
    h = torch.eye(g.shape[1], dtype=torch.double) + g.T @ g / N
    return g, v, torch.linalg.solve(h, flat(v)), 1 + float(torch.linalg.eigvalsh(g @ g.T)[-1]) / N


@pytest.mark.parametrize(
    ("name", "dtype", "tol"),
    [
        ("cnn", torch.float32, 1e-6),
        ("encoder", torch.float32, 1e-6),
        ("vit", torch.float32, 1e-7),
        ("cnn", torch.float64, 1e-12),
        ("encoder", torch.float64, 1e-12),
        ("vit", torch.float64, 1e-12),
    ],
)
def test_equals_the_dense_definition(name, dtype, tol):
    """To the residual times H's largest eigenvalue, as documented, and to G's own rounding times the same.

    The transformer's H has eigenvalues up to 2000, and |H^-1 v| is 6 % of |v|: it needs the smaller residual.
    """
    (model, draws, _), (g, v, wanted, largest) = case(name, dtype), dense(name)
    assert wanted.norm() < 0.5 * flat(v).norm(), "H is the identity: the test would prove nothing"
    v = {n: t.to(dtype) for n, t in v.items()}
    found = influence.inverse_fisher_product(model, losses, draws, v, tol=tol, chunk=7)
    assert all(found[n].shape == p.shape and found[n].dtype == dtype for n, p in model.named_parameters())
    lost = difference(rows(*case(name)[:2]), g) / bounds.unit()
    assert difference(flat(found), wanted) < largest * (tol + bounds.allowed(lost, N, dtype))


@pytest.mark.parametrize("chunk", [1, 10, 100])
def test_the_chunk_changes_nothing(chunk):
    model, draws, v = case(dtype=torch.float64)
    found, other = (
        flat(influence.inverse_fisher_product(model, losses, draws, v, tol=1e-12, chunk=c)) for c in (chunk, 7)
    )
    assert difference(found, other) < 2e-12 * 100  # the residual times H's largest eigenvalue, twice


def test_memory_does_not_grow_with_the_examples():
    """G alone would take K P floats, 2.7 MB here."""
    model, _, _ = case()
    x, peak = torch.rand(3200, 1, 4, 4), []
    for k in (320, 3200):
        draws = [Draw(x[:k], torch.arange(k) % CLASSES)]
        q = torch.rand(k)

        def iteration(draws=draws, q=q):
            u = influence.backward_product(model, losses, draws, q, 32)
            return influence.forward_product(model, losses, draws, u, 32)

        peak.append(peak_bytes(iteration, torch.device("cpu")))
    assert peak[1] < peak[0] + 4 * 4 * 3200  # a few vectors of K numbers


def test_small_gradients_do_not_underflow():
    model, draws, v = case()

    def tiny(model, draw):
        return 1e-24 * losses(model, draw)

    found = influence.inverse_fisher_product(model, tiny, draws, v)
    assert all(torch.equal(found[n], v[n]) for n in v)  # H = I to all digits
    zero = influence.inverse_fisher_product(model, losses, draws, {n: torch.zeros_like(t) for n, t in v.items()})
    assert not any(t.any() for t in zero.values())


def test_says_when_it_stops_early(capsys):
    model, draws, v = case()
    influence.inverse_fisher_product(model, losses, draws, v)
    assert capsys.readouterr().err == ""
    influence.inverse_fisher_product(model, losses, draws, v, max_iter=2)
    said = capsys.readouterr().err
    assert "stopped after 2 iterations at a relative residual of" in said and "wanted 1.0e-06" in said


def test_the_model_is_left_as_it_was_and_frozen_weights_stay_out():
    model, draws, _ = case()
    model.body[0].eval()
    model.body[0].weight.requires_grad_(False)
    model.head.bias.grad = torch.ones(CLASSES)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    v = influence.mean_gradient(model, losses, draws)
    for found in (
        influence.inverse_fisher_product(model, losses, draws, v),
        influence.published_product(model, losses, draws, v, 1000),
    ):
        assert found.keys() == v.keys() == {n for n, _ in model.named_parameters()} - {"body.0.weight"}
    assert model.training and not model.body[0].training and model.body[1].training
    assert not model.body[0].weight.requires_grad and model.head.weight.requires_grad
    assert torch.equal(model.head.bias.grad, torch.ones(CLASSES)) and model.head.weight.grad is None
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()  # torch's default


def test_bad_input_is_refused_in_one_line():
    model, draws, v = case()
    product = influence.inverse_fisher_product

    class Shrinking:
        """Another number of examples at each pass."""

        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter(draws[: 4 - self.passes])

    def broken(model, draw):
        return losses(model, draw) * torch.nan

    for words, run in {
        "read only once": lambda: product(model, losses, iter(draws), v),
        "held 24 examples at first": lambda: product(model, losses, Shrinking(), v),
        "other parameters than the model's: head.bias": lambda: product(
            model, losses, draws, {n: t for n, t in v.items() if n != "head.bias"}
        ),
        "no remain examples": lambda: product(model, losses, [], v),
        "NaN or infinity in the losses": lambda: product(model, broken, draws, v),
        "NaN or infinity in the published": lambda: influence.published_product(model, broken, draws, v, 9),
    }.items():
        with pytest.raises(InputError, match=words) as error:
            run()
        assert "\n" not in str(error.value)


# ---- the published recursion


def published(g, v, n):
    """The recursion number by number, on the rows of an explicit G."""
    g, k = g.tolist(), v.tolist()
    o = list(g[0])
    for row in g[1:]:
        t = sum(a * b for a, b in zip(o, row))
        s = sum(a * b for a, b in zip(k, row)) / (n + t)
        k = [a - s * b for a, b in zip(k, o)]
        o = [a * n / (n + t) for a in o]
    return torch.tensor(k, dtype=torch.double)


def test_the_published_recursion():
    model, draws, v = case(dtype=torch.float64)
    g, v64 = rows(model, draws), flat(v)
    found = flat(influence.published_product(model, losses, draws, v, 1000))
    wanted = published(g, v64, 1000)
    assert difference(wanted, v64) > 1e-3, "it moves nothing: the test would prove nothing"
    assert difference(found - v64, wanted - v64) < bounds.TIGHT
    # rank one: all that it takes from v lies along the first gradient
    moved = found - v64
    assert abs(float(moved @ g[0] / moved.norm() / g[0].norm())) == pytest.approx(1, abs=bounds.TIGHT)
    # with n = 5 it reads 7 examples and no more
    found = flat(influence.published_product(model, losses, draws, v, 5))
    assert difference(found, published(g[:7], v64, 5)) < bounds.TIGHT < difference(found, published(g, v64, 5))


def test_the_published_recursion_is_not_the_inverse():
    model, draws, v = case()
    true = flat(influence.inverse_fisher_product(model, losses, draws, v))
    assert difference(flat(influence.published_product(model, losses, draws, v, N)), true) > 0.5
