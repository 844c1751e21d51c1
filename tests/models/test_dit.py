"""DiT against numbers of the published code, its names and shapes at full size, and the bound of its learned variance."""

import json
import math
from pathlib import Path

import pytest
import torch

import models
from functions.errors import InputError
from functions.storage.meta import DIT_SIZES
from functions.tasks import linear_alpha_bar
from functions.variance import BIN, LearnedVariance
from models.dit import DiT, position_embedding

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "dit_tiny.json").read_text())
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
# learned_variance is the default, as published
XL2 = {**DIT_SIZES["XL"], "patch_size": 2, "in_channels": 4, "image_size": 32, "n_classes": 1000}


@pytest.fixture(scope="module")
def tiny():
    """The model of the golden numbers, in float64: the k-th tensor is 0.05 sin(0.37 i + k) over its flat index i."""
    c = dict(GOLDEN["config"])
    c["image_size"], c["n_classes"] = c.pop("input_size"), c.pop("num_classes")
    model = DiT(**c).double().requires_grad_(False)
    own = {name: p for name, p in model.named_parameters() if name != "pos_embed"}
    assert {name: list(p.shape) for name, p in own.items()} == dict(map(tuple, GOLDEN["names"]))
    assert sum(p.numel() for p in model.parameters()) == GOLDEN["n"]
    for k, (name, shape) in enumerate(GOLDEN["names"]):
        i = torch.arange(math.prod(shape), dtype=torch.float64)
        own[name].copy_((0.05 * torch.sin(0.37 * i + k)).view(shape))
    return model


@pytest.fixture(scope="module")
def inputs():
    """x, eps (3, 4, 8, 8), t and c (3,); label 10 is the null label."""
    i = torch.arange(3 * 4 * 8 * 8, dtype=torch.float64)
    x, eps = torch.sin(0.11 * i).view(3, 4, 8, 8), torch.cos(0.07 * i).view(3, 4, 8, 8)
    return x, eps, torch.tensor([0, 500, 998]), torch.tensor([1, 7, 10])


def check(found: torch.Tensor, wanted: dict) -> None:
    torch.testing.assert_close(found.flatten()[:8], torch.tensor(wanted["first"], dtype=found.dtype), **CLOSE)
    for name, value in (("mean", found.mean()), ("std", found.std(correction=0)), ("abs_sum", found.abs().sum())):
        assert float(value) == pytest.approx(wanted[name], rel=1e-5), name


def test_outputs_are_the_published_ones(tiny, inputs):
    x, _, t, c = inputs
    check(tiny(x, t, c), GOLDEN["out"])


def test_losses_are_the_published_ones(tiny, inputs):
    x, eps, t, c = inputs
    alpha_bar = linear_alpha_bar(1000, 1e-4, 0.02)
    a = alpha_bar[t].view(3, 1, 1, 1)
    x_t = a.sqrt() * x + (1 - a).sqrt() * eps
    eps_hat, v = tiny(x_t, t, c).chunk(2, dim=1)
    mse = (eps_hat - eps).square().flatten(1).mean(1)
    vb = LearnedVariance(alpha_bar).bits(eps_hat, v, x_t, t, eps).flatten(1).mean(1)
    for name, found in (("mse", mse), ("vb", vb), ("loss", mse + vb)):
        torch.testing.assert_close(found, torch.tensor(GOLDEN[name], dtype=torch.float64), **CLOSE)


def test_guidance_on_three_channels_is_the_published_one(tiny, inputs):
    x, _, _, _ = inputs
    out = tiny(x[:1].repeat(2, 1, 1, 1), torch.tensor([500, 500]), torch.tensor([7, 10]))
    conditional, null = out[:, :3]
    guided = null + 4 * (conditional - null)
    check(torch.cat([torch.stack([guided, guided]), out[:, 3:]], dim=1), GOLDEN["cfg4"])


# ---- DiT-XL/2 and the others, without memory


def on_meta(**kwargs) -> torch.nn.Module:
    with torch.device("meta"):
        return models.build({"name": "dit", "kwargs": {**XL2, **kwargs}})


def test_names_and_shapes_of_dit_xl_2():
    model = on_meta()
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    one = {
        **{"attn.qkv.weight": (3456, 1152), "attn.qkv.bias": (3456,), "attn.proj.weight": (1152, 1152)},
        **{"attn.proj.bias": (1152,), "mlp.fc1.weight": (4608, 1152), "mlp.fc1.bias": (4608,)},
        **{"mlp.fc2.weight": (1152, 4608), "mlp.fc2.bias": (1152,)},
        **{"adaLN_modulation.1.weight": (6912, 1152), "adaLN_modulation.1.bias": (6912,)},
    }
    assert shapes == {
        "pos_embed": (1, 256, 1152),
        **{"x_embedder.proj.weight": (1152, 4, 2, 2), "x_embedder.proj.bias": (1152,)},
        **{"t_embedder.mlp.0.weight": (1152, 256), "t_embedder.mlp.0.bias": (1152,)},
        **{"t_embedder.mlp.2.weight": (1152, 1152), "t_embedder.mlp.2.bias": (1152,)},
        "y_embedder.embedding_table.weight": (1001, 1152),
        **{f"blocks.{i}.{name}": shape for i in range(28) for name, shape in one.items()},
        **{"final_layer.linear.weight": (32, 1152), "final_layer.linear.bias": (32,)},
        **{"final_layer.adaLN_modulation.1.weight": (2304, 1152), "final_layer.adaLN_modulation.1.bias": (2304,)},
    }
    assert len(shapes) == 292 and sum(map(math.prod, shapes.values())) == 675_129_632
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 674_834_720
    larger = on_meta(image_size=64).state_dict()
    assert larger.pop("pos_embed").shape == (1, 1024, 1152) and shapes.pop("pos_embed")
    assert {name: tuple(t.shape) for name, t in larger.items()} == shapes


