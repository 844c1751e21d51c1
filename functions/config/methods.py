"""One section class per mode: the keys that it reads, their defaults, what it refuses. `METHODS` is the only table.

At run time `cfg.unlearn` is the section of the run's mode. Torch-free.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from functions.config.passes import Fim, Fisher, Saliency, Sampling
from functions.config.section import Batch, Inside, Mode, Place, Positive, Refused, Scale, Share, Weight
from functions.config.unlearning import PUBLISHED_LOSSES, Closed, Masked, Objective, Stepped, Weighted
from functions.config.worlds import WORLDS


class Pretrain(Mode):
    """A new model of the whole data set."""

    needs: ClassVar = ("model", "optim", "training")

    def check(self, cfg):
        if cfg.forget is not None:
            raise Refused("forget", "pretrain learns every class; retrain leaves one out")


class Retrain(Mode):
    """A new model of the remain set, with architecture and split of an original or its own."""

    needs: ClassVar = ("optim", "training", "forget")
    optional: ClassVar = ("model", "ckpt_folder")

    def check(self, cfg):
        if cfg.model is None and cfg.ckpt_folder is None:
            wanted = "an original whose architecture and split to take (--ckpt_folder)"
            raise Refused("model", f"missing, and mode retrain needs it, or {wanted}")


class Finetune(Masked):
    """L_r"""


class GradientAscent(Weighted, Masked):
    """-alpha L_f"""

    forget_clip: Scale | None = None  # norm, after masking


class NegGrad(Weighted, Masked):
    """remain_alpha L_r - alpha L_f"""

    remain_alpha: Weight = 1.0


class SFRon(Objective, Stepped):
    """alpha objective_f on the mask, then remain_alpha L_r: on all weights, or where the mask is strict on it too."""

    clip_first: ClassVar = False

    loss: Literal[PUBLISHED_LOSSES] = "adaga"
    mask_mode: Literal["strict", "gradient"] = "gradient"
    method: Literal["ron", "joint"] = "ron"  # a forget step, then remain steps; or one step on the sum
    forget_clip: Scale | None = None  # norm, after masking
    forget_every: Positive = 1  # steps from one forget step to the next; the first is step 0 (published)
    remain_per_forget: Positive = 1
    mask_joint: bool = True  # published: with method joint the mask is lost
    optimizer_state: Literal["shared", "separate"] = "shared"

    @property
    def freezes(self):
        masked = self.method == "ron" or self.mask_joint
        return masked and self.mask_path is not None and self.mask_mode == "strict"

    @property
    def revision(self):
        """1: forget steps are 0, n, 2n; before they were n - 1, 2n - 1."""
        return int(self.forget_every > 1)

    def check(self, cfg):
        super().check(cfg)
        if self.method == "joint" and (self.forget_every, self.remain_per_forget) != (1, 1):
            why = "joint is one step on the sum; forget_every and remain_per_forget must be 1"
            raise Refused("unlearn.method", why)


class SalUn(Objective, Masked):
    """alpha objective_f + remain_alpha L_r on salient weights."""

    # paired, a forget and a remain batch in one step; split, in each epoch a pass over the forget set and then one over
    # the remain set (published for CIFAR-10, SVHN); joint, one pass over both mixed (CIFAR-100, TinyImageNet)
    order: Literal["paired", "split", "joint"] = "paired"

    def check(self, cfg):
        super().check(cfg)
        if self.order == "joint" and self.loss != "relabel":
            why = f"joint gives forget images wrong labels, so unlearn.loss must be relabel; it is {self.loss}"
            raise Refused("unlearn.order", why)


class SalUnSoft(SalUn):
    """SalUn's, and weights are pulled back to the original by the k-th smallest move, k = ratio (1 - progress) N."""

    own: ClassVar = "salun_soft"

    ratio: Share = 0.5

    @property
    def scheduled(self):
        return True


class SelectiveAmnesia(Masked):
    """l(surrogate) + gamma_gr l(replay) + lmbda sum_i F_i (theta_i - theta*_i)^2"""

    own: ClassVar = "sa"

    lmbda: Weight
    gamma_gr: Weight = 1.0
    replay: Literal["samples", "remain"] = "samples"  # the model's own class_samples/, or the remain data
    fisher_path: Place | None = None  # .safetensors, or a published .pkl; None: fisher_dict.safetensors of ckpt_folder

    def check(self, cfg):
        super().check(cfg)
        if self.replay == "samples" and not WORLDS[cfg.world].samples:
            raise Refused("unlearn.replay", f"a {cfg.world} draws no samples; wanted remain")
        if self.replay == "samples" and cfg.forget.label is None:
            raise Refused("forget", "sa replays samples of the other classes; wanted a label, or sa.replay remain")


class ESD(Masked):
    """Divergence from eps_null - eta (eps_c - eps_null) of the original on D_f."""

    own: ClassVar = "esd"

    eta: Weight = 1.0  # negative guidance of the target


