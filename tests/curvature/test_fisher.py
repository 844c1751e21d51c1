"""Fisher estimators against one backward pass per example, on models small enough for both."""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import bounds
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from functions.curvature import fisher, layer_gradients
from functions.errors import InputError
from functions.tasks import Classification, Denoising, Draw
from models.classifiers import SmallCNN
from models.encoders import Pixels
from models.unet import UNet

DTYPES = [torch.float32, torch.float64]
N = 6


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Several chunks per layer, the last one smaller, as in real use."""
    monkeypatch.setitem(layer_gradients.CHUNK, "cpu", 4096)
    monkeypatch.setattr(fisher, "FREE_CHUNK", 4)


def seeded(build, *args, **kwargs):
    torch.manual_seed(0)
    return build(*args, **kwargs)


def cast(draw, dtype):
    """The same batch, its floating point tensors in another precision."""
    return Draw(*(v.to(dtype) if v is not None and v.is_floating_point() else v for v in draw))


def loop_in(dtype, model, losses, draws):
    """The plain loop on a copy of model and batches in `dtype`."""
    return fisher.reference(deepcopy(model).to(dtype), losses, [cast(d, dtype) for d in draws])


def assert_equals_the_loop(model, losses, draws, dtype, zero=()):
    """Per tensor, largest error over largest value, of ours in `dtype` against the loop in float64.

    Allowed is what the loop itself loses to rounding in float32, in units of the precision (bounds.py), and N additions.
    Names in `zero` have no gradient by symmetry: both must vanish, as the square of a gradient that is rounding alone.
    """
    ours, exact = fisher.per_example(model, losses, draws), loop_in(torch.float64, model, losses, draws)
    plain = loop_in(torch.float32, model, losses, draws)
    assert ours.keys() == exact.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    some = {name: f for name, f in exact.items() if name not in zero}
    allowed = bounds.allowed(bounds.condition(plain, some), N, dtype)
    assert allowed < 1e-4, "so ill-conditioned that the test would prove nothing"
    largest = max(float(f.max()) for f in exact.values())
    for name, f in exact.items():
        assert ours[name].dtype == dtype and ours[name].shape == f.shape, name
        assert ours[name].min() >= 0, name
        if name in zero:
            assert max(float(f.max()), float(ours[name].max())) <= allowed**2 * largest, name
        else:
            assert float(f.max()) > 1e-9 * largest, f"{name} has no gradient: the test would prove nothing"
            assert bounds.error(ours[name], f) <= allowed, (name, bounds.error(ours[name], f), allowed)


def images(n, channels, size, dtype):
    return torch.rand(n, channels, size, size, dtype=dtype, generator=torch.Generator().manual_seed(1))


def unet(ch, dtype):
    sizes = {"ch": ch, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,), "image_size": 8}
    return seeded(UNet, **sizes, in_channels=1, out_ch=1, n_classes=10, dropout=0.1).to(dtype)


def denoising_draw(task, dtype):
    """One label is the null condition, so that with guidance both rows of that example are the same."""
    labels = torch.tensor([0, 3, 3, 9, 5, 10])
    return task.draw(images(N, 1, 8, dtype), labels, generator=torch.Generator().manual_seed(2))


def denoising():
    return Denoising(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0), Pixels(), 10, 0.1, "sum")


def zero_by_symmetry(model):
    """Key biases (softmax ignores a constant), and what only shifts a channel that is a GroupNorm group of its own."""
    names = {n for n, _ in model.named_parameters() if n.endswith("attn_1.k.bias") or ".k.bias" in n}
    for path, block in model.named_modules():
        if hasattr(block, "norm2") and block.norm2.num_groups == block.norm2.num_channels:
            names |= {f"{path}.conv1.bias", f"{path}.temb_cemb_proj.weight", f"{path}.temb_cemb_proj.bias"}
    norm = model.norm_out
    if norm.num_groups == norm.num_channels:  # nothing else reads the last block
        last = f"up.0.block.{len(model.up[0].block) - 1}"
        names |= {f"{last}.conv2.bias", f"{last}.nin_shortcut.bias"}
    return names


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("guidance", [0.0, 2.0])
@pytest.mark.parametrize("ch", [8, 48])  # groups of one channel, and of three
def test_unet_equals_the_loop(ch, guidance, dtype):
    task, model = denoising(), unet(ch, dtype)
    losses = partial(task.losses, guidance=guidance)
    assert_equals_the_loop(model, losses, [denoising_draw(task, dtype)], dtype, zero_by_symmetry(model))


@pytest.mark.parametrize("dtype", DTYPES)
def test_cnn_with_batch_norm_equals_the_loop(dtype):
    model = seeded(SmallCNN, 1, 10, 8, width=8).to(dtype)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):  # moments that are not 0 and 1
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    draw = Draw(images(N, 1, 8, dtype), torch.arange(N))
    two = [Draw(draw.x[:4], draw.c[:4]), Draw(draw.x[4:], draw.c[4:])]  # batches of unequal size
    assert_equals_the_loop(model, Classification(10).losses, two, dtype)


class Convolutions(nn.Module):
    """Every option of a convolution, an in-place activation right after the first, and an unused output."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding="same", bias=False)
        self.layers = nn.Sequential(
            nn.Conv2d(8, 8, (3, 1), stride=(2, 1), padding=(1, 0), dilation=(2, 1), groups=4),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 6, 2, padding=1, padding_mode="circular"),
            nn.LayerNorm([6, 4, 9]),
            nn.Conv2d(6, 6, 1, groups=2),
            nn.Conv2d(6, 6, 1, stride=2),
            nn.Conv2d(6, 4, 1),
            nn.GroupNorm(2, 4),
        )
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        x = F.relu(self.first(x), inplace=True)
        self.head(x[:, :4].mean((2, 3)))
        return self.head(self.layers(x).mean((2, 3)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_convolutions_equal_the_loop(dtype):
    draw = Draw(images(N, 3, 8, dtype), torch.arange(N))
    assert_equals_the_loop(seeded(Convolutions).to(dtype), Classification(10).losses, [draw], dtype)


class Tokens(nn.Module):
    """Token layers with sharing: a layer called twice, tied weights, windows in the batch, and free parameters."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(12, 6, padding_idx=0)
        self.cls = nn.Parameter(torch.randn(6))
        self.position = nn.Parameter(torch.randn(5, 6))
        self.mix = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 12, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids):
        h = torch.cat([self.cls.expand(len(ids), 1, -1), self.words(ids)], 1) + self.position
        h = torch.tanh(self.mix(torch.tanh(self.mix(h))))  # twice in one loss
        h = self.norm(h.reshape(-1, 6)).view_as(h)  # tokens in the batch dimension
        return self.head(h.mean(1))


def token_draw():
    ids = [[1, 2, 2, 2], [0, 0, 3, 4], [5, 5, 6, 6], [7, 7, 7, 7], [8, 9, 10, 11], [1, 11, 1, 11]]
    return Draw(torch.tensor(ids), torch.arange(N))


@pytest.mark.parametrize("dtype", DTYPES)
def test_tokens_sharing_and_free_parameters_equal_the_loop(dtype):
    assert_equals_the_loop(seeded(Tokens).to(dtype), Classification(12).losses, [token_draw()], dtype)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_transformer_with_free_parameters_equals_the_loop_and_is_quiet(dtype):
    """Class token and positions go through vmap, and with them the attention."""
    options = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    model = seeded(timm.create_model, "vit_tiny_patch16_224", in_chans=1, num_classes=3, **options).to(dtype)
    assert model.blocks[0].attn.fused_attn
    draw = Draw(images(N, 1, 8, dtype), torch.arange(N) % 3)
    assert_equals_the_loop(model, Classification(3).losses, [draw], dtype)


@pytest.mark.parametrize("broadcast", [(), ("scale",)])
def test_two_passes_in_one_loss_are_summed_before_squaring(broadcast):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
            self.linear = nn.Linear(3, 2)

        broadcast_parameters = broadcast

        def forward(self, x):
            return self.linear(self.scale * x)

    def losses(model, draw):
        return (model(draw.x) * model(draw.x.cos())).sum(1)

    model = seeded(Scaled).double()
    draw = Draw(torch.randn(N, 3, dtype=torch.double), torch.arange(N))
    assert_equals_the_loop(model, losses, [draw], torch.float64)


def test_a_case_by_hand():
    """l_n = w x_n: gradients x = 1, 3. Exact: (1 + 9) / 2; batch: ((1 + 3) / 2)^2; clipped to norm 1: 1."""
    model = nn.Linear(1, 1, bias=False)
    draws = [Draw(torch.tensor([[1.0], [3.0]]), torch.zeros(2))]

    def losses(model, draw):
        return model(draw.x)[:, 0]

    assert fisher.per_example(model, losses, draws)["weight"].item() == pytest.approx(5)
    assert fisher.batch(model, losses, draws)["weight"].item() == pytest.approx(4)
    assert fisher.batch(model, losses, draws, clip=1.0)["weight"].item() == pytest.approx(1, rel=1e-5)
    assert fisher.batch(model, losses, draws, clip=9.0)["weight"].item() == pytest.approx(4)
    two = [Draw(torch.tensor([[1.0]]), torch.zeros(1)), Draw(torch.tensor([[3.0]]), torch.zeros(1))]
    assert fisher.batch(model, losses, two)["weight"].item() == pytest.approx(5)  # batches of one are exact


@pytest.mark.parametrize("estimator", fisher.ESTIMATORS.values())
def test_the_model_is_left_as_it_was(estimator):
    """Modes, flags, gradients and hooks; dropout is off during the pass; frozen weights are left out."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 3)).train()
    model[2].eval()
    model[0].bias.requires_grad_(False)
    model[3].weight.grad = torch.ones(3, 4)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    draws = [Draw(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))]
    first, second = (estimator(model, Classification(3).losses, draws) for _ in range(2))
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert set(first) == {n for n, _ in model.named_parameters()} - {"0.bias"}
    assert [m.training for m in model] == [True, True, False, True] and model.training
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True, True, True]
    assert torch.equal(model[3].weight.grad, torch.ones(3, 4)) and model[0].weight.grad is None
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_half_precision_is_accumulated_in_float32():
    """No matrix products in bfloat16 here: some virtual CPUs announce the instructions for them and lack them."""

    def losses(model, draw):
        return model(draw.x).square().sum((1, 2)).float()

    draws = [Draw(torch.randn(5, 3, 4).bfloat16(), torch.arange(5))]
    for estimator in fisher.ESTIMATORS.values():
        found = estimator(nn.LayerNorm(4).bfloat16(), losses, draws)
        assert {f.dtype for f in found.values()} == {torch.float32}
    layer, x, g = nn.Linear(4, 2), torch.randn(5, 3, 4).bfloat16(), torch.randn(5, 3, 2).bfloat16()
    calls = [[layer_gradients.Call(layer, v, 5, 1, u)] for v, u in ((x, g), (x.float(), g.float()))]
    shape = layer.weight.shape
    half, full = (layer_gradients.sum_of_squares(c, 5, "weight", shape, torch.float32) for c in calls)
    assert torch.equal(half, full)


