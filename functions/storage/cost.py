"""What a run spends: seconds, and images through the forward and the backward pass."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch
from torch import nn


class Cost:
    """Counts, from `start` to `pause`: seconds, and images passed forward and backward through `watch`ed models.

    A forward pass under enabled gradients counts as one backward pass too where the model has trainable weights or the
    images ask for a gradient: each loss here is differentiated once. Whoever pauses has synchronised the device (a
    snapshot and the end of a pass do).
    """

    def __init__(self, processes: int = 1) -> None:
        """`processes` share each batch equally: what passes here passes in each of them."""
        self.seconds, self.forward, self.backward, self.processes = 0.0, 0, 0, processes
        self._started: float | None = None

    def watch(self, model: nn.Module) -> None:
        """Count what passes through `model` from now on."""
        trainable = any(p.requires_grad for p in model.parameters())

        def count(module: nn.Module, args: tuple) -> None:
            if self._started is not None:
                n = self.processes * len(args[0])
                differentiated = torch.is_grad_enabled() and (trainable or args[0].requires_grad)
                self.forward += n
                self.backward += n if differentiated else 0

        model.register_forward_pre_hook(count)

    def passed(self, n: int) -> None:
        """n images went forward and backward past the models that are watched."""
        if self._started is not None:
            self.forward += self.processes * n
            self.backward += self.processes * n

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """What passes meanwhile is everything: every process passes it all."""
        processes, self.processes = self.processes, 1
        yield
        self.processes = processes

    def start(self) -> None:
        self._started = time.perf_counter()

    def pause(self) -> None:
        if self._started is not None:
            self.seconds += time.perf_counter() - self._started
            self._started = None

    def __enter__(self) -> Cost:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.pause()

    def record(self) -> dict[str, float]:
        """For meta.json and provenance."""
        return {"seconds": round(self.seconds, 3), "forward": self.forward, "backward": self.backward}

    def add(self, record: dict[str, float]) -> None:
        """What an earlier part of the same run spent."""
        self.seconds += record["seconds"]
        self.forward += record["forward"]
        self.backward += record["backward"]


def total(records: list[dict[str, float]]) -> dict[str, float]:
    """The sum of several records."""
    return {key: round(sum(r[key] for r in records), 3) for key in ("seconds", "forward", "backward")}
