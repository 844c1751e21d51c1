"""SalUn-soft: a mask found while unlearning, by soft thresholding (arXiv 2310.12508, published as RL_proximal)."""

import torch

from functions.training.anchors import soft_threshold
from runners.base import Runner
from runners.methods.orders import PASSES, STEPS


class SalUnSoft(Runner):
    """SalUn's step, then every weight goes back towards theta_0 by tau, the k-th smallest |theta - theta_0|.

    k = ratio (1 - progress) N: at the end nothing is pulled any more. theta_0 is the original throughout (the
    published code takes it anew in each epoch).
    """

    mode, always_masked, copies = "salun_soft", True, 1

    def passes(self, epoch):
        return PASSES[self.cfg.unlearn.order]

    def begin(self, materials):
        self.theta_0 = [p.detach().clone() for p in self.params]
        if self.cfg.unlearn.order == "joint":
            self.both = self.mixed()

    def step(self, k):
        stats = STEPS[self.cfg.unlearn.order](self, k)
        progress = (k + 1) / self.cfg.training.n_iters
        with torch.no_grad():
            tau = soft_threshold(self.params, self.theta_0, self.cfg.unlearn.ratio * (1 - progress))
        return {**stats, "tau": tau}
