"""SalUn: saliency unlearning (arXiv 2310.12508)."""

from runners.base import Runner
from runners.methods.orders import PASSES, STEPS


class SalUn(Runner):
    """Forget (random labels, or another objective) and remain, on salient weights alone; without a mask, RL."""

    mode, always_masked = "salun", True

    def passes(self, epoch):
        return PASSES[self.cfg.unlearn.order]

    def begin(self, materials):
        if self.cfg.unlearn.order == "joint":
            self.both = self.mixed()

    def step(self, k):
        return STEPS[self.cfg.unlearn.order](self, k)
