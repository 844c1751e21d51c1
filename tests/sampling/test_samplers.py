"""Samplers: against a loop in float64, against diffusers' other classes, on models whose answer is known."""

import math
import time

import pytest
import torch
from torch import nn

from functions.config.schema import Sampling
from functions.errors import InputError
from functions.randomness import keyed_generator
from functions.sampling import samplers
from functions.tasks import Denoising, linear_alpha_bar
from models import Pixels, UNet

ALPHA_BAR = linear_alpha_bar(1000, 1e-4, 0.02)
SHAPE = (1, 8, 8)
POINT = torch.linspace(0.05, 0.95, 64).view(SHAPE)  # the only image of a one-point data set


@pytest.fixture(autouse=True)
def one_thread():
    """How rows fall into passes depends on the number of threads; the workers' own tests set theirs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_task():
    return Denoising(ALPHA_BAR, Pixels(), n_conditions=3, p_uncond=0.1, reduction="sum")


def make_unet():
    torch.manual_seed(0)
    unet = UNet(
        ch=8,
        ch_mult=[1, 2],
        num_res_blocks=1,
        attn_resolutions=[4],
        image_size=8,
        in_channels=1,
        out_ch=1,
        n_classes=3,
        dropout=0.5,
    )
    for p in unet.parameters():  # labels should matter more than in a fresh model
        p.data.mul_(1.5)
    return unet


class Exact(nn.Module):
    """The eps of x_t = a x_0 + b eps for the one-point data set; keeps what it was called with."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.calls = []

    def forward(self, x, t, c):
        self.calls.append((x.clone(), t.clone(), c.clone()))
        a = ALPHA_BAR[t].view(-1, 1, 1, 1)
        return ((x - a.sqrt() * (2 * POINT - 1)) / (1 - a).sqrt()).float()


SAMPLERS = {
    "ancestral": Sampling(sample_type="generalized", timesteps=1000, eta=1.0),
    "ddim": Sampling(sample_type="generalized", timesteps=20, eta=0.0),
    "quad": Sampling(sample_type="generalized", timesteps=20, eta=0.5, skip_type="quad"),
    "ddpm": Sampling(sample_type="ddpm_noisy", timesteps=250),
    "solver": Sampling(sample_type="dpm_solver", timesteps=20),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_exact_model_of_one_point_is_brought_back_to_it(name):
    images = samplers.generate(make_task(), Exact(), [0, 1], [0, 7], SHAPE, SAMPLERS[name], seed=0)
    assert images.shape == (2, *SHAPE)
    assert (images - POINT).abs().max() < 2e-3


@pytest.mark.parametrize("name", SAMPLERS)
def test_image_k_is_the_same_in_every_batch(name, monkeypatch):
    """Alone, among others, in groups or in one pass, in another order: at most one grey level apart."""
    cfg = SAMPLERS[name].model_copy(update={"timesteps": 10 if name != "ancestral" else 50})
    task, unet = make_task(), make_unet()
    labels, indices = [0, 1, 2, 1, 0], [0, 0, 5, 1, 3]

    def draw(labels, indices, seed=4):
        return samplers.generate(task, unet, labels, indices, SHAPE, cfg, seed)

    together = draw(labels, indices)
    alone = torch.cat([draw([c], [k]) for c, k in zip(labels, indices)])
    backwards = draw(labels[::-1], indices[::-1]).flip(0)
    monkeypatch.setattr(samplers, "CPU_ROWS", 4)
    grouped = draw(labels, indices)
    for other in (alone, backwards, grouped):
        assert ((together - other).abs() * 255).max() <= 1
    spread = (together[:, None] - together[None]).abs().amax((2, 3, 4)) + torch.eye(5)
    assert spread.min() > 0.05  # and no two of them are alike
    assert not torch.equal(together, draw(labels, indices, seed=5))


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["ddim", "quad", "solver"])
def test_workers_change_nothing(name, three_threads):
    """Several groups at once, as on a CPU with several threads: the same images, all progress, threads as before."""
    cfg, task, unet, told = SAMPLERS[name], make_task(), make_unet(), []
    keys = [0, 1, 2, 1, 0, 2, 1], [0, 0, 5, 1, 3, 3, 8]
    together = samplers.generate(task, unet, *keys, SHAPE, cfg, 4, told.append)
    assert torch.get_num_threads() == 3
    assert len(told) == 3 * len(samplers.make_sampler(ALPHA_BAR, cfg).timesteps)  # groups of 3, 3 and 1
    assert sum(told) == pytest.approx(7)
    torch.set_num_threads(1)
    assert ((together - samplers.generate(task, unet, *keys, SHAPE, cfg, seed=4)).abs() * 255).max() <= 1


