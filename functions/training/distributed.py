"""Several devices: processes under `torchrun`, or DataParallel for the forward of one process's training loop.

Every process holds the whole model and its rows of every batch; whatever couples rows is reduced by the functions here.
With one process they do nothing. The process group is torch's, one for the program, so nobody hands it around.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from functions.errors import InputError
from functions.tasks import Rows

T = TypeVar("T")
GONE = ("connection", "timed out", "peer", "broken pipe")  # in what gloo says when a process has ended
PATIENCE = datetime.timedelta(minutes=30)  # for process 0 to validate, preview and save while the others wait


def size() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is. Process 0 alone writes and speaks."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """Join the processes that `torchrun` started, and leave them at the end; nothing where there is only this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if int(os.environ["LOCAL_RANK"]) < torch.cuda.device_count():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # by the tensors' device: a run on the CPU of a machine with GPUs is one too
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        with _silent() if rank() else contextlib.nullcontext():
            yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """No lines and no bars: process 0 has the same to say. Errors still go to stderr."""
    os.environ["TQDM_DISABLE"] = "1"
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _together(collective: Callable[[], T]) -> T:
    """What all processes do at once. Raises InputError where one of them is gone; backends say that in their way."""
    try:
        return collective()
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(word in str(error).lower() for word in GONE):
            raise
        reason = str(error).splitlines()[0][:150]
        raise InputError(
            f"process {rank()} of {size()}: the others do not answer, one of them has ended ({reason}); checkpoints "
            "are whole, --resume goes on"
        ) from None


def rows(batch_size: int) -> Rows:
    """This process's part of every batch. Raises InputError where the batch cannot be shared equally."""
    if batch_size % size():
        raise InputError(f"training.batch_size: {batch_size} images cannot be shared equally by {size()} processes")
    return Rows(rank(), size())


def sum_(tensors: Sequence[Tensor], divided_by: int = 1) -> None:
    """Each tensor becomes its sum over the processes, in place; one message for all of one type.

    A tensor may be in the list twice, as autograd gives equal gradients.
    """
    if size() == 1:
        return
    for dtype in sorted({t.dtype for t in tensors}, key=str):
        alike = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.flatten() for t in alike])
        _together(lambda flat=flat: dist.all_reduce(flat))
        if divided_by > 1:
            flat /= divided_by
        parts = flat.split([t.numel() for t in alike])
        torch._foreach_copy_(alike, [part.view(t.shape) for part, t in zip(parts, alike)])


def mean_(tensors: Sequence[Tensor]) -> None:
    """Each tensor becomes its mean over the processes, in place."""
    sum_(tensors, divided_by=size())


def total(value: Tensor) -> Tensor:
    """The sum of `value` over the processes, not differentiated; `value` itself with one."""
    if size() == 1:
        return value
    value = value.detach().clone()
    sum_([value])
    return value


def mean_of(stats: dict[str, Tensor | float]) -> dict[str, float]:
    """What a step returned, read to the host: the mean over the processes, whose batches are alike in size."""
    if size() == 1:
        return {name: float(value) for name, value in stats.items()}
    found = {name: v.detach().double().reshape(()) for name, v in stats.items() if isinstance(v, Tensor)}
    mean_(list(found.values()))
    return {name: float(found.get(name, value)) for name, value in stats.items()}


def share(items: Sequence[T]) -> list[T]:
    """This process's items: every `size`-th, so that long and short ones mix."""
    return list(items[rank() :: size()])


def part() -> Rows:
    """For passes over a set: which of how many parts is this process's."""
    return Rows(rank(), size())


def sum_counted(sums: Sequence[Tensor], n: int) -> int:
    """The sums over all processes, in place, and how many terms they have; here they had n."""
    sum_(sums)
    return sum(gather(n))


def gather(value: T) -> list[T]:
    """The value of every process, in their order."""
    if size() == 1:
        return [value]
    found: list = [None] * size()
    _together(lambda: dist.all_gather_object(found, value))
    return found


def on_first(make: Callable[[], T]) -> T:
    """`make()`, done by process 0 alone and told to all. Where it raises InputError or OSError there, all raise it."""
    if size() == 1:
        return make()
    made, error = None, None
    if rank() == 0:
        try:
            made = make()
        except (InputError, OSError) as found:
            error = found
    made, error = gather((made, error))[0]
    if error is not None:
        raise error
    return made


@contextlib.contextmanager
def held_by_first(hold: Callable[[], contextlib.AbstractContextManager[T]]) -> Iterator[T]:
    """`with hold()`, entered by process 0 alone, for all of them; what it yields is told to all."""
    with contextlib.ExitStack() as held:
        yield on_first(lambda: held.enter_context(hold()))


def largest(value: int) -> int:
    """The largest of the processes' values."""
    if size() == 1:
        return value
    found = torch.tensor(value)
    _together(lambda: dist.all_reduce(found, dist.ReduceOp.MAX))
    return int(found)


def agree(facts: dict[str, object]) -> None:
    """Raises InputError in every process where the processes differ in one of `facts`: the first by name."""
    found = gather(facts)
    for key in facts:
        for i, other in enumerate(found):
            if other[key] != found[0][key]:
                raise InputError(f"process {i} has another {key} than process 0: {other[key]}, not {found[0][key]}")


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, each process its own; anything else is taken as torch understands it."""
    if size() > 1 and name not in ("auto", "cpu"):
        raise InputError(f"device: {name}: of several processes each has its own device; wanted auto, or cpu")
    if name == "auto":
        name = "cpu" if not torch.cuda.is_available() else "cuda" if size() == 1 else _own_cuda()
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    # torch's words for an unknown name, for a missing driver and for a device that holds no values
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device: {name}: {str(error).splitlines()[0]}") from None
    return device


def _own_cuda() -> str:
    own, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if own >= there:
        raise InputError(f"process {rank()} of {size()}: {there} CUDA devices for more processes (--nproc_per_node)")
    return f"cuda:{own}"


def parallel(model: nn.Module, device: torch.device, asked: Sequence[str] = ()) -> nn.Module:
    """The model to call in a training step: DataParallel where one process sees several CUDA devices, else the model.

    Losses stay per example and are reduced after the gather, so the mean is over the whole batch. Checkpoints, Fishers
    and masks always use the plain model and its names. Raises InputError where `asked` names keys of `training` that
    replicas cannot do.
    """
    if size() > 1 or device.type != "cuda" or device.index is not None or torch.cuda.device_count() < 2:
        return model
    if asked:
        raise InputError(
            f"training.{asked[0]}: not for DataParallel over {torch.cuda.device_count()} devices; wanted torchrun, or "
            "one device in CUDA_VISIBLE_DEVICES"
        )
    return nn.DataParallel(model)
