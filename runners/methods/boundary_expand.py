"""Boundary expanding: a shadow class takes the forget set in (arXiv 2303.11570). Classifiers only."""

import torch
import torch.nn.functional as F
from torch import nn

from datasets import ordered
from functions.randomness import key_seed
from runners.base import Runner


class BoundaryExpand(Runner):
    """Minimise CE on D_f towards one more class, whose unit is trained along and left out of what is saved."""

    mode, always_masked = "boundary_expand", True

    def passes(self, epoch):
        return ("forget",)

    def begin(self, materials):
        x, _ = next(ordered(materials.images, materials.forget[:1], 1))
        with torch.no_grad():
            width = self.plain.eval().features(x).shape[1]
        torch.manual_seed(key_seed(self.cfg.seeds.of("init"), "shadow class"))
        self.extra = nn.Linear(width, 1).to(self.device)
        self.optimizer.add_param_group({"params": list(self.extra.parameters())})

    def step(self, k):
        x, c = next(self.forget)
        self.cost.passed(len(x))
        features = self.plain.features(x)
        logits = torch.cat([self.plain.classify(features), self.extra(features)], dim=1)  # (B, n_classes + 1)
        loss = F.cross_entropy(logits, torch.full_like(c, self.task.n_classes))
        self.descend(loss, self.mask, self.cfg.optim.grad_clip)
        return {"forget": loss.detach()}
