"""SCRUB: disobey the original on the forget set, obey it on the remain set (arXiv 2302.09880)."""

import torch

from runners.base import Runner


class Scrub(Runner):
    """In the first `msteps` epochs a pass raises KL_T on D_f, and in every epoch one lowers gamma L_r + alpha KL_T.

    KL_T = T^2 KL(teacher / T || student / T), the teacher the original in eval mode. Its gradient is zero where both
    agree: with BatchNorm frozen and no dropout the first step moves nothing.
    """

    mode, always_masked, copies = "scrub", True, 1  # the teacher

    def passes(self, epoch):
        return ("forget", "remain") if epoch < self.cfg.unlearn.msteps else ("remain",)

    def begin(self, materials):
        self.original = self.teacher()

    def divergence(self, draw, prediction):
        t = self.cfg.unlearn.temperature
        with torch.no_grad():
            target = self.task.predict(self.original, draw)
        return t**2 * self.task.divergence(target, prediction, t).mean()

    def step(self, k):
        s, clip = self.cfg.unlearn, self.cfg.optim.grad_clip
        if self.epochs.at(k)[1] == "forget":
            draw = self.task.draw(*next(self.forget))
            kl = self.divergence(draw, self.task.predict(self.model, draw))
            self.descend(-kl, self.mask, clip)
            return {"forget": kl.detach()}
        draw = self.task.draw(*next(self.remain))
        prediction = self.task.predict(self.model, draw)
        kl, loss = self.divergence(draw, prediction), self.task.losses_of(prediction, draw).mean()
        self.descend(s.gamma * loss + s.alpha * kl, self.mask, clip)
        return {"remain": loss.detach(), "divergence": kl.detach()}
