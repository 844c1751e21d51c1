"""What methods do with per-example losses. Everything here takes (N,) and says what it returns."""

from __future__ import annotations

from torch import Tensor

from functions.training import distributed


def adaptive_weights(losses: Tensor, lambd: float, floor: float = 1e-8) -> Tensor:
    """w_i = N u_i / sum_j u_j with u_i = 1 / (l_i^lambd + floor), detached; mean 1. (N,) -> (N,). SFR-on, METHODS.

    N and the sum are of the whole batch where processes share it.

    An example that is already forgotten (large loss) gets a small weight, so that ascent does not blow up.
    """
    u = 1 / (losses.detach() ** lambd + floor)
    return distributed.size() * len(losses) * u / distributed.total(u.sum())


def adaptive_mean(losses: Tensor, lambd: float, floor: float = 1e-8) -> Tensor:
    """mean_i w_i l_i with `adaptive_weights`. For l = [1, 4], lambd = 1/2: w = [4/3, 2/3], mean 2."""
    return (adaptive_weights(losses, lambd, floor) * losses).mean()
