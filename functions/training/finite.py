"""Where training lost its mind: a latch on the device that remembers the first step of a NaN, read when asked."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Latch:
    """The first step whose numbers were not finite, kept on the device: a step copies nothing to the host."""

    def __init__(self, device: torch.device):
        self.first_bad = torch.full((), -1, dtype=torch.long, device=device)

    def watch(self, step: int, values: Iterable[Tensor]) -> None:
        """Note `step` (from 1) where one of `values` is NaN or infinite, and no earlier step was."""
        finite = torch.stack([v.isfinite().all() for v in values]).all()
        self.first_bad = torch.where((self.first_bad < 0) & ~finite, step, self.first_bad)

    def complaint(self, step: int, model: nn.Module) -> str | None:
        """What is wrong after `step`, or None: a loss since the beginning, or a weight or statistic of `model` now."""
        bad = int(self.first_bad)
        if bad >= 0:
            return f"the loss became NaN or infinite at step {bad}"
        state = {n: t for n, t in model.state_dict().items() if t.is_floating_point()}  # BatchNorm's statistics too
        finite = torch.stack(torch._foreach_norm(list(state.values()))).isfinite()
        if finite.all():
            return None
        # weights whose squares are no longer numbers of their type are as lost as NaN
        names = [n for n, fine in zip(state, finite.tolist()) if not fine]
        return f"a weight is NaN, infinite or near it at step {step} ({', '.join(names[:5])})"
