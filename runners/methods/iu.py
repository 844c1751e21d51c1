"""Influence unlearning (IU): how the optimum moves when the forget set leaves the loss (arXiv 2304.04934)."""

from functools import partial

import torch

from functions.curvature.influence import direction, inverse_fisher_product, mean_gradient, published_product
from functions.randomness import keyed_generator
from runners.base import Runner
from runners.draws import fixed_draws


class Influence(Runner):
    """theta += step H^-1 v, in one step. H and v: `functions.curvature.influence`."""

    mode, always_masked, closed_form = "iu", True, True

    def setup(self, setup):
        self.prepared = setup

    def draws(self, indices, key, batch_size):
        return fixed_draws(self.cfg, self.prepared, indices, "influence", key, batch_size=batch_size)

    def step(self, k):
        iu, s, batch_size = self.cfg.unlearn, self.prepared, self.cfg.training.batch_size
        gradient = partial(mean_gradient, self.plain, self.task.losses)
        v_f, v_r = (gradient(self.draws(i, key, batch_size)) for i, key in ((s.forget, "forget"), (s.remain, "remain")))
        v = direction(v_f, v_r, len(s.forget), len(s.remain))
        delta = self.solve(v, self.chosen())
        norm = torch.stack(torch._foreach_norm(list(delta.values()))).square().sum().sqrt()
        self.move([iu.step * delta[n] for n in self.names])
        return {"moved": iu.step * norm}

    def chosen(self):
        """K remain images, drawn with the seed; the published recursion reads two more than it divides by."""
        remain, k = self.prepared.remain, self.cfg.unlearn.k + 2 * (self.cfg.unlearn.solver == "published")
        g = keyed_generator(self.cfg.seeds.of("order"), "influence")
        return remain[torch.randperm(len(remain), generator=g)[:k]]

    def solve(self, v, chosen):
        iu, losses = self.cfg.unlearn, self.task.losses
        if iu.solver == "published":
            return published_product(self.plain, losses, self.draws(chosen, "curvature", 1), v, len(chosen) - 2)
        draws = list(self.draws(chosen, "curvature", iu.chunk))
        return inverse_fisher_product(self.plain, losses, draws, v, iu.tol, iu.max_iter, iu.chunk)
