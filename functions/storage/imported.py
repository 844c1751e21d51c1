"""Checkpoints of published code as run folders: once, by convert.py, or where a command starts from one (`--ckpt`).

Nothing in a file is run. `zoo` and `sets` are the packages `models` and `datasets`, which nothing in functions imports.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functions.config.cli import say
from functions.config.load import dump_config
from functions.config.names import DIT_FILE
from functions.config.schema import Config, DiTModel
from functions.errors import InputError
from functions.files import sha256_file, sha256_json, temporary_name, unchanged
from functions.finite import check_finite
from functions.locks import remove_leftovers, writing_file
from functions.storage import checkpoint, dit_files, published
from functions.storage.checkpoint import Snapshot, check_fit
from functions.storage.meta import PIXELS, check_model, model_meta, run_meta
from functions.storage.run import RunFolder, read_origin, run_parent

# The mode of no command: the optimiser and the data positions to go on from are not there.
MODE = "import"
PATIENCE = 3600.0  # seconds to wait for another process that reads the same file
LONGEST = 100  # characters of a file's name in that of its run folder
# What only another run has: the config of a pretrained model
NOTHING = dict.fromkeys(("unlearn", "forget", "fisher", "saliency", "fim", "sampling", "ckpt_folder", "save_dir"))


class Found(NamedTuple):
    """What a file holds: weights by plain name, the number of updates, and of a DiT the arguments of the model."""

    weights: published.Weights
    step: int
    file: Path
    kwargs: dict[str, Any] | None = None


def _ddpm(source: Path | str, zoo: ModuleType) -> Found:
    return Found(*published.load_list(source), Path(source))


def _dit(source: Path | str, zoo: ModuleType) -> Found:
    found = dit_files.load(source, zoo.build)
    return Found(found.weights, found.step, found.file, found.kwargs)


# world -> what reads a checkpoint of its published code
READERS = {"ddpm": _ddpm, "dit": _dit}


def import_run(cfg: Config, source: Path | str, sets: ModuleType, zoo: ModuleType, out: Path | str | None) -> Path:
    """A new run folder with one snapshot, as pretraining with this config would have left it."""
    found = READERS[cfg.world](source, zoo)
    cfg, meta = _described(cfg, found, sets, zoo, source)
    weights = check_weights(meta["model"], found.weights, source, zoo)
    if out is None:
        parent = run_parent(cfg.results, cfg.data.dataset, "pretrain", None)
        folder = RunFolder.create(parent, dump_config(cfg), {"mode": MODE})
    else:
        folder = RunFolder.create_at(Path(out), dump_config(cfg), {"mode": MODE})
    with folder.whole_or_absent():
        _save(folder, found, weights, {**meta, "source": sha256_file(found.file)})
        folder.say(f"{source}: {' and '.join(weights)} weights at step {found.step} -> {folder.path}")
    return folder.path


def _save(folder: RunFolder, found: Found, weights: published.Weights, meta: dict[str, Any]) -> None:
    checkpoint.save(folder.path, found.step, weights, {"optimizers": []}, meta, keep=1)


def _facts(cfg: Config, sets: ModuleType, zoo: ModuleType) -> dict[str, Any]:
    """`meta.json` of a model of this config, as far as no weights are asked: data, encoder and diffusion."""
    d = cfg.data
    shape, classes = sets.describe(d.dataset, d.path, d.image_size)
    data = {"dataset": d.dataset, "n_classes": len(classes), "shape": list(shape), "classes": list(classes)}
    encoder = zoo.encoder_meta(**cfg.encoder.model_dump()) if cfg.encoder else PIXELS
    return {"data": data, "encoder": encoder, "diffusion": cfg.diffusion.model_dump()}


def _seen(facts: dict[str, Any], zoo: ModuleType) -> dict[str, Any]:
    """The data as the model sees them."""
    shape = zoo.encoder(facts["encoder"]).shape(tuple(facts["data"]["shape"]))
    return {**facts["data"], "shape": list(shape)}


def _model(cfg: Config, facts: dict[str, Any], zoo: ModuleType) -> dict[str, Any]:
    return model_meta(cfg.model, _seen(facts, zoo), learned_variance=cfg.diffusion.learned_variance)


def _described(
    cfg: Config, found: Found, sets: ModuleType, zoo: ModuleType, source: Path | str
) -> tuple[Config, dict[str, Any]]:
    """The config of a pretrained model, its model the file's where it names none, and `meta.json` without the source.

    Raises InputError where the file is of another model.
    """
    cfg = cfg.model_copy(update=NOTHING)
    facts = _facts(cfg, sets, zoo)
    factor = facts["data"]["shape"][-1] // _seen(facts, zoo)["shape"][-1]  # of sides of images to those of latents
    if cfg.model is None:
        cfg = cfg.model_copy(update={"model": _own_model(found, source, factor)})
    model = _model(cfg, facts, zoo)
    if found.kwargs is not None:
        # its own arguments, as far as the file knows them
        wanted = {**model["kwargs"], "num_heads": found.kwargs["num_heads"] and model["kwargs"]["num_heads"]}
        dit_files.check_size(found.kwargs, wanted, source, factor)
    check_model(model, source)
    meta = run_meta(cfg, "pretrain", facts["data"], model, facts["encoder"], facts["diffusion"], None, None)
    return cfg, {**meta, "pretrained": None}


def _own_model(found: Found, source: Path | str, factor: int) -> DiTModel:
    """The `model` section that the file's shapes say. Raises InputError where they do not tell the heads."""
    kwargs = {**found.kwargs, "num_heads": dit_files.usual_heads(found.kwargs)}
    if kwargs["num_heads"] is None:
        sizes = ", ".join(f"{key}: {kwargs[key]}" for key in ("patch_size", "hidden_size", "depth"))
        given = f"--set 'model={{name: dit, {sizes}, num_heads: N}}'"
        raise InputError(
            f"{source}: {dit_files.said(kwargs, factor)}: shapes do not say how many heads; wanted {given}"
        )
    return DiTModel(name="dit", **{k: kwargs[k] for k in ("patch_size", "hidden_size", "depth", "num_heads")})


