"""Gradient ascent (GA): raise the loss on the forget set, and nothing else."""

from runners.base import Runner


class GradientAscent(Runner):
    """Maximise the loss on the forget set, from the original model, on the mask if there is one."""

    mode, always_masked = "ga", True

    def passes(self, epoch):
        return ("forget",)

    def step(self, k):
        alpha = self.forget_alpha(k)
        loss = self.task.losses(self.model, self.task.draw(*next(self.forget))).mean()
        self.descend(-alpha * loss, self.mask, self.cfg.unlearn.forget_clip)
        return {"forget": loss.detach(), "alpha": alpha}
