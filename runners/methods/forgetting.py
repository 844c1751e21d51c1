"""The forget objectives, by the names of `unlearn.loss`: each is minimised, and is the mean of per-example terms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from functions.tasks import Draw, Task
from functions.training.losses import adaptive_mean
from functions.training.modes import training_mode


def adaga(task: Task, model: nn.Module, draw: Draw, lambd: float) -> tuple[Tensor, Tensor]:
    """Adaptive ascent: -mean_i(w_i l_i), w from `adaptive_weights`. SFR-on's own."""
    losses = task.losses(model, draw)
    return -adaptive_mean(losses, lambd), losses.mean()


def ga(task: Task, model: nn.Module, draw: Draw, lambd: float) -> tuple[Tensor, Tensor]:
    """Gradient ascent: -mean_i(l_i)."""
    loss = task.losses(model, draw).mean()
    return -loss, loss


def match(task: Task, model: nn.Module, draw: Draw, lambd: float) -> tuple[Tensor, Tensor]:
    """SalUn's: predictions for c follow those for c' = other(c), divergence(detached p(c'), p(c))."""
    with torch.no_grad(), training_mode(model, train=False):
        target = task.predict(model, draw._replace(c=task.other(draw.c)))
    loss = task.divergence(target, task.predict(model, draw)).mean()
    return loss, loss


def relabel(task: Task, model: nn.Module, draw: Draw, lambd: float) -> tuple[Tensor, Tensor]:
    """Train towards a wrong condition c' != c, drawn anew each time."""
    loss = task.losses(model, draw._replace(c=task.wrong(draw.c))).mean()
    return loss, loss


# name -> (objective to minimise, mean loss to log)
FORGET_LOSSES: dict[str, Callable[[Task, nn.Module, Draw, float], tuple[Tensor, Tensor]]] = {
    "adaga": adaga,
    "ga": ga,
    "match": match,
    "relabel": relabel,
}
