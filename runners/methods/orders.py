"""SalUn's step in the three orders in which forget and remain images can come (`unlearn.order`)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from runners.base import Runner
from runners.methods.forgetting import FORGET_LOSSES, asked

# what an epoch passes over
PASSES = {"paired": ("remain",), "split": ("forget", "remain"), "joint": ("both",)}


def paired(runner: Runner, k: int) -> dict[str, Tensor | float]:
    """A forget and a remain batch, one step on the weighted sum."""
    u, alpha = runner.cfg.unlearn, runner.forget_alpha(k)
    objective_f, loss_f = _forget(runner)
    loss_r = runner.remain_loss()
    runner.descend(alpha * objective_f + u.remain_alpha * loss_r, runner.mask, runner.cfg.optim.grad_clip)
    return {"forget": loss_f.detach(), "remain": loss_r.detach(), "alpha": alpha}


def split(runner: Runner, k: int) -> dict[str, Tensor | float]:
    """In each epoch a pass over the forget set, then one over the remain set."""
    u, clip = runner.cfg.unlearn, runner.cfg.optim.grad_clip
    if runner.epochs.at(k)[1] == "forget":
        alpha = runner.forget_alpha(k)
        objective_f, loss_f = _forget(runner)
        runner.descend(alpha * objective_f, runner.mask, clip)
        return {"forget": loss_f.detach(), "alpha": alpha}
    loss_r = runner.remain_loss()
    runner.descend(u.remain_alpha * loss_r, runner.mask, clip)
    return {"remain": loss_r.detach()}


def joint(runner: Runner, k: int) -> dict[str, Tensor | float]:
    """A batch of both, the labels of the images to be forgotten wrong: the mean of w_n l_n, w as the set's alpha."""
    x, c, is_f = next(runner.both)
    draw = runner.task.draw(x, torch.where(is_f, runner.task.wrong(c), c))
    draw = draw._replace(c=torch.where(is_f, asked(runner.task, draw, runner.cfg.unlearn).c, draw.c))
    losses, alpha = runner.task.losses(runner.model, draw), runner.forget_alpha(k)
    weights = torch.where(is_f, alpha, runner.cfg.unlearn.remain_alpha)
    runner.descend((weights * losses).mean(), runner.mask, runner.cfg.optim.grad_clip)
    return {"both": losses.detach().mean(), "alpha": alpha}


def _forget(runner: Runner) -> tuple[Tensor, Tensor]:
    u, draw_f = runner.cfg.unlearn, runner.task.draw(*next(runner.forget))
    return FORGET_LOSSES[u.loss](runner.task, runner.model, draw_f, u)


STEPS: dict[str, Callable[[Runner, int], dict[str, Tensor | float]]] = {
    "paired": paired,
    "split": split,
    "joint": joint,
}
