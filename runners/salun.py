"""SalUn: saliency unlearning (arXiv 2310.12508)."""

from runners.base import Runner
from runners.forgetting import FORGET_LOSSES


class SalUn(Runner):
    """One joint step on forgetting and remaining, on salient weights alone; without a mask, the RL baseline."""

    mode, always_masked = "salun", True

    def step(self, k):
        u = self.cfg.unlearn
        alpha = self.forget_alpha(k)
        draw_f = self.task.draw(*next(self.forget))
        objective_f, loss_f = FORGET_LOSSES[u.loss](self.task, self.model, draw_f, u.lambd)
        loss_r = self.remain_loss()
        self.descend(alpha * objective_f + u.remain_alpha * loss_r, self.mask, self.cfg.optim.grad_clip)
        return {"forget": loss_f.detach(), "remain": loss_r.detach(), "alpha": alpha}