def check_weights(
    model: dict[str, Any], weights: published.Weights, source: Path | str, zoo: ModuleType
) -> published.Weights:
    """Raw and EMA weights in the model's own types, no copy where they are. Raises InputError for those of another."""
    with torch.device("meta"):
        own = zoo.build(model).state_dict()
    return {kind: _checked(own, tensors, f"{source} ({kind})") for kind, tensors in weights.items()}


def _checked(own: dict[str, Tensor], tensors: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    check_fit(own, tensors, source)
    if odd := [n for n, t in own.items() if t.is_floating_point() and not tensors[n].is_floating_point()]:
        raise InputError(f"{source}: {odd[0]}: {tensors[odd[0]].dtype}; wanted numbers with fractions")
    check_finite(source, tensors)
    return {name: tensors[name].detach().to(t.dtype) for name, t in own.items()}


# ---- where a command starts from a file


@contextlib.contextmanager
def started_from(cfg: Config, sets: ModuleType, zoo: ModuleType, dry_run: bool) -> Iterator[Config]:
    """The config with a run folder as `ckpt_folder`, made of the published DiT that it names, or used again.

    Run folders of files lie in results/<dataset>/import and say which file they are of. A dry run's is gone at the end.
    """
    path = cfg.ckpt_folder
    if cfg.world != "dit" or path is None:
        yield cfg
        return
    if not Path(path).exists():
        wanted = f"a run folder, or a published file such as {DIT_FILE}"
        raise InputError(f"{path}: no such file or folder (--ckpt); wanted {wanted}")
    if not dit_files.holds_dit(path):
        yield cfg
        return
    parent = Path(cfg.results) / cfg.data.dataset / MODE
    name = _name(Path(path))
    with contextlib.ExitStack() as until:
        run = _known(cfg, path, parent, name, sets, zoo) if parent.is_dir() else None
        if run is None and dry_run:
            there = next(p for p in parent.absolute().parents if p.is_dir())
            place = Path(until.enter_context(tempfile.TemporaryDirectory(dir=there, prefix=".dry_run.")))
            run = _imported(cfg, path, place, name, sets, zoo)
        elif run is None:
            with writing_file(parent / name, PATIENCE):
                remove_leftovers(parent, f"{glob.escape(name)}_*")  # of a kill
                # another process may have been faster
                run = _known(cfg, path, parent, name, sets, zoo) or _imported(cfg, path, parent, name, sets, zoo)
        say(f"{path}: read as {run}")
        yield cfg.model_copy(update={"ckpt_folder": str(run)})


def _name(path: Path) -> str:
    """What run folders of this file, or folder of diffusers, begin with."""
    path = path.resolve()
    return (path.stem if path.is_file() else path.parent.name if path.name == "transformer" else path.name)[:LONGEST]


def _identity(file: Path) -> dict[str, Any]:
    """What tells that a file is the one that was read: 2.7 GB are not hashed for each command."""
    status = file.stat()
    return {"path": str(file.resolve()), "size": status.st_size, "modified": status.st_mtime_ns}


def _known(cfg: Config, path: str, parent: Path, name: str, sets: ModuleType, zoo: ModuleType) -> Path | None:
    """The run folder that was made of this very file for such a config; None where there is none."""
    here, facts = _identity(dit_files.weights_file(path)), _facts(cfg, sets, zoo)
    for run in sorted(parent.glob(f"{glob.escape(name)}_*")):
        if not (run / "logs" / "origin.json").is_file() or read_origin(run).get("file") != here:
            continue
        meta = Snapshot.open(run).meta
        same = all(meta[key] == facts[key] for key in ("data", "diffusion"))
        same = same and _place_aside(meta["encoder"]) == _place_aside(facts["encoder"])
        if same and (cfg.model is None or meta["model"] == _model(cfg, facts, zoo)):
            return run
    return None


def _place_aside(encoder: dict[str, Any]) -> dict[str, Any]:
    """An encoder without the folder of its autoencoder, where the hash of that says which it is."""
    kwargs = encoder["kwargs"]
    return {k: v for k, v in kwargs.items() if k != "vae"} if kwargs.get("sha256") else kwargs


def _imported(cfg: Config, path: str, parent: Path, name: str, sets: ModuleType, zoo: ModuleType) -> Path:
    """The run folder of a file: named after its content, and whole or absent, also after a kill."""
    file = dit_files.weights_file(path)
    with unchanged(file):
        here, source = _identity(file), sha256_file(file)
        found = READERS[cfg.world](path, zoo)
        cfg, meta = _described(cfg, found, sets, zoo, path)
        weights = check_weights(meta["model"], found.weights, path, zoo)
        facts = {"source": source, **{key: meta[key] for key in ("data", "model", "diffusion")}}
        digest = sha256_json({**facts, "encoder": _place_aside(meta["encoder"])})
        run = parent / f"{name}_{digest[:8]}"
        if checkpoint.holds_snapshots(run):  # of the same bytes, that lay elsewhere
            return run
        temporary = temporary_name(run)
        folder = RunFolder.create_at(temporary, dump_config(cfg), {"mode": MODE, "file": here})
        try:
            with folder:
                _save(folder, found, weights, {**meta, "source": source})
                folder.note(f"{path}: {' and '.join(weights)} weights at step {found.step}")
            os.rename(temporary, run)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return run
