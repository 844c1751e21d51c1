"""Fisher forgetting (FF): noise where the remain set does not mind (arXiv 1911.04933)."""

from functions.curvature.fisher import ESTIMATORS
from functions.curvature.fisher_noise import head_parameters, noise
from functions.randomness import keyed_generator
from functions.training import distributed
from runners.closed_form import ClosedForm
from runners.draws import counted_together, fixed_draws


class FisherForget(ClosedForm):
    """theta += sqrt(min(alpha / (F_r + 1e-8), cap)) N(0, 1); F_r of the remain set with its labels."""

    mode = "fisher_forget"

    def delta(self):
        f, section = self.cfg.unlearn, self.cfg.fisher
        amount = {"batch_size": section.batch_size, "draws": section.draws, "part": distributed.part()}
        draws = fixed_draws(self.cfg, self.materials, self.materials.remain, "fisher", "remain", **amount)
        options = {"clip": section.clip} if section.estimator == "batch" else {}
        options["reduce"] = distributed.sum_counted
        fisher = ESTIMATORS[section.estimator](self.plain, self.task.losses, draws, **options)
        counted_together(self.cost)
        g = keyed_generator(self.cfg.seeds.of("order"), "fisher noise", device=self.device)
        delta = noise(fisher, f.alpha, f.cap, f.head_factor, set(head_parameters(self.plain)), g)
        return delta, {"fisher": sum(value.sum() for value in fisher.values())}
