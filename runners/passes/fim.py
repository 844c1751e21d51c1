"""Selective Amnesia's Fisher over the model's own samples, image by image, resumable."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from functions.config.schema import Config
from functions.curvature.gradients import check_diagonal, zeros
from functions.curvature.sweep import sweep
from functions.files import version
from functions.interrupts import Stopped, Wish, deferred
from functions.interrupts import name as name_of
from functions.locks import remove_leftovers, writing_file
from functions.progress import each
from functions.randomness import keyed_generator
from functions.storage.artifacts import load_tensors, save_tensors
from functions.storage.cost import Cost
from functions.storage.pickles import save_tensor_dict
from functions.storage.provenance import OfSums
from functions.storage.published import wrapped_names
from functions.tasks import Draw
from functions.training import distributed
from runners.draws import counted_together
from runners.replay import FISHER, fingerprint, own_samples
from runners.setup import Materials


class SweepFisher:
    """Writes `<ckpt_folder>/fisher_dict.safetensors`, and `fisher_dict.pkl` as the published scripts name it."""

    mode, fresh = "fim", False

    def __init__(self, cfg: Config, materials: Materials):
        self.cfg, self.materials = cfg, materials
        classes = set(range(materials.task.n_conditions))
        self.images = own_samples(cfg, materials, classes, cfg.fim.per_class)
        self.path = Path(cfg.ckpt_folder) / FISHER
        self.part = distributed.part()
        self.own = range(self.part.rank, len(self.images), self.part.size)  # this process's images
        share = "" if self.part.size == 1 else f".{self.part.rank}of{self.part.size}"
        self.partial = self.path.with_name(f".fisher_dict.partial{share}.safetensors")

    def run(self) -> Path:
        with distributed.held_by_first(lambda: writing_file(self.path)), deferred() as wish:
            self._write(wish)
        return self.path

    def _write(self, wish: Wish) -> None:
        begun, n, cost = self._begun()
        cost.watch(self.materials.model)
        with cost:
            total = begun
            for total in sweep(self.materials.model, self.materials.task.losses, self._sweeps(n), begun):
                n += 1
                if self._due(n) or wish.number:
                    so_far = {name: t.cpu() for name, t in total.items()}
                    cost.pause()
                    self._save(self.partial, so_far, n, cost)
                    cost.start()
                if wish.number:
                    line = f"stopped by {name_of(wish.number)} after {n} of {len(self.own)} samples"
                    raise Stopped(wish.number, f"{line}; the same command goes on there")
            n = distributed.sum_counted(list(total.values()), n)
            fisher = {name: (t / n).cpu() for name, t in total.items()}  # waits for the device
        check_diagonal(fisher, f"Fisher of {self.cfg.ckpt_folder}")
        made = {**self._provenance(), "n": n, "cost": counted_together(cost).record(), "version": version()}
        if distributed.rank() == 0:
            save_tensors(self.path, fisher, made)
            save_tensor_dict(self.path.with_suffix(".pkl"), wrapped_names(fisher))
        distributed.agree({"Fisher": n})  # written, before anyone forgets what it was made from
        self.partial.unlink(missing_ok=True)
        if distributed.rank() == 0:
            remove_leftovers(self.path.parent, ".fisher_dict*")
            remove_leftovers(self.path.parent, "fisher_dict*")
        print(f"Fisher of {n} samples: {self.path} and {self.path.with_suffix('.pkl')}")

    def _due(self, n: int) -> bool:
        """Whether it is time to keep what there is; the last image is kept by the result itself."""
        due = time.monotonic() - self.saved > self.cfg.fim.save_seconds and n < len(self.own)
        self.saved = time.monotonic() if due else self.saved
        return due

    def _begun(self) -> tuple[dict[str, Tensor], int, Cost]:
        """The sums, the number of images and the cost of an interrupted run of this same command, or a fresh start."""
        cost, wanted = Cost(), self._provenance()
        self.saved = time.monotonic()
        nothing = zeros(dict(zip(self.materials.names, self.materials.params)))
        if not self.partial.is_file():
            return nothing, 0, cost
        total, made = load_tensors(self.partial, OfSums)
        if {k: made.get(k) for k in wanted} != wanted:
            print(f"{self.partial}: of another checkpoint or other settings; beginning anew")
            return nothing, 0, cost
        cost.add(made["cost"])
        print(f"resuming after {made['n']} of {len(self.own)} samples")
        return {name: t.to(self.materials.device) for name, t in total.items()}, made["n"], cost

    def _save(self, path: Path, tensors: dict[str, Tensor], n: int, cost: Cost) -> None:
        save_tensors(path, tensors, {**self._provenance(), "n": n, "cost": cost.record(), "version": version()})

    def _provenance(self) -> dict:
        settings = self.cfg.fim.model_dump(exclude={"n_chunks", "save_seconds"})
        return {
            "checkpoint": self.materials.source,
            "estimator": "sweep",
            "images": fingerprint(self.images),
            "weights": self.cfg.init_weights,
            "seed": self.cfg.seeds.of("order"),
            "device": self.materials.device.type,
            **settings,
        }

    def _sweeps(self, start: int) -> Iterator[Iterator[Draw]]:
        f, device = self.cfg.fim, self.materials.device
        for i in each(self.own[start:], "Fisher", len(self.own), "images", start):
            x, c = self.images.gather(torch.tensor([i]))
            generator = keyed_generator(self.cfg.seeds.of("order"), "fim", i, device=device)
            x = (x + 1) / 2 if f.unit_images else x  # what the encoder maps to [0, 1]
            yield self.materials.task.sweep(x, c, f.n_chunks, f.drop_labels, generator)

    def plan(self) -> str:
        """What `--dry_run` prints after the config."""
        steps, f = self.materials.task.timesteps, self.cfg.fim
        lines = [
            f"Fisher on {self.materials.device}: {len(self.images)} samples, {steps} timesteps each in "
            f"{f.n_chunks} chunks",
            f"trainable weights: {sum(p.numel() for p in self.materials.model.parameters()):,}",
            f"would write: {self.path} and {self.path.with_suffix('.pkl')}",
        ]
        return "\n".join(lines)
