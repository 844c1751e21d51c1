"""Methods that change the weights once, without a loop: no optimiser, no streams, no moving average."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from functions.config.schema import Config
from functions.storage.cost import Cost
from functions.training.finite import Latch
from functions.training.update import add_to_weights
from runners import plan, snapshots
from runners.base import with_length
from runners.setup import Materials


class ClosedForm:
    """theta += delta, in the mask where there is one. Subclasses define `delta()` and are not subclassed themselves.

    Attributes as in `runners.base.Runner`; a run of one step, with a snapshot and logs like any other.
    """

    mode: str
    fresh, always_masked, copies = False, True, 0
    ema, extra, optimizers, streams = None, None, (), ()

    def __init__(self, cfg: Config, materials: Materials, resume: str | None = None):
        self.cfg, self.materials, self.resume = with_length(cfg, 1), materials, resume
        self.task, self.device, self.plain = materials.task, materials.device, materials.model
        self.names, self.params = materials.names, materials.params
        if cfg.training.channels_last:
            self.plain.to(memory_format=torch.channels_last)
        self.preview, self.validate, self.validated = materials.preview, materials.validate, None
        self.mask, self.meta = snapshots.load_mask(cfg, materials)
        self.cost = Cost()  # every process computes all of it
        self.cost.watch(self.plain)

    def delta(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(what is added to the weights, by name; what to log, tensors ())."""
        raise NotImplementedError

    def run(self) -> Path:
        """Change the weights, log, save; returns the run folder."""
        with snapshots.opened(self) as start:
            if start == 0:
                self._change()
        return self.folder.path

    def _change(self) -> None:
        self.cost.start()
        delta, stats = self.delta()
        masks = None if self.mask is None else [self.mask[n] for n in self.names]
        add_to_weights(self.params, [delta[n] for n in self.names], masks)
        latch = Latch(self.device)
        latch.watch(1, stats.values())
        if complaint := latch.complaint(1, self.plain):
            raise snapshots.diverged(self.folder.path, complaint)
        self.cost.pause()
        numbers = {name: float(value) for name, value in stats.items()}
        self.folder.record({"step": 1, **numbers})
        shown = "  ".join(f"{name} {value:.6g}" for name, value in numbers.items())
        self.folder.say(f"{self.mode} step 1/1  {shown}")
        snapshots.save(self, 1)

    def plan(self) -> str:
        """What `--dry_run` prints after the config."""
        return plan.of_run(self)