def test_a_failure_stops_all_workers(three_threads):
    told = []

    class Broken(Exact):
        def forward(self, x, t, c):
            if c[0] == 0 and t[0] < 900:  # the first group, early on
                raise ArithmeticError
            time.sleep(0.001)
            return super().forward(x, t, c)

    with pytest.raises(ArithmeticError):
        samplers.generate(make_task(), Broken(), [0, 1, 2], [0, 0, 0], SHAPE, SAMPLERS["ancestral"], 0, told.append)
    assert torch.get_num_threads() == 3
    assert len(told) < 1000  # of 3000 steps


def test_guidance_in_one_batch_equals_two_passes():
    """Float64 loop: DDIM with (1 + w) eps_c - w eps_null from two separate calls, w = 2."""
    task, unet = make_task(), make_unet().double().eval()
    cfg, w = SAMPLERS["ddim"], 2.0
    c = torch.tensor([0, 1, 2, 2])
    started = Exact()
    samplers.generate(task, started, c, range(4), SHAPE, cfg, seed=1)
    x = started.calls[0][0][:4].double()
    steps = list(range(0, 1000, 50))[::-1]
    with torch.no_grad():
        for t, s in zip(steps, [*steps[1:], None]):
            now = torch.full((4,), t)
            eps = (1 + w) * unet(x, now, c) - w * unet(x, now, torch.full((4,), 3))
            a, a_next = float(ALPHA_BAR[t]), 1.0 if s is None else float(ALPHA_BAR[s])
            x_0 = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
            x = math.sqrt(a_next) * x_0 + math.sqrt(1 - a_next) * eps
    expected = (x.clamp(-1, 1) + 1) / 2
    images = samplers.generate(task, unet, c, range(4), SHAPE, cfg, seed=1)
    assert (images - expected).abs().max() < 1e-4
    unguided = cfg.model_copy(update={"cond_scale": 0.0})
    assert (images - samplers.generate(task, unet, c, range(4), SHAPE, unguided, seed=1)).abs().max() > 0.01


@pytest.mark.parametrize("w", [0.0, 2.0])
def test_rows_of_a_pass(w):
    """[conditional; null] in one call with guidance, the conditional half alone without."""
    model, cfg = Exact(), SAMPLERS["ddim"].model_copy(update={"cond_scale": w})
    samplers.generate(make_task(), model, [2, 0], [0, 0], SHAPE, cfg, seed=0)
    assert len(model.calls) == 20
    _, t, c = model.calls[0]
    assert c.tolist() == ([2, 0, 3, 3] if w else [2, 0])
    assert t.tolist() == [950] * len(c)


@pytest.mark.parametrize("t", [999, 500, 1])
def test_ancestral_step_has_the_posterior_of_ddpm(t):
    """eta 1 over all steps: mean and variance of q(x_{t-1} | x_t, x_0), DDPM Eq. 6 and 7, x_0 from eps."""
    torch.manual_seed(t)
    x, eps, noise = torch.randn(3, 2, *SHAPE).double()
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    a, a_prev, alpha_t, beta_t = ALPHA_BAR[t], ALPHA_BAR[t - 1], 1 - beta[t], beta[t]
    x_0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
    mean = (a_prev.sqrt() * beta_t * x_0 + alpha_t.sqrt() * (1 - a_prev) * x) / (1 - a)
    std = ((1 - a_prev) / (1 - a) * beta_t).sqrt()
    sampler = samplers.make_sampler(ALPHA_BAR, SAMPLERS["ancestral"])
    i = sampler.timesteps.index(t)
    still = sampler.step(eps, i, x, torch.zeros_like(noise))
    torch.testing.assert_close(still, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sampler.step(eps, i, x, noise) - still, std * noise, rtol=2e-3, atol=1e-6)