@pytest.mark.parametrize("size, millions", [("S", 33.0), ("B", 130.5), ("L", 458.1)])
def test_sizes_are_the_published_ones(size, millions):
    model = on_meta(**DIT_SIZES[size])
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_positions_are_diffusers_to_the_bit():
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    for dim, side in ((1152, 16), (1152, 32), (48, 4), (384, 3)):
        theirs = get_2d_sincos_pos_embed(dim, side, base_size=side, output_type="pt").float()
        assert torch.equal(position_embedding(dim, side), theirs)


def test_what_does_not_divide_is_refused():
    for wrong, key in (
        ({"patch_size": 5}, "patch_size"),
        ({"hidden_size": 1154}, "hidden_size"),
        ({"num_heads": 7}, "hidden"),
    ):
        with pytest.raises(InputError, match=f"model.{key}"):
            on_meta(**wrong)


# ---- the bound, number by number as DDPM and Improved DDPM write it


def bits_of_one(eps_hat: float, v: float, x_0: float, t: int, eps: float) -> float:
    """What step t adds to the bound on the bits of one number, in plain Python."""
    beta = [1e-4 + (0.02 - 1e-4) * s / 999 for s in range(1000)]
    bar = [math.prod(1 - b for b in beta[: s + 1]) for s in (t - 1, t)] if t else [1.0, 1 - beta[0]]
    before, now = bar
    x_t = math.sqrt(now) * x_0 + math.sqrt(1 - now) * eps
    posterior = beta[t] * (1 - before) / (1 - now)  # DDPM, Eq. 7
    clipped = posterior if t else beta[1] * beta[0] / (1 - (1 - beta[0]) * (1 - beta[1]))
    first, second = math.sqrt(before) * beta[t] / (1 - now), math.sqrt(1 - beta[t]) * (1 - before) / (1 - now)
    guess = (x_t - math.sqrt(1 - now) * eps_hat) / math.sqrt(now)
    mean, mu = first * x_0 + second * x_t, first * guess + second * x_t
    f = (v + 1) / 2
    variance = math.exp(f * math.log(beta[t]) + (1 - f) * math.log(clipped))  # Improved DDPM, Eq. 15
    if t:
        kl = (math.log(variance / posterior) + (posterior + (mean - mu) ** 2) / variance - 1) / 2
        return kl / math.log(2)
    cdf = lambda z: (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2
    upper = 1.0 if x_0 > 0.999 else cdf((x_0 + BIN / 2 - mu) / math.sqrt(variance))
    lower = 0.0 if x_0 < -0.999 else cdf((x_0 - BIN / 2 - mu) / math.sqrt(variance))
    return -math.log2(max(upper - lower, 1e-12))


def test_the_bound_is_that_of_plain_python():
    g = torch.Generator().manual_seed(0)
    n = 8
    x_0 = torch.empty(n, 8, dtype=torch.float64).uniform_(-0.99, 0.99, generator=g)
    x_0[:, :4] = torch.tensor([-1.0, 1.0, -3.7, 0.9995])  # the outermost bins, which latents leave
    eps = torch.randn(n, 8, dtype=torch.float64, generator=g)
    # near at t = 0, where sigma is 0.01 of x: a mean of 3 sigma away has no mass left to tell apart
    eps_hat = eps + 0.3 * torch.randn(n, 8, dtype=torch.float64, generator=g)
    eps_hat[:, 4] += 1e4  # and one that has none at all: the least mass that is counted
    v = torch.empty(n, 8, dtype=torch.float64).uniform_(-1.3, 1.3, generator=g)
    v[0, :2] = torch.tensor([-1.0, 1.0])
    t = torch.tensor([0, 0, 1, 2, 10, 500, 998, 999])
    bar = linear_alpha_bar(1000, 1e-4, 0.02)
    a = bar[t][:, None]
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * eps
    found = LearnedVariance(bar).bits(eps_hat, v, x_t, t, eps)
    rows = zip(*(part.flatten().tolist() for part in (eps_hat, v, x_0, t[:, None].expand(n, 8), eps)))
    wanted = torch.tensor([bits_of_one(*row) for row in rows], dtype=torch.float64).view(n, 8)
    assert float(wanted[0, 4]) == pytest.approx(-math.log2(1e-12)) and wanted.isfinite().all()
    # the tables are float32
    torch.testing.assert_close(found, wanted, rtol=2e-5, atol=2e-6)


def test_the_bound_trains_the_variance_alone():
    eps_hat, v = torch.randn(2, 3, 4, requires_grad=True), torch.zeros(2, 3, 4, requires_grad=True)
    bits = LearnedVariance(linear_alpha_bar(1000, 1e-4, 0.02)).bits(
        eps_hat, v, torch.randn(2, 3, 4), torch.tensor([0, 7]), torch.randn(2, 3, 4)
    )
    bits.sum().backward()
    assert eps_hat.grad is None and (v.grad != 0).any(dim=(1, 2)).all()
