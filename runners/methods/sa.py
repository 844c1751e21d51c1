"""Selective Amnesia (SA): continual learning used to forget (arXiv 2305.10120)."""

from pathlib import Path

import torch

from functions.config.selection import classes_of
from functions.files import sha256_file, unchanged
from functions.storage.artifacts import load_fisher, read_provenance
from functions.storage.cost import total
from functions.training.anchors import Anchor
from runners.base import Runner
from runners.replay import FISHER, fingerprint, own_samples


class SelectiveAmnesia(Runner):
    """Learn noise in place of the class, replay one's own samples of the others, and stay close where F is large.

    l(x ~ U[-1, 1], c_f) + gamma_gr l(replay) + lmbda sum_i F_i (theta_i - theta*_i)^2, no labels dropped.
    """

    mode, always_masked, copies = "sa", True, 2  # anchor and Fisher

    def begin(self, materials):
        s = self.cfg.unlearn
        path = s.fisher_path or Path(self.cfg.ckpt_folder) / FISHER
        with unchanged(path):
            fisher = load_fisher(path, materials.shapes, materials.provenance)
            cost, digest = read_provenance(path).get("cost"), sha256_file(path)
        costs = [c for c in (self.meta.get("prepared"), cost) if c]
        self.meta = {**self.meta, "fisher": digest, "prepared": total(costs) if costs else None}
        self.anchor = Anchor(self.params, [fisher[n] for n in self.names])
        if s.replay == "samples":
            classes = set(range(self.task.n_conditions)) - set(classes_of(self.cfg.forget.label))
            replay = own_samples(self.cfg, materials, classes)
            self.meta["replay"] = fingerprint(replay)
            self.remain = self.stream(replay, torch.arange(len(replay)), "replay")

    def step(self, k):
        s = self.cfg.unlearn
        loss_f = self.task.losses(self.model, self.task.surrogate(*next(self.forget))).mean()
        loss_r = self.task.losses(self.model, self.task.draw(*next(self.remain))).mean()
        ewc = self.anchor.penalty()
        self.descend(loss_f + s.gamma_gr * loss_r + s.lmbda * ewc, self.mask, self.cfg.optim.grad_clip)
        return {"forget": loss_f.detach(), "replay": loss_r.detach(), "ewc": ewc.detach()}
