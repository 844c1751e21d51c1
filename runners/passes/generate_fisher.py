"""The Fisher diagonals of the forget and the remain set, the raw material of SFR-on's mask."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import Tensor

from functions.config.schema import Config
from functions.curvature.fisher import ESTIMATORS
from functions.curvature.gradients import check_diagonal
from functions.errors import InputError
from functions.locks import remove_leftovers, writing_folder
from functions.storage.artifacts import save_tensors
from functions.storage.cost import Cost
from functions.training import distributed
from runners.draws import amount_drawn, counted_together, fixed_draws, n_drawn, pass_folder
from runners.setup import Materials


class GenerateFisher:
    """Writes `<ckpt_folder>/mask_<label>/{forget,remain}_fisher.safetensors`; a closed form, no loop over steps.

    With `fisher.mask_path` the folder is `<mask_path>/<label>`.
    """

    mode, fresh = "generate_fisher", False

    def __init__(self, cfg: Config, materials: Materials, resume: str | None = None):
        if resume is not None:
            raise InputError("--resume: generate_fisher is one pass and has nothing to resume; run it again")
        self.cfg, self.materials = cfg, materials
        name = materials.selection["name"]
        self.folder = pass_folder(cfg, cfg.fisher, name, Path(cfg.ckpt_folder) / f"mask_{name}")

    def run(self) -> Path:
        with distributed.held_by_first(lambda: writing_folder(self.folder)):
            self._write()
        return self.folder

    def _write(self) -> None:
        if distributed.rank() == 0:
            remove_leftovers(self.folder)
        for side, indices in (("forget", self.materials.forget), ("remain", self.materials.remain)):
            cost = Cost()
            cost.watch(self.materials.model)
            with cost:
                fisher = {n: f.cpu() for n, f in self._fisher(side, indices).items()}  # waits for the device
            check_diagonal(fisher, f"Fisher of the {side} set of {self.cfg.ckpt_folder}")
            n = n_drawn(self.cfg.fisher, len(indices))
            made = {**self._provenance(side, n), "cost": counted_together(cost).record()}
            if distributed.rank() == 0:
                save_tensors(self.folder / f"{side}_fisher.safetensors", fisher, made)
        print(f"Fisher diagonals of {self.materials.selection['name']} and of the rest: {self.folder}")

    def _fisher(self, side: str, indices: Tensor) -> dict[str, Tensor]:
        f = self.cfg.fisher
        losses = partial(self.materials.task.losses, guidance=f.guidance)
        amount = f.model_dump(include={"batch_size", "draws", "n_iters"}) | {"part": distributed.part()}
        draws = fixed_draws(self.cfg, self.materials, indices, "fisher", side, **amount)
        options = {"reduce": distributed.sum_counted, **({"clip": f.clip} if f.estimator == "batch" else {})}
        return ESTIMATORS[f.estimator](self.materials.model, losses, draws, **options)

    def _provenance(self, side: str, n: int) -> dict:
        f = self.cfg.fisher
        return {
            **self.materials.provenance,
            "set": side,
            "n": n,
            "weights": self.cfg.init_weights,
            "seed": self.cfg.seeds.of("order"),
            "version": self.materials.meta["version"],
            "device": self.materials.device.type,
            **f.model_dump(exclude={"mask_path"}),
        }

    def plan(self) -> str:
        """What `--dry_run` prints after the config."""
        sizes = f"{len(self.materials.forget)} forget and {len(self.materials.remain)} remain images"
        weights = sum(p.numel() for p in self.materials.model.parameters())
        lines = [
            f"mode {self.mode} on {self.materials.device}: {amount_drawn(self.cfg.fisher)} of {sizes}",
            f"trainable weights: {weights:,}",
            f"would write: {self.folder}/{{forget,remain}}_fisher.safetensors",
        ]
        return "\n".join(lines)
