"""`training.accumulate` and `training.checkpointing` save memory and change no gradient."""

import cases
import pytest
import timm
import torch
from torch import nn

from functions.config.schema import Training
from functions.errors import InputError
from functions.training.forward import checkpoint_blocks, training_forward
from models.classifiers import SmallCNN
from models.dit import DiT
from models.unet import AttnBlock, ResnetBlock, UNet

CPU = torch.device("cpu")


def training(**options):
    return Training(batch_size=4, ema=False, n_iters=1, **options)


def unet():
    torch.manual_seed(0)
    return UNet(8, (1, 2), 1, (4,), image_size=8, in_channels=1, out_ch=1, n_classes=10, dropout=0.0).double()


def batch():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(7, 1, 8, 8, generator=g, dtype=torch.float64)
    return x, torch.arange(7) * 100, torch.arange(7)


def gradients(model, called, coupled=False):
    """Of a mean loss, or of one whose weights depend on the whole batch."""
    losses = called(*batch()).square().flatten(1).sum(1)
    weights = (1 / losses.detach()) / (1 / losses.detach()).sum() if coupled else torch.full_like(losses, 1 / 7)
    (weights * losses).sum().backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return found


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"accumulate": 7}, {"checkpointing": True}], ids=str)
@pytest.mark.parametrize("coupled", [False, True])
def test_gradients_are_those_of_the_whole_batch(options, coupled, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)  # the prediction would be float32
    plain = gradients(model := unet(), model, coupled)
    saving = unet()
    found = gradients(saving, training_forward(saving, CPU, training(**options)), coupled)
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_a_part_of_the_batch_is_in_the_model_at_a_time():
    model, rows = unet().float(), []
    model.conv_in.register_forward_hook(lambda layer, args, out: rows.append(len(args[0])))
    x, t, c = batch()
    out = training_forward(model, CPU, training(accumulate=3))(x.float(), t, c)
    assert rows == [3, 2, 2] and out.shape == x.shape
    out.sum().backward()
    assert rows == [3, 2, 2] + [2, 2, 3]  # again, one part at a time
    rows.clear()
    with torch.no_grad():
        training_forward(model, CPU, training(accumulate=3))(x.float(), t, c)
    assert rows == [7]  # nothing is kept there anyway


def floats_kept(checkpointing: bool) -> int:
    """How many numbers a forward pass of the batch keeps for the backward pass."""
    model, kept = unet().float(), []
    called = training_forward(model, CPU, training(checkpointing=checkpointing))
    x, t, c = batch()
    with torch.autograd.graph.saved_tensors_hooks(lambda v: kept.append(v.numel()) or v, lambda v: v):
        called(x.float(), t, c)
    return sum(kept)


def test_activations_inside_blocks_are_not_kept():
    assert floats_kept(checkpointing=True) < floats_kept(checkpointing=False) / 2


def test_every_block_that_the_model_names_is_recomputed():
    model = unet()
    checkpoint_blocks(model)
    patched = {m for m in model.modules() if "forward" in vars(m)}
    assert patched == {m for m in model.modules() if isinstance(m, ResnetBlock | AttnBlock)} and len(patched) > 5
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in unet().named_parameters()]


def dit():
    torch.manual_seed(0)
    model = DiT(2, 16, 2, 2, in_channels=1, image_size=8, n_classes=10)
    for p in model.parameters():
        if p.requires_grad:  # a new one is zero
            nn.init.normal_(p, std=0.2)
    return model


@pytest.mark.parametrize("options", [{"accumulate": 3}, {"checkpointing": True}], ids=str)
def test_a_dits_gradients_are_those_of_the_whole_batch(options, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)
    found = []
    for called in (lambda m: m, lambda m: training_forward(m, CPU, training(**options))):
        model = dit().double()
        params = [p for p in model.parameters() if p.requires_grad]
        found.append(torch.autograd.grad(called(model)(*batch()).square().sum(), params))
    for a, b in zip(*found, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_dit_in_bfloat16_is_near_the_one_in_float32(checkpointing):
    x, t, c = batch()
    model = dit()
    plain = model(x.float(), t, c)
    model = dit()
    out = training_forward(model, CPU, training(precision="bf16", checkpointing=checkpointing))(x.float(), t, c)
    assert out.dtype == torch.float32 and not torch.equal(out, plain)
    # bfloat16 has 8 bits: each of some ten layers in a row rounds by 2^-9
    assert (out - plain).norm() < 10 * 2**-8 * plain.norm()
    out.square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


def test_timms_own_switch_is_used():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2)
    training_forward(model, CPU, training(checkpointing=True))
    assert model.grad_checkpointing


@pytest.mark.parametrize("key", ["accumulate", "checkpointing"])
def test_batch_norm_is_refused(key):
    net = SmallCNN(in_channels=1, n_classes=10, image_size=8, width=4)
    with pytest.raises(InputError, match=f"training.{key}: computes activations twice, and this model's BatchNorm"):
        training_forward(net, CPU, training(**{key: 2 if key == "accumulate" else True}))


def test_a_model_without_blocks_is_refused():
    with pytest.raises(InputError, match="training.checkpointing: Linear does not say what its blocks are"):
        training_forward(nn.Linear(1, 1), CPU, training(checkpointing=True))


def test_runs_with_either_have_the_losses_of_a_plain_run():
    """Dropout off: in parts it draws its numbers part by part. Through train.main, teachers included."""
    run = cases.pretrain("ddpm", "--set", "model.dropout=0.0", "--set", "training.preview=off")
    off = ["--set", "training.preview=off", "--set", "unlearn.dropout=false"]
    plain = cases.stats(cases.unlearn("ddpm", "esd", run, *off))
    for more in (["training.accumulate=3"], ["training.checkpointing=true"]):
        saving = cases.stats(cases.unlearn("ddpm", "esd", run, *off, "--set", *more))
        for a, b in zip(saving, plain, strict=True):
            assert a == pytest.approx(b, rel=1e-4)
