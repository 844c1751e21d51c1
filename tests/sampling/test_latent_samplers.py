"""Samplers of models that say their variance, guidance of some channels, latents decoded in parts."""

import math

import pytest
import torch
from test_samplers import ALPHA_BAR, POINT, SAMPLERS, SHAPE, Exact, make_unet
from torch import nn

from functions.config.schema import Sampling
from functions.errors import InputError
from functions.randomness import keyed_generator
from functions.sampling import samplers
from functions.tasks import Denoising
from models import Pixels


class Learned(Exact):
    """The same with a variance: v as asked, in every pixel."""

    def __init__(self, v):
        super().__init__()
        self.v = v

    def forward(self, x, t, c):
        eps = super().forward(x, t, c)
        return torch.cat([eps, torch.full_like(eps, self.v)], dim=1)


@pytest.mark.parametrize("steps", [250, 50, 10])
def test_learned_range_equals_diffusers(steps):
    """The published respacing and steps: same timesteps, same posterior, for v below, inside and above [-1, 1]."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    torch.manual_seed(0)
    x, eps = torch.randn(2, 2, *SHAPE).double()
    out = torch.cat([eps, 1.2 * torch.randn(2, *SHAPE).double()], dim=1)
    spaced = {"variance_type": "learned_range", "clip_sample": False, "timestep_spacing": "linspace"}
    theirs = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", **spaced)
    theirs.set_timesteps(steps)
    theirs.alphas_cumprod, theirs.one = ALPHA_BAR, theirs.one.double()  # theirs are float32: 1e-4 at the first steps
    cfg = Sampling(sample_type="learned_range", timesteps=steps)
    ours = samplers.make_sampler(ALPHA_BAR, cfg, learned_variance=True)
    assert ours.timesteps == theirs.timesteps.tolist()
    for i in (0, steps // 2, steps - 2, steps - 1):
        noise = torch.randn(eps.shape, generator=keyed_generator(i), dtype=torch.float64)
        wanted = theirs.step(out, ours.timesteps[i], x, generator=keyed_generator(i)).prev_sample
        error = (ours.step(out, i, x, noise) - wanted).abs().max() / wanted.abs().max()
        assert error < 1e-9


def test_learned_range_of_all_steps_has_the_schedules_own_variances():
    """v = 1: beta_t, DDPM's fixed large variance; v = -1: the posterior's, which generalized with eta 1 has."""
    torch.manual_seed(0)
    x, eps, noise = torch.randn(3, 2, *SHAPE).double()
    cfg = Sampling(sample_type="learned_range", timesteps=1000)
    learned = samplers.make_sampler(ALPHA_BAR, cfg, learned_variance=True)
    ancestral = samplers.make_sampler(ALPHA_BAR, SAMPLERS["ancestral"])
    assert learned.timesteps == ancestral.timesteps
    for i in (0, 500, 998):
        moved = [learned.step(torch.cat([eps, v * torch.ones_like(eps)], 1), i, x, noise) for v in (1, -1)]
        still = ancestral.step(eps, i, x, torch.zeros_like(noise))
        beta = 1e-4 + (0.02 - 1e-4) * (999 - i) / 999
        torch.testing.assert_close(moved[0] - still, math.sqrt(beta) * noise, rtol=2e-3, atol=1e-4)
        torch.testing.assert_close(moved[1], ancestral.step(eps, i, x, noise), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["learned_range", "dpm_solver", "generalized"])
def test_models_that_say_their_variance_are_drawn_from(name):
    """The variance goes to the sampler that knows it, and to no other: one point is found again by all three."""
    task = Denoising(ALPHA_BAR, Pixels(), 3, 0.1, "mean", learned_variance=True)
    cfg = Sampling(sample_type=name, timesteps=50, cond_scale=2.0)
    images = samplers.generate(task, Learned(0.5), [0, 1], [0, 7], SHAPE, cfg, seed=0)
    assert images.shape == (2, *SHAPE) and (images - POINT).abs().max() < 2e-3
    other = samplers.generate(task, Learned(-1.0), [0, 1], [0, 7], SHAPE, cfg, seed=0)
    assert torch.equal(images, other) == (name != "learned_range")


class ByLabel(nn.Module):
    """eps is the label in every channel, v its negative."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x, t, c):
        eps = c.float().view(-1, 1, 1, 1).expand(x.shape)
        return torch.cat([eps, -eps], dim=1)


def test_guidance_moves_all_channels_or_the_first_three(monkeypatch):
    """c = 1, null = 3, w = 2: guided (1 + 2) 1 - 2 * 3 = -3, else 1; v is always the conditional's, -1."""
    task, seen = Denoising(ALPHA_BAR, Pixels(), 3, 0.1, "mean", learned_variance=True), []
    recording = samplers.Sampler([500], lambda out, i, x, noise: seen.append(out) or x, False, learned=True)
    monkeypatch.setitem(samplers.SAMPLERS, "dpm_solver", lambda alpha_bar, cfg: recording)
    for channels in ("all", "three"):
        cfg = Sampling(sample_type="dpm_solver", timesteps=1, cond_scale=2.0, guided_channels=channels)
        samplers.generate(task, ByLabel(), [1], [0], (4, 2, 2), cfg, seed=0)
    assert [out[0, :, 0, 0].tolist() for out in seen] == [[-3.0] * 4 + [-1.0] * 4, [-3.0] * 3 + [1.0] + [-1.0] * 4]
    assert task.guided_channels is None
    with pytest.raises(InputError, match="guided_channels: three, and the model draws 2"):
        samplers.generate(task, ByLabel(), [1], [0], (2, 2, 2), cfg, seed=0)


def test_latents_are_decoded_in_parts():
    """32 images of 32 x 32 latents at most, fewer where they are larger; all of them, in order."""

    class Decoder(Pixels):
        parts = []

        def decode(self, z):
            self.parts.append(len(z))
            return super().decode(z)

    task, model = Denoising(ALPHA_BAR, Decoder(), 3, 0.1, "sum"), make_unet()
    cfg = Sampling(sample_type="dpm_solver", timesteps=2)
    for side, parts in ((8, [32, 8]), (64, [4] * 2 + [2])):
        Decoder.parts.clear()
        n, shape = sum(parts), (1, side, side)
        samplers.generate(task, model, [0] * n, range(n), shape, cfg, seed=0)
        assert Decoder.parts == parts


@pytest.mark.parametrize(
    "steps, words", [(1, "learned_range takes 2 to 1000"), (1001, "learned_range takes 2 to 1000")]
)
def test_steps_of_learned_range(steps, words):
    with pytest.raises(InputError, match=words):
        samplers.make_sampler(ALPHA_BAR, Sampling(sample_type="learned_range", timesteps=steps), True)


def test_a_fixed_variance_is_no_learned_one():
    with pytest.raises(InputError, match="learned_range wants a model that says its variance"):
        samplers.make_sampler(ALPHA_BAR, Sampling(sample_type="learned_range", timesteps=20))
