"""Several devices: processes under `torchrun`, or DataParallel for the forward of one process's training loop.

Every process holds the whole model and its rows of every batch; what batches couple is reduced here. With one process
all of this does nothing. The process group is torch's, one for the program, so nobody hands it around.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from functions.errors import InputError
from functions.tasks import Rows


def size() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is. Process 0 writes and speaks."""
    return dist.get_rank() if dist.is_initialized() else 0


def mean_(tensors: Sequence[Tensor]) -> None:
    """Each tensor becomes its mean over the processes, in place; one message for all of them."""
    if size() > 1:
        sum_(tensors)
        torch._foreach_div_(tensors, size())


def sum_(tensors: Sequence[Tensor]) -> None:
    """Each tensor becomes its sum over the processes, in place; one message for all of one type."""
    if size() == 1:
        return
    for dtype in sorted({t.dtype for t in tensors}, key=str):
        alike = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.flatten() for t in alike])
        dist.all_reduce(flat)
        parts = flat.split([t.numel() for t in alike])
        torch._foreach_copy_(alike, [part.view(t.shape) for part, t in zip(parts, alike)])


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; anything else is taken as torch understands it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    # torch's words for an unknown name and for a missing driver
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device: {name}: {str(error).splitlines()[0]}") from None
    return device


def parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """The model to call in a training step: DataParallel where several CUDA devices are visible, else the model.

    Losses stay per example and are reduced after the gather, so the mean is over the whole batch. Checkpoints, Fishers
    and masks always use the plain model and its names.
    """
    several = device.type == "cuda" and device.index is None and torch.cuda.device_count() > 1
    return nn.DataParallel(model) if several else model


def rows(batch_size: int) -> Rows:
    """This process's part of every batch. Raises InputError where the batch cannot be shared equally."""
    if batch_size % size():
        raise InputError(f"training.batch_size: {batch_size} images cannot be shared equally by {size()} processes")
    return Rows(rank(), size())


def mean_of(stats: dict[str, Tensor | float]) -> dict[str, float]:
    """What a step returned, read to the host: the mean over the processes, whose batches are alike in size."""
    if size() == 1:
        return {name: float(value) for name, value in stats.items()}
    found = {name: v.detach().double().reshape(()) for name, v in stats.items() if isinstance(v, Tensor)}
    mean_(list(found.values()))
    return {name: float(found.get(name, value)) for name, value in stats.items()}
