"""EraseDiff: lower the remain loss, provided that what is said of the forget set says less (arXiv 2401.05779)."""

import torch

from runners.base import Runner


class EraseDiff(Runner):
    """Descend along g_r + lambda g_f, lambda = max(0, eta - <g_r, g_f> / |g_f|^2): the forget loss falls in every step.

    g_r is the gradient of the remain loss, g_f that of the loss towards an uninformative target. The inner minimum in
    the constraint is a constant for theta, so its gradient is g_f alone. The published code divides by |g_f| |g_r|
    instead of |g_f|^2, and makes x_t from the uniform noise too.
    """

    mode, always_masked = "erasediff", True

    def step(self, k):
        draw_f = self.task.scrambled(self.task.draw(*next(self.forget)))
        loss_f, loss_r = self.task.losses(self.model, draw_f).mean(), self.remain_loss()
        g_f, g_r = self.gradients(loss_f), self.gradients(loss_r)
        norm2 = torch.stack(torch._foreach_norm(g_f)).square().sum()
        dot = torch.stack([a.sum() for a in torch._foreach_mul(g_f, g_r)]).sum()
        lambda_ = (self.cfg.unlearn.eta - dot / (norm2 + 1e-12)).clamp(min=0)
        together = torch._foreach_add(g_r, torch._foreach_mul(g_f, lambda_))
        self.descend(together, self.mask, self.cfg.optim.grad_clip)
        return {"forget": loss_f.detach(), "remain": loss_r.detach(), "lambda": lambda_}
