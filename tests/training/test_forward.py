"""Channels last, bfloat16 and compile change how a step calls the model, and neither names, weights nor what is saved."""

import functools
import json
from pathlib import Path

import bounds
import cases
import pytest
import torch
from torch import nn

import models
import train
from functions.config.schema import Training
from functions.training.forward import training_forward

CNN = {"name": "cnn", "kwargs": {"in_channels": 1, "n_classes": 10, "image_size": 8, "width": 4}}
CPU = torch.device("cpu")


def model():
    torch.manual_seed(0)
    return models.build(CNN)


def training(**options):
    return Training(batch_size=4, ema=False, n_iters=1, **options)


def test_a_step_calls_the_plain_model_unless_asked_otherwise():
    net = model()
    assert training_forward(net, CPU, training()) is net
    assert training_forward(net, CPU, None) is net


class Formats(nn.Module):
    """Says which format its images come in; its prediction is a double."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.seen = []

    def forward(self, x):
        self.seen.append((x.is_contiguous(), x.is_contiguous(memory_format=torch.channels_last)))
        return self.conv(x).double()


def test_channels_last_reaches_weights_and_images_and_predictions_are_float32():
    net, x = Formats(), torch.rand(3, 2, 5, 5)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    called = training_forward(net, CPU, training(channels_last=True))
    out = called(x)
    assert net.seen == [(False, True)] and out.dtype == torch.float32
    assert net.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
    w, b = before.values()
    terms = nn.functional.conv2d(x.double().abs(), w.double().abs(), b.double().abs())
    off = bounds.rounding(2 * 3 * 3 + 1) * terms
    assert ((out - nn.functional.conv2d(x.double(), w.double(), b.double())).abs() <= off).all()


def test_channels_last_gives_the_gradients_of_contiguous():
    x, c = torch.rand(6, 1, 8, 8), torch.arange(6)

    def gradients(net, called, x):
        loss = nn.functional.cross_entropy(called(x), c)
        found = torch.autograd.grad(loss, list(net.parameters()))
        return {"loss": loss.detach(), **dict(zip(dict(net.named_parameters()), found))}

    plain, last = (
        gradients(net, training_forward(net, CPU, training(channels_last=on)), x)
        for net, on in ((model(), False), (model(), True))
    )
    exact_net = model().double()
    exact = gradients(exact_net, exact_net, x.double())
    # A weight of a convolution sums over every pixel of every image.
    off = bounds.allowed(bounds.condition(plain, exact), 6 * 8 * 8)
    assert off < 1e-4 and all(bounds.error(last[n], exact[n]) < off for n in exact)


@pytest.mark.parametrize("bf16", [True, False])
def test_bf16_reaches_autocast(monkeypatch, bf16):
    """The real thing is for devices that have it: see the test marked gpu."""
    asked, autocast = [], torch.autocast

    def spy(device_type, dtype, enabled):
        asked.append((device_type, dtype, enabled))
        return autocast(device_type, dtype, enabled=False)

    monkeypatch.setattr(torch, "autocast", spy)
    training_forward(model(), CPU, training(precision="bf16" if bf16 else "fp32", channels_last=True))(
        torch.rand(2, 1, 8, 8)
    )
    assert asked == [("cpu", torch.bfloat16, bf16)]


# ---- in runs


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forward")
    (folder / "hundred.json").write_text(json.dumps(list(range(0, 1500, 15))))
    run = train.main(
        [
            "--mode",
            "pretrain",
            "--dataset",
            "digits",
            "--set",
            "model={name: cnn, width: 4}",
            "--epochs",
            "1",
            "--batch_size",
            "32",
            "--set",
            f"data.indices={folder / 'hundred.json'}",
            "--save_dir",
            str(folder / "origin"),
        ]
    )
    return run


def unlearn(run, folder, *more, mode="salun"):
    return train.main(
        [
            "--mode",
            mode,
            "--model_path",
            str(run),
            "--forget_fraction",
            "0.2",
            "--epochs",
            "2",
            "--batch_size",
            "16",
            "--set",
            "training.log_freq=1",
            "--save_dir",
            folder,
            *more,
        ]
    )


def stats(run):
    return [json.loads(line) for line in (Path(run) / "logs" / "stats.jsonl").read_text().splitlines()]


def loads_into_a_plain_model(run):
    net = models.build(cases.load_meta(run)["model"])
    weights = cases.load_weights(run, "raw")
    net.load_state_dict(weights, strict=True)
    assert all(t.is_contiguous() for t in weights.values())
    return net


# erasediff hands gradients of autograd.grad to the optimiser, boundary_expand calls features and classify itself
@pytest.mark.parametrize("mode", ["salun", "erasediff", "boundary_expand", "boundary_shrink", "bad_teacher"])
def test_a_run_with_channels_last_has_the_losses_of_one_without(original, mode):
    runs = [unlearn(original, f"{on}", "--set", f"training.channels_last={on}", mode=mode) for on in ("true", "false")]
    last, plain = (stats(r) for r in runs)
    assert len(last) == len(plain) > 1
    for a, b in zip(last, plain):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-6)
    one, two = (loads_into_a_plain_model(r).state_dict() for r in runs)
    assert all(torch.allclose(one[n], two[n], rtol=1e-3, atol=1e-4) for n in one)


def test_a_run_with_channels_last_resumes_to_the_same_bits(original):
    more = ["--set", "training.channels_last=true", "--set", "training.snapshot_freq=3"]
    whole = unlearn(original, "whole", *more)
    unlearn(original, "half", *more, "--set", "training.n_iters=3")
    half = unlearn(original, "half", *more, "--resume", "half")
    one, two = (cases.load_weights(r, "raw") for r in (whole, half))
    assert len(stats(half)) == len(stats(whole)) > 3
    assert all(torch.equal(one[n], two[n]) for n in one)


def no_compiler():
    """Why torch cannot compile here, or an empty string."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # seconds to import

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        return str(error)
    return ""


