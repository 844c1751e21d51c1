"""A row per world: what its task is, and how a run looks at its model on the way."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

import datasets
from functions.config.schema import Config
from functions.tasks import Classification, Denoising, Encoder, Task, denoising
from functions.training.classifier_training import count_right
from functions.training.modes import training_mode
from runners import previews
from runners.previews import Look

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
    "ddpm": World(_denoising, preview=previews.grid, validate=_nothing),
    "dit": World(_denoising, preview=previews.grid, validate=_nothing),
    "classifier": World(_classification, preview=_nothing, validate=accuracy),
}
