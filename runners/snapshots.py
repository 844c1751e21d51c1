"""What a run leaves in its folder on the way, and how it begins there again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from torch import Tensor

from datasets.split import save_indices
from functions.config.load import FORMAT, config_hash, dump_config
from functions.config.schema import Config
from functions.errors import InputError
from functions.files import sha256_file, unchanged
from functions.finite import bad_values
from functions.interrupts import Stopped, name
from functions.sampling import sheet
from functions.storage import checkpoint
from functions.storage.artifacts import load_mask as read_mask
from functions.storage.artifacts import read_provenance
from functions.storage.run import RunFolder, run_parent
from functions.training import distributed
from functions.training.update import Mask
from runners.previews import Preview
from runners.setup import Materials


def load_mask(cfg: Config, materials: Materials) -> tuple[Mask | None, dict]:
    """(mask on the device, meta with what making it cost); checked against this checkpoint and this forget set."""
    path = cfg.unlearn.mask_path if cfg.unlearn else None
    if path is None:
        return None, materials.meta
    with unchanged(path):
        mask, prepared = read_mask(path, materials.shapes, materials.provenance), read_provenance(path).get("cost")
        if sha256_file(path) != materials.meta["mask"]:
            raise InputError(f"{path}: was written anew since this command began; run it again")
    mask = {name: mask[name].to(materials.device) for name in materials.names}
    return mask, {**materials.meta, "prepared": prepared}


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


@contextlib.contextmanager
def opened(run) -> Iterator[int]:
    """`run.folder`, new or resumed with everything restored, and the step it had reached; locked meanwhile."""
    made: list[RunFolder] = []
    path = distributed.on_first(lambda: made.append(_folder(run)) or str(made[0].path))
    run.folder = made[0] if made else RunFolder(Path(path), writes=False)
    with run.folder:
        if run.resume is None:
            run.folder.say(f"writing to {path}")
        start = 0 if run.resume is None else _resumed(run)
        try:
            yield start
        except KeyboardInterrupt as stop:
            run.folder.note(str(stop) or "interrupted")
            raise
        except BaseException:
            run.folder.keep_traceback()
            raise


def _folder(run) -> RunFolder:
    """The folder of a new run, with its forget set's indices in it, or the one to resume."""
    config, began = dump_config(run.cfg), origin(run)
    if run.resume is not None:
        return RunFolder.reopen(run.resume, began)
    if run.cfg.save_dir is not None:
        return RunFolder.create_in(run.cfg.save_dir, config, began, partial(_keep_indices, run.materials))
    return RunFolder.create(parent(run), config, began, partial(_keep_indices, run.materials))


def _keep_indices(materials: Materials, logs: Path) -> None:
    forget, images = materials.forget, materials.images
    if forget is not None:
        source = {"dataset": images.name, "split": images.split, "n": len(images)}
        save_indices(logs / "forget_indices.json", forget, source)


def _resumed(run) -> int:
    """The step of the newest snapshot, everything restored. The folder changes once nothing can be refused any more."""
    folder, n_iters = run.folder, run.cfg.training.n_iters
    start = _restore(run, folder.path) if checkpoint.holds_snapshots(folder.path) else 0
    if start > n_iters:
        raise InputError(f"--resume {run.resume}: is at step {start}, past training.n_iters {n_iters}")
    distributed.agree({"step to go on from": start})
    folder.go_on(dump_config(run.cfg), start)
    folder.say(f"resuming {folder.path} at step {start}")
    if folder.writes and is_shown(run, start) and not _preview_path(run, start).exists():
        show(run, start)
    return start


def is_due(run, done: int) -> bool:
    """Whether step `done` ends with a snapshot; others do where a signal stops the run."""
    return done > 0 and (done % run.cfg.training.snapshot_freq == 0 or done == run.cfg.training.n_iters)


def is_shown(run, done: int) -> bool:
    """Whether step `done` ends with a preview, if the run has any."""
    return done > 0 and (done % _rhythm(run) == 0 or done == run.cfg.training.n_iters)


def _rhythm(run) -> int:
    """Steps from one preview to the next."""
    return run.cfg.training.preview_freq or run.cfg.training.snapshot_freq


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


