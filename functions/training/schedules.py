"""Noise schedules of diffusion, and the learning-rate and weight schedules of training. Pure functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def linear_alpha_bar(timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    """alpha_bar_t = prod_{s<=t} (1 - beta_s), beta linear from beta_start to beta_end. (T,) float64.

    DDPM, section 4.
    """
    betas = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
    return (1 - betas).cumprod(0)


def cosine_decay(value: float, k: int, total: int) -> float:
    """value (1 + cos(pi k / total)) / 2: from `value` at step 0 towards 0 at step `total`."""
    return value * (1 + math.cos(math.pi * k / total)) / 2


def step_decay(value: float, epoch: int, milestones: list[int]) -> float:
    """value / 10^m, m the number of milestones (epochs) that have begun."""
    return value * 0.1 ** sum(epoch >= m for m in milestones)
