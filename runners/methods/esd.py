"""ESD: erase a concept by negative guidance (arXiv 2303.07345), of a class-conditional model or of logits."""

import torch

from runners.base import Runner


class ESD(Runner):
    """Predictions for the class follow the original's, guided away from it: eps_null - eta (eps_c - eps_null).

    The paper's x_t are half-denoised samples of the model; here they are noised images of the forget set.
    """

    mode, always_masked, copies = "esd", True, 1  # the teacher

    def passes(self, epoch):
        return ("forget",)

    def begin(self, materials):
        self.original = self.teacher()

    def step(self, k):
        draw = self.task.draw(*next(self.forget))
        with torch.no_grad():  # (1 + w) eps_c - w eps_null with w = -(1 + eta)
            target = self.task.predict(self.original, draw, guidance=-(1 + self.cfg.unlearn.eta))
        loss = self.task.divergence(target, self.task.predict(self.model, draw)).mean()
        self.descend(loss, self.mask, self.cfg.optim.grad_clip)
        return {"forget": loss.detach()}
