"""Training a variational autoencoder: absolute error and a small KL. Data and model come as arguments.

The model has the interface of diffusers' AutoencoderKL; x is in [0, 1] and what the model sees is 2x - 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from functions.errors import InputError
from functions.progress import Progress
from functions.training.finite import Latch
from functions.training.schedules import cosine_decay

Batches = Iterable[tuple[Tensor, Tensor]]  # (x, c); c is not looked at


def losses(vae: nn.Module, x: Tensor, kl_weight: float) -> Tensor:
    """|| x - decode(z) ||_1 + kl_weight KL(q(z|x) || N(0, 1)), both sums over an image, z ~ q(z|x), (N,).

    The objective of latent diffusion's first stage (arXiv 2112.10752, G) without its perceptual and adversarial terms.
    """
    x = 2 * x - 1
    q = vae.encode(x).latent_dist
    return (vae.decode(q.sample()).sample - x).abs().flatten(1).sum(1) + kl_weight * q.kl()


def fit(vae: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], n_steps: int, lr: float, kl_weight: float) -> None:
    """`n_steps` of Adam on `losses`: a rate that warms up and falls to zero. A bar, or ten plain lines.

    Raises InputError where the loss or a weight is not finite, at the next of those lines.
    """
    optimizer = torch.optim.Adam(vae.parameters(), lr=lr)
    warmup = max(1, n_steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min(1.0, (k + 1) / warmup) * cosine_decay(1.0, k, n_steps)
    )
    vae.train()
    latch = Latch(next(vae.parameters()).device)
    with Progress("training the autoencoder", n_steps, "steps") as progress:
        for step in range(1, n_steps + 1):
            x, _ = next(batches)
            loss = losses(vae, x, kl_weight).mean() / x[0].numel()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.update()
            latch.watch(step, [loss.detach()])
            if step % max(1, n_steps // 10) == 0 or step == n_steps:
                if complaint := latch.complaint(step, vae):
                    raise InputError(f"{complaint}: nothing is saved (a smaller --lr than {lr:g} may help)")
                text = f"loss {loss.item():.4f}"
                progress.show(text)
                if progress.plain:
                    print(f"step {step}/{n_steps} {text}  {progress.left()}", flush=True)
                    progress.spoken()
    vae.eval()


@torch.inference_mode()
def reconstruct(vae: nn.Module, x: Tensor) -> Tensor:
    """x in [0, 1] through the mean of its latents and back into [0, 1]."""
    return (vae.decode(vae.encode(2 * x - 1).latent_dist.mode()).sample.clamp(-1, 1) + 1) / 2


def psnr(vae: nn.Module, batches: Batches) -> float:
    """Mean over images of 10 log10(1 / MSE(x, reconstruct(x))), in dB; an error below 1e-10 counts as that."""
    found = [-10 * (reconstruct(vae, x) - x).square().flatten(1).mean(1).clamp_min(1e-10).log10() for x, _ in batches]
    return torch.cat(found).mean().item()


@torch.inference_mode()
def latent_std(vae: nn.Module, batches: Batches) -> float:
    """Standard deviation around their mean of all numbers of the latents q(z|x), what is drawn included.

    So it is sqrt(Var mu + E sigma^2). Its inverse is `scaling_factor` (arXiv 2112.10752, G). Raises InputError where
    it is 0 or not finite.
    """
    n = total = squares = variance = 0.0
    for x, _ in batches:
        q = vae.encode(2 * x - 1).latent_dist
        mu, sigma2 = q.mean.double(), q.var.double()
        n, total = n + mu.numel(), total + mu.sum().item()
        squares, variance = squares + mu.square().sum().item(), variance + sigma2.sum().item()
    std = math.sqrt(max(0.0, squares / n - (total / n) ** 2 + variance / n))
    if not 0 < std < math.inf:
        raise InputError(f"the latents have a standard deviation of {std}: nothing is saved (a smaller --lr may help)")
    return std
