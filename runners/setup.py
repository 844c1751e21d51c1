"""From a config to the things a run is made of: device, task, model, data. The only place that looks at the world."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import datasets
import models
from datasets.facts import MOMENTS
from datasets.split import checked_indices, select, train_val_split
from functions.config.schema import Config, Sampling
from functions.config.selection import is_class, selection_name
from functions.errors import InputError
from functions.files import sha256_bytes, sha256_file
from functions.randomness import key_seed
from functions.sampling.samplers import generate
from functions.storage import checkpoint
from functions.storage.meta import ENCODER, content, model_meta, run_meta
from functions.tasks import Classification, Denoising, Task, denoising
from functions.training.classifier_training import count_right
from functions.training.distributed import choose_device
from functions.training.modes import training_mode
from models.classifiers import load_imagenet

GRID_ROW = 8  # images per class on the grid of a snapshot
GRID_STEPS, GRID_GUIDANCE = 20, 2.0  # of DPM-Solver++: a look at the run, not a measurement


@dataclass
class Setup:
    """What a runner works with. `remain` is everything where nothing is forgotten."""

    device: torch.device
    task: Task
    model: nn.Module
    images: datasets.ImageSet | datasets.FolderImages
    forget: Tensor | None  # (n_f,) indices
    remain: Tensor  # (n_r,)
    val: Tensor  # (n_v,) images that no model here is trained on
    selection: dict | None  # what is forgotten, as provenance says it
    meta: dict  # what checkpoints say about where they come from
    preview: Callable[[nn.Module], Tensor] | None  # (N, C, H, W) in [0, 1], rows of GRID_ROW, same noise each time
    validate: Callable[[nn.Module], float] | None  # accuracy on `val`

    @property
    def indices(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of its data."""
        found = {"remain": self.remain, "forget": self.forget, "val": self.val}
        return {name: t for name, t in found.items() if t is not None}

    @property
    def source(self) -> str | None:
        """The hash of the weights this run starts from."""
        return self.meta["source"]


def prepare(cfg: Config, mode: str, fresh: bool) -> Setup:
    """Build everything a run needs; `fresh` initialises the model, otherwise `ckpt_folder` gives it."""
    device = choose_device(cfg.device)
    images = datasets.load(cfg.data.dataset, path=cfg.data.path, split="train", image_size=cfg.data.image_size)
    data = {
        "dataset": cfg.data.dataset,
        "n_classes": images.n_classes,
        "shape": list(images.shape),
        "classes": list(images.classes),
        "n": len(images),
        "content": content(images),
    }
    if cfg.ckpt_folder is not None:
        _check_original(cfg, data)
    pool, val = _split(cfg, images)
    forget, remain, selection = None, pool, None
    if cfg.forget is not None:
        chosen = cfg.forget.model_dump()
        forget, remain = select(images.labels, images.classes, images.name, cfg.seeds.of("forget"), pool, **chosen)
        selection = _selection(cfg, forget)
    model, meta, source, diffusion = _fresh_model(cfg, data) if fresh else _model_from_checkpoint(cfg, data)
    task = make_task(cfg.world, images.n_classes, diffusion)
    preview = functools.partial(_preview, task, images.n_classes, images.shape) if cfg.world == "ddpm" else None
    images = images.to(device)
    validate = functools.partial(_validate, images, val, cfg) if cfg.world == "classifier" and len(val) else None
    record = run_meta(cfg, mode, data, meta, diffusion, source, mask_hash(cfg), selection)
    record |= {
        "indices": _digest(remain, val),
        "forgotten_before": _forgotten_before(cfg),
        "pretrained": _pretrained(cfg),
    }
    return Setup(
        device=device,
        task=task.to(device),
        model=model.to(device),
        images=images,
        forget=forget,
        remain=remain,
        val=val,
        selection=selection,
        meta=record,
        preview=preview,
        validate=validate,
    )


def _split(cfg: Config, images: datasets.ImageSet | datasets.FolderImages) -> tuple[Tensor, Tensor]:
    """(what may be trained on, validation): the original's, as its checkpoint says, or drawn for a new model."""
    if cfg.ckpt_folder is not None:
        if cfg.data.indices is not None:
            raise InputError("data.indices: has no meaning beside --ckpt_folder, which says what it was trained on")
        stored = checkpoint.load_indices(cfg.ckpt_folder)
        if stored is None:  # written before checkpoints kept this, or converted
            print(f"{cfg.ckpt_folder}: does not say what it was trained on: taken as all {len(images)} images")
            return torch.arange(len(images)), torch.arange(0)
        return stored["remain"], stored["val"]
    pool = torch.arange(len(images))
    if cfg.data.indices is not None:
        pool = checked_indices(cfg.data.indices, len(images), name=images.name, key="data.indices")
    train, val = train_val_split(images.labels[pool], cfg.data.val_fraction, cfg.seeds.of("split"))
    return pool[train], pool[val]


def _digest(*indices: Tensor) -> str:
    """SHA-256 of sets of indices, so that a resumed run notices others."""
    return sha256_bytes(b"and".join(i.numpy().tobytes() for i in indices))


