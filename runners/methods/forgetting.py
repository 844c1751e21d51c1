"""The forget objectives, by the names of `unlearn.loss`: each is minimised, and is the mean of per-example terms."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from functions.config.unlearning import Objective
from functions.tasks import Draw, Task
from functions.training.losses import adaptive_mean
from functions.training.modes import training_mode


def adaga(task: Task, model: nn.Module, draw: Draw, u: Objective) -> tuple[Tensor, Tensor]:
    """Adaptive ascent: -mean_i(w_i l_i), w from `adaptive_weights`. SFR-on's own."""
    losses = task.losses(model, asked(task, draw, u))
    return -adaptive_mean(losses, u.lambd, u.adaga_floor), losses.mean()


def ga(task: Task, model: nn.Module, draw: Draw, u: Objective) -> tuple[Tensor, Tensor]:
    """Gradient ascent: -mean_i(l_i)."""
    loss = task.losses(model, asked(task, draw, u)).mean()
    return -loss, loss


def match(task: Task, model: nn.Module, draw: Draw, u: Objective) -> tuple[Tensor, Tensor]:
    """SalUn's: predictions for c follow those for c' = other(c), divergence(detached p(c'), p(c))."""
    with torch.no_grad(), nullcontext() if u.target_dropout else training_mode(model, train=False):
        target = task.predict(model, asked(task, draw._replace(c=task.other(draw.c)), u))
    loss = task.divergence(target, task.predict(model, asked(task, draw, u))).mean()
    return loss, loss


def relabel(task: Task, model: nn.Module, draw: Draw, u: Objective) -> tuple[Tensor, Tensor]:
    """Train towards a wrong condition c' != c, drawn anew each time."""
    loss = task.losses(model, asked(task, draw._replace(c=task.wrong(draw.c)), u)).mean()
    return loss, loss


def asked(task: Task, draw: Draw, u: Objective) -> Draw:
    """What the model is asked about forget images: with their labels, or as published with some of them dropped."""
    return draw._replace(c=task.dropped(draw.c)) if u.drop_labels else draw


# name -> (objective to minimise, mean loss to log)
FORGET_LOSSES: dict[str, Callable[[Task, nn.Module, Draw, Objective], tuple[Tensor, Tensor]]] = {
    "adaga": adaga,
    "ga": ga,
    "match": match,
    "relabel": relabel,
}
