"""`optim.name: adamw8bit`, with bitsandbytes where it is installed, else with a stand-in that drifts as that one does."""

import sys
import types

import cases
import pytest
import torch

from functions.errors import InputError
from functions.storage.artifacts import load_mask
from functions.training.optim import make_optimizer

OPTIM = types.SimpleNamespace(name="adamw8bit", lr=1e-2, weight_decay=0.1)


class StandIn(torch.optim.AdamW):
    """Moments of weights without a gradient are not quite zero, and the state has tensors in a dict inside."""

    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad = p.grad + 1e-3
        super().step()

    def state_dict(self):
        state = super().state_dict()
        return {**state, "state": {i: {"step": of["step"], "inside": of} for i, of in state["state"].items()}}

    def load_state_dict(self, state):
        super().load_state_dict({**state, "state": {i: of["inside"] for i, of in state["state"].items()}})


@pytest.fixture(autouse=True)
def library(monkeypatch):
    """The module, real or not."""
    try:
        import bitsandbytes
    except ImportError:
        bitsandbytes = types.SimpleNamespace(optim=types.SimpleNamespace(AdamW8bit=StandIn), __version__="0.0")
        monkeypatch.setitem(sys.modules, "bitsandbytes", bitsandbytes)
    return bitsandbytes


def test_it_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InputError, match=r"adamw8bit needs bitsandbytes \(.*\): pip install bitsandbytes, or optim"):
        make_optimizer([torch.nn.Parameter(torch.zeros(4))], OPTIM)


def test_a_device_that_it_does_not_know_is_named(monkeypatch, library):
    def step(self):
        raise NotImplementedError("no 8-bit kernel\nand more lines")

    monkeypatch.setattr(library.optim.AdamW8bit, "step", step)
    with pytest.raises(InputError) as error:
        make_optimizer([torch.nn.Parameter(torch.zeros(4))], OPTIM)
    wanted = f"optim.name: adamw8bit: bitsandbytes {library.__version__} takes no such step on cpu (no 8-bit kernel)"
    assert str(error.value) == wanted


def test_frozen_weights_stay_although_its_zero_drifts():
    torch.manual_seed(0)
    m = torch.rand(64, 96) < 0.5
    plain, masked = (torch.nn.Parameter(torch.ones(64, 96)) for _ in range(2))
    optimizers = make_optimizer([plain], OPTIM, decay=False), make_optimizer([masked], OPTIM, decay=False, masks=[m])
    for _ in range(4):
        gradient = torch.randn(64, 96) * m
        for p, optimizer in zip((plain, masked), optimizers):
            optimizer.zero_grad()
            p.grad = gradient.clone()
            optimizer.step()
    assert not torch.equal(plain[~m].detach(), torch.ones(int((~m).sum())))  # it does drift
    assert torch.equal(masked[~m].detach(), torch.ones(int((~m).sum()))) and (masked[m] != 1).all()


def run(toy, *more):
    words = ["--mask_path", str(toy.mask), "--set", "optim.name=adamw8bit", "--set", "optim.weight_decay=0.1"]
    return cases.unlearn(toy.world, "salun", toy.run, *words, "--set", "optim.lr_schedule=constant", *more)


def test_a_run_freezes_masked_weights_and_resumes_to_the_same_bits(originals):
    toy = originals["ddpm"]
    whole = cases.weights(run(toy))
    run(toy, "--save_dir", "half", "--set", "training.n_iters=2")
    half = cases.train.main(["--resume", "half", "--set", "training.n_iters=4"])
    assert cases.same(cases.weights(half), whole)
    before = cases.weights(toy.run, "ema")
    for n, m in load_mask(toy.mask, None, None).items():
        assert torch.equal(whole[n][~m], before[n][~m])
    assert any(not torch.equal(whole[n], before[n]) for n in whole)


def test_infinite_moments_are_not_saved(originals, monkeypatch, library):
    take = library.optim.AdamW8bit.step

    def step(self):
        take(self)
        for of in self.state.values():
            for t in of.values():
                if isinstance(t, torch.Tensor) and t.dtype == torch.float32 and t.ndim:
                    t[0] = torch.inf

    monkeypatch.setattr(library.optim.AdamW8bit, "step", step)
    with pytest.raises(InputError, match="of weight 1 is NaN or infinite at step 1"):
        run(originals["ddpm"], "--set", "training.snapshot_freq=1")
