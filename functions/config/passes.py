"""The sections of passes over a set or from noise: Fishers, saliency, sampling. Torch-free."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from functions.config.section import Batch, Mode, Place, Positive, Refused, Scale, Weight
from functions.config.worlds import WORLDS

ESTIMATORS = ("per_example", "batch")


class Drawn(Mode):
    """A pass over images with `draws` (t, eps) pairs each, at guidance w of the differentiated prediction."""

    needs: ClassVar = ("forget", "ckpt_folder")
    flags: ClassVar = {"cond_scale": "guidance", **{key: key for key in ("n_iters", "batch_size", "mask_path")}}

    draws: Batch = 1
    guidance: Weight = 0.0
    batch_size: Batch = 128
    # published for DiT: so many full batches of each set, shuffled, over and over, with a new (t, eps) each time; null:
    # each image `draws` times
    n_iters: Positive | None = None
    mask_path: Place | None = None  # write into the folder of that name here that the forget set has (0, 0+2)

    def check(self, cfg):
        if self.n_iters is not None and self.draws > 1:
            why = f"each batch is drawn once; {self.section}.draws must be 1, it is {self.draws}"
            raise Refused(f"{self.section}.n_iters", why)
        if not WORLDS[cfg.world].diffusion and (self.guidance or self.draws > 1):
            raise Refused(self.section, f"guidance and draws are for diffusion, nothing is drawn for a {cfg.world}")


class Fisher(Drawn):
    """F_i = 1/N sum_n (d l_n / d theta_i)^2, of both sets for SFR-on's mask, of D_r for Fisher forgetting."""

    section: ClassVar = "fisher"

    estimator: Literal[ESTIMATORS] = "per_example"
    clip: Scale | None = None  # `batch` only: norm of each batch gradient before squaring
    zero_ratio_salient: bool = False  # published: weights where both Fishers are 0 count as salient up to gamma 1

    def check(self, cfg):
        super().check(cfg)
        if self.clip is not None and self.estimator != "batch":
            raise Refused("fisher.clip", f"only estimator batch clips, this is {self.estimator}")


class Saliency(Drawn):
    """SalUn's score of weights |sum_n d l_n / d theta_i|, and the masks made from it."""

    section: ClassVar = "saliency"

    shares: list[Annotated[float, Field(gt=0, le=1)]] = Field([0.5], min_length=1)  # with_<q>: weights that may move
    # whose gradients are averaged: images', or (published) batches', where an image of a short last batch counts more
    average: Literal["images", "batches"] = "images"
    # published for diffusion: norm of each batch's gradient, which makes the mean one of batches
    clip: Scale | None = None
    export: bool = False  # also write with_<q>.pt, which the published classification scripts read


class Fim(Mode):
    """Selective Amnesia's Fisher, from the model's own samples: 1/N sum_n (sum_t d l_nt / d theta_i)^2."""

    section: ClassVar = "fim"
    needs: ClassVar = ("ckpt_folder",)

    n_chunks: Positive = 20  # of the sum over all timesteps: more need less memory
    per_class: Positive | None = None  # the first so many samples of each class; None: all there are
    unit_images: bool = False  # published: images stay in [0, 1], where training has [-1, 1]
    drop_labels: bool = False  # published: labels are dropped as in training
    save_seconds: Positive = 60  # from one resumable state on disk to the next

    def check(self, cfg):
        if not WORLDS[cfg.world].diffusion:
            fisher = "its Fisher is train.py --mode generate_fisher's (sa.fisher_path)"
            raise Refused("world", f"{cfg.world} has no timesteps to sum over; {fisher}")


class Sampling(Mode):
    section: ClassVar = "sampling"
    needs: ClassVar = ("ckpt_folder",)
    flags: ClassVar = {"cond_scale": "cond_scale"}

    sample_type: Literal["generalized", "ddpm_noisy", "dpm_solver", "learned_range"] = "generalized"
    timesteps: int = Field(1000, gt=0, le=100_000)  # steps of the sampler; dpm_solver wants about 20
    eta: Weight = 1.0  # generalized: 0 is DDIM, 1 is ancestral
    skip_type: Literal["uniform", "quad"] = "uniform"
    cond_scale: Weight = 2.0  # w: (1 + w) eps_c - w eps_null
    guided_channels: Literal["all", "three"] = "all"  # three (published for DiT): the others are eps_c's
    weights: Literal["auto", "ema", "raw"] = "auto"  # auto: EMA where the checkpoint has one
    n_samples_per_class: int = Field(500, gt=0, le=10**6)  # FID takes 50,000 in all
    batch_size: Batch = 128
    minmax: bool = False  # published: stretch each image to 0..255 by its own minimum and maximum
    train_mode: bool = False  # published: the EMA copy stays in train mode, so dropout is active
