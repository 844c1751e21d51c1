"""Selective Amnesia's Fisher over the model's own samples, image by image, resumable."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from functions.config.schema import Config
from functions.curvature.gradients import check_diagonal
from functions.curvature.sweep import sweep
from functions.files import version
from functions.randomness import keyed_generator
from functions.storage.artifacts import load_tensors, save_tensors
from functions.storage.cost import Cost
from functions.storage.pickles import save_tensor_dict
from functions.storage.published import wrapped_names
from functions.tasks import Draw
from runners.methods.sa import FISHER
from runners.replay import fingerprint, own_samples
from runners.setup import Setup


class SweepFisher:
    """Writes `<ckpt_folder>/fisher_dict.safetensors`, and `fisher_dict.pkl` as the published scripts name it."""

    mode, fresh = "fim", False

    def __init__(self, cfg: Config, setup: Setup):
        self.cfg, self.setup = cfg, setup
        classes = set(range(setup.task.n_classes))
        self.images = own_samples(cfg, setup, classes, cfg.fim.per_class)
        self.path = Path(cfg.ckpt_folder) / FISHER
        self.partial = self.path.with_name(".fisher_dict.partial.safetensors")

    def run(self) -> Path:
        begun, n, cost = self._begun()
        cost.watch(self.setup.model)
        with cost:
            for total in sweep(self.setup.model, self.setup.task.losses, self._sweeps(n), begun):
                n += 1
                if self._due(n):
                    so_far = {name: t.cpu() for name, t in total.items()}
                    cost.pause()
                    self._save(self.partial, so_far, n, cost)
                    cost.start()
            fisher = {name: (t / n).cpu() for name, t in total.items()}  # waits for the device
        check_diagonal(fisher, f"Fisher of {self.cfg.ckpt_folder}")
        self._save(self.path, fisher, n, cost)
        save_tensor_dict(self.path.with_suffix(".pkl"), wrapped_names(fisher))
        self.partial.unlink(missing_ok=True)
        print(f"Fisher of {n} samples: {self.path} and {self.path.with_suffix('.pkl')}")
        return self.path

    def _due(self, n: int) -> bool:
        """Whether it is time to keep what there is; the last image is kept by the result itself."""
        due = time.monotonic() - self.saved > self.cfg.fim.save_seconds and n < len(self.images)
        self.saved = time.monotonic() if due else self.saved
        return due

    def _begun(self) -> tuple[dict[str, Tensor] | None, int, Cost]:
        """The sums, the number of images and the cost of an interrupted run of this same command, or a fresh start."""
        cost, wanted = Cost(), self._provenance()
        self.saved = time.monotonic()
        if not self.partial.is_file():
            return None, 0, cost
        total, made = load_tensors(self.partial)
        if {k: made.get(k) for k in wanted} != wanted:
            print(f"{self.partial}: of another checkpoint or other settings; beginning anew")
            return None, 0, cost
        cost.add(made["cost"])
        print(f"resuming after {made['n']} of {len(self.images)} samples")
        return {name: t.to(self.setup.device) for name, t in total.items()}, made["n"], cost

    def _save(self, path: Path, tensors: dict[str, Tensor], n: int, cost: Cost) -> None:
        save_tensors(path, tensors, {**self._provenance(), "n": n, "cost": cost.record(), "version": version()})

    def _provenance(self) -> dict:
        settings = self.cfg.fim.model_dump(exclude={"n_chunks", "save_seconds"})
        return {
            "checkpoint": self.setup.source,
            "estimator": "sweep",
            "images": fingerprint(self.images),
            "weights": self.cfg.init_weights,
            "seed": self.cfg.seeds.of("order"),
            "device": self.setup.device.type,
            **settings,
        }

    def _sweeps(self, start: int) -> Iterator[Iterator[Draw]]:
        f, device = self.cfg.fim, self.setup.device
        bar = tqdm(
            range(start, len(self.images)),
            desc="Fisher",
            unit=" images",
            initial=start,
            total=len(self.images),
            disable=None,
        )
        for i in bar:
            x, c = self.images.gather(torch.tensor([i]))
            generator = keyed_generator(self.cfg.seeds.of("order"), "fim", i, device=device)
            x = (x + 1) / 2 if f.unit_images else x  # what the encoder maps to [0, 1]
            yield self.setup.task.sweep(x, c, f.n_chunks, f.drop_labels, generator)

    def plan(self) -> str:
        """What `--dry_run` prints after the config."""
        steps, f = self.setup.task.timesteps, self.cfg.fim
        lines = [
            f"Fisher on {self.setup.device}: {len(self.images)} samples, {steps} timesteps each in {f.n_chunks} chunks",
            f"trainable weights: {sum(p.numel() for p in self.setup.model.parameters()):,}",
            f"would write: {self.path} and {self.path.with_suffix('.pkl')}",
        ]
        return "\n".join(lines)
