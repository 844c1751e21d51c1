"""Where training lost its mind: a latch on the device that remembers the first step of a NaN, read when asked."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from functions.finite import bad_values


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
        state = model.state_dict()  # BatchNorm's statistics too
        norms = torch._foreach_norm([t for t in state.values() if t.is_floating_point()])
        if torch.stack(norms).isfinite().all():
            return None
        # a norm may also be too large for its type, of weights that are finite
        names = ", ".join(list(bad_values(state))[:5])
        return f"a weight is NaN or infinite at step {step} ({names})" if names else None
