"""The schema of configs: keys, types, defaults and meanings of the sections that modes share. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator
from pydantic_core import PydanticCustomError

from functions.config.passes import Fim, Fisher, Saliency, Sampling
from functions.config.section import (
    Batch,
    Depth,
    Inside,
    Mode,
    Place,
    Positive,
    Scale,
    Section,
    Seed,
    Share,
    Side,
    Weight,
    Width,
    Workers,
)
from functions.config.worlds import WORLDS

# Names for argparse `choices` and for the checks below; a test compares each with the dict of classes it names.
DATASETS = (
    "digits",
    "shapes",
    "shapes_upright",
    "cifar10",
    "cifar100",
    "svhn",
    "stl10",
    "folder",
    "tinyimagenet",
    "imagenet",
)
CIFAR_ARCHS = ("resnet18", "resnet34", "resnet50", "resnet20s", "resnet44s", "resnet56s", "vgg16_bn")
DIT_SIZES = ("XL", "L", "B", "S")
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")  # torchvision's, for large images
FITS = ("middle", "adm")

ClassNumber = Annotated[int, Field(ge=0, le=10**9)]


class Data(Section):
    dataset: Literal[DATASETS]
    path: Place = "data"  # where torchvision data sets are downloaded, or the folder of `dataset: folder`
    # resize to this; None keeps the data set's own size; auto (folder only) chooses one where they differ or are large
    image_size: Side | Literal["auto"] | None = None
    # how an image on disk becomes a square: the middle, bilinear; or as ADM and DiT were trained, see `fit_adm`
    fit: Literal[FITS] = "middle"
    test_fraction: Annotated[float, Field(ge=0, lt=1)] | None = None  # of a `folder` that has no test part
    n_classes: Positive | None = None  # what the data set must have, for configs that say so; null: whatever it has
    flip: bool = False  # random horizontal flips, drawn afresh for every batch
    frozen_augment: bool = False  # published: each image is flipped once and for all; not by modes that make a model
    crop: int = Field(0, ge=0, le=1024)  # random crops after padding by this many pixels
    n_workers: Workers = 2  # decoding processes; image folders only
    # of the training images, never trained on; a classifier's accuracy on them is said after each epoch
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    indices: Place | None = None  # pretraining on these images alone: a JSON list or .npy of indices
    # of the images that remain only so many, of each class its share: beside those to forget no others are opened
    remain_pool: Positive | None = None
    latents: Place | None = None  # the folder of encode_dataset.py: its moments are read in place of the images
    pool_seed: Seed = 0  # which; not of `seed`, so that runs of several seeds have one pool


class UNetModel(Section):
    name: Literal["unet"]
    # of the embedding of t: half of them sines, whose frequencies are apart by a power of 1 / (ch/2 - 1)
    ch: int = Field(ge=4, le=4096)
    # each halves the image: 4096 pixels can be halved twelve times; null: as many as the size of the images allows
    ch_mult: Annotated[list[Annotated[int, Field(gt=0, le=64)]], Field(min_length=1, max_length=13)] | None
    num_res_blocks: Depth
    attn_resolutions: list[Side] | None  # null: the largest level of at most 16 pixels
    dropout: Share = 0.1
    resamp_with_conv: bool = True


class DiTModel(Section):
    name: Literal["dit"]
    size: Literal[DIT_SIZES] | None = None  # published: hidden_size, depth and num_heads by this name
    patch_size: Annotated[int, Field(gt=0, le=64)] = 2  # side of what becomes one token
    hidden_size: Width | None = None
    depth: Depth | None = None  # blocks
    num_heads: Width | None = None

    @model_validator(mode="after")
    def _sized(self):
        given = [self.hidden_size, self.depth, self.num_heads]
        if self.size is None and None in given:
            raise ValueError("wanted a size, or hidden_size, depth and num_heads")
        if self.size is not None and given != [None] * 3:
            raise ValueError(f"size {self.size} says hidden_size, depth and num_heads; wanted it or them")
        return self


class CNNModel(Section):
    name: Literal["cnn"]
    width: Width = 32


class CifarModel(Section):
    name: Literal["cifar"]  # for small images: no stride before the first block
    arch: Literal[CIFAR_ARCHS]


# timm's models take sizes, counts, shares and names
Option = (
    Annotated[int, Field(ge=-(10**6), le=10**6)] | Annotated[float, Field(ge=-1e6, le=1e6)] | bool | str | list[Side]
)


class LibraryModel(Section):
    name: Literal["torchvision", "timm"]
    arch: str
    options: dict[str, Option] = {}  # further arguments of timm.create_model
    pretrained: bool = False  # start from ImageNet's weights
    resize: int = Field(0, ge=0, le=4096)  # side that images are scaled to inside the model; 0: not


Model = UNetModel | DiTModel | CNNModel | CifarModel | LibraryModel


class PixelsEncoder(Section):
    name: Literal["pixels"]  # the model sees the images themselves, scaled to [-1, 1]


class LatentsEncoder(Section):
    name: Literal["latents"]  # the model sees draws from an autoencoder's posterior
    vae: Place  # the folder of a diffusers AutoencoderKL, or stabilityai/sd-vae-ft-ema or -mse


class Diffusion(Section):
    # T: a schedule goes from one beta to another, and each step of it takes a weight
    timesteps: int = Field(1000, ge=2, le=100_000)
    beta_start: Inside = 1e-4
    beta_end: Inside = 0.02
    p_uncond: Share = 0.1  # labels dropped in pretraining and remain steps
    reduction: Literal["sum", "mean"] = "sum"  # of the squared error over C,H,W
    # the model says the variance of each step too, and the loss has the part of the bound that trains it (DiT)
    learned_variance: bool = False


class Optim(Section):
    name: Literal["adam", "adamw", "sgd", "adamw8bit"] = "adam"  # 8bit: moments in 8 bits, by bitsandbytes
    lr: float = Field(gt=0, le=1e30)  # float32 ends at 3e38
    lr_schedule: Literal["constant", "cosine", "steps"] = "constant"
    cosine_per: Literal["step", "epoch"] = "step"  # cosine: the rate falls with each step, or (published) each epoch
    decreasing_lr: list[Positive] = []  # steps: the rate is divided by ten from each of these epochs on
    weight_decay: Weight = 0.0
    momentum: Share = 0.9  # SGD only
    grad_clip: Scale | None = None  # norm; training and remain steps
    # moments of the weights in a strict mask alone, where every step is masked; adamw8bit does that without being asked
    sparse_moments: bool = False


class Training(Section):
    n_iters: Positive | None = None  # steps; or
    epochs: Positive | None = None  # passes over what the method trains on. What was set last counts
    batch_size: Batch
    ema: bool  # keep an exponential moving average; it starts as a copy of the weights after the first step
    ema_rate: Inside = 0.9999
    log_freq: Positive = 10
    snapshot_freq: Positive = 1000
    preview_freq: Positive | None = None  # steps from one grid to the next; null: a grid at each snapshot
    keep: Positive = 3  # snapshots that stay, besides the final one
    channels_last: bool = False  # memory format of images and convolutions: faster on most devices
    # of training's forward passes; losses and weights stay float32. tf32: CUDA's matrix products of 10-bit mantissas;
    # bf16: autocast
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    compile: bool = False  # torch.compile the model that training steps call
    # a batch passes in so many parts, one part's activations in memory at a time; each is computed twice
    accumulate: Batch = 1
    checkpointing: bool = False  # activations inside blocks are computed again in the backward pass, not kept
    # classes on a grid, chosen evenly, always the forgotten one; auto: as many images, beginning with the forgotten
    # class, as take a tenth of the run's passes at most; off: no grid. Diffusion only
    preview: Positive | Literal["auto", "off"] = 10
    curves: bool = True  # at the end a picture of what stats.jsonl holds: losses, rate, validation accuracy

    @field_validator("preview", mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        """YAML reads `off` as false."""
        return "off" if value is False else value


class Forget(Section):
    """What to forget: a class, a number or share of all images or of one class, or the images of an index file."""

    label: ClassNumber | str | list[ClassNumber | str] | None = None  # a class by number or name, or several
    count: Positive | None = None
    fraction: float | None = Field(None, gt=0, le=1)
    index_file: Place | None = None  # a JSON list of indices into the training images, or .npy

    @field_validator("label", mode="wrap")
    @classmethod
    def _label(cls, value: object, read: Callable) -> object:
        """One message for all that is no class, in place of one for each member of the union."""
        words = value if isinstance(value, list) else [value]
        fine = all((type(w) is int and 0 <= w <= 10**9) or (isinstance(w, str) and w) for w in words) and words
        if value is None or fine:
            return read(value)
        raise PydanticCustomError("class", "Input should be the number of a class, its name, or a list of them")


class Seeds(Section):
    """Each comes from `seed` unless given."""

    seed: Seed = 0
    init: Seed | None = None
    split: Seed | None = None  # of training and validation images; an original's is kept
    forget: Seed | None = None  # which images a number or a share takes
    order: Seed | None = None

    def of(self, purpose: Literal["init", "split", "forget", "order"]) -> int:
        chosen = getattr(self, purpose)
        return self.seed if chosen is None else chosen


class Config(Section):
    world: Literal[tuple(WORLDS)]
    data: Data
    model: (
        Annotated[UNetModel | DiTModel | CNNModel | CifarModel | LibraryModel, Field(discriminator="name")] | None
    ) = None
    # null: the original's, or pixels
    encoder: Annotated[PixelsEncoder | LatentsEncoder, Field(discriminator="name")] | None = None
    diffusion: Diffusion | None = None
    optim: Optim | None = None
    training: Training | None = None
    unlearn: SerializeAsAny[Mode] | None = (
        None  # the section of the run's mode (methods.METHODS), for those that forget
    )
    forget: Forget | None = None
    fisher: Fisher | None = None
    saliency: Saliency | None = None
    fim: Fim | None = None
    sampling: Sampling | None = None
    seeds: Seeds = Seeds()
    init_weights: Literal["ema", "raw"] = "ema"  # what unlearning and Fishers start from
    ckpt_folder: Place | None = None
    results: Place = "results"
    save_dir: Place | None = None  # the folder to write, in place of one below `results` named after the time
    device: str = "auto"  # auto: cuda where there is one
