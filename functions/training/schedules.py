"""The learning-rate and weight schedules of training. Pure functions, torch-free."""

from __future__ import annotations

import math


def cosine_decay(value: float, k: int, total: int) -> float:
    """value (1 + cos(pi k / total)) / 2: from `value` at step 0 towards 0 at step `total`."""
    return value * (1 + math.cos(math.pi * k / total)) / 2


def step_decay(value: float, epoch: int, milestones: list[int]) -> float:
    """value / 10^m, m the number of milestones (epochs) that have begun."""
    return value * 0.1 ** sum(epoch >= m for m in milestones)