class EraseDiff(Masked):
    """g_r + lambda g_f, lambda = max(0, eta - <g_r, g_f> / |g_f|^2)"""

    own: ClassVar = "erasediff"

    eta: Weight = 0.5  # share of the forget gradient's squared norm by which each step must descend


class L1Sparse(Masked):
    """L_r + a_e ||theta||_1, a_e = weight (1 - e / (E - no_l1_epochs)) in epoch e, 0 at the end"""

    own: ClassVar = "l1"
    flags: ClassVar = {"alpha": "weight"}

    weight: Weight = 5e-4
    no_l1_epochs: int = Field(0, ge=0, le=10**9)  # the last epochs have none

    @property
    def scheduled(self):
        return True


class Scrub(Masked):
    """Away from the original on D_f in the first `msteps` epochs, towards it and the labels on D_r in all."""

    own: ClassVar = "scrub"

    msteps: int = Field(2, ge=0, le=10**9)
    gamma: Weight = 0.99  # of the cross entropy
    alpha: Weight = 0.001  # of the divergence
    temperature: float = Field(4.0, gt=1e-6, le=1e6)  # logits are divided by it, and by its square


class BadTeacher(Masked):
    """KL(target || student), both at this temperature: a random network on D_f, the original on D_r."""

    own: ClassVar = "bad_teacher"

    temperature: float = Field(1.0, gt=1e-6, le=1e6)


class Boundary(Masked):
    """Forget images go to another class: only for models that decide between classes."""

    def check(self, cfg):
        super().check(cfg)
        if not WORLDS[cfg.world].boundaries:
            raise Refused("world", "this mode moves decision boundaries, which only a classifier has")


class BoundaryExpand(Boundary):
    """CE on D_f towards one more class."""

    def check(self, cfg):
        super().check(cfg)
        t = cfg.training
        if t.precision == "bf16" or t.compile or t.accumulate > 1:
            why = "bf16, compile and accumulate are not for boundary_expand, which takes the model apart"
            raise Refused("training", why)


class BoundaryShrink(Boundary):
    """CE on D_f towards the nearest wrong class."""

    own: ClassVar = "boundary"

    eps: float = Field(0.1, gt=0, le=1)  # the step that finds the nearest class, in pixels of [0, 1]


class Influence(Closed):
    """theta += step H^-1 v, H = I + (1/K) G^T G over K remain examples"""

    own: ClassVar = "iu"
    flags: ClassVar = {"alpha": "step"}

    step: float = Field(1.0, ge=-3e38, le=3e38)  # the ends of float32
    k: Positive = 1000
    solver: Literal["exact", "published"] = "exact"  # published: the recursion, rank one along the first gradient
    chunk: Batch = 32  # examples differentiated at once
    tol: Inside = 1e-6  # relative residual at which conjugate gradients stop
    max_iter: Positive = 200  # or after so many, with a line that says so


class FisherForget(Closed):
    """theta += sqrt(min(alpha / F_r, cap)) N(0, 1), the head's variance times `head_factor`"""

    needs: ClassVar = (*Closed.needs, "fisher")
    own: ClassVar = "fisher_forget"
    flags: ClassVar = {"alpha": "alpha"}

    alpha: Weight = 1e-8
    cap: Weight = 1e-3
    head_factor: Weight = 10.0

    def check(self, cfg):
        super().check(cfg)
        for key in ("guidance", "n_iters", "mask_path"):
            if getattr(cfg.fisher, key):
                raise Refused(f"fisher.{key}", "has no meaning in mode fisher_forget")


class Encode(Mode):
    """The latents of the forget set and of what remains, kept for training."""

    needs: ClassVar = ("encoder",)
    optional: ClassVar = ("model", "forget", "ckpt_folder")

    def check(self, cfg):
        if cfg.data.latents is None:
            raise Refused("data.latents", "missing: the folder to write (--latents)")


METHODS: dict[str, type[Mode]] = {
    "pretrain": Pretrain,
    "retrain": Retrain,
    "finetune": Finetune,
    "ga": GradientAscent,
    "generate_fisher": Fisher,
    "sfron": SFRon,
    "generate_mask": Saliency,
    "salun": SalUn,
    "sa": SelectiveAmnesia,
    "esd": ESD,
    "erasediff": EraseDiff,
    "neggrad": NegGrad,
    "l1_sparse": L1Sparse,
    "salun_soft": SalUnSoft,
    "scrub": Scrub,
    "bad_teacher": BadTeacher,
    "boundary_expand": BoundaryExpand,
    "boundary_shrink": BoundaryShrink,
    "iu": Influence,
    "fisher_forget": FisherForget,
    "fim": Fim,
    "sample": Sampling,
    "encode": Encode,
}
# of train.py: the others have scripts of their own
MODES = tuple(mode for mode in METHODS if mode not in ("fim", "sample", "encode"))
