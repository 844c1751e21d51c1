"""Samplers: from noise to images by T or fewer steps of the reverse process, with classifier-free guidance.

Image k of class c depends on (seed, c, k) alone: it has its own generator, on the device, and nothing comes back to
the host until a batch is finished. Scheduler classes come from diffusers, imported only when one is used.
"""

from __future__ import annotations

import copy
import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor, nn

from functions.config.schema import Sampling
from functions.errors import InputError
from functions.finite import bad_rows
from functions.memory import check_room
from functions.progress import Progress
from functions.randomness import keyed_generator
from functions.tasks import Denoising, Draw
from functions.training.modes import training_mode

NOISE_STEPS, NOISE_VALUES = 50, 2**18  # one draw of an image's noise covers at most so many steps and numbers
CPU_ROWS = 128  # rows of one pass on a CPU: more fall out of its caches and cost 5-15 % more each
# decoded at once: images, and places (h w) of what the model draws. A decoder needs far more memory than it decodes
DECODED, DECODED_PLACES = 32, 2**14
THREE = 3  # channels that the published DiT guides, of four
CPU_WORKERS = 4  # groups drawn at once on a CPU, which share torch's threads; Python itself is busy with more


class Sampler(NamedTuple):
    """`step(eps_hat, i, x, noise)` takes x from timestep number i to the next; after the last, x is the image."""

    timesteps: list[int]  # as the model counts them, noisiest first
    step: Callable[[Tensor, int, Tensor, Tensor | None], Tensor]
    noisy: bool  # whether `step` wants fresh noise
    learned: bool = False  # whether it wants the variance too: the whole prediction, eps-hat and v


def check(cfg: Sampling, timesteps: int, learned_variance: bool = False, channels: int | None = None) -> None:
    """Refuse step counts and combinations that a schedule of `timesteps`, or a model, has no meaning for."""
    if cfg.guided_channels == "three" and channels is not None and channels < THREE:
        raise InputError(f"sampling.guided_channels: three, and the model draws {channels} (--guided_channels all)")
    if cfg.sample_type == "learned_range" and not learned_variance:
        others = "generalized and ddpm_noisy have a fixed one"
        raise InputError(f"sampling.sample_type: learned_range wants a model that says its variance; {others}")
    s, key = cfg.timesteps, f"sampling.timesteps: {cfg.timesteps} steps (--timesteps)"
    if cfg.skip_type == "quad" and cfg.sample_type != "generalized":
        raise InputError(f"sampling.skip_type: quad is for sample_type generalized, this is {cfg.sample_type}")
    if cfg.sample_type == "generalized" and cfg.eta > 1:
        raise InputError(f"sampling.eta: got {cfg.eta}; wanted 0 (DDIM) to 1 (ancestral)")
    if cfg.sample_type == "dpm_solver":
        if s >= timesteps:
            raise InputError(f"{key}: dpm_solver takes fewer than the model's {timesteps}; 20 are usual")
    elif cfg.skip_type == "quad" or cfg.sample_type == "learned_range":
        if not 2 <= s <= timesteps:
            which = "skip_type quad" if cfg.skip_type == "quad" else "learned_range"
            raise InputError(f"{key}: {which} takes 2 to {timesteps}")
    elif s > timesteps or timesteps % s:
        divisors = [d for d in range(1, timesteps + 1) if timesteps % d == 0]
        near = [*(d for d in divisors[::-1] if d < s)][:1] + [*(d for d in divisors if d > s)][:1]
        raise InputError(
            f"{key} do not divide the model's {timesteps}; the nearest that do: {' and '.join(map(str, near))}"
        )


def make_sampler(alpha_bar: Tensor, cfg: Sampling, learned_variance: bool = False) -> Sampler:
    """The sampler of a config for a schedule alpha_bar, (T,) float64. It keeps state: one for each batch."""
    check(cfg, len(alpha_bar), learned_variance)
    return SAMPLERS[cfg.sample_type](alpha_bar, cfg)


