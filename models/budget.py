"""A bound on what building a model may allocate."""

from __future__ import annotations

import math

from torch.utils._python_dispatch import TorchDispatchMode

from functions.errors import InputError

MOST = 4 * 10**9  # numbers: 16 GB of float32
TENSORS = 10**5  # each costs time, however small


class Budget(TorchDispatchMode):
    """While it lasts, new tensors of more than `most` numbers together are refused before they take memory.

    InputError then. What is computed stays the same to the bit.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.numbers, self.tensors = most, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if args and isinstance(args[0], (list, tuple)) and all(type(n) is int for n in args[0]):
            # `empty`, `zeros`, `randn` and the like: their first argument is a shape
            self.numbers += math.prod(args[0])
            self.tensors += 1
            if self.numbers > self.most or self.tensors > TENSORS:
                raise InputError(f"model: describes more than {self.most:,} numbers or {TENSORS:,} tensors")
        return func(*args, **(kwargs or {}))
