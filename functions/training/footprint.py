"""What a training step would hold in memory, found by taking it with tensors that have a shape and no values.

Every operation of the step is seen, and what it returns is counted for as long as it lives: weights, gradients, what
autograd keeps for the backward pass, and what is made and dropped on the way. Not counted: what kernels take inside
themselves, the allocator's rounding and gaps, torch's own libraries.
"""

from __future__ import annotations

import re
import warnings
import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# The rest of a run, such as batches and masks, has values: beside tensors without any they count as such
SHAPES = FakeTensorMode(allow_non_fake_inputs=True)


def outline(build: Callable[[], nn.Module], device: torch.device) -> nn.Module:
    """The module that `build` makes, for `device`, with weights that take no memory. What it computes has no values."""
    # said where modules are copied, and where tensors with values meet such without: no value is used
    for line in ("Accessing the data pointer of FakeTensor", "The .grad attribute of a Tensor that is not a leaf"):
        warnings.filterwarnings("ignore", message=re.escape(line))
    with torch.device("meta"):
        module = build()
    with SHAPES:
        for part in module.modules():
            for name, p in part._parameters.items():
                if p is not None:
                    empty = torch.empty_like(p, device=device)
                    part._parameters[name] = nn.Parameter(empty, requires_grad=p.requires_grad)
            for name, b in part._buffers.items():
                if b is not None:
                    part._buffers[name] = torch.empty_like(b, device=device)
    return module


class Held(TorchDispatchMode):
    """Bytes that tensors hold: of those in `hold`, and of all that operations return while this lasts.

    Attributes:
        now, peak: bytes, of storages: views of one count once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, weakref.ref] = {}
        self.now = self.peak = 0

    def hold(self, tensors: Iterable[Tensor]) -> int:
        """Count these, which were there before; by how many bytes that is more."""
        before = self.now
        for t in tensors:
            self._count(t)
        return self.now - before

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                self._count(t)
        return out

    def _count(self, t: Tensor) -> None:
        storage = t.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key not in self.storages:
            self.storages[key] = weakref.ref(storage, lambda _: self._drop(key, size))
            self.now += size
            self.peak = max(self.peak, self.now)

    def _drop(self, key: int, size: int) -> None:
        del self.storages[key]
        self.now -= size


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes of the values of these."""
    return sum(t.numel() * t.element_size() for t in tensors)
