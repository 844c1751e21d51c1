"""SalUn's saliency: the score of every weight once, and from it a mask for any share."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from functions.config.schema import Config
from functions.curvature.gradients import check_diagonal
from functions.curvature.saliency import gradient_score, top_share_masks
from functions.errors import InputError
from functions.files import version
from functions.locks import remove_leftovers, writing_folder
from functions.storage.artifacts import export_mask_pt, load_tensors, save_mask, save_tensors
from functions.storage.cost import Cost
from functions.training import distributed
from runners.draws import amount_drawn, counted_together, fixed_draws, n_drawn, pass_folder
from runners.setup import Materials


class GenerateMask:
    """Writes `results/<dataset>/mask/<forget set>/score.safetensors` and, for each share q, `with_<q>.safetensors`.

    With `saliency.export` also `with_<q>.pt`, for the published classification scripts.
    """

    mode, fresh = "generate_mask", False

    def __init__(self, cfg: Config, materials: Materials, resume: str | None = None):
        if resume is not None:
            raise InputError("--resume: generate_mask is one pass and has nothing to resume; run it again")
        self.cfg, self.materials = cfg, materials
        name = materials.selection["name"]
        self.folder = pass_folder(cfg, cfg.saliency, name, Path(cfg.results) / cfg.data.dataset / "mask" / name)

    def run(self) -> Path:
        with distributed.held_by_first(lambda: writing_folder(self.folder)):
            self._write()
        return self.folder

    def _write(self) -> None:
        if distributed.rank() == 0:
            remove_leftovers(self.folder)
        score, made = self._score()
        for share, mask in top_share_masks(score, self.cfg.saliency.shares).items():
            kept = sum(int(m.sum()) for m in mask.values())
            path = self.folder / f"with_{share}.safetensors"
            if distributed.rank() > 0:
                continue
            save_mask(path, mask, {**made, "share": share, "kept": kept})
            if self.cfg.saliency.export:
                export_mask_pt(path.with_suffix(".pt"), mask, self.materials.device)
            print(f"share {share}: {kept:,} of {sum(m.numel() for m in mask.values()):,} weights are salient -> {path}")

    def _score(self):
        """The score and its provenance: the one on disk where it is this one, otherwise computed and saved."""
        path, wanted = self.folder / "score.safetensors", self._provenance()
        distributed.agree({"score on disk": path.is_file()})
        if path.is_file():
            score, made = load_tensors(path)
            if {k: made.get(k) for k in wanted} == wanted:
                print(f"using {path}")
                return score, made
            print(f"replacing {path}: made from another checkpoint or with other settings")
        s, cost = self.cfg.saliency, Cost()
        cost.watch(self.materials.model)
        losses = partial(self.materials.task.losses, guidance=s.guidance)
        amount = s.model_dump(include={"batch_size", "draws", "n_iters"}) | {"part": distributed.part()}
        draws = fixed_draws(self.cfg, self.materials, self.materials.forget, "saliency", **amount)
        with cost:
            found = gradient_score(
                self.materials.model, losses, draws, s.clip, distributed.sum_counted, s.average == "batches"
            )
            score = {n: g.cpu() for n, g in found.items()}
        check_diagonal(score, "saliency score")
        made = {**wanted, "cost": counted_together(cost).record(), "version": version()}
        if distributed.rank() == 0:
            save_tensors(path, score, made)
        return score, made

    def _provenance(self) -> dict:
        s = self.cfg.saliency
        settings = s.model_dump(exclude={"shares", "export", "mask_path"})
        return {
            **self.materials.provenance,
            "estimator": "saliency",
            "n": n_drawn(s, len(self.materials.forget)),
            "weights": self.cfg.init_weights,
            "seed": self.cfg.seeds.of("order"),
            "device": self.materials.device.type,
            **settings,
        }

    def plan(self) -> str:
        """What `--dry_run` prints after the config."""
        s, weights = self.cfg.saliency, sum(p.numel() for p in self.materials.model.parameters())
        n_f = len(self.materials.forget)
        lines = [
            f"mode {self.mode} on {self.materials.device}: {amount_drawn(s)} of {n_f} forget images",
            f"trainable weights: {weights:,}; may move: " + ", ".join(f"{int(weights * q):,}" for q in s.shares),
            f"would write: {self.folder}/{{score,{','.join(f'with_{q}' for q in s.shares)}}}.safetensors",
        ]
        return "\n".join(lines)
