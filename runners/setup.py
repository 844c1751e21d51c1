"""From a config to the things a run is made of: device, task, model, data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

import datasets
import models
from datasets.facts import MOMENTS
from datasets.latents import LatentImages
from datasets.split import checked_indices, pool_of, select, train_val_split
from functions.config.classes import class_numbers
from functions.config.load import config_hash
from functions.config.schema import Config
from functions.config.selection import is_class, selection_name
from functions.errors import InputError
from functions.files import note, sha256_bytes, sha256_file
from functions.memory import check_room
from functions.randomness import key_seed
from functions.storage.mask_files import mask_file
from functions.storage.meta import PIXELS, content, model_meta, run_meta
from functions.tasks import Task
from functions.training import distributed
from functions.training.footprint import outline
from functions.training.forward import set_float32
from models.classifiers import check_takes, load_imagenet
from runners.latents import kept
from runners.original import Original, without_dropout
from runners.worlds import WORLDS, Look, Score

Images = datasets.ImageSet | datasets.FolderImages | LatentImages


@dataclass
class Materials:
    """What a runner works with. `remain` is everything where nothing is forgotten."""

    cfg: Config  # with classes by number
    device: torch.device
    task: Task
    model: nn.Module
    images: Images
    forget: Tensor | None  # (n_f,) indices
    remain: Tensor  # (n_r,)
    val: Tensor  # (n_v,) images that no model here is trained on
    selection: dict | None  # what is forgotten, as provenance says it
    original: Original | None  # what the model was read from
    meta: dict  # what checkpoints say about where they come from
    preview: Look | None
    validate: Score | None

    def __post_init__(self) -> None:
        trainable = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        self.names, self.params = zip(*trainable)

    @property
    def indices(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of its data."""
        found = {"remain": self.remain, "forget": self.forget, "val": self.val}
        return {name: t for name, t in found.items() if t is not None}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the trainable weights by name: what a mask or a Fisher has to fit."""
        return {n: tuple(p.shape) for n, p in zip(self.names, self.params)}

    @property
    def source(self) -> str | None:
        """The hash of the weights this run starts from."""
        return self.meta["source"]

    @property
    def provenance(self) -> dict:
        """What a Fisher or a mask is made for: the weights it starts from and the forget selection."""
        return {"checkpoint": self.source, "forget": self.selection}


def with_class_numbers(cfg: Config, names: Sequence[str]) -> Config:
    """The config with the classes to forget by number: however they are called, it is the same run."""
    if cfg.forget is None or cfg.forget.label is None:
        return cfg
    label = class_numbers(cfg.forget.label, names, cfg.data.dataset, "label_to_forget")
    return cfg.model_copy(update={"forget": cfg.forget.model_copy(update={"label": label})})


def with_mask_file(cfg: Config) -> Config:
    """The config with a mask's own file where it names a folder of masks: either way it is the same run."""
    u = cfg.unlearn
    if u is None or u.mask_path is None:
        return cfg
    path = mask_file(u.mask_path, selection_name(cfg.forget, cfg.seeds.of("forget")), u.threshold)
    if path == u.mask_path:
        return cfg
    print(f"--mask_path {u.mask_path}: taking {path}")
    chosen = {"mask_path": path, "threshold": None}
    return cfg.model_copy(update={"unlearn": u.model_copy(update=chosen)})


def prepare(cfg: Config, mode: str, fresh: bool, dry: bool = False) -> Materials:
    """Build everything a run needs; `fresh` initialises the model, otherwise `ckpt_folder` gives it.

    `dry` gives an outline of the model, whose weights are not read and take no memory.
    """
    device, world = distributed.choose_device(cfg.device), WORLDS[cfg.world]
    set_float32(cfg.training.precision if cfg.training else "fp32")
    d = cfg.data
    images = datasets.load(d.dataset, d.path, "train", d.image_size, test_fraction=d.test_fraction, fit=d.fit)
    if d.n_classes not in (None, images.n_classes):
        raise InputError(f"data.n_classes: got {d.n_classes}; {images.name} has {images.n_classes} (--num_classes)")
    cfg = with_mask_file(with_class_numbers(cfg, images.classes))
    data, original = data_meta(cfg, images), Original.open(cfg)
    encoder_meta = encoder_of(cfg, original)
    encoder = models.encoder(encoder_meta)
    seen = {**data, "shape": encoder.shape(images.shape)}
    learned = cfg.diffusion is not None and cfg.diffusion.learned_variance
    wanted = cfg.model and model_meta(cfg.model, seen, MOMENTS.get(images.name), learned)
    if original is not None:
        original.check(cfg, data, wanted)
    pool, val = split(cfg, images, original)
    forget, remain, selection = selected(cfg, images, pool)
    meta = original.meta["model"] if original else wanted
    pretrained = (
        original.pretrained if original else cfg.model.arch if getattr(cfg.model, "pretrained", False) else None
    )
    if dry:
        source, model = None if fresh else original.hash, outlined(cfg, meta, device)
    elif fresh:
        source, model = None, _fresh(cfg, meta, pretrained)
        if meta["name"] == "timm":
            check_takes(model, seen["shape"])
    else:
        source, model = original.hash, original.model(dropout=not cfg.unlearn or cfg.unlearn.dropout)
    _check_batches(cfg, images, model)
    if d.latents is not None:
        images = kept(cfg, images, data, encoder, remain if forget is None else torch.cat([forget, remain]))
        encoder_meta = {**encoder_meta, "kwargs": {**encoder_meta["kwargs"], "sha256": encoder.sha256}}
    diffusion = cfg.diffusion.model_dump() if fresh and cfg.diffusion else original and original.meta["diffusion"]
    task = world.task(images.n_classes, diffusion, encoder)
    if selection and isinstance(selection["label"], list):
        task = task.forgetting(selection["label"])
    task = task.to(device)
    images = images.to(device)
    record = run_meta(cfg, mode, data, meta, encoder_meta, diffusion, source, mask_hash(cfg), selection)
    record |= {
        "indices": _digest(remain, val),
        "forgotten_before": original.forgotten if original else [],
        "pretrained": pretrained,
    }
    facts = {key: record[key] for key in ("data", "source", "mask", "indices", "selection")}
    distributed.agree({"config": config_hash(cfg), **facts, **_rhythm(cfg)})
    preview, validate = world.preview(cfg, task, images), world.validate(cfg, images, val)
    if dry and cfg.training:  # outlines do not change their format, and hold as much in any
        cfg = cfg.model_copy(update={"training": cfg.training.model_copy(update={"channels_last": False})})
    model = model if dry else model.to(device)
    return Materials(
        cfg, device, task, model, images, forget, remain, val, selection, original, record, preview, validate
    )


