"""SFR-on: saliency forgetting in the remain-preserving manifold, online (arXiv 2409.19732)."""

from runners.base import Runner
from runners.methods.forgetting import FORGET_LOSSES


class SFRon(Runner):
    """Leave the forget set on salient weights, then return to the remain manifold."""

    mode = "sfron"

    def begin(self, materials):
        self.left = (-1, {})  # the newest forget step, and what there is to log of it

    def step(self, k):
        u, clip = self.cfg.unlearn, self.cfg.optim.grad_clip
        if u.method == "joint":
            return self.joint(k)
        if k % u.forget_every == 0:
            self.left = (k, self.leave(k))
        for _ in range(u.remain_per_forget):
            loss_r = self.remain_loss()
            self.descend(u.remain_alpha * loss_r, self.mask if self.strict else None, clip)
        return {"alpha": self.forget_alpha(k), **self.left_since_log(k), "remain": loss_r.detach()}

    def left_since_log(self, k):
        """The newest forget step's numbers, if it lies after the last line that was logged."""
        at, stats = self.left
        return stats if at // self.cfg.training.log_freq == k // self.cfg.training.log_freq else {}

    def leave(self, k):
        """The forget step: alpha_k L_f, on salient weights alone."""
        objective_f, loss_f = self.forget_objective()
        self.descend(self.forget_alpha(k) * objective_f, self.mask, self.cfg.unlearn.forget_clip, self.optimizer_f)
        return {"forget": loss_f.detach()}

    def joint(self, k):
        """One step on the sum. Published: the mask is lost in it."""
        u, alpha = self.cfg.unlearn, self.forget_alpha(k)
        objective_f, loss_f = self.forget_objective()
        loss_r = self.remain_loss()
        mask = self.mask if u.mask_joint else None
        self.descend(alpha * objective_f + u.remain_alpha * loss_r, mask, self.cfg.optim.grad_clip)
        return {"alpha": alpha, "forget": loss_f.detach(), "remain": loss_r.detach()}

    def forget_objective(self):
        u, draw_f = self.cfg.unlearn, self.task.draw(*next(self.forget))
        return FORGET_LOSSES[u.loss](self.task, self.model, draw_f, u)
