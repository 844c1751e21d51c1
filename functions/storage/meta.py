"""What a checkpoint's `meta.json` says of its run, and the schema that it is read by. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from functions.errors import InputError
from functions.files import sha256_bytes, version
from functions.records import Count, Exact, Record, Sha, check_record, read_record
from functions.storage.provenance import Cost, Selection

PIXELS = {"name": "pixels", "kwargs": {}}  # the encoder of checkpoints whose configs name none

# Bounds of what becomes a size or a count: the largest is far beyond any model here. What they come to together,
# `models.build` bounds by the bytes of the weights.
Width = Annotated[int, Field(gt=0, le=2**16)]
Side = Annotated[int, Field(gt=0, le=2**13)]  # pixels
Depth = Annotated[int, Field(gt=0, le=2**8)]
Classes = Annotated[int, Field(gt=0, le=2**20)]
Moments = list[float] | None


class UNetArguments(Exact):
    ch: Width
    ch_mult: list[Depth] = Field(min_length=1, max_length=16)
    num_res_blocks: Depth
    attn_resolutions: list[int] = Field(max_length=64)
    image_size: Side
    in_channels: Width
    out_ch: Width
    n_classes: Classes
    dropout: float = Field(0.1, ge=0, le=1)
    resamp_with_conv: bool = True


class DiTArguments(Exact):
    patch_size: Side
    hidden_size: Width
    depth: Depth
    num_heads: Width
    in_channels: Width
    image_size: Side
    n_classes: Classes
    learned_variance: bool = True
    mlp_ratio: Depth = 4


class CNNArguments(Exact):
    in_channels: Width
    n_classes: Classes
    image_size: Side
    width: Width = 32


class CifarArguments(Exact):
    arch: str
    n_classes: Classes
    in_channels: Width = 3
    image_size: Side = 32
    mean: Moments = None
    std: Moments = None


class LibraryArguments(Exact):
    arch: str
    n_classes: Classes
    in_channels: Width = 3
    resize: Annotated[int, Field(ge=0, le=2**13)] | None = None
    mean: Moments = None
    std: Moments = None
    options: dict[str, int | float | bool | str | list[int]] | None = None


DIT_SIZES = {  # DiT (arXiv 2212.09748), Table 1
    "XL": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
    "L": {"hidden_size": 1024, "depth": 24, "num_heads": 16},
    "B": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "S": {"hidden_size": 384, "depth": 12, "num_heads": 6},
}

ARGUMENTS = {
    "unet": UNetArguments,
    "dit": DiTArguments,
    "cnn": CNNArguments,
    "cifar": CifarArguments,
    "torchvision": LibraryArguments,
    "timm": LibraryArguments,
}


class LatentsArguments(Exact):
    vae: str
    sha256: Sha | None
    in_channels: Width
    channels: Width
    factor: Side
    scale: Annotated[float, Field(gt=0, lt=1e6)]


class PixelsArguments(Exact):
    pass


ENCODERS = {"pixels": PixelsArguments, "latents": LatentsArguments}


class Described(Record):
    """A model or an encoder."""

    name: str
    kwargs: dict[str, Any]


class Noise(Record):
    """The diffusion that a model was trained on."""

    timesteps: Annotated[int, Field(gt=0, le=10**6)]
    beta_start: Annotated[float, Field(gt=0, lt=1)]
    beta_end: Annotated[float, Field(gt=0, lt=1)]
    p_uncond: Annotated[float, Field(ge=0, le=1)]
    reduction: Literal["sum", "mean"]
    learned_variance: bool = False


class DataSet(Record):
    dataset: str
    n_classes: Classes
    shape: list[Side] = Field(min_length=3, max_length=3)
    classes: list[str]
    n: Count | None = None
    content: str | None = None


class DataSection(Record):
    path: str = "data"
    image_size: Side | Literal["auto"] | None = None
    n_workers: Annotated[int, Field(ge=0, le=2**10)] = 0


class Resolved(Record):
    """What is read again of the config that a run had; converted checkpoints have one too."""

    data: DataSection
    optim: dict | None = None


class Meta(Record):
    """What every reader relies on. The first versions wrote no mode and no cost."""

    world: str
    mode: str | None = None
    model: Described
    encoder: Described
    diffusion: Noise | None
    data: DataSet
    forget: dict | None = None
    selection: Selection | None = None
    forgotten_before: list[Selection] = []
    source: str | None = None
    mask: str | None = None
    config: Resolved
    pretrained: str | None = None
    cost: Cost | None = None
    prepared: Cost | None = None
    step: Count
    files: dict[Annotated[str, Field(pattern=r"^[a-z]+\.[a-z]+$")], Sha]


class JudgedMeta(Meta):
    """And what a comparison of runs tells of each."""

    mode: str
    cost: Cost


def read_meta(path: Path) -> dict:
    """What a `meta.json` says. Raises InputError with one line where it is damaged, or says what cannot be."""
    meta = read_record(path, Meta)
    check_model(meta["model"], path)
    encoder = meta["encoder"]
    check_record(encoder["kwargs"], ENCODERS.get(encoder["name"], Record), f"{path}: encoder.kwargs")
    if meta["diffusion"] is not None:
        meta["diffusion"].setdefault("learned_variance", False)  # older ones do not say
    return meta


def check_model(model: dict, source: Path | str) -> None:
    """Raises InputError where the arguments of `{"name", "kwargs"}` are not that model's, or beyond any such model."""
    check_record(model["kwargs"], ARGUMENTS.get(model["name"], Record), f"{source}: model.kwargs")


