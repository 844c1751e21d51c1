"""Boundary shrink: forget images go to the class across the nearest boundary (arXiv 2303.11570). Classifiers only."""

import torch

from runners.base import Runner


class BoundaryShrink(Runner):
    """Minimise CE on D_f towards the nearest wrong class: the original's choice at x' = clip(x + eps sign(dCE/dx)).

    Images live in [0, 1] and normalisation inside the model, so eps is in pixels. The published code takes the argmax
    at x', which is the true class where one step does not cross a boundary.
    """

    mode, always_masked, copies = "boundary_shrink", True, 1  # the original

    def passes(self, epoch):
        return ("forget",)

    def begin(self, materials):
        self.original = self.teacher()

    def nearest(self, draw):
        """The nearest wrong class of each image, (N,)."""
        draw = draw._replace(x=draw.x.detach().requires_grad_())
        (gradient,) = torch.autograd.grad(self.task.losses(self.original, draw).sum(), draw.x)
        with torch.no_grad():
            crossed = (draw.x + self.cfg.unlearn.eps * gradient.sign()).clamp(0, 1)
            logits = self.task.predict(self.original, draw._replace(x=crossed))
            return logits.masked_fill(self.task.barred(draw.c), -torch.inf).argmax(1)

    def step(self, k):
        draw = self.task.draw(*next(self.forget))
        loss = self.task.losses(self.model, draw._replace(c=self.nearest(draw))).mean()
        self.descend(loss, self.mask, self.cfg.optim.grad_clip)
        return {"forget": loss.detach()}