def test_our_ddim_step_equals_diffusers():
    torch.manual_seed(0)
    x, eps, noise = torch.randn(3, 2, *SHAPE).double()
    sampler = samplers.make_sampler(ALPHA_BAR, SAMPLERS["ddim"].model_copy(update={"eta": 0.7}))
    assert sampler.timesteps == list(range(950, -1, -50))
    for i, t in enumerate(sampler.timesteps):
        a, a_next = float(ALPHA_BAR[t]), float(ALPHA_BAR[t - 50]) if t else 1.0
        ours = samplers.ddim_step(eps, x, a, a_next, 0.7, noise)
        torch.testing.assert_close(ours, sampler.step(eps, i, x, noise), rtol=1e-4, atol=1e-4)


def test_our_ddpm_step_equals_diffusers():
    """fixed_large variance, x_0 clipped, no noise in the last step; diffusers draws the noise, seeded alike."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    torch.manual_seed(0)
    x, eps = torch.randn(2, 2, *SHAPE).double()
    theirs = DDPMScheduler(1000, variance_type="fixed_large", clip_sample=True, timestep_spacing="leading")
    theirs.set_timesteps(250)
    ours = samplers.make_sampler(ALPHA_BAR, SAMPLERS["ddpm"])
    assert ours.timesteps == theirs.timesteps.tolist()
    for i in (0, 100, 248, 249):
        noise = torch.randn(eps.shape, generator=keyed_generator(i), dtype=torch.float64)
        wanted = theirs.step(eps, ours.timesteps[i], x, generator=keyed_generator(i)).prev_sample
        torch.testing.assert_close(ours.step(eps, i, x, noise), wanted, rtol=1e-4, atol=1e-4)


def test_quadratic_timesteps():
    # sqrt(0.8 * 1000) = 28.28; (28.28 k / 4)^2 = 0, 50, 200, 450, 800
    assert samplers.quad_timesteps(1000, 5) == [0, 50, 200, 450, 800]
    many = samplers.quad_timesteps(1000, 100)
    assert many == sorted(set(many)) and len(many) < 100  # the published list repeats 0
    sampler = samplers.make_sampler(ALPHA_BAR, Sampling(timesteps=5, skip_type="quad"))
    assert sampler.timesteps == [800, 450, 200, 50, 0]


def test_first_noise_is_keyed_by_seed_class_and_index():
    model = Exact()
    samplers.generate(make_task(), model, [0, 1, 1], [4, 4, 5], SHAPE, SAMPLERS["solver"], seed=3)
    for x, c, k in zip(model.calls[0][0], [0, 1, 1], [4, 4, 5]):
        assert torch.equal(x, torch.randn(1, *SHAPE, generator=keyed_generator(3, "sample", c, k))[0])


def test_every_step_has_noise_of_its_own(monkeypatch):
    """Across the borders of what is drawn at once, and nothing but what belongs to the image."""
    seen = []
    recording = samplers.Sampler([500] * 120, lambda eps, i, x, noise: seen.append(noise) or x, True)
    monkeypatch.setitem(samplers.SAMPLERS, "generalized", lambda alpha_bar, cfg: recording)
    samplers.generate(make_task(), Exact(), [0, 1], [0, 0], SHAPE, SAMPLERS["ancestral"], seed=0)
    noise = torch.stack(seen).flatten(2).transpose(0, 1).reshape(240, 64)  # 2 images x 120 steps
    assert len(noise.unique(dim=0)) == 240
    assert torch.corrcoef(noise).fill_diagonal_(0).abs().max() < 6 / 8  # 6 standard errors of 64 numbers


def test_solver_is_of_second_order():
    """For data N(0, s^2 I) eps(x_t) = b x_t / (a s^2 + b^2), b^2 = 1 - a, and the flow is linear:
    x_0 = s x_T / sqrt(a_T s^2 + b_T^2). DDIM is the same solver of first order.
    """
    s, x_last = 0.7, torch.randn(1, *SHAPE, generator=keyed_generator(0))
    exact = s * x_last / math.sqrt(ALPHA_BAR[-1] * s**2 + 1 - ALPHA_BAR[-1])

    def error(name):
        sampler, x = samplers.make_sampler(ALPHA_BAR, SAMPLERS[name]), x_last
        for i, t in enumerate(sampler.timesteps):
            a = float(ALPHA_BAR[t])
            x = sampler.step(math.sqrt(1 - a) * x / (a * s**2 + 1 - a), i, x, None)
        return (x - exact).abs().max()

    assert error("solver") < 0.25 * error("ddim")


def test_noise_is_white_and_belongs_to_its_image():
    """10,000 numbers in all: mean 0 and variance 1 within 5 standard errors; nobody shares a generator."""
    g = [keyed_generator(0, "sample", 0, k) for k in range(4)]
    noise = samplers._normal(g, 40, SHAPE, torch.device("cpu"))
    assert noise.shape == (40, 4, *SHAPE)
    n = noise.numel()
    assert noise.mean().abs() < 5 / math.sqrt(n) and (noise.var() - 1).abs() < 5 * math.sqrt(2 / n)
    correlation = torch.corrcoef(noise.transpose(0, 1).reshape(4, -1)) - torch.eye(4)
    assert correlation.abs().max() < 5 / math.sqrt(n / 4)


def test_alpha_bar_from_the_task_keeps_its_digits():
    found = samplers.alpha_bar_of(make_task())
    torch.testing.assert_close(found, ALPHA_BAR, rtol=3e-7, atol=0)
    torch.testing.assert_close(1 - found, 1 - ALPHA_BAR, rtol=3e-7, atol=0)
    betas = torch.tensor(samplers._betas(found))
    torch.testing.assert_close(betas, torch.linspace(1e-4, 0.02, 1000), rtol=1e-4, atol=0)


def test_every_module_gets_its_mode_back():
    unet = make_unet()
    unet.train()
    unet.mid.eval()
    before = [m.training for m in unet.modules()]
    samplers.generate(make_task(), unet, [0], [0], SHAPE, SAMPLERS["solver"], seed=0)
    assert [m.training for m in unet.modules()] == before
    with pytest.raises(RuntimeError), samplers.training_mode(unet, train=False):
        assert not any(m.training for m in unet.modules())
        raise RuntimeError
    assert [m.training for m in unet.modules()] == before


def test_train_mode_leaves_dropout_active():
    unet, cfg = make_unet(), SAMPLERS["solver"]
    published = cfg.model_copy(update={"train_mode": True})

    def twice(cfg):
        return (samplers.generate(make_task(), unet, [0], [0], SHAPE, cfg, seed=0) for _ in range(2))

    assert torch.equal(*twice(cfg))
    assert not torch.equal(*twice(published))


def test_images_are_ordinary_tensors_without_gradients():
    images = samplers.generate(make_task(), make_unet(), [0], [0], SHAPE, SAMPLERS["solver"], seed=0)
    assert not images.is_inference() and not images.requires_grad
    assert images.min() >= 0 and images.max() <= 1


def test_generate_all_hands_out_everything_once_in_batches():
    wanted = [(c, k) for c in range(3) for k in range(5)]
    cfg = SAMPLERS["solver"].model_copy(update={"batch_size": 4})
    found = list(samplers.generate_all(make_task(), Exact(), wanted, SHAPE, cfg, seed=0))
    assert [pair for batch, _ in found for pair in batch] == wanted
    assert [len(images) for _, images in found] == [4, 4, 4, 3]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"timesteps": 30}, "30 steps.*the nearest that do: 25 and 40"),
        ({"timesteps": 2000}, "nearest that do: 1000"),
        ({"timesteps": 300, "sample_type": "ddpm_noisy"}, "250 and 500"),
        ({"timesteps": 1000, "sample_type": "dpm_solver"}, "fewer than the model's 1000"),
        ({"timesteps": 1, "skip_type": "quad"}, "2 to 1000"),
        ({"skip_type": "quad", "sample_type": "dpm_solver"}, "quad is for sample_type generalized"),
        ({"eta": 1.5}, "sampling.eta: got 1.5"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(InputError, match=words):
        samplers.make_sampler(ALPHA_BAR, Sampling(**settings))


@pytest.mark.parametrize("steps", [1, 7, 20, 999])
def test_solver_takes_any_number_of_steps(steps):
    cfg = Sampling(sample_type="dpm_solver", timesteps=steps)
    assert samplers.generate(make_task(), Exact(), [0], [0], SHAPE, cfg, seed=0).isfinite().all()
    assert len(samplers.make_sampler(ALPHA_BAR, cfg).timesteps) == steps


def test_names_in_the_config_are_the_samplers():
    assert tuple(samplers.SAMPLERS) == Sampling.model_fields["sample_type"].annotation.__args__
