"""Retraining, the gold standard of forgetting: a new model that never saw the forget set."""

from runners.base import Runner


class Retrain(Runner):
    """Minimise the loss on the remain data alone, from a new model and by the recipe of pretraining."""

    mode, fresh = "retrain", True

    def step(self, k):
        loss = self.remain_loss()
        self.descend(loss, clip=self.cfg.optim.grad_clip)
        return {"loss": loss.detach()}
