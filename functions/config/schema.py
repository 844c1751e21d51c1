"""The schema of configs: every key, its type, its default and its meaning stand here once. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Names for argparse `choices` and for the checks below; a test compares each with the dict of classes it names.
WORLDS = ("ddpm", "classifier")
MODES = (
    "pretrain",
    "retrain",
    "finetune",
    "ga",
    "generate_fisher",
    "sfron",
    "generate_mask",
    "salun",
    "sa",
    "esd",
    "erasediff",
    "neggrad",
    "l1_sparse",
    "salun_soft",
    "scrub",
    "bad_teacher",
    "boundary_expand",
    "boundary_shrink",
    "iu",
    "fisher_forget",
)
DATASETS = ("digits", "shapes", "cifar10", "cifar100", "svhn", "stl10", "folder", "tinyimagenet", "imagenet")
CIFAR_ARCHS = ("resnet18", "resnet34", "resnet50", "resnet20s", "resnet44s", "resnet56s", "vgg16_bn")
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")  # torchvision's, for large images
FORGET_LOSSES = ("adaga", "ga", "match", "relabel")
RL_ALIAS = {"ddpm": "match", "classifier": "relabel"}  # what the published `rl` means in each world
ESTIMATORS = ("per_example", "batch")

Positive = Annotated[int, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Unknown keys and wrong types are errors, and nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())


class Data(Section):
    dataset: Literal[DATASETS]
    path: str = "data"  # where torchvision data sets are downloaded, or the folder of `dataset: folder`
    image_size: Positive | None = None  # resize to this; None keeps the data set's own size
    flip: bool = False  # random horizontal flips, drawn afresh for every batch
    frozen_augment: bool = False  # published: each image is flipped once and for all
    crop: int = Field(0, ge=0)  # random crops after padding by this many pixels
    n_workers: int = Field(2, ge=0)  # decoding processes; image folders only
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the training images, never trained on
    indices: str | None = None  # pretraining on these images alone: a JSON list or .npy of indices


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


class CifarModel(Section):
    name: Literal["cifar"]  # for small images: no stride before the first block
    arch: Literal[CIFAR_ARCHS]


class LibraryModel(Section):
    name: Literal["torchvision", "timm"]
    arch: str
    options: dict[str, int | float | bool | str | list[int]] = {}  # further arguments of timm.create_model
    pretrained: bool = False  # start from ImageNet's weights
    resize: int = Field(0, ge=0)  # side that images are scaled to inside the model; 0: not


class PixelsEncoder(Section):
    name: Literal["pixels"]  # the model sees the images themselves, scaled to [-1, 1]

    def meta(self) -> dict:
        """`{"name", "kwargs"}`, as `meta.json` stores an encoder."""
        return {"name": self.name, "kwargs": self.model_dump(exclude={"name"})}


class Diffusion(Section):
    timesteps: Positive = 1000  # T
    beta_start: float = Field(1e-4, gt=0, lt=1)
    beta_end: float = Field(0.02, gt=0, lt=1)
    p_uncond: Share = 0.1  # labels dropped in pretraining and remain steps
    reduction: Literal["sum", "mean"] = "sum"  # of the squared error over C,H,W


class Optim(Section):
    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(gt=0)
    lr_schedule: Literal["constant", "cosine", "steps"] = "constant"
    decreasing_lr: list[Positive] = []  # steps: the rate is divided by ten from each of these epochs on
    weight_decay: Weight = 0.0
    momentum: Share = 0.9  # SGD only
    grad_clip: float | None = Field(None, gt=0)  # norm; training and remain steps


class Training(Section):
    n_iters: Positive | None = None  # steps; or
    epochs: Positive | None = None  # passes over what the method trains on. What was set last counts
    batch_size: Positive
    ema: bool  # keep an exponential moving average; it starts as a copy of the weights after the first step
    ema_rate: float = Field(0.9999, gt=0, lt=1)
    log_freq: Positive = 10
    snapshot_freq: Positive = 1000
    keep: Positive = 3  # snapshots that stay, besides the final one
    channels_last: bool = False  # memory format of images and convolutions: faster on most devices
    # of training's forward passes; losses and weights stay float32. tf32: CUDA's matrix products of 10-bit mantissas;
    # bf16: autocast
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    compile: bool = False  # torch.compile the model that training steps call
    # a batch passes in so many parts, one part's activations in memory at a time; each is computed twice
    accumulate: Positive = 1
    checkpointing: bool = False  # activations inside blocks are computed again in the backward pass, not kept
    # classes on the grid of a snapshot, chosen evenly, always the forgotten one; off: no grid. Diffusion only
    preview: Positive | Literal["off"] = 10

    @model_validator(mode="before")
    @classmethod
    def _bf16(cls, values: object) -> object:
        """`bf16: true`, as --bf16 sets it and older files say it, is `precision: bf16`."""
        if not isinstance(values, dict) or not isinstance(values.get("bf16"), bool):
            return values
        rest = {key: value for key, value in values.items() if key != "bf16"}
        return {**rest, "precision": "bf16"} if values["bf16"] else rest


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
    # gradients are masked. None: strict, but gradient in sfron, whose remain steps move all weights
    # (strict there masks the remain steps too).
    mask_mode: Literal["strict", "gradient"] | None = None
    clip_first: bool = False  # published SalUn: clip the gradient's norm before masking it, not after; not in sfron
    dropout: bool = True  # keep the model's dropout active while unlearning
    # salun: paired, a forget and a remain batch in one step; split, in each epoch a pass over the forget set and then
    # one over the remain set (published for CIFAR-10, SVHN); joint, one pass over both mixed (CIFAR-100, TinyImageNet)
    order: Literal["paired", "split", "joint"] = "paired"
    # update (published): BatchNorm's statistics follow the method's batches; freeze: they stay the original's, also in
    # the forward pass; recalibrate: update, and at the end they are made anew from the remain set
    bn_mode: Literal["update", "freeze", "recalibrate"] = "update"


class Forget(Section):
    """What to forget: a class, a number or share of all images or of one class, or the images of an index file."""

    label: int | None = Field(None, ge=0)
    count: Positive | None = None
    fraction: float | None = Field(None, gt=0, le=1)
    index_file: str | None = None  # a JSON list of indices into the training images, or .npy


class Fisher(Section):
    estimator: Literal[ESTIMATORS] = "per_example"
    draws: Positive = 1  # (t, eps) pairs per image
    guidance: Weight = 0.0  # w of the differentiated prediction
    clip: float | None = Field(None, gt=0)  # `batch` only: norm of each batch gradient before squaring
    batch_size: Positive = 128
    zero_ratio_salient: bool = False  # published: weights where both Fishers are 0 count as salient up to gamma 1


class Saliency(Section):
    """SalUn's score of weights, and the masks made from it."""

    shares: list[Annotated[float, Field(gt=0, le=1)]] = Field([0.5], min_length=1)  # with_<q>: weights that may move
    draws: Positive = 1  # (t, eps) pairs per image
    guidance: Weight = 0.0  # w of the differentiated prediction
    clip: float | None = Field(None, gt=0)  # published: norm of each batch gradient before they are summed
    batch_size: Positive = 128
    export: bool = False  # also write with_<q>.pt, which the published classification scripts read


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
    fisher_path: str | None = None  # .safetensors, or a published .pkl; None: fisher_dict.safetensors of ckpt_folder


