"""A world that no method knows: diffusion in a linear latent space, on conditions that are vectors of a table.

What latents and prompts will be: a row of worlds, an encoder and a table of conditions given to `Denoising`. Every method
of the diffusion world runs there as it stands.
"""

import json
import math
from pathlib import Path

import cases
import pytest
import torch
from torch import nn

import models
import train
from functions.storage.artifacts import load_mask
from functions.tasks import Denoising, Table, denoising, linear_alpha_bar
from runners import MODES
from runners import worlds as rows

LATENT, WIDTH, N = (2, 4, 4), 6, 10  # shape of z, size of a condition's vector, number of conditions
MODES_HERE = [m for m in cases.WORLDS["ddpm"] if m in MODES and m not in ("pretrain",)]


class LinearLatent:
    """z = (2x - 1) A with A (64, 32) of orthonormal columns; back by its transpose."""

    def __init__(self):
        g = torch.Generator().manual_seed(0)
        self.a = torch.linalg.qr(torch.randn(64, math.prod(LATENT), generator=g)).Q

    def encode(self, x, normal):
        return ((2 * x - 1).flatten(1) @ self.a).view(-1, *LATENT)

    def decode(self, z):
        return ((z.flatten(1) @ self.a.T).view(-1, 1, 8, 8).clamp(-1, 1) + 1) / 2

    def shape(self, data_shape):
        assert tuple(data_shape) == (1, 8, 8)
        return LATENT

    def to(self, device):
        return self


class ToyNet(nn.Module):
    """eps-hat of latents (N, 2, 4, 4), timesteps (N,) and condition vectors (N, 6)."""

    seen = []

    def __init__(self, in_channels, image_size, **_):
        super().__init__()
        assert (in_channels, image_size) == (LATENT[0], LATENT[1])  # the latent's, not the image's
        self.inside = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.condition = nn.Linear(WIDTH, 8)
        self.time = nn.Linear(1, 8)
        self.out = nn.Conv2d(8, in_channels, 3, padding=1)

    def forward(self, x, t, c):
        assert x.shape[1:] == LATENT and c.shape == (len(x), WIDTH)
        ToyNet.seen.append(c.detach())
        h = self.inside(x) + (self.condition(c) + self.time(t[:, None] / 1000.0))[:, :, None, None]
        return self.out(torch.tanh(h))


TABLE = torch.randn(N + 1, WIDTH, generator=torch.Generator().manual_seed(1))


def latent_task(n_conditions, diffusion, encoder):
    alpha_bar = linear_alpha_bar(diffusion["timesteps"], diffusion["beta_start"], diffusion["beta_end"])
    return Denoising(
        alpha_bar, encoder, n_conditions, diffusion["p_uncond"], diffusion["reduction"], condition=Table(TABLE)
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(run folder of a toy model, what stands for mask and Fisher) in the third world, which is registered meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("third"))
        patch.setitem(models.MODELS, "unet", ToyNet)
        patch.setitem(models.ENCODERS, "pixels", LinearLatent)
        patch.setitem(rows.WORLDS, "ddpm", rows.WORLDS["ddpm"]._replace(task=latent_task))
        run = cases.pretrain("ddpm", "--set", "training.preview=3").resolve()
        fisher = cases.fisher("ddpm", run) / "remain_fisher.safetensors"
        yield run, Path(cases.saliency("ddpm", run)).resolve(), ["--set", f"sa.fisher_path={fisher}"]


@pytest.mark.parametrize("mode", MODES_HERE)
def test_every_method_runs_in_a_world_it_does_not_know(world, mode):
    run, mask, fisher = world
    more = [*fisher, "--set", "sa.replay=remain"] if mode == "sa" else []
    masked = ["--set", "unlearn.mask_mode=strict"] if mode == "sfron" else []
    # SCRUB: its first pass, over the forget set, has no gradient without dropout; one step of it and then the other
    more += ["--set", "training.batch_size=300"] if mode == "scrub" else []
    ToyNet.seen.clear()
    out = cases.unlearn("ddpm", mode, run, "--mask_path", str(mask), *masked, *more)
    assert all(math.isfinite(value) for line in cases.stats(out) for value in line.values())
    before, after, salient = cases.weights(run, "ema"), cases.weights(out), load_mask(mask, None, None)
    assert any(not torch.equal(after[n], before[n]) for n in before)
    assert all(torch.equal(after[n][~m], before[n][~m]) for n, m in salient.items())
    rows_seen = torch.cat(ToyNet.seen).unique(dim=0)
    assert all((row == TABLE).all(1).any() for row in rows_seen)  # conditions are rows of the table, nothing else


def test_retraining_and_passes_too(world):
    run, mask, _ = world
    out = train.main(["--mode", "retrain", "--config", "digits_pretrain.yml", *cases.TOY, "--label_to_forget", "0"])
    made = json.loads((run / "ckpts" / "step_0000004" / "meta.json").read_text())
    assert made["model"]["kwargs"]["in_channels"] == LATENT[0] and made["data"]["shape"] == [1, 8, 8]
    assert list((run / "previews").glob("*.png")) and cases.stats(out)[-1]["step"] == 4
    assert sum(int(m.sum()) for m in load_mask(mask, None, None).values()) > 0


# ---- what the task says of conditions


def toy_task(**more):
    diffusion = {"timesteps": 10, "beta_start": 1e-4, "beta_end": 0.02, "p_uncond": 0.5, "reduction": "sum"}
    task = denoising(diffusion, LinearLatent(), 4)
    for name, value in more.items():
        setattr(task, name, value)
    return task


def test_other_is_the_next_condition_or_its_anchor():
    c = torch.tensor([0, 3, 1])
    assert toy_task().other(c).tolist() == [1, 0, 2]
    assert toy_task(anchors=torch.tensor([2, 2, 0, 1])).other(c).tolist() == [2, 1, 2]


def test_wrong_is_every_condition_but_the_own():
    c = torch.arange(4).repeat(500)
    wrong = toy_task().wrong(c)
    assert (wrong != c).all() and wrong.min() == 0 and wrong.max() == 3  # the null condition is none of them
    assert torch.bincount(wrong[c == 0], minlength=4)[1:].min() > 100


def test_surrogates_are_noise_in_the_models_space():
    torch.manual_seed(0)
    task = toy_task()
    task.sqrt_alpha_bar = torch.ones(10)  # x_t is the surrogate itself
    task.sqrt_one_minus_alpha_bar = torch.zeros(10)
    z = task.surrogate(torch.zeros(4000, 1, 8, 8), torch.zeros(4000, dtype=torch.long)).x
    assert z.shape[1:] == LATENT and -1 <= z.min() < -0.99 and 0.99 < z.max() <= 1
    assert abs(float(z.mean())) < 0.01 and abs(float(z.var()) - 1 / 3) < 0.01


def test_guidance_looks_the_null_condition_up_in_the_last_row():
    task = toy_task(condition=Table(TABLE[:5]))
    seen = []
    model = lambda x, t, c: seen.append(c) or x
    draw = task.draw(torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 3]))
    task.predict(model, draw, guidance=2.0)
    assert torch.equal(seen[0], torch.cat([TABLE[[0, 1, 3]], TABLE[[4, 4, 4]]]))
