"""A row per world: what its task is, and how a run looks at its model on the way."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

import datasets
from functions.config.schema import Config, Sampling
from functions.sampling.samplers import generate
from functions.tasks import Classification, Denoising, Encoder, Task, denoising
from functions.training.classifier_training import count_right
from functions.training.modes import training_mode

GRID_ROW = 8  # images per condition
GRID_STEPS, GRID_GUIDANCE = 20, 2.0  # of DPM-Solver++: a look at the run, not a measurement

Look = Callable[[nn.Module], Tensor]  # model -> (N, C, H, W) in [0, 1], rows of GRID_ROW, the same noise each time
Score = Callable[[nn.Module], float]  # model -> accuracy on the images set aside


class World(NamedTuple):
    """`task(n_conditions, diffusion, encoder)`; `preview` and `validate` make a Look and a Score, or None."""

    task: Callable[[int, dict | None, Encoder], Task]
    preview: Callable[[Config, Task, tuple[int, ...]], Look | None]
    validate: Callable[[Config, datasets.ImageSet | datasets.FolderImages, Tensor], Score | None]


def _classification(n_conditions: int, diffusion: dict | None, encoder: Encoder) -> Classification:
    return Classification(n_conditions)


def _denoising(n_conditions: int, diffusion: dict | None, encoder: Encoder) -> Denoising:
    return denoising(diffusion, encoder, n_conditions)


def _nothing(*_: object) -> None:
    return None


def grid(cfg: Config, task: Denoising, shape: tuple[int, ...]) -> Look | None:
    """GRID_ROW images of each of `training.preview` conditions; None where that is off."""
    if cfg.training is None or cfg.training.preview == "off":
        return None
    forgotten = cfg.forget and cfg.forget.label
    return functools.partial(_grid, task, grid_conditions(task.n_conditions, cfg.training.preview, forgotten), shape)


def grid_conditions(n: int, most: int, forgotten: int | None) -> list[int]:
    """At most `most` of 0..n-1, evenly spread, the forgotten one in place of its neighbour."""
    if n <= most:
        return list(range(n))
    chosen = [round(i * (n - 1) / max(most - 1, 1)) for i in range(most)]
    if forgotten is not None and forgotten not in chosen:
        chosen[min(range(most), key=lambda i: abs(chosen[i] - forgotten))] = forgotten
    return chosen


@torch.no_grad()
def _grid(task: Denoising, conditions: list[int], shape: tuple[int, ...], model: nn.Module) -> Tensor:
    labels = torch.tensor(conditions).repeat_interleave(GRID_ROW)
    indices = torch.arange(GRID_ROW).repeat(len(conditions))
    steps = min(GRID_STEPS, task.timesteps - 1)
    sampling = Sampling(sample_type="dpm_solver", timesteps=steps, cond_scale=GRID_GUIDANCE)
    return generate(task, model, labels, indices, task.encoder.shape(shape), sampling, seed=0)


def accuracy(cfg: Config, images: datasets.ImageSet | datasets.FolderImages, val: Tensor) -> Score | None:
    """Accuracy on the validation images; None where none were set aside, and for passes, which train nothing."""
    if len(val) == 0 or cfg.training is None:
        return None
    return functools.partial(_accuracy, images, val, cfg.training.batch_size, cfg.data.n_workers)


def _accuracy(images, val: Tensor, batch_size: int, n_workers: int, model: nn.Module) -> float:
    with training_mode(model, train=False):
        right, n = count_right(model, datasets.ordered(images, val, batch_size, n_workers))
    return right / n


WORLDS = {
    "ddpm": World(_denoising, preview=grid, validate=_nothing),
    "classifier": World(_classification, preview=_nothing, validate=accuracy),
}