class ESD(Section):
    eta: Weight = 1.0  # negative guidance of the target


class EraseDiff(Section):
    eta: Weight = 0.5  # share of the forget gradient's squared norm by which each step must descend


class L1(Section):
    """l1-sparse: CE(D_r) + a_e ||theta||_1, a_e = weight (1 - e / (E - no_l1_epochs)) in epoch e, 0 at the end."""

    weight: Weight = 5e-4
    no_l1_epochs: int = Field(0, ge=0)  # the last epochs have none


class SoftMask(Section):
    """SalUn-soft: weights are pulled back to the original by the k-th smallest move, k = ratio (1 - progress) N."""

    ratio: Share = 0.5


class Scrub(Section):
    """SCRUB: away from the original on D_f in the first `msteps` epochs, towards it and the labels on D_r in all."""

    msteps: int = Field(2, ge=0)
    gamma: Weight = 0.99  # of the cross entropy
    alpha: Weight = 0.001  # of the divergence
    temperature: float = Field(4.0, gt=0)


class BadTeacher(Section):
    temperature: float = Field(1.0, gt=0)


class Boundary(Section):
    eps: float = Field(0.1, gt=0)  # boundary_shrink: the step that finds the nearest class, in pixels of [0, 1]


class IU(Section):
    """Influence unlearning: theta += step H^-1 v, H = I + (1/K) G^T G over K remain examples."""

    step: float = 1.0
    k: Positive = 1000
    solver: Literal["exact", "published"] = "exact"  # published: the recursion, rank one along the first gradient
    chunk: Positive = 32  # examples differentiated at once
    tol: float = Field(1e-6, gt=0)  # relative residual at which conjugate gradients stop
    max_iter: Positive = 200  # or after so many, with a line that says so


class FisherForget(Section):
    """Fisher forgetting: theta += sqrt(min(alpha / F_r, cap)) N(0, 1), the head's variance times `head_factor`."""

    alpha: Weight = 1e-8
    cap: Weight = 1e-3
    head_factor: Weight = 10.0


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
    split: int | None = Field(None, ge=0)  # of training and validation images; an original's is kept
    forget: int | None = Field(None, ge=0)  # which images a number or a share takes
    order: int | None = Field(None, ge=0)

    def of(self, purpose: Literal["init", "split", "forget", "order"]) -> int:
        chosen = getattr(self, purpose)
        return self.seed if chosen is None else chosen


class Config(Section):
    world: Literal[WORLDS]
    data: Data
    model: Annotated[UNetModel | CNNModel | CifarModel | LibraryModel, Field(discriminator="name")] | None = None
    encoder: PixelsEncoder | None = None  # the original's, or pixels
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
    l1: L1 | None = None
    salun_soft: SoftMask | None = None
    scrub: Scrub | None = None
    bad_teacher: BadTeacher | None = None
    boundary: Boundary | None = None
    iu: IU | None = None
    fisher_forget: FisherForget | None = None
    sampling: Sampling | None = None
    seeds: Seeds = Seeds()
    init_weights: Literal["ema", "raw"] = "ema"  # what unlearning and Fishers start from
    ckpt_folder: str | None = None
    results: str = "results"
    save_dir: str | None = None  # the folder to write, in place of one below `results` named after the time
    device: str = "auto"  # auto: cuda where there is one
