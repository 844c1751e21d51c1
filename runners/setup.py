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
from datasets.split import by_class
from functions import checkpoint
from functions.distributed import choose_device
from functions.errors import InputError
from functions.files import sha256_file
from functions.meta import ENCODER, model_meta, run_meta
from functions.randomness import key_seed
from functions.samplers import generate
from functions.schema import Config, Sampling
from functions.tasks import Classification, Denoising, Task, denoising
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
    meta: dict  # what checkpoints say about where they come from
    preview: (
        Callable[[nn.Module], Tensor] | None
    )  # (N, C, H, W) in [0, 1], rows of GRID_ROW, same noise each time

    @property
    def source(self) -> str | None:
        """The hash of the weights this run starts from."""
        return self.meta["source"]


def prepare(cfg: Config, mode: str, fresh: bool) -> Setup:
    """Build everything a run needs; `fresh` initialises the model, otherwise `ckpt_folder` gives it."""
    device = choose_device(cfg.device)
    images = datasets.load(
        cfg.data.dataset, path=cfg.data.path, split="train", image_size=cfg.data.image_size
    )
    data = {"dataset": cfg.data.dataset, "n_classes": images.n_classes,
            "shape": list(images.shape), "classes": list(images.classes)}  # fmt: skip
    forget, remain = None, torch.arange(len(images))
    if cfg.forget is not None:
        forget, remain = by_class(images.labels, cfg.forget.label, images.classes, images.name)
    model, meta, source, diffusion = _fresh_model(cfg, data) if fresh else _model_from_checkpoint(cfg, data)
    task = make_task(cfg.world, images.n_classes, diffusion)
    preview = (
        functools.partial(_preview, task, images.n_classes, images.shape) if cfg.world == "ddpm" else None
    )
    return Setup(
        device=device,
        task=task.to(device),
        model=model.to(device),
        images=images.to(device),
        forget=forget,
        remain=remain,
        meta=run_meta(cfg, mode, data, meta, diffusion, source, mask_hash(cfg)),
        preview=preview,
    )


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
    meta = model_meta(cfg.model, data)
    model = models.build(meta)
    if getattr(cfg.model, "pretrained", False):
        load_imagenet(model, cfg.model.arch)
    return model, meta, None, cfg.diffusion and cfg.diffusion.model_dump()


def _model_from_checkpoint(cfg: Config, data: dict) -> tuple[nn.Module, dict, str, dict | None]:
    folder = cfg.ckpt_folder
    stored = checkpoint.load_meta(folder)
    _agree(folder, "world", cfg.world, stored["world"])
    for key, value in data.items():
        _agree(folder, f"data.{key}", value, stored["data"][key])
    if cfg.model is not None:
        _agree(folder, "model", model_meta(cfg.model, data), stored["model"])
    if cfg.diffusion is not None:
        _agree(folder, "diffusion", cfg.diffusion.model_dump(), stored["diffusion"])
    model = models.build(stored["model"])
    if cfg.unlearn and not cfg.unlearn.dropout:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    checkpoint.load_into(model, checkpoint.load_weights(folder, cfg.init_weights), str(folder))
    return model, stored["model"], checkpoint.weights_hash(folder, cfg.init_weights), stored["diffusion"]


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
