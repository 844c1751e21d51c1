"""l1-sparse: fine-tuning that favours small weights (arXiv 2304.04934). Nothing is pruned."""

import torch

from runners.base import Runner


class L1Sparse(Runner):
    """Minimise L_r + a_e ||theta||_1, a_e falling linearly over the epochs, all weights counted."""

    mode, always_masked = "l1_sparse", True

    def begin(self, materials):
        self.n_epochs = self.epochs.at(self.cfg.training.n_iters - 1)[0] + 1

    def step(self, k):
        l1 = self.cfg.unlearn
        falling = self.n_epochs - l1.no_l1_epochs
        weight = l1.weight * max(0.0, 1 - self.epochs.at(k)[0] / falling) if falling > 0 else 0.0
        loss, norm = self.remain_loss(), torch.stack(torch._foreach_norm(self.params, 1)).sum()
        self.descend(loss + weight * norm, self.mask, self.cfg.optim.grad_clip)
        return {"remain": loss.detach(), "l1": norm.detach(), "weight": weight}
