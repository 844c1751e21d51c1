"""SFR-on: saliency forgetting in the remain-preserving manifold, online (arXiv 2409.19732)."""

from runners.base import Runner
from runners.methods.forgetting import FORGET_LOSSES


class SFRon(Runner):
    """Leave the forget set on salient weights, then return to the remain manifold."""

    mode = "sfron"

    def step(self, k):
        u, clip = self.cfg.unlearn, self.cfg.optim.grad_clip
        alpha = self.forget_alpha(k)
        stats = {"alpha": alpha}
        if (k + 1) % u.forget_every == 0:
            draw_f = self.task.draw(*next(self.forget))
            objective_f, loss_f = FORGET_LOSSES[u.loss](self.task, self.model, draw_f, u.lambd)
            stats["forget"] = loss_f.detach()
            if u.method == "joint":
                loss_r = self.remain_loss()
                self.descend(alpha * objective_f + u.remain_alpha * loss_r, self.mask if u.mask_joint else None, clip)
                return {**stats, "remain": loss_r.detach()}
            self.descend(alpha * objective_f, self.mask, u.forget_clip, self.optimizer_f)
        for _ in range(u.remain_per_forget):
            loss_r = self.remain_loss()
            self.descend(u.remain_alpha * loss_r, self.mask if self.strict else None, clip)
        return {**stats, "remain": loss_r.detach()}
