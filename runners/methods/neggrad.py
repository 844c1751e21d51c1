"""NegGrad+: ascent on the forget set and descent on the remain set in one step (arXiv 2302.09880, section 4)."""

from runners.base import Runner


class NegGrad(Runner):
    """Minimise remain_alpha L_r - forget_alpha L_f, on the mask if there is one."""

    mode, always_masked = "neggrad", True

    def step(self, k):
        u, alpha = self.cfg.unlearn, self.forget_alpha(k)
        loss_f = self.task.losses(self.model, self.task.draw(*next(self.forget))).mean()
        loss_r = self.remain_loss()
        self.descend(u.remain_alpha * loss_r - alpha * loss_f, self.mask, self.cfg.optim.grad_clip)
        return {"forget": loss_f.detach(), "remain": loss_r.detach(), "alpha": alpha}
