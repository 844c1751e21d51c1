"""Bad teacher: follow the original on remain data and a random network on forget data (arXiv 2205.08096)."""

import torch

import models
from functions.randomness import key_seed
from runners.base import Runner


class BadTeacher(Runner):
    """Minimise the mean of KL(target || student), both at temperature T, over batches of both sets mixed."""

    mode, always_masked, copies = "bad_teacher", True, 2  # both teachers

    def passes(self, epoch):
        return ("both",)

    def begin(self, materials):
        self.both = self.mixed()
        self.good = self.teacher()
        torch.manual_seed(key_seed(self.cfg.seeds.of("init"), "bad teacher"))
        self.bad = self.teacher(models.build(self.meta["model"]))

    def step(self, k):
        t = self.cfg.unlearn.temperature
        x, c, is_f = next(self.both)
        draw = self.task.draw(x, c)
        with torch.no_grad():
            good, bad = (self.task.predict(teacher, draw) for teacher in (self.good, self.bad))
        target = torch.where(is_f.view(-1, *[1] * (good.ndim - 1)), bad, good)
        prediction = self.task.predict(self.model, draw)
        kl = self.task.divergence(target, prediction, t)
        self.descend(kl.mean(), self.mask, self.cfg.optim.grad_clip)
        return {"divergence": kl.detach().mean()}
