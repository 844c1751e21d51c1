"""A row per world: what its task is, and how a run looks at its model on the way."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor, nn

import datasets
from functions.config.schema import Config, Sampling
from functions.config.selection import forgotten_classes
from functions.sampling import sheet
from functions.sampling.samplers import generate
from functions.sampling.write import to_uint8
from functions.tasks import Classification, Denoising, Encoder, Task, denoising
from functions.training.classifier_training import count_right
from functions.training.modes import training_mode

GRID_ROW = 8  # images per condition
GRID_STEPS, GRID_GUIDANCE = 20, 2.0  # of DPM-Solver++: a look at the run, not a measurement

Look = Callable[[nn.Module], Image]  # model -> rows of GRID_ROW images with their names, the same noise each time
Images = datasets.ImageSet | datasets.FolderImages
Score = Callable[[nn.Module], float]  # model -> accuracy on the images set aside


class World(NamedTuple):
    """`task(n_conditions, diffusion, encoder)`; `preview` and `validate` make a Look and a Score, or None."""

    task: Callable[[int, dict | None, Encoder], Task]
    preview: Callable[[Config, Task, Images], Look | None]
    validate: Callable[[Config, Images, Tensor], Score | None]


def _classification(n_conditions: int, diffusion: dict | None, encoder: Encoder) -> Classification:
    return Classification(n_conditions)


def _denoising(n_conditions: int, diffusion: dict | None, encoder: Encoder) -> Denoising:
    return denoising(diffusion, encoder, n_conditions)


def _nothing(*_: object) -> None:
    return None


def grid(cfg: Config, task: Denoising, images: Images) -> Look | None:
    """GRID_ROW images of each of `training.preview` conditions; None where that is off."""
    if cfg.training is None or cfg.training.preview == "off":
        return None
    forgotten = forgotten_classes(cfg.forget)
    chosen = grid_conditions(task.n_conditions, cfg.training.preview, forgotten)
    return functools.partial(_grid, task, sheet.rows_of(chosen, images.classes, forgotten), images.shape)


def grid_conditions(n: int, most: int, forgotten: list[int]) -> list[int]:
    """At most `most` of 0..n-1, evenly spread, a forgotten one in place of its neighbour, as far as there is room."""
    if n <= most:
        return list(range(n))
    chosen = [round(i * (n - 1) / max(most - 1, 1)) for i in range(most)]
    shown = forgotten[:most]
    for label in shown:
        if label not in chosen:
            free = [i for i in range(most) if chosen[i] not in shown]
            chosen[min(free, key=lambda i: abs(chosen[i] - label))] = label
    return sorted(chosen)


@torch.no_grad()
def _grid(task: Denoising, rows: list[sheet.Row], shape: tuple[int, ...], model: nn.Module) -> Image:
    labels = torch.tensor([row.c for row in rows]).repeat_interleave(GRID_ROW)
    indices = torch.arange(GRID_ROW).repeat(len(rows))
    steps = min(GRID_STEPS, task.timesteps - 1)
    sampling = Sampling(sample_type="dpm_solver", timesteps=steps, cond_scale=GRID_GUIDANCE)
    drawn = generate(task, model, labels, indices, task.encoder.shape(shape), sampling, seed=0)
    pixels = to_uint8(drawn, minmax=False).numpy()
    return sheet.sheet({f"guidance {GRID_GUIDANCE:g}": sheet.images_of(pixels, GRID_ROW)}, rows)


def accuracy(cfg: Config, images: Images, val: Tensor) -> Score | None:
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
    "dit": World(_denoising, preview=grid, validate=_nothing),
    "classifier": World(_classification, preview=_nothing, validate=accuracy),
}
