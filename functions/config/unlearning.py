"""What the sections of methods have in common. Torch-free."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import field_validator

from functions.config.section import Inside, Mode, Place, Refused, Section, Weight
from functions.config.worlds import WORLDS

FORGET_LOSSES = ("adaga", "ga", "match", "relabel")
PUBLISHED_LOSSES = (*FORGET_LOSSES, "rl")  # rl: what the world calls so


class Unlearning(Mode):
    """What every mode that starts from an original and forgets reads. The constants are what it does not let choose."""

    section: ClassVar = "unlearn"
    needs: ClassVar = ("optim", "training", "forget", "ckpt_folder")

    mask_path: Place | None = None  # a mask, or a folder of masks by forget set (0/fisher_1.0.safetensors)
    threshold: Weight | None = None  # gamma of the mask to take from a folder; null: 1

    def check(self, cfg):
        super().check(cfg)
        if self.threshold is not None and self.mask_path is None:
            raise Refused("unlearn.threshold", "chooses a mask from a folder; set --mask_path")


class Closed(Unlearning):
    """One step in closed form: no optimiser, and of training no length."""

    needs: ClassVar = ("training", "forget", "ckpt_folder")
    mask_mode: ClassVar = "strict"
    clip_first: ClassVar = False
    dropout: ClassVar = True
    bn_mode: ClassVar = "update"
    optimizer_state: ClassVar = "shared"

    def check(self, cfg):
        super().check(cfg)
        off = {"ema": False, "precision": "fp32", "accumulate": 1, "checkpointing": False, "compile": False}
        for key, value in off.items():
            if getattr(cfg.training, key) != value:
                raise Refused(f"training.{key}", "has no meaning in a closed form, which takes no training steps")


class Stepped(Unlearning):
    """Steps of an optimiser."""

    # strict: masked weights end bit-identical, weight decay and momentum included; gradient (published): only their
    # gradients are masked
    mask_mode: Literal["strict", "gradient"] = "strict"
    dropout: bool = True  # keep the model's dropout active while unlearning
    # update (published): BatchNorm's statistics follow the method's batches; freeze: they stay the original's, also in
    # the forward pass; recalibrate: update, and at the end they are made anew from the remain set
    bn_mode: Literal["update", "freeze", "recalibrate"] = "update"

    @field_validator("mask_mode", mode="before")
    @classmethod
    def _unset(cls, value):
        """null, of configs from before each mode had its default."""
        return cls.model_fields["mask_mode"].default if value is None else value

    def check(self, cfg):
        super().check(cfg)
        if self.bn_mode == "recalibrate" and cfg.training.ema:
            raise Refused("unlearn.bn_mode", "recalibrate is for the weights themselves; training.ema must be false")


class Masked(Stepped):
    """Steps that all go through the mask, with one optimiser."""

    optimizer_state: ClassVar = "shared"

    clip_first: bool = False  # published SalUn: clip the gradient's norm before masking it, not after

    @property
    def freezes(self):
        return self.mask_path is not None and self.mask_mode == "strict"


class Weighted(Section):
    """The weight of the forget loss: alpha, or alpha (1 + cos(pi k / n_iters)) / 2 at step k."""

    forget_alpha: Weight = 1.0
    decay_forget_alpha: bool = False

    @property
    def scheduled(self):
        return self.decay_forget_alpha


class Objective(Weighted):
    """One of the forget objectives beside the remain loss."""

    loss: Literal[PUBLISHED_LOSSES] = "rl"
    lambd: Weight = 0.5  # adaga's exponent of the adaptive weights, 1 / (l^lambd + adaga_floor) before they are scaled
    adaga_floor: Inside = 1e-8  # published: 1e-8 for diffusion, 1e-15 for classifiers
    remain_alpha: Weight = 1.0
    # published for diffusion: labels are dropped where the model is asked about forget images too, in `match` once for
    # the prediction and once for its target
    drop_labels: bool = False
    target_dropout: bool = False  # published: the targets of `match` are predicted with dropout, too

    def resolved(self, world):
        return self.model_copy(update={"loss": world.rl}) if self.loss == "rl" else self

    def check(self, cfg):
        super().check(cfg)
        world = WORLDS[cfg.world]
        if self.drop_labels and not world.conditional:
            raise Refused("unlearn.drop_labels", f"a {cfg.world} is given no labels that could be dropped")
        if self.loss == "match" and not world.conditional:
            raise Refused("unlearn.loss", f"match needs a label-conditional model; a {cfg.world} has `{world.rl}`")