def encoder_of(cfg: Config, original: Original | None) -> dict:
    """The encoder as `meta.json` stores it: the original's, which a config may only place elsewhere; without one, the
    config's, or pixels."""
    asked = cfg.encoder and models.encoder_meta(**cfg.encoder.model_dump())
    if original is None:
        return asked or PIXELS
    return original.encoder(asked)


def _check_batches(cfg: Config, images: Images, model: nn.Module) -> None:
    """Raises InputError for batches of which one activation, that of the first convolution, would not fit."""
    first = next((p for p in model.parameters() if p.ndim == 4), None)
    maps = 1 if first is None else len(first) // 16  # of a quarter of the side, where the model is for large images
    channels, height, width = images.shape
    each = 4 * height * width * max(channels, maps)
    for name in ("training", "fisher", "saliency"):
        if section := getattr(cfg, name):
            parts = section.accumulate if name == "training" else 1
            check_room(f"{name}.batch_size", section.batch_size // parts, "images at once", each)


def _rhythm(cfg: Config) -> dict:
    """What the config's hash leaves out and processes must agree on: when they wait for one another, and where."""
    keys = ("n_iters", "epochs", "log_freq", "snapshot_freq", "keep", "preview", "preview_freq")
    training = {f"training.{key}": getattr(cfg.training, key) for key in keys} if cfg.training else {}
    return {"device": cfg.device, "save_dir": cfg.save_dir, "results": cfg.results, **training}


def data_meta(cfg: Config, images: Images) -> dict:
    """What `meta.json` says of the data."""
    return {
        "dataset": cfg.data.dataset,
        "n_classes": images.n_classes,
        "shape": list(images.shape),
        "classes": list(images.classes),
        "n": len(images),
        "content": content(images),
    }


def split(cfg: Config, images: Images, original: Original | None) -> tuple[Tensor, Tensor]:
    """(what may be trained on, validation): the original's, as its checkpoint says, or drawn for a new model."""
    if original is not None:
        if cfg.data.indices is not None:
            raise InputError("data.indices: has no meaning beside --ckpt_folder, which says what it was trained on")
        if original.indices is None:  # written before checkpoints kept this, or converted
            print(f"{original.folder}: does not say what it was trained on: taken as all {len(images)} images")
            return torch.arange(len(images)), torch.arange(0)
        if n := original.meta["config"]["data"].get("remain_pool"):
            note(
                f"{original.folder}: went on from a pool of {n:,} images (data.remain_pool): no others can be used here"
            )
        return original.indices["remain"], original.indices["val"]
    pool = torch.arange(len(images))
    if cfg.data.indices is not None:
        pool = checked_indices(cfg.data.indices, len(images), name=images.name, key="data.indices")
    train, val = train_val_split(images.labels[pool], cfg.data.val_fraction, cfg.seeds.of("split"))
    return pool[train], pool[val]


def selected(cfg: Config, images: Images, pool: Tensor) -> tuple[Tensor | None, Tensor, dict | None]:
    """(forget set, what remains, the forget set by data set, class where it is one, name and hash of its indices)."""
    if cfg.forget is None:
        return None, pool, None
    seed, chosen = cfg.seeds.of("forget"), cfg.forget.model_dump()
    forget, remain = select(images.labels, images.classes, images.name, seed, pool, **chosen)
    if cfg.data.remain_pool is not None:
        remain = pool_of(images.labels, remain, cfg.data.remain_pool, cfg.data.pool_seed)
    selection = {
        "dataset": cfg.data.dataset,
        "label": cfg.forget.label if is_class(cfg.forget) else None,
        "name": selection_name(cfg.forget, seed),
        "indices": _digest(forget),
    }
    return forget, remain, selection


def _digest(*indices: Tensor) -> str:
    """SHA-256 of sets of indices, so that a resumed run notices others."""
    return sha256_bytes(b"and".join(i.numpy().tobytes() for i in indices))


def mask_hash(cfg: Config) -> str | None:
    """SHA-256 of the mask a run uses, so that a resumed run notices another one under the same name."""
    path = cfg.unlearn and cfg.unlearn.mask_path
    return None if path is None else sha256_file(path)


def outlined(cfg: Config, meta: dict, device: torch.device) -> nn.Module:
    """The model that `meta` describes, for its shapes."""
    model = outline(partial(models.build, meta), device)
    return model if not cfg.unlearn or cfg.unlearn.dropout else without_dropout(model)


def _fresh(cfg: Config, meta: dict, pretrained: str | None) -> nn.Module:
    """A new model; retraining has the architecture and the beginning of the original."""
    torch.manual_seed(key_seed(cfg.seeds.of("init"), "init"))
    model = models.build(meta)
    if pretrained:
        load_imagenet(model, pretrained)
    return model