def _forgotten_before(cfg: Config) -> list[dict]:
    """What the model to start from had forgotten itself."""
    if cfg.ckpt_folder is None:
        return []
    stored = checkpoint.load_meta(cfg.ckpt_folder)
    return [*stored.get("forgotten_before", []), *([stored["selection"]] if stored.get("selection") else [])]


def _pretrained(cfg: Config) -> str | None:
    """The architecture whose ImageNet weights the model began with, or the one it descends from; None: random ones."""
    if cfg.ckpt_folder is not None:
        return checkpoint.load_meta(cfg.ckpt_folder).get("pretrained")
    return cfg.model.arch if getattr(cfg.model, "pretrained", False) else None


def _selection(cfg: Config, forget: Tensor) -> dict:
    """The forget set by data set, class (where it is one), name and hash of its indices."""
    return {
        "dataset": cfg.data.dataset,
        "label": cfg.forget.label if is_class(cfg.forget) else None,
        "name": selection_name(cfg.forget, cfg.seeds.of("forget")),
        "indices": _digest(forget),
    }


def _validate(images: datasets.ImageSet | datasets.FolderImages, val: Tensor, cfg: Config, model: nn.Module) -> float:
    batches = datasets.ordered(images, val, cfg.training.batch_size, cfg.data.n_workers)
    with training_mode(model, train=False):
        right, n = count_right(model, batches)
    return right / n


def make_task(world: str, n_classes: int, diffusion: dict | None) -> Task:
    """The task of a world; `diffusion` holds the keys of that config section."""
    if world == "classifier":
        return Classification(n_classes)
    return denoising(diffusion, models.ENCODERS[ENCODER["name"]](**ENCODER["kwargs"]), n_classes)


def mask_hash(cfg: Config) -> str | None:
    """SHA-256 of the mask a run uses, so that a resumed run notices another one under the same name."""
    path = cfg.unlearn and cfg.unlearn.mask_path
    if path is None:
        return None
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file (--mask_path)")
    return sha256_file(path)


def _fresh_model(cfg: Config, data: dict) -> tuple[nn.Module, dict, None, dict | None]:
    torch.manual_seed(key_seed(cfg.seeds.of("init"), "init"))
    if cfg.ckpt_folder is not None:  # retraining: the architecture and the beginning of the original
        meta = checkpoint.load_meta(cfg.ckpt_folder)["model"]
    else:
        meta = model_meta(cfg.model, data, MOMENTS.get(data["dataset"]))
    model = models.build(meta)
    if arch := _pretrained(cfg):
        load_imagenet(model, arch)
    return model, meta, None, cfg.diffusion and cfg.diffusion.model_dump()


def _model_from_checkpoint(cfg: Config, data: dict) -> tuple[nn.Module, dict, str, dict | None]:
    folder = cfg.ckpt_folder
    stored = checkpoint.load_meta(folder)
    model = models.build(stored["model"])
    if cfg.unlearn and not cfg.unlearn.dropout:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    checkpoint.load_into(model, checkpoint.load_weights(folder, cfg.init_weights), str(folder))
    return model, stored["model"], checkpoint.weights_hash(folder, cfg.init_weights), stored["diffusion"]


def _check_original(cfg: Config, data: dict) -> None:
    """Raises InputError where the model to start from is of another world, data set, architecture or diffusion."""
    folder, stored = cfg.ckpt_folder, checkpoint.load_meta(cfg.ckpt_folder)
    _agree(folder, "world", cfg.world, stored["world"])
    for key, value in data.items():
        if key not in ("n", "content") or key in stored["data"]:  # newer keys, and not of converted checkpoints
            _agree(folder, f"data.{key}", value, stored["data"][key])
    if cfg.model is not None:
        _same_architecture(cfg, data, stored["model"])
    if cfg.diffusion is not None:
        _agree(folder, "diffusion", cfg.diffusion.model_dump(), stored["diffusion"])


def _same_architecture(cfg: Config, data: dict, stored: dict) -> None:
    """Raises InputError where the config asks for another model than the checkpoint's: how many weights, and which."""
    wanted = model_meta(cfg.model, data, MOMENTS.get(data["dataset"]))
    if wanted == stored:
        return
    what = f"{cfg.ckpt_folder}: model: the checkpoint has {stored}, the config {wanted} (--arch)"
    checkpoint.load_into(models.build(wanted), checkpoint.load_weights(cfg.ckpt_folder, cfg.init_weights), what)
    raise InputError(what)  # other settings of the same weights


def _agree(folder: str, key: str, wanted: object, found: object) -> None:
    if wanted != found:
        raise InputError(f"{folder}: {key}: the checkpoint has {found}, the config {wanted}")


@torch.no_grad()
def _preview(task: Denoising, n_classes: int, shape: tuple[int, int, int], model: nn.Module) -> Tensor:
    labels = torch.arange(n_classes).repeat_interleave(GRID_ROW)
    indices = torch.arange(GRID_ROW).repeat(n_classes)
    steps = min(GRID_STEPS, task.timesteps - 1)
    sampling = Sampling(sample_type="dpm_solver", timesteps=steps, cond_scale=GRID_GUIDANCE)
    return generate(task, model, labels, indices, shape, sampling, seed=0)
