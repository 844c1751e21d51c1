"""How many threads a step wants here, measured: beside other programs two can take ten times as long as one."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

STEPS = 3  # timed with each number of threads, after one that warms up


class Threads(NamedTuple):
    """What was chosen, the seconds of a step for each number that was measured, and whose choice it was."""

    n: int
    seconds: dict[int, float]
    asked: bool  # by the user

    @property
    def step(self) -> float:
        """Seconds of a step with that number."""
        return self.seconds[self.n]

    def __str__(self) -> str:
        each = ", ".join(f"{n}: {s:.3f}" for n, s in self.seconds.items())
        why = "OMP_NUM_THREADS says so" if self.asked else f"seconds of a step by threads: {each}"
        return f"{self.n} thread{'s' * (self.n > 1)} ({why})"


def choose_threads(step: Callable[[], object], environ: Mapping[str, str] = os.environ) -> Threads:
    """Gives torch as many threads as make `step` fastest: 1, 2, 4, ..., or the number that torch itself would take.

    Where OMP_NUM_THREADS is set it stays, and its steps are timed all the same. Another number of threads adds in
    another order: results differ by rounding.
    """
    own, asked = torch.get_num_threads(), bool(environ.get("OMP_NUM_THREADS"))
    counts = [own] if asked else sorted({own, *(2**i for i in range(own.bit_length()) if 2**i < own)})
    times: dict[int, list[float]] = {n: [] for n in counts}
    # in turn, so that a slow phase of the machine hits all
    for _ in range(STEPS + 1):
        for n in counts:
            torch.set_num_threads(n)
            start = time.perf_counter()
            step()
            times[n].append(time.perf_counter() - start)
    seconds = {n: statistics.median(found[1:]) for n, found in times.items()}
    n = min(seconds, key=seconds.get)
    torch.set_num_threads(n)
    return Threads(n, seconds, asked)