# aot_eager is all of compiling but the C++: that takes half a minute, wherever there is a compiler
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_run_has_the_losses_and_names_of_a_plain_one(original, monkeypatch, backend):
    if backend == "inductor" and no_compiler():
        pytest.skip(f"torch._inductor finds no C++ compiler: {no_compiler()}")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    compiled, plain = (
        unlearn(original, f"{on}", "--epochs", "1", "--set", f"training.compile={on}") for on in ("true", "false")
    )
    assert set(cases.load_weights(compiled, "raw")) == set(cases.load_weights(original, "raw"))
    loads_into_a_plain_model(compiled)
    for a, b in zip(stats(compiled), stats(plain), strict=True):
        assert a == pytest.approx(b, rel=1e-3)
    costs = [cases.load_meta(r)["cost"] for r in (compiled, plain)]
    assert all(cost["forward"] == cost["backward"] == 16 * len(stats(plain)) for cost in costs)
    torch._dynamo.reset()


def test_compile_hands_the_plain_model_to_torch(monkeypatch):
    """Without a compiler: what is compiled is the model itself, and the runner calls the result."""
    asked = []
    monkeypatch.setattr(torch, "compile", lambda m: asked.append(m) or nn.Sequential(m))
    net = model()
    called = training_forward(net, CPU, training(compile=True))
    assert asked == [net] and called is not net and set(net.state_dict()) == set(model().state_dict())


@pytest.mark.gpu
@pytest.mark.parametrize("more", [[], ["--set", "training.compile=true", "--set", "training.channels_last=true"]])
def test_bf16_on_the_gpu(original, more):
    run = unlearn(original, "bf16", "--set", "training.bf16=true", *more)
    plain = unlearn(original, "plain")
    loads_into_a_plain_model(run)
    assert all(t.dtype in (torch.float32, torch.long) for t in cases.load_weights(run, "raw").values())
    assert stats(run)[0] == pytest.approx(stats(plain)[0], rel=0.05) and stats(run)[0] != stats(plain)[0]
