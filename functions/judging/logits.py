"""Classifier runs as those who judge them see them: what was forgotten, and logits of a data set, kept on disk.

Logits lie in `RUN/logits/<weights sha256[:16]>_<part>.safetensors`, keyed by the weights' SHA-256 and the images'
fingerprint: one forward pass for each, whatever is computed from it. Models and loaders come as arguments.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from functions.config.selection import classes_of
from functions.errors import InputError
from functions.progress import Progress
from functions.records import check_record
from functions.storage import checkpoint
from functions.storage.cache import load_cached, save_cached
from functions.storage.meta import JudgedMeta, content


class ClassifierRun(NamedTuple):
    """A run folder, the snapshot that is judged of it, with its meta.json and data indices, and the weights' kind."""

    path: Path
    snapshot: checkpoint.Snapshot
    meta: dict
    indices: dict[str, Tensor]
    kind: str  # ema or raw
    sha256: str  # of the weights
    minutes: float | None  # RTE: of unlearning, mask or Fisher included; None of a model that forgot nothing

    @property
    def forgotten_classes(self) -> list[int]:
        """The classes that were forgotten whole."""
        forget = self.meta.get("forget") or {}
        part = any(forget.get(key) is not None for key in ("count", "fraction", "index_file"))
        return [] if part else classes_of(forget.get("label"))


def read_run(path: Path | str, weights: str = "auto") -> ClassifierRun:
    """The run in a folder. Raises InputError where it is no classifier's or kept no indices of its data."""
    snapshot = checkpoint.Snapshot.open(path)
    meta = snapshot.meta
    if meta["world"] != "classifier":
        raise InputError(f"{path}: a run of world {meta['world']}, wanted a classifier's")
    check_record(meta, JudgedMeta, snapshot.path / checkpoint.META)
    indices = snapshot.indices()
    if indices is None:
        raise InputError(f"{path}: an older run that kept no indices of its data; run it again")
    earlier = [s["name"] for s in meta.get("forgotten_before", []) if s["label"] is not None]
    if earlier:
        raise InputError(
            f"{path}: its original had forgotten class {', '.join(earlier)} before: the test set to judge "
            "it by would still hold that class"
        )
    kind = snapshot.kind(weights)
    seconds = meta["cost"]["seconds"] + (meta.get("prepared") or {}).get("seconds", 0.0)
    minutes = seconds / 60 if "forget" in indices else None
    return ClassifierRun(Path(path), snapshot, meta, indices, kind, snapshot.hash(kind), minutes)


def require_same_forgetting(run: ClassifierRun, reference: ClassifierRun) -> ClassifierRun:
    """`run` as far as it shares data set, forget set and split with `reference`, else InputError.

    An original model, which has no forget set of its own, is returned with that of the reference.
    """
    names = f"{run.path} and {reference.path}"
    for key in ("dataset", "shape", "classes", "n", "content"):
        one, other = run.meta["data"].get(key), reference.meta["data"].get(key)
        if one != other and None not in (one, other):  # older runs lack the last two
            raise InputError(f"{names}: data.{key} {one} and {other}: not to be compared (--retrain)")
    if run.meta["model"] != reference.meta["model"]:
        raise InputError(
            f"{names}: models {run.meta['model']} and {reference.meta['model']}: not to be compared (--retrain)"
        )
    own, wanted = dict(run.indices), dict(reference.indices)
    if "forget" not in own:
        if not torch.equal(own["remain"], torch.cat([wanted["remain"], wanted["forget"]]).sort().values):
            raise InputError(
                f"{names}: the first was not trained on what the second remains with and left out (--retrain)"
            )
        own |= {key: wanted[key] for key in ("remain", "forget")}
    for key in ("forget", "remain", "val"):
        if not torch.equal(own[key], wanted[key]):
            raise InputError(
                f"{names}: not the same {key} set, of {len(own[key])} and {len(wanted[key])} images: "
                "not to be compared (--retrain)"
            )
    return run._replace(indices=own, meta={**run.meta, "forget": reference.meta["forget"]})


def fingerprint(images) -> str:
    """SHA-256 of a data set: of pixels in memory, of names, sizes and times of files; and of labels and sizes."""
    digest = hashlib.sha256(repr((images.name, images.split, images.shape, images.classes)).encode())
    digest.update(images.labels.cpu().numpy().tobytes())
    if hasattr(images, "images"):
        digest.update(images.images.cpu().contiguous().numpy().tobytes())
    else:
        for file in images.decoder.files:
            stat = Path(file).stat()
            # names need not be UTF-8
            digest.update(os.fsencode(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n"))
    return digest.hexdigest()


def logits_of(
    run: ClassifierRun,
    images,
    print_of_images: str,
    build: Callable[[dict, int], nn.Module],
    ordered: Callable[..., Iterator],
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Logits (N,K) float32 of all images in order, in eval mode, without augmentation; on the CPU.

    `print_of_images` their `fingerprint`; `build` is models.build, `ordered` is datasets.ordered. From disk where they
    are kept; a file that is damaged or of other images is made anew. Raises InputError where logits are not finite.
    """
    known = run.meta["data"].get("content")  # older runs do not say
    if images.split == "train" and known is not None and known != content(images):
        raise InputError(
            f"{run.path}: the training images of {images.name} are not those it was trained on, its "
            "indices mean others (--data_path)"
        )
    path = run.path / "logits" / f"{run.sha256[:16]}_{images.split}.safetensors"
    key = f"{run.sha256} {print_of_images}"
    kept = load_cached(path, key)
    logits = kept and kept["logits"]
    if logits is None:
        model = run.snapshot.model(run.kind, build).to(device).eval().requires_grad_(False)
        workers = run.meta["config"]["data"].get("n_workers", 0)  # converted runs do not say
        batches = ordered(images.to(device), torch.arange(len(images)), batch_size, workers)
        logits = _forward(model, batches, len(images), f"{run.path.name}: logits of {images.split}")
        finite = logits.isfinite().all(1)
        if not finite.all():
            raise InputError(
                f"{run.path}: logits of {int((~finite).sum())} of {len(images)} {images.split} images are "
                "not finite: the model diverged, there is nothing to judge"
            )
        save_cached(path, key, {"logits": logits})
    return logits


def _forward(model: nn.Module, batches: Iterator, n: int, title: str) -> Tensor:
    parts = []
    with Progress(title, n, "images") as bar, torch.inference_mode():
        for x, _ in batches:
            parts.append(model(x).float().cpu())
            bar.update(len(x))
    return torch.cat(parts).clone()
