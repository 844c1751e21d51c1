"""Selective Amnesia's Fisher (arXiv 2305.10120): F_i = mean over images of (sum over t of d l_t / d theta_i)^2.

The sum over all timesteps of one image is an ordinary batch, cut into chunks where memory is short; only then is it
squared. Its sum of squares grows image by image, so a pass can stop anywhere and go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from functions.curvature.gradients import evaluating, zeros
from functions.tasks import Draw


def sweep(
    model: nn.Module,
    losses: Callable[[nn.Module, Draw], Tensor],
    images: Iterable[Iterable[Draw]],
    start: dict[str, Tensor] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """After each image, sum over the images so far of (sum over t of d l_t / d theta)^2, in at least float32.

    Args:
        losses: `(model, draw) -> (rows,)`, with everything but these two bound.
        images: for each image its draws over all timesteps, in chunks of any size.
        start: the sums of the images before these; added to in place, as is what is yielded.

    The model is in `eval()` while this runs; modes and `.grad` are restored when the last image is done or the
    generator is closed. Divide by the number of images for F.
    """
    with evaluating(model) as params:
        total = start or zeros(params)
        for draws in images:
            for p in params.values():
                p.grad = None
            for draw in draws:
                losses(model, draw).sum().backward()
            used = [n for n, p in params.items() if p.grad is not None]
            gradients = [params[n].grad.to(total[n].dtype) for n in used]
            torch._foreach_addcmul_([total[n] for n in used], gradients, gradients)
            yield total