def save(run, done: int, look: bool = True) -> None:
    """Snapshot number `done`: weights, EMA, optimiser, data positions, what the run is and cost; a preview if it is
    time for one.

    Without a `look` neither validation nor preview: who stops a run gives it seconds.
    """
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
    _check_moments(run, done, state["optimizers"])
    if run.extra is not None:
        state["extra"] = run.extra.state_dict()
    meta = {**run.meta, "cost": run.cost.record()}
    grid = _drawn(run, done) if look and is_shown(run, done) else None  # first: who cannot draw is not saved
    if run.validate is not None and look:
        meta["val_accuracy"] = val_accuracy(run, done)
    checkpoint.save(run.folder.path, done, weights, state, meta, run.cfg.training.keep, run.materials.indices)
    _write_preview(run, done, grid)


def _check_moments(run, done: int, states: list[dict]) -> None:
    """An infinite mean of squared gradients stops a weight without a word: Adam divides by its root."""
    for state in states:
        moments = {f"{key} of weight {i}": t for i, of in state["state"].items() for key, t in _flat(of).items()}
        if bad := bad_values({name: t for name, t in moments.items() if isinstance(t, Tensor)}):
            raise diverged(run.folder.path, f"{next(iter(bad))} is NaN or infinite at step {done}")


def _flat(of: dict) -> dict:
    """The state of one weight; bitsandbytes keeps its tensors in a dict inside."""
    inside = [_flat(value) for value in of.values() if isinstance(value, dict)]
    return {**of, **{key: t for found in inside for key, t in found.items()}}


def _preview_path(run, done: int) -> Path:
    return run.folder.path / "previews" / f"step_{done:07d}.png"


def show(run, done: int) -> None:
    """The preview of step `done`, by the first process."""
    if distributed.rank() == 0:
        _write_preview(run, done, _drawn(run, done))


def _drawn(run, done: int) -> Preview | None:
    """The preview of step `done`, where the run has one."""
    if run.preview is None:
        return None
    try:
        return run.preview(run.plain if run.ema is None else run.ema.module, _passes(run, done))
    except InputError as error:
        raise diverged(run.folder.path, f"preview of step {done}: {error}") from None


def _passes(run, done: int) -> float:
    """Images that went forward through this process's model since the last preview, a backward pass as two of them.

    By the average of all steps: it is counted, so a resumed run has the same.
    """
    since, cost = done % _rhythm(run) or _rhythm(run), run.cost
    return (cost.forward + 2 * cost.backward) / cost.processes * since / done


def _write_preview(run, done: int, found: Preview | None) -> None:
    """With the first one a line says what previews cost."""
    if found is None:
        return
    path, passes, size = _preview_path(run, done), _passes(run, done), found.grid
    if size is None and done == min(_rhythm(run), run.cfg.training.n_iters):
        few = f"{passes:.0f} passes from one to the next do not pay for an image"
        run.folder.say(f"no preview: {few}; training.preview=1 asks for one all the same")
    if size is not None and passes and not path.parent.exists():
        images = f"{size.rows} x {size.columns} image{'s' * (size.rows * size.columns > 1)} in {size.steps} steps"
        run.folder.say(f"previews of {images} take {found.passes / passes:.1%} of the run's passes (training.preview)")
    if found.page is not None:
        sheet.save(found.page, path)


def val_accuracy(run, done: int) -> float:
    """On the images set aside, after `done` steps, with a line; an epoch and a snapshot that end together share it."""
    if run.validated is None or run.validated[0] != done:
        run.validated = done, run.validate(run.plain)
        run.folder.say(f"validation accuracy {run.validated[1]:.2%} after step {done}")
    return run.validated[1]


def stopped(run, done: int, number: int) -> Stopped:
    """What a run ends with that a signal stopped after step `done`, which is saved."""
    line = f"stopped by {name(number)} after step {done} of {run.cfg.training.n_iters}"
    return Stopped(number, f"{line}; train.py --resume {run.folder.path} goes on there")


def diverged(path: Path, complaint: str) -> InputError:
    """What a run ends with before anything broken is written to its folder."""
    try:
        good = f"the last good checkpoint is {checkpoint.resolve(path)}"
    except InputError:
        good = "no checkpoint had been written"
    return InputError(f"{complaint}; {good} (a smaller optim.lr, unlearn.forget_alpha or --alpha may help)")