def generalized(alpha_bar: Tensor, cfg: Sampling) -> Sampler:
    """DDIM's family: eta 0 is deterministic, eta 1 ancestral with the posterior's variance. x_0 is not clipped.

    Uniform steps are the published range(0, T, T // S); diffusers knows no quadratic ones, those take `ddim_step`.
    """
    if cfg.skip_type == "quad":
        t, steps = _pairs(alpha_bar, quad_timesteps(len(alpha_bar), cfg.timesteps))
        return Sampler(t, lambda eps, i, x, noise: ddim_step(eps, x, *steps[i], cfg.eta, noise), cfg.eta > 0)
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler = DDIMScheduler(
        len(alpha_bar),
        trained_betas=_betas(alpha_bar),
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="leading",
        steps_offset=0,
    )
    scheduler.set_timesteps(cfg.timesteps)
    t = scheduler.timesteps.tolist()

    def step(eps, i, x, noise):
        return scheduler.step(eps, t[i], x, eta=cfg.eta, variance_noise=noise, return_dict=False)[0]

    return Sampler(t, step, cfg.eta > 0)


def ddpm_noisy(alpha_bar: Tensor, cfg: Sampling) -> Sampler:
    """DDPM's ancestral steps with variance beta_t ("fixed large") and x_0 clipped to [-1, 1].

    diffusers' DDPMScheduler draws its noise inside `step`, one call per image and step: too slow on a device for
    images with generators of their own. A test holds `ddpm_step` against it.
    """
    uniform = range(0, len(alpha_bar), len(alpha_bar) // cfg.timesteps)
    t, steps = _pairs(alpha_bar, list(uniform))
    return Sampler(t, lambda eps, i, x, noise: ddpm_step(eps, x, *steps[i], noise), True)


def dpm_solver(alpha_bar: Tensor, cfg: Sampling) -> Sampler:
    """DPM-Solver++ of order 2, multistep (arXiv 2211.01095): deterministic, good from about 20 steps."""
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        len(alpha_bar),
        trained_betas=_betas(alpha_bar),
        solver_order=2,
        algorithm_type="dpmsolver++",
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(cfg.timesteps)
    scheduler.set_begin_index(0)
    t = scheduler.timesteps.tolist()
    return Sampler(t, lambda eps, i, x, noise: scheduler.step(eps, t[i], x, return_dict=False)[0], False)


def learned_range(alpha_bar: Tensor, cfg: Sampling) -> Sampler:
    """Ancestral steps with the model's own variance (Improved DDPM), x_0 not clipped: what was published for DiT.

    S of T timesteps as published: 0 and T - 1, and as evenly between as rounding allows. diffusers' DDPMScheduler with
    variance_type learned_range and timestep_spacing linspace is the same; why not that one, see `ddpm_noisy`.
    """
    even = torch.linspace(0, len(alpha_bar) - 1, cfg.timesteps, dtype=torch.float64).round().long()
    t, steps = _pairs(alpha_bar, even.tolist())
    return Sampler(t, lambda out, i, x, noise: learned_step(out, x, *steps[i], noise), noisy=True, learned=True)


SAMPLERS = {
    "generalized": generalized,
    "ddpm_noisy": ddpm_noisy,
    "dpm_solver": dpm_solver,
    "learned_range": learned_range,
}


def quad_timesteps(timesteps: int, steps: int) -> list[int]:
    """The published floor(linspace(0, sqrt(0.8 T), S)^2), ascending; repeats, which would not move x, are left out."""
    return sorted({int(v**2) for v in torch.linspace(0, math.sqrt(0.8 * timesteps), steps, dtype=torch.float64)})


def ddim_step(eps: Tensor, x: Tensor, a: float, a_next: float, eta: float, noise: Tensor | None) -> Tensor:
    """x_t -> x_s for s < t with a = alpha_bar_t, a_next = alpha_bar_s. DDIM, Eq. 12 and 16."""
    x_0 = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
    sigma = eta * math.sqrt((1 - a_next) / (1 - a) * (1 - a / a_next))
    x = math.sqrt(a_next) * x_0 + math.sqrt(1 - a_next - sigma**2) * eps
    return x + sigma * noise if sigma > 0 else x


def ddpm_step(eps: Tensor, x: Tensor, a: float, a_next: float, noise: Tensor) -> Tensor:
    """The posterior mean for x_0 clipped plus noise of variance 1 - a / a_next, none in the last step."""
    mean = posterior_mean(((x - math.sqrt(1 - a) * eps) / math.sqrt(a)).clamp(-1, 1), x, a, a_next)
    return mean + math.sqrt(1 - a / a_next) * noise if a_next < 1 else mean


def learned_step(prediction: Tensor, x: Tensor, a: float, a_next: float, noise: Tensor) -> Tensor:
    """The posterior mean plus noise of variance exp(f log beta + (1 - f) log beta~), none in the last step.

    `prediction` (N, 2C, H, W) is eps-hat and v, f = (v + 1) / 2, beta and its posterior beta~ those of the step from a
    to a_next. Improved DDPM (arXiv 2102.09672), Eq. 15.
    """
    eps, v = prediction.chunk(2, dim=1)
    mean = posterior_mean((x - math.sqrt(1 - a) * eps) / math.sqrt(a), x, a, a_next)
    if a_next == 1:
        return mean
    beta = 1 - a / a_next
    share, least, most = (v + 1) / 2, math.log(beta * (1 - a_next) / (1 - a)), math.log(beta)
    return mean + ((share * most + (1 - share) * least) / 2).exp() * noise


def posterior_mean(x_0: Tensor, x: Tensor, a: float, a_next: float) -> Tensor:
    """The mean of q(x_s | x_t, x_0) for a = alpha_bar_t, a_next = alpha_bar_s. DDPM, Eq. 7."""
    return (math.sqrt(a_next) * (1 - a / a_next) * x_0 + math.sqrt(a / a_next) * (1 - a_next) * x) / (1 - a)


def generate(
    task: Denoising,
    model: nn.Module,
    labels: Sequence[int] | Tensor,
    indices: Sequence[int] | Tensor,
    shape: Sequence[int],
    cfg: Sampling,
    seed: int,
    progress: Callable[[float], object] | None = None,
) -> Tensor:
    """Images (N, C, H, W) in [0, 1] on the model's device: image number indices[i] of condition labels[i].

    `shape` is that of what the model draws, `task.encoder.shape` of the images' own.

    `progress` is told after each step how many images' worth of work it was. On a CPU a batch goes through in groups,
    some at once; images are independent, so nothing else changes. The model's mode is restored. Raises InputError for
    images that are not finite: as pictures they would be black.
    """
    keys = [(int(c), int(k)) for c, k in zip(labels, indices, strict=True)]
    check(cfg, task.timesteps, task.variance is not None, shape[0])
    if cfg.guided_channels == "three":
        task = copy.copy(task)
        task.guided_channels = THREE
    draw = functools.partial(_reverse, task, model, shape=shape, cfg=cfg, seed=seed)
    with torch.inference_mode(), training_mode(model, train=cfg.train_mode):
        if next(model.parameters()).device.type == "cpu" and not cfg.train_mode:
            z = _in_groups(draw, keys, CPU_ROWS // (2 if cfg.cond_scale else 1), progress)
        else:
            z = draw(keys, progress=progress)
        at_once = min(DECODED, max(1, DECODED_PLACES // math.prod(shape[1:])))
        images = torch.cat([task.encoder.decode(part) for part in z.split(at_once)])
    if bad := bad_rows(images):
        c, k = keys[bad[0]]
        raise InputError(
            f"{len(bad)} of {len(keys)} images are NaN or infinite (first: image {k} of class {c}): the model diverged,"
            f" or the guidance {cfg.cond_scale:g} is too much for it (--cond_scale)"
        )
    return images.clone()  # an ordinary tensor again, that callers may change


def _in_groups(draw: Callable[..., Tensor], keys: list, most: int, progress: Callable | None) -> Tensor:
    """`draw` on groups of at most `most` keys, one a worker at a time, each with its share of torch's threads.

    Whole passes side by side keep the cores busier than threads inside each small layer, which wait for one another
    all the time (3 to 4 times longer where other programs run). Ctrl-C stops the workers at their next step.
    """
    threads = torch.get_num_threads()
    workers = min(threads, CPU_WORKERS, len(keys))
    size = math.ceil(len(keys) / max(workers, math.ceil(len(keys) / most)))
    groups = [keys[i : i + size] for i in range(0, len(keys), size)]
    if workers == 1:
        return torch.cat([draw(group, progress=progress) for group in groups])
    lock, stopped = threading.Lock(), threading.Event()

    def tick(images: float) -> None:
        with lock:
            if stopped.is_set():
                raise InterruptedError("sampling was stopped")
            if progress is not None:
                progress(images)

    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,))
    try:
        return torch.cat(list(pool.map(functools.partial(draw, progress=tick), groups)))
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


@torch.inference_mode()
def _reverse(task, model, keys, shape, cfg, seed, progress) -> Tensor:
    """x_T ~ N(0, I), then every step of the sampler. (len(keys), C, H, W) in the model's space."""
    parameter = next(model.parameters())
    device, dtype = parameter.device, parameter.dtype
    generators = [keyed_generator(seed, "sample", c, k, device=device) for c, k in keys]
    sampler = make_sampler(alpha_bar_of(task), cfg, task.variance is not None)
    chunk = max(1, min(NOISE_STEPS, NOISE_VALUES // math.prod(shape)))  # by the image, never by the batch
    c = torch.tensor([c for c, _ in keys], device=device)
    noise, x = None, _normal(generators, 1, shape, device)[0].to(dtype)
    for i, t in enumerate(sampler.timesteps):
        if sampler.noisy and i % chunk == 0:
            noise = _normal(generators, min(chunk, len(sampler.timesteps) - i), shape, device).to(dtype)
        out = task.predict(model, Draw(x, c, torch.full_like(c, t)), guidance=cfg.cond_scale)
        out = out if sampler.learned else task.eps_of(out)
        x = sampler.step(out, i, x, noise[i % chunk] if sampler.noisy else None)
        if progress is not None:
            progress(len(keys) / len(sampler.timesteps))
    return x


def generate_all(
    task: Denoising,
    model: nn.Module,
    wanted: Sequence[tuple[int, int]],
    shape: Sequence[int],
    cfg: Sampling,
    seed: int,
    there: Callable[[tuple[int, int]], bool] = lambda pair: False,
) -> Iterator[tuple[Sequence[tuple[int, int]], Tensor]]:
    """Batches of `wanted`, pairs (c, k), each with its finished images, under a progress bar.

    What is `there` by the time of its batch, drawn by another process, is left out.
    """
    check_room("sampling.batch_size", min(cfg.batch_size, len(wanted)), "images at once", 8 * math.prod(shape))
    with Progress("sampling", len(wanted), "images", leave=True) as bar:
        for i in range(0, len(wanted), cfg.batch_size):
            asked = wanted[i : i + cfg.batch_size]
            batch = [pair for pair in asked if not there(pair)]
            bar.update(len(asked) - len(batch))
            if batch:
                labels, indices = zip(*batch)
                yield batch, generate(task, model, labels, indices, shape, cfg, seed, bar.update)


def alpha_bar_of(task: Denoising) -> Tensor:
    """(T,) float64 on the host, from whichever float32 root is small: so both alpha_bar and 1 - it keep 7 digits."""
    a, b = (s.double().cpu() for s in (task.sqrt_alpha_bar, task.sqrt_one_minus_alpha_bar))
    return torch.where(a < b, a.square(), 1 - b.square())


def _betas(alpha_bar: Tensor) -> list[float]:
    """beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}, what diffusers calls `trained_betas`."""
    return (1 - alpha_bar / torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])).tolist()


def _pairs(alpha_bar: Tensor, ascending: list[int]) -> tuple[list[int], list[tuple[float, float]]]:
    """The timesteps descending, and for each (alpha_bar here, alpha_bar at the next; 1 after the last)."""
    a = [1.0, *alpha_bar[ascending].tolist()]
    return ascending[::-1], list(zip(a[:0:-1], a[-2::-1]))


def _normal(generators: list[torch.Generator], steps: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """(steps, N, C, H, W) standard normal, image n's from its own generator."""
    return torch.stack([torch.randn((steps, *shape), generator=g, device=device) for g in generators], dim=1)
