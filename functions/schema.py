"""The schema of configs: every key, its type, its default and its meaning stand here once. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

# Names for argparse `choices` and for the checks below; a test compares each with the dict of classes it names.
WORLDS = ("ddpm", "classifier")
MODES = ("pretrain", "retrain", "finetune", "ga", "generate_fisher", "sfron", "generate_mask", "salun", "sa", "esd",
         "erasediff")  # fmt: skip
DATASETS = ("digits", "shapes", "cifar10", "cifar100", "svhn", "stl10", "folder")
FORGET_LOSSES = ("adaga", "ga", "match", "relabel")
RL_ALIAS = {"ddpm": "match", "classifier": "relabel"}  # what the published `rl` means in each world
ESTIMATORS = ("per_example", "batch")

Positive = Annotated[int, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Unknown keys and wrong types are errors, and nothing changes after validation."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class Data(Section):
    dataset: Literal[DATASETS]
    path: str = "data"  # where torchvision data sets are downloaded, or the folder of `dataset: folder`
    image_size: Positive | None = None  # resize to this; None keeps the data set's own size
    flip: bool = False  # random horizontal flips, drawn afresh for every batch
    frozen_augment: bool = False  # published: each image is flipped once and for all
    crop: int = Field(0, ge=0)  # random crops after padding by this many pixels
    n_workers: int = Field(2, ge=0)  # decoding processes; image folders only


class UNetModel(Section):
    name: Literal["unet"]
    ch: Positive
    ch_mult: list[Positive] = Field(min_length=1)
    num_res_blocks: Positive
    attn_resolutions: list[Positive]
    dropout: Share = 0.1
    resamp_with_conv: bool = True


class CNNModel(Section):
    name: Literal["cnn"]
    width: Positive = 32


class LibraryModel(Section):
    name: Literal["torchvision", "timm"]
    arch: str
    pretrained: bool = False  # start from ImageNet's weights
    resize: int = Field(0, ge=0)  # side that images are scaled to inside the model; 0: not


class Diffusion(Section):
    timesteps: Positive = 1000  # T
    beta_start: float = Field(1e-4, gt=0, lt=1)
    beta_end: float = Field(0.02, gt=0, lt=1)
    p_uncond: Share = 0.1  # labels dropped in pretraining and remain steps
    reduction: Literal["sum", "mean"] = "sum"  # of the squared error over C,H,W


class Optim(Section):
    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(gt=0)
    lr_schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: Weight = 0.0
    momentum: Share = 0.9  # SGD only
    grad_clip: float | None = Field(None, gt=0)  # norm; training and remain steps


class Training(Section):
    n_iters: Positive
    batch_size: Positive
    ema: bool  # keep an exponential moving average; it starts as a copy of the weights after the first step
    ema_rate: float = Field(0.9999, gt=0, lt=1)
    log_freq: Positive = 10
    snapshot_freq: Positive = 1000
    keep: Positive = 3  # snapshots that stay, besides the final one


class Unlearn(Section):
    method: Literal["ron", "joint"] = "ron"  # a forget step, then remain steps; or one step on the sum
    loss: Literal[FORGET_LOSSES] = "adaga"
    forget_alpha: Weight = 1.0
    decay_forget_alpha: bool = False  # alpha (1 + cos(pi k / n_iters)) / 2
    remain_alpha: Weight = 1.0
    lambd: Weight = 0.5  # exponent of the adaptive weights
    forget_clip: float | None = Field(None, gt=0)  # norm, after masking
    forget_every: Positive = 1  # steps from one forget step to the next
    remain_per_forget: Positive = 1
    mask_joint: bool = True  # published: with method joint the mask is lost
    optimizer_state: Literal["shared", "separate"] = "shared"
    mask_path: str | None = None
    # strict: masked weights end bit-identical, weight decay and momentum included; gradient (published): only their
    # gradients are masked. None: strict, but gradient in sfron, whose remain steps move all weights.
    mask_mode: Literal["strict", "gradient"] | None = None
    clip_first: bool = (
        False  # published SalUn: clip the gradient's norm before masking it, not after; not in sfron
    )
    dropout: bool = True  # keep the model's dropout active while unlearning


class Forget(Section):
    label: int = Field(ge=0)


class Fisher(Section):
    estimator: Literal[ESTIMATORS] = "per_example"
    draws: Positive = 1  # (t, eps) pairs per image
    guidance: Weight = 0.0  # w of the differentiated prediction
    clip: float | None = Field(None, gt=0)  # `batch` only: norm of each batch gradient before squaring
    batch_size: Positive = 128
    zero_ratio_salient: bool = (
        False  # published: weights where both Fishers are 0 count as salient up to gamma 1
    )


class Saliency(Section):
    """SalUn's score of weights, and the masks made from it."""

    shares: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [0.5], min_length=1
    )  # with_<q>: weights that may move
    draws: Positive = 1  # (t, eps) pairs per image
    guidance: Weight = 0.0  # w of the differentiated prediction
    clip: float | None = Field(None, gt=0)  # published: norm of each batch gradient before they are summed
    batch_size: Positive = 128


