"""From epochs to steps: which set each step draws from. Torch-free."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence


class Epochs:
    """An epoch is one pass over a set, or several passes in turn, as `passes(epoch)` names them.

    A pass over n images is ceil(n / batch_size) steps of full batches: 5 images at batch 64 are one step of 64, each
    image drawn a dozen times (`Stream`). Most methods pass over the remain set; SalUn's split order is
    the forget set and then the remain set; SCRUB leaves the forget set out after its first epochs.
    """

    def __init__(self, sizes: Mapping[str, int], batch_size: int, passes: Callable[[int], Sequence[str]]) -> None:
        self.steps = {name: -(-n // batch_size) for name, n in sizes.items()}
        self.passes = passes
        self.ends: list[int] = []  # the step after each pass
        self.what: list[tuple[int, str]] = []  # (epoch, set) of each pass

    def total(self, epochs: int) -> int:
        """Steps of so many epochs."""
        return sum(self.steps[name] for e in range(epochs) for name in self.passes(e))

    def at(self, k: int) -> tuple[int, str]:
        """(epoch, set) of step k, both from 0."""
        while not self.ends or self.ends[-1] <= k:
            e = self.what[-1][0] + 1 if self.what else 0
            for name in self.passes(e):
                self.ends.append((self.ends[-1] if self.ends else 0) + self.steps[name])
                self.what.append((e, name))
        return self.what[bisect_right(self.ends, k)]
