"""Fine-tuning (FT): go on training on the remain data and hope that the rest is forgotten."""

from runners.base import Runner


class Finetune(Runner):
    """Minimise the loss on the remain data, from the original model."""

    mode, always_masked = "finetune", True

    def step(self, k):
        loss = self.remain_loss()
        self.descend(loss, self.mask, self.cfg.optim.grad_clip)
        return {"remain": loss.detach()}
