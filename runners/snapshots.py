"""What a run leaves in its folder on the way, and how it begins there again."""

from __future__ import annotations

from pathlib import Path

from torchvision.utils import save_image

from datasets.split import save_indices
from functions.config.load import FORMAT, config_hash, dump_config
from functions.config.schema import Config
from functions.errors import InputError
from functions.storage import checkpoint
from functions.storage.artifacts import load_mask as read_mask
from functions.storage.artifacts import read_provenance
from functions.storage.run import RunFolder, run_parent
from functions.training import distributed
from functions.training.update import Mask
from runners.setup import Materials
from runners.worlds import GRID_ROW


def load_mask(cfg: Config, materials: Materials) -> tuple[Mask | None, dict]:
    """(mask on the device, meta with what making it cost); checked against this checkpoint and this forget set."""
    path = cfg.unlearn.mask_path if cfg.unlearn else None
    if path is None:
        return None, materials.meta
    mask = read_mask(path, materials.shapes, materials.provenance)
    mask = {name: mask[name].to(materials.device) for name in materials.names}
    return mask, {**materials.meta, "prepared": read_provenance(path).get("cost")}


# ---- a run is a Runner or a ClosedForm


def parent(run) -> Path:
    """Where its folder lies unless `save_dir` says otherwise."""
    name = run.materials.selection and run.materials.selection["name"]
    return run_parent(run.cfg.results, run.cfg.data.dataset, run.mode, name)


def origin(run) -> dict:
    """What must be equal for a run to be continued: everything that decides its numbers."""
    kept = ("source", "mask", "data", "indices", "selection", "fisher", "replay")
    began = {"mode": run.mode, "format": FORMAT, "config": config_hash(run.cfg)}
    return {**began, **{k: run.meta[k] for k in kept if k in run.meta}}


def open_run(run) -> tuple[RunFolder, int]:
    """A new run folder and step 0, or the folder to resume, everything restored, and the step it had reached."""
    folder = RunFolder(Path(distributed.on_first(lambda: str(_folder(run)))), writes=distributed.rank() == 0)
    if run.resume is None:
        folder.say(f"writing to {folder.path}")
        return folder, 0
    start = _restore(run, folder.path) if (folder.path / "ckpts" / "latest").exists() else 0
    n_iters = run.cfg.training.n_iters
    if start > n_iters:
        raise InputError(f"--resume {run.resume}: is at step {start}, past training.n_iters {n_iters}")
    folder.forget_after(start)
    folder.say(f"resuming {folder.path} at step {start}")
    return folder, start


def _folder(run) -> Path:
    """The folder of a new run, with its forget set's indices in it, or the one to resume."""
    config, began = dump_config(run.cfg), origin(run)
    if run.resume is not None:
        return RunFolder.reopen(run.resume, config, began).path
    if run.cfg.save_dir is not None:
        folder = RunFolder.create_in(run.cfg.save_dir, config, began)
    else:
        folder = RunFolder.create(parent(run), config, began)
    forget, images = run.materials.forget, run.materials.images
    if forget is not None:
        source = {"dataset": images.name, "split": images.split, "n": len(images)}
        save_indices(folder.logs / "forget_indices.json", forget, source)
    return folder.path


def _restore(run, path: Path) -> int:
    snapshot = checkpoint.Snapshot.open(path)
    checkpoint.load_into(run.plain, snapshot.weights("raw"), str(path))
    state = snapshot.state()
    if run.ema is not None:
        checkpoint.load_into(run.ema.module, snapshot.weights("ema"), str(path))
        run.ema.n_averaged = state["n_averaged"]
    for optimizer, stored in zip(run.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(stored)
    if run.extra is not None:
        run.extra.load_state_dict(state["extra"])
    for stream, position in zip(run.streams, state["positions"], strict=True):
        stream.position = position
    run.cost.add(snapshot.meta["cost"])
    return snapshot.meta["step"]


def save(run, done: int) -> None:
    """Snapshot number `done`: weights, EMA, optimiser, data positions, what the run is and cost; then a preview."""
    if distributed.rank() > 0:  # all hold the same
        return
    weights = {"raw": run.plain.state_dict()}
    if run.ema is not None:
        weights["ema"] = run.ema.module.state_dict()
    state = {
        "optimizers": [o.state_dict() for o in run.optimizers],
        "positions": [s.position for s in run.streams],
        "n_averaged": 0 if run.ema is None else run.ema.n_averaged,
    }
    if run.extra is not None:
        state["extra"] = run.extra.state_dict()
    meta = {**run.meta, "cost": run.cost.record()}
    if run.validate is not None:
        meta["val_accuracy"] = run.validate(run.plain)
        run.folder.say(f"validation accuracy {meta['val_accuracy']:.2%}")
    checkpoint.save(run.folder.path, done, weights, state, meta, run.cfg.training.keep, run.materials.indices)
    if run.preview is not None:
        grid = run.preview(run.plain if run.ema is None else run.ema.module)
        path = run.folder.path / "previews" / f"step_{done:07d}.png"
        path.parent.mkdir(exist_ok=True)
        save_image(grid, path, nrow=GRID_ROW, padding=1)


def diverged(path: Path, complaint: str) -> InputError:
    """What a run ends with before anything broken is written to its folder."""
    try:
        good = f"the last good checkpoint is {checkpoint.resolve(path)}"
    except InputError:
        good = "no checkpoint had been written"
    return InputError(f"{complaint}; {good} (a smaller optim.lr, unlearn.forget_alpha or --alpha may help)")
