"""Influence unlearning (IU): how the optimum moves when the forget set leaves the loss (arXiv 2304.04934)."""

from functools import partial

import torch

from functions.curvature.influence import direction, inverse_fisher_product, mean_gradient, published_product
from functions.randomness import keyed_generator
from runners.closed_form import ClosedForm
from runners.draws import fixed_draws


class Influence(ClosedForm):
    """theta += step H^-1 v. H and v: `functions.curvature.influence`."""

    mode = "iu"

    def draws(self, indices, key, batch_size):
        return fixed_draws(self.cfg, self.materials, indices, "influence", key, batch_size=batch_size)

    def delta(self):
        iu, m, batch_size = self.cfg.unlearn, self.materials, self.cfg.training.batch_size
        gradient = partial(mean_gradient, self.plain, self.task.losses)
        v_f = gradient(self.draws(m.forget, "forget", batch_size))
        v_r = gradient(self.draws(m.remain, "remain", batch_size))
        delta = self.solve(direction(v_f, v_r, len(m.forget), len(m.remain)), self.chosen())
        norm = torch.stack(torch._foreach_norm(list(delta.values()))).square().sum().sqrt()
        return {n: iu.step * d for n, d in delta.items()}, {"moved": iu.step * norm}

    def chosen(self):
        """K remain images, drawn with the seed; the published recursion reads two more than it divides by."""
        remain, k = self.materials.remain, self.cfg.unlearn.k + 2 * (self.cfg.unlearn.solver == "published")
        g = keyed_generator(self.cfg.seeds.of("order"), "influence")
        return remain[torch.randperm(len(remain), generator=g)[:k]]

    def solve(self, v, chosen):
        iu, losses = self.cfg.unlearn, self.task.losses
        if iu.solver == "published":
            return published_product(self.plain, losses, self.draws(chosen, "curvature", 1), v, len(chosen) - 2)
        draws = list(self.draws(chosen, "curvature", iu.chunk))
        return inverse_fisher_product(self.plain, losses, draws, v, iu.tol, iu.max_iter, iu.chunk)
