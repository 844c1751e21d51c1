"""A model's own samples as data: for Selective Amnesia's Fisher and its replay."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from datasets import ImageSet
from functions.config.schema import Config
from functions.errors import InputError
from functions.files import sha256_bytes
from functions.sampling.contract import check_complete, read_generation
from functions.sampling.folders import find_samples
from runners.original import Original
from runners.setup import Materials

FISHER = "fisher_dict.safetensors"  # in the run folder, where fim.py writes it
FOLDER = "class_samples"  # in the run folder, where sample.py --mode sample_classes writes it


def own_samples(cfg: Config, materials: Materials, needed: set[int], per_class: int | None = None) -> ImageSet:
    """The samples of `needed` classes below `<ckpt_folder>/class_samples/<class>/`, the first `per_class` of each.

    Raises InputError where the folder or a class is missing, too few are there, or they are not images like the data's.
    """
    folder = Path(cfg.ckpt_folder) / FOLDER
    remedy = "python sample.py --mode sample_classes makes it"
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; {remedy}")
    check_origin(folder, materials.original)
    samples = find_samples(folder)
    x, labels = samples.images(materials.images.shape[0]), samples.labels
    if missing := sorted(needed - set(labels.tolist())):
        raise InputError(f"{folder}: no samples of class {', '.join(map(str, missing))}; {remedy}")
    if tuple(x.shape[1:]) != tuple(materials.images.shape):
        raise InputError(f"{folder}: images of shape {tuple(x.shape[1:])}, the model draws {materials.images.shape}")
    if per_class is not None and (few := [c for c in sorted(needed) if int((labels == c).sum()) < per_class]):
        raise InputError(f"{folder}: fewer than {per_class} samples of class {few[0]} (fim.per_class)")
    check_complete(folder, [c for c in labels.tolist() if c in needed], chosen=True)
    chosen = torch.cat([(labels == c).nonzero()[:per_class, 0] for c in sorted(needed)])
    return ImageSet(x[chosen], labels[chosen], materials.images.classes, FOLDER, "replay").to(materials.device)


def check_origin(folder: Path, original: Original) -> None:
    """Raises InputError where samples.json names another checkpoint; without one, a line says that nobody knows."""
    made = read_generation(folder)
    if made is None:
        print(f"{folder}: no samples.json: who drew these images is not known", file=sys.stderr)
    elif made["record"]["checkpoint"] not in original.meta["files"].values():
        raise InputError(
            f"{folder}: drawn from another checkpoint than the newest of {original.folder}; move it away and "
            "sample again"
        )


def fingerprint(images: ImageSet) -> str:
    """SHA-256 of images and labels."""
    return sha256_bytes(images.images.cpu().numpy().tobytes() + images.labels.cpu().numpy().tobytes())
