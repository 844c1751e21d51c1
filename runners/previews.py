"""Looks at a diffusion run on its way: rows of images from fixed noise, as many as asked for, or as its passes pay for.

A pass is one image once forward through the model. `training.preview: auto` spends a tenth of them at most: counted,
not timed, so the same run has the same pictures everywhere.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from PIL.Image import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import datasets
from functions.config.schema import Config, Sampling
from functions.config.selection import forgotten_classes
from functions.sampling import sheet
from functions.sampling.samplers import generate
from functions.sampling.write import to_uint8
from functions.tasks import Denoising, Draw

GRID_ROWS, GRID_ROW = 10, 8  # conditions at most where their number is `auto`, and images of each
GRID_STEPS, GRID_GUIDANCE = 20, 2.0  # of DPM-Solver++: a look at the run, not a measurement
LEAST_STEPS = 5  # with fewer nothing can be told from the picture
SHARE = 0.1  # of a run's passes, that `auto` may spend

Images = datasets.ImageSet | datasets.FolderImages


class Grid(NamedTuple):
    """`rows` conditions of `columns` images, each of so many `steps` of the sampler."""

    rows: int
    columns: int
    steps: int

    def passes(self, decoding: float) -> float:
        """What it costs: guidance doubles each step, and an image is decoded once, for `decoding` passes."""
        return self.rows * self.columns * (2 * self.steps + decoding)


class Preview(NamedTuple):
    """A picture, None where the passes did not pay for one, and how many passes it took."""

    page: Image | None
    passes: float
    grid: Grid | None


# (model, passes of the run since the look before it); from the same noise each time
Look = Callable[[nn.Module, float], Preview]


def grid(cfg: Config, task: Denoising, images: Images) -> Look | None:
    """Looks as `training.preview` asks; None where that is off."""
    if cfg.training is None or cfg.training.preview == "off":
        return None
    decoding = functools.cache(functools.partial(decoding_passes, task, task.encoder.shape(images.shape)))
    return functools.partial(_look, task, images, cfg.training.preview, forgotten_classes(cfg.forget), decoding)


def affordable(passes: float, decoding: float, n_conditions: int, steps: int = GRID_STEPS) -> Grid | None:
    """The largest grid for so many passes: whole steps first, then images of one row, then a square.

    Where one image of `steps` is too much it has fewer steps, and below `LEAST_STEPS` there is none.
    """
    n = int(passes / (2 * steps + decoding))
    if n == 0:
        fewer = math.floor((passes - decoding) / 2)
        return Grid(1, 1, fewer) if fewer >= min(LEAST_STEPS, steps) else None
    rows = max(1, min(GRID_ROWS, n_conditions, math.isqrt(n)))
    return Grid(rows, min(GRID_ROW, n // rows), steps)


def decoding_passes(task: Denoising, shape: Sequence[int], model: nn.Module) -> float:
    """Multiplications of decoding an image by those of a pass, for what the model draws, (C, H, W). 0 for pixels."""
    parameter = next(model.parameters())
    x = torch.zeros((1, *shape), dtype=parameter.dtype, device=parameter.device)
    c = torch.zeros(1, dtype=torch.long, device=x.device)
    decoding = _flops(lambda: task.encoder.decode(x))
    return decoding and decoding / _flops(lambda: task.predict(model, Draw(x, c, c)))


def _flops(work: Callable[[], object]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@torch.no_grad()
def _look(
    task: Denoising,
    images: Images,
    asked: int | str,
    forgotten: list[int],
    decoding_of: Callable[[nn.Module], float],
    model: nn.Module,
    passes: float,
) -> Preview:
    decoding, most_steps = decoding_of(model), min(GRID_STEPS, task.timesteps - 1)
    if asked == "auto":
        size, choose = affordable(SHARE * passes, decoding, task.n_conditions, most_steps), sheet.nearest_classes
    else:
        size, choose = Grid(min(asked, task.n_conditions), GRID_ROW, most_steps), sheet.spread_classes
    if size is None:
        return Preview(None, 0.0, None)
    rows = sheet.rows_of(choose(task.n_conditions, size.rows, forgotten), images.classes, forgotten)
    labels = torch.tensor([row.c for row in rows]).repeat_interleave(size.columns)
    indices = torch.arange(size.columns).repeat(len(rows))
    sampling = Sampling(sample_type="dpm_solver", timesteps=size.steps, cond_scale=GRID_GUIDANCE)
    drawn = generate(task, model, labels, indices, task.encoder.shape(images.shape), sampling, seed=0)
    pixels = to_uint8(drawn, minmax=False).numpy()
    page = sheet.sheet({f"guidance {GRID_GUIDANCE:g}": sheet.images_of(pixels, size.columns)}, rows)
    return Preview(page, size.passes(decoding), size)