def test_copied_parameters_need_no_second_pass(monkeypatch):
    def refuse(*args):
        raise AssertionError("vmap was used")

    monkeypatch.setattr(fisher, "_add_free", refuse)
    task = denoising()
    fisher.per_example(unet(8, torch.float32), task.losses, [denoising_draw(task, torch.float32)])


def test_autograd_forms_no_gradient_of_a_weight():
    task, model, formed = denoising(), unet(8, torch.float32), []
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(formed.append)
    fisher.per_example(model, task.losses, [denoising_draw(task, torch.float32)])
    assert not formed


class UsedOutside(nn.Module):
    """The weight is read without calling its layer: no hook sees it."""

    def __init__(self):
        super().__init__()
        self.first, self.hidden = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return F.linear(self.first(x), self.hidden.weight)


class OwnForward(nn.Linear):
    """Looks like a linear layer and computes something else; as a parameter without a rule it goes through vmap."""

    def forward(self, x):
        return F.linear(x, self.weight.tanh(), self.bias)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.PReLU()), "1.weight"),
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)), "1.weight"),
        (UsedOutside(), "hidden.weight"),
        (nn.Sequential(nn.Linear(4, 3)).requires_grad_(False), "no parameter of the model is trainable"),
    ],
)
def test_what_no_rule_covers_is_refused_by_name(model, name):
    draws = [Draw(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))]
    with pytest.raises(InputError, match=name) as error:
        fisher.per_example(model, Classification(3).losses, draws)
    assert "\n" not in str(error.value)
    assert all(p.requires_grad for p in model.parameters()) or "trainable" in name


def test_a_subclass_with_its_own_forward_does_not_use_the_rule_of_its_base():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 4), OwnForward(4, 3))).double()
    draws = [Draw(torch.randn(5, 4).double(), torch.tensor([0, 1, 2, 0, 1]))]
    assert_equals_the_loop(model, Classification(3).losses, draws, torch.float64)


def test_no_examples_is_an_error():
    for estimator in fisher.ESTIMATORS.values():
        with pytest.raises(InputError, match="no examples"):
            estimator(nn.Linear(2, 2), Classification(2).losses, [])
