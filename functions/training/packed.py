"""Optimisers that know only the weights in a mask: their moments take no memory for weights that never move."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

# Kept weights that are gathered at once: 8 bytes for each of them and its gradient, 8 for its place. Enough to keep a
# GPU busy; a larger weight is one chunk by itself.
CHUNK = 1 << 23
# Floats of a cache line: fused CPU kernels do what is left over beyond it one by one, and round that otherwise
LINE = 16


class Row(NamedTuple):
    """A weight, its mask, how many values that keeps, and where they lie during a step."""

    p: nn.Parameter
    mask: Tensor
    k: int
    kept: nn.Parameter


class Packed:
    """What `make` builds, for the weights in `masks` alone; the others are neither read nor written.

    Of weight p with mask m and K = sum m the inner optimiser has one row (K',): the kept values in the order of p, K'
    = K rounded up to a multiple of LINE. The row is filled with p and its gradient for the time of a step, chunk by
    chunk, and written back; only moments stay. Places are counted anew from m in each step: as numbers they would take
    as much memory as a moment. K is read once, here; a step waits for no device.

    Where sizes are multiples of LINE a step has the bits of the same optimiser under a strict mask on all weights. Else
    torch's fused CPU kernels round the last few values of a tensor differently: by one unit in the last place a step.

    Attributes:
        param_groups: the weights as they are, with the rate; the inner optimiser takes it from here.
    """

    def __init__(
        self,
        params: Sequence[nn.Parameter],
        masks: Sequence[Tensor],
        make: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    ):
        counts = torch.stack([m.sum() for m in masks]).tolist()
        rows = [Row(p, m, k, nn.Parameter(p.new_empty(0))) for p, m, k in zip(params, masks, counts, strict=True)]
        self.chunks = _chunks([row for row in rows if row.k])
        self.inner = make([row.kept for row in rows])
        self.param_groups = [{**self.inner.param_groups[0], "params": list(params)}]

    def add_param_group(self, group: dict) -> None:
        """Weights without a mask, such as a module that is trained along."""
        self.inner.add_param_group(group)
        self.param_groups.append(dict(self.inner.param_groups[-1]))

    def zero_grad(self) -> None:
        for p in self._weights(self.param_groups):
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One step of the inner optimiser for each chunk; those of weights without a mask with the first."""
        for inner, group in zip(self.inner.param_groups, self.param_groups):
            inner["lr"] = group["lr"]
        for chunk in self.chunks:
            filled = [(row, _fill(row)) for row in chunk if row.p.grad is not None]
            self.inner.step()
            for row, places in filled:
                row.p.put_(places[: row.k], row.kept[: row.k])
                row.kept.data, row.kept.grad = row.kept.new_empty(0), None
            for p in self._weights(self.param_groups[1:]):
                p.grad = None

    def _weights(self, groups: list[dict]) -> Iterator[nn.Parameter]:
        return (p for group in groups for p in group["params"])

    def state_dict(self) -> dict:
        """The inner optimiser's."""
        return self.inner.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.inner.load_state_dict(state)
        for inner, group in zip(self.inner.param_groups, self.param_groups):
            group["lr"] = inner["lr"]


def _chunks(rows: list[Row]) -> list[list[Row]]:
    """Rows in their order, as many at once as come to CHUNK values or are one; one chunk where there is no row."""
    chunks, size = [[]], 0
    for row in rows:
        if chunks[-1] and size + row.k > CHUNK:
            chunks.append([])
            size = 0
        chunks[-1].append(row)
        size += row.k
    return chunks


def _fill(row: Row) -> Tensor:
    """Take the kept values of the weight and of its gradient; their places, (K',). The last K' - K places do not count.

    Those are copies of place 0, so that nothing is left to chance.
    """
    places = torch.nonzero_static(row.mask.flatten(), size=row.k + -row.k % LINE, fill_value=0)[:, 0]
    row.kept.data, row.kept.grad = torch.take(row.p, places), torch.take(row.p.grad, places)
    return places
