"""The U-Net, the denoising task and the adaptive mean against numbers of the published implementation."""

import json
from pathlib import Path

import pytest
import torch

from functions.tasks import Denoising, Draw, linear_alpha_bar
from functions.training.losses import adaptive_mean
from models import Pixels
from models.unet import UNet, timestep_embedding

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ddpm_unet_small.json").read_text())


@pytest.fixture(scope="module")
def model():
    """The weights of the golden file's rule, in float64, dropout off."""
    model = UNet(**GOLDEN["config"], dropout=0.0).double().eval()
    for k, (name, p) in enumerate(model.named_parameters()):
        i = torch.arange(p.numel(), dtype=torch.float64)
        w = (0.05 if p.ndim > 1 else 0.1) * torch.sin(0.37 * i + k)
        p.data = (w + 1 if p.ndim == 1 and name.endswith("weight") else w).view_as(p)
    return model


@pytest.fixture(scope="module")
def inputs():
    n = GOLDEN["inputs"]["batch"]
    i = torch.arange(n * 3 * 8 * 8, dtype=torch.float64)
    x, eps = torch.sin(0.11 * i).view(n, 3, 8, 8), torch.cos(0.07 * i).view(n, 3, 8, 8)
    return Draw(x, torch.tensor(GOLDEN["inputs"]["c"]), torch.tensor(GOLDEN["inputs"]["t"]), eps)


@pytest.fixture(scope="module")
def task():
    return Denoising(linear_alpha_bar(1000, 1e-4, 0.02), Pixels(), n_conditions=10, p_uncond=0.1, reduction="sum")


def test_parameter_names_order_and_shapes(model):
    assert [[n, list(p.shape)] for n, p in model.named_parameters()] == GOLDEN["parameters"]
    assert sum(p.numel() for p in model.parameters()) == GOLDEN["n_values"]


@pytest.mark.parametrize("key", ["conditional", "unconditional", "guided_w2"])
def test_forward_matches_published(model, inputs, task, key):
    if key == "unconditional":
        inputs = inputs._replace(c=torch.full_like(inputs.c, 10))
    with torch.no_grad():
        out = task.predict(model, inputs, guidance=2.0 if key == "guided_w2" else 0.0)
    wanted = GOLDEN[key]
    first = torch.tensor(wanted["first"], dtype=torch.float64)
    torch.testing.assert_close(out.flatten()[: len(first)], first, rtol=1e-5, atol=0)
    numbers = {"mean": out.mean(), "std": out.std(correction=0), "abs_sum": out.abs().sum()}
    for name, value in numbers.items():
        torch.testing.assert_close(value, torch.tensor(wanted[name], dtype=torch.float64), rtol=1e-5, atol=0)


def test_losses_and_adaptive_mean_match_published(model, inputs, task):
    noised = task.noised(inputs.x, inputs.t, inputs.eps)
    with torch.no_grad():
        losses = task.losses(model, inputs._replace(x=noised))
    wanted = torch.tensor(GOLDEN["losses_sum_over_chw"], dtype=torch.float64)
    torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=0)
    assert float(adaptive_mean(losses, 0.5)) == pytest.approx(GOLDEN["adaptive_mean_lam_half"], rel=1e-5)


@pytest.mark.parametrize("ch, size, channels, mult", [(8, 8, 1, (1, 2)), (24, 16, 3, (1, 2, 2)), (40, 28, 1, (1, 2))])
@pytest.mark.parametrize("with_conv", [True, False])
def test_any_width_and_size(ch, size, channels, mult, with_conv):
    model = UNet(ch, mult, 1, (size // 2,), size, channels, channels, 7, 0.0, with_conv)
    x = torch.randn(2, channels, size, size)
    out = model(x, torch.tensor([0, 999]), torch.tensor([3, 7]))  # 7 is the null condition
    assert out.shape == x.shape
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_size_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="data.image_size: 9 cannot be halved 1 times"):
        UNet(8, (1, 2), 1, (), 9, 1, 1, 10)


def test_null_label_ignores_the_class_embeddings():
    model = UNet(8, (1,), 1, (), 8, 1, 1, 10, 0.0).eval()
    x, t, null = torch.randn(1, 1, 8, 8), torch.tensor([5]), torch.tensor([10])
    before = model(x, t, null)
    model.classes_emb.weight.data.add_(1)
    assert torch.equal(before, model(x, t, null))
    model.null_classes_emb.data.add_(1)
    assert not torch.allclose(before, model(x, t, null))


def test_timestep_embedding_by_hand():
    # dim 4: frequencies 1 and 1e-4, first the sines, then the cosines
    t = torch.tensor([2.0])
    wanted = torch.tensor([2.0, 2e-4])
    torch.testing.assert_close(timestep_embedding(t, 4)[0], torch.cat([wanted.sin(), wanted.cos()]))
