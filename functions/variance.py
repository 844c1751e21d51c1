"""The learned variance of the reverse process, and the part of the variational bound that trains it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BIN = 2 / 255  # of images of 8 bits, scaled to [-1, 1]; published models keep it for latents


class LearnedVariance:
    """sigma_t^2 = exp(f log beta_t + (1 - f) log beta~_t) with f = (v + 1) / 2 for an output v of the model.

    beta~_t = beta_t (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) is the posterior's variance. Improved DDPM
    (arXiv 2102.09672), Eq. 15; as published, log beta~_0, which is that of 0, is taken as log beta~_1.

    Args:
        alpha_bar: (T,) float64.
    """

    def __init__(self, alpha_bar: Tensor):
        before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
        alpha = alpha_bar / before
        beta = 1 - alpha
        posterior = beta * (1 - before) / (1 - alpha_bar)
        posterior[0] = posterior[1]
        # of how far the posterior's mean moves with eps: x_0 and eps are one where x_t is given
        reach = beta / (alpha * (1 - alpha_bar)).sqrt()
        # (5, T): one gather brings all five to a batch
        rows = [beta.log(), posterior.log(), reach, alpha_bar.rsqrt(), (1 / alpha_bar - 1).sqrt()]
        self.table = torch.stack(rows).float()

    def to(self, device: torch.device | str) -> LearnedVariance:
        """In place, so that a step copies nothing."""
        self.table = self.table.to(device)
        return self

    def bits(self, eps_hat: Tensor, v: Tensor, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """What step t adds to the bound on the bits of x_0, (N, C, H, W); eps-hat is detached, so it trains v alone.

        t > 0: KL(q(x_{t-1} | x_t, x_0) || N(mu, sigma_t^2)), mu for the x_0 that eps-hat implies. t = 0: minus the log
        of N(mu, sigma_0^2) on a bin of `BIN` around x_0. DDPM, Eq. 5, in bits.
        """
        rows = self.table.to(x_t.device)[:, t].to(x_t.dtype).view(5, -1, *[1] * (x_t.ndim - 1))
        log_beta, log_posterior, reach, inverse, noise = rows
        share = (v + 1) / 2
        log_variance = share * log_beta + (1 - share) * log_posterior
        apart = reach * (eps_hat.detach() - eps)  # the posterior's mean less mu
        kl = kl_of_gaussians(apart, log_posterior, log_variance)
        x_0 = inverse * x_t - noise * eps
        first = -log_of_bin(x_0, apart, log_variance / 2)
        steps = (t > 0).view_as(log_beta)
        return torch.where(steps, kl, first) / math.log(2)


def kl_of_gaussians(apart: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(N(m, p) || N(m - apart, q)) in nats from the logs of the variances, elementwise."""
    return (log_q - log_p + (log_p - log_q).exp() + apart.square() * (-log_q).exp() - 1) / 2


def log_of_bin(x: Tensor, apart: Tensor, log_sigma: Tensor) -> Tensor:
    """log of what N(x - apart, sigma^2) gives to the bin around x; the outermost bins of [-1, 1] have no outer end.

    The normal distribution function is the approximation that the published models were trained with.
    """
    over = normal_cdf((apart + BIN / 2) * (-log_sigma).exp())
    under = normal_cdf((apart - BIN / 2) * (-log_sigma).exp())
    mass = torch.where(x < -0.999, over, torch.where(x > 0.999, 1 - under, over - under))
    return mass.clamp(min=1e-12).log()


def normal_cdf(x: Tensor) -> Tensor:
    """(1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, within 2e-4 of the standard normal's."""
    return (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh()) / 2