class Fim(Section):
    """Selective Amnesia's Fisher, from the model's own samples."""

    n_chunks: Positive = 20  # of the sum over all timesteps: more need less memory
    per_class: Positive | None = None  # the first so many samples of each class; None: all there are
    unit_images: bool = False  # published: images stay in [0, 1], where training has [-1, 1]
    drop_labels: bool = False  # published: labels are dropped as in training
    save_seconds: Positive = 60  # from one resumable state on disk to the next


class SA(Section):
    """Selective Amnesia: l(surrogate) + gamma_gr l(replay) + lmbda sum_i F_i (theta_i - theta*_i)^2."""

    lmbda: Weight
    gamma_gr: Weight = 1.0
    replay: Literal["samples", "remain"] = "samples"  # the model's own class_samples/, or the remain data
    fisher_path: str | None = (
        None  # .safetensors, or a published .pkl; None: fisher_dict.safetensors of ckpt_folder
    )


class ESD(Section):
    eta: Weight = 1.0  # negative guidance of the target


class EraseDiff(Section):
    eta: Weight = 0.5  # share of the forget gradient's squared norm by which each step must descend


class Sampling(Section):
    sample_type: Literal["generalized", "ddpm_noisy", "dpm_solver"] = "generalized"
    timesteps: Positive = 1000  # steps of the sampler; dpm_solver wants about 20
    eta: Weight = 1.0  # generalized: 0 is DDIM, 1 is ancestral
    skip_type: Literal["uniform", "quad"] = "uniform"
    cond_scale: Weight = 2.0  # w: (1 + w) eps_c - w eps_null
    weights: Literal["auto", "ema", "raw"] = "auto"  # auto: EMA where the checkpoint has one
    n_samples_per_class: Positive = 500
    batch_size: Positive = 128
    minmax: bool = False  # published: stretch each image to 0..255 by its own minimum and maximum
    train_mode: bool = False  # published: the EMA copy stays in train mode, so dropout is active


class Seeds(Section):
    """Each comes from `seed` unless given."""

    seed: int = Field(0, ge=0)
    init: int | None = Field(None, ge=0)
    order: int | None = Field(None, ge=0)

    def of(self, purpose: Literal["init", "order"]) -> int:
        chosen = getattr(self, purpose)
        return self.seed if chosen is None else chosen


class Config(Section):
    world: Literal[WORLDS]
    data: Data
    model: Annotated[UNetModel | CNNModel | LibraryModel, Field(discriminator="name")] | None = None
    diffusion: Diffusion | None = None
    optim: Optim | None = None
    training: Training | None = None
    unlearn: Unlearn | None = None
    forget: Forget | None = None
    fisher: Fisher | None = None
    saliency: Saliency | None = None
    fim: Fim | None = None
    sa: SA | None = None
    esd: ESD | None = None
    erasediff: EraseDiff | None = None
    sampling: Sampling | None = None
    seeds: Seeds = Seeds()
    init_weights: Literal["ema", "raw"] = "ema"  # what unlearning and Fishers start from
    ckpt_folder: str | None = None
    results: str = "results"
    device: str = "auto"  # auto: cuda where there is one