def model_meta(section, data: dict, moments: tuple | None = None, learned_variance: bool = False) -> dict:
    """`{"name", "kwargs"}` of the config's model for this data set: sizes and classes always come from the data.

    `moments` are the mean and std per channel that the models for small images normalise by; `learned_variance` is the
    diffusion's.
    """
    channels, size, width = data["shape"]
    kwargs = {
        **section.model_dump(exclude={"name", "pretrained"}),
        "in_channels": channels,
        "n_classes": data["n_classes"],
    }
    if section.name == "unet":
        kwargs |= {"out_ch": channels, "image_size": size}
        if kwargs["ch_mult"] is None:
            kwargs["ch_mult"] = levels(size, width)
        if kwargs["attn_resolutions"] is None:
            sides = [size >> i for i in range(len(kwargs["ch_mult"]))]
            kwargs["attn_resolutions"] = [s for s in sides[1:] or sides if s <= 16][:1]
    if section.name == "dit":
        if size != width:
            raise InputError(f"model dit: takes square images, the data have {width}x{size} pixels (data.image_size)")
        kwargs |= DIT_SIZES.get(kwargs.pop("size"), {}) | {"image_size": size, "learned_variance": learned_variance}
    if section.name in ("cnn", "cifar"):
        kwargs |= {"image_size": size}
    if section.name == "cifar" and moments is not None:
        kwargs |= {"mean": list(moments[0]), "std": list(moments[1])}
    return {"name": section.name, "kwargs": kwargs}


def levels(height: int, width: int) -> list[int]:
    """`ch_mult` of a U-Net for images of this size: [1, 2, 2, ...], halved as long as 4 pixels or more are left.

    Raises InputError for images that are worth a level and cannot be halved once.
    """
    halvings = 0
    while min(height, width) >> (halvings + 1) >= 4 and not (height | width) & ((2 << halvings) - 1):
        halvings += 1
    if halvings == 0 and min(height, width) >= 8:
        raise InputError(
            f"images of {width}x{height} pixels cannot be halved: --image_size {height // 16 * 16 or 8} can"
        )
    return [1] + [2] * halvings


def run_meta(
    cfg,
    mode: str,
    data: dict,
    model: dict,
    encoder: dict,
    diffusion: dict | None,
    source: str | None,
    mask: str | None,
    selection: dict | None = None,
) -> dict:
    """What `meta.json` says of a run, beyond its step and files.

    `data` and `model` as their keys in it, `source` the hash of the weights it starts from, `mask` that of its mask,
    `selection` what it forgets as provenance says it.
    """
    return {
        "world": cfg.world,
        "mode": mode,
        "model": model,
        "encoder": encoder,
        "diffusion": diffusion,
        "data": data,
        "forget": cfg.forget and cfg.forget.model_dump(),
        "selection": selection,
        "source": source,
        "mask": mask,
        "config": cfg.model_dump(),
        "version": version(),
    }


def content(images) -> str:
    """SHA-256 of a data set's labels in order and, of a folder, of its files' names: what stored indices refer to."""
    names = [Path(f).parts[-2:] for f in images.decoder.files] if hasattr(images, "decoder") else []
    return sha256_bytes(images.labels.cpu().numpy().tobytes() + repr(names).encode())
