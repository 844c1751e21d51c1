"""Pretraining: fit a new model to all classes."""

from runners.base import Runner


class Pretrain(Runner):
    """Minimise the loss on the whole data set, from a new model."""

    mode, fresh = "pretrain", True

    def step(self, k):
        loss = self.remain_loss()
        self.descend(loss, clip=self.cfg.optim.grad_clip)
        return {"loss": loss.detach()}
