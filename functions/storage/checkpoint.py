"""Checkpoints: `ckpts/step_NNNNNNN/{model,ema}.safetensors, state.pt, meta.json`, whole or absent.

A snapshot is written under a temporary name, flushed and renamed: the newest is the one of the highest step, which
`ckpts/latest` names for people and other programs. Weights are plain safetensors under the plain model's names;
`state.pt` holds tensors and numbers only and loads with `weights_only=True`. `meta.json` has the hash of every other
file, and a seal of its own.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from functions.errors import InputError
from functions.files import PARTIAL, natural, note, sha256_file, stream_atomic, temporary_name, write_atomic, write_json
from functions.finite import check_finite
from functions.storage.meta import read_meta
from functions.storage.pickles import load_torch
from functions.storage.tensors import plain_names, write_tensors

FILES = {"raw": "model.safetensors", "ema": "ema.safetensors"}
INDICES, STATE, META = "indices.safetensors", "state.pt", "meta.json"
TRIES = 100  # at a snapshot that its run deletes meanwhile, a hundredth of a second apart


def save(
    run: Path | str,
    step: int,
    weights: dict[str, dict[str, Tensor]],
    state: dict,
    meta: dict,
    keep: int,
    indices: dict[str, Tensor] | None = None,
) -> Path:
    """Write snapshot `step` of a run, point `latest` at it, and delete older ones beyond the newest `keep`.

    `weights` maps `raw` and, where there is one, `ema` to state dicts; `indices` are those of `Snapshot.indices`. The
    files' hashes are added to `meta`. An older one that somebody reads stays until the next save.
    """
    for kind, tensors in weights.items():
        check_finite(f"{run}: {kind} weights of step {step}", tensors)
    ckpts = Path(run) / "ckpts"
    final = ckpts / f"step_{step:07d}"
    temporary = temporary_name(final)
    for left in ckpts.glob(f".step_*{PARTIAL}"):  # by a kill
        shutil.rmtree(left)
    temporary.mkdir(parents=True)
    files = {FILES[kind]: plain_names(tensors) for kind, tensors in weights.items()}
    if indices is not None:
        files[INDICES] = indices
    try:
        hashes = {}
        for name, tensors in files.items():
            with stream_atomic(temporary / name) as file:
                write_tensors(file, tensors)
            hashes[name] = file.sha256
        with stream_atomic(temporary / STATE) as file:
            torch.save(state, file)
        hashes[STATE] = file.sha256
        write_json(temporary / META, {**meta, "step": step, "files": hashes})
        if final.exists():  # the same step, written again after a resume
            _discard(final)
        os.rename(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    write_atomic(ckpts / "latest", final.name + "\n")
    for old in _snapshots(run)[: -max(keep, 1)]:
        _delete_unread(old)
    return final


def _snapshots(run: Path | str) -> list[Path]:
    """The snapshots of a run by their step: whole folders, as they got their names when they were."""
    return sorted((Path(run) / "ckpts").glob("step_*"), key=natural)


def _delete_unread(snapshot: Path) -> None:
    """Delete a snapshot unless somebody reads it: who opened it has a lock on its meta.json."""
    try:
        file = os.open(snapshot / META, os.O_RDWR)
    except FileNotFoundError:
        _discard(snapshot)
        return
    try:
        if _locked(file, fcntl.LOCK_EX):
            _discard(snapshot)
    finally:
        os.close(file)


def _locked(file: int, kind: int) -> bool:
    """Whether the lock was to be had; yes on a file system without locks, where nobody can have another."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _discard(snapshot: Path) -> None:
    """Out of sight at once, then deleted file by file."""
    hidden = temporary_name(snapshot)
    os.rename(snapshot, hidden)
    shutil.rmtree(hidden)


def holds_snapshots(run: Path | str) -> bool:
    """Whether a run had come to a snapshot, whatever is left of it."""
    return bool(_snapshots(run)) or (Path(run) / "ckpts" / "latest").exists()


def resolve(folder: Path | str) -> Path:
    """The newest snapshot of a run folder, or the folder itself where it is a snapshot.

    Where `ckpts/latest` is missing or names none, a line says so: somebody, or a broken disk, has been there.
    """
    folder = Path(folder)
    if (folder / META).is_file():
        return folder
    if folder.is_file():
        raise InputError(f"{folder}: a file, wanted a run folder{_published([folder])} (--ckpt_folder)")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder (--ckpt_folder)")
    for _ in range(TRIES // 10):
        named = _latest(folder)
        whole = [path for path in _snapshots(folder) if (path / META).is_file()]
        if whole or named is None:
            break
        time.sleep(0.01)  # its run may have put another in the place of the only one while they were listed
    if not whole:
        foreign = _published(sorted((folder / "ckpts").glob("ckpt*.pth")))
        raise InputError(f"{folder}: holds no checkpoint (wanted ckpts/step_*/meta.json; --ckpt_folder){foreign}")
    # read once more: its run may have gone on meanwhile
    if named not in {path.name for path in whole} and named == _latest(folder):
        what = "is missing or damaged" if named is None else f"names {named}, which is not there"
        note(f"{folder / 'ckpts' / 'latest'}: {what}: using the newest snapshot, {whole[-1].name}")
    return whole[-1]


def _latest(run: Path) -> str | None:
    """What `ckpts/latest` names, if it can be a snapshot."""
    try:
        text = (run / "ckpts" / "latest").read_bytes()[:100].decode("ascii", "replace").strip()
    except OSError:
        return None
    return text if re.fullmatch(r"step_\d+", text) else None


def _published(files: list[Path]) -> str:
    """What to do with a checkpoint of the published code; nothing where the first file cannot be one."""
    if files and files[0].suffix in (".pt", ".safetensors"):
        return f"; {files[0]} could be a DiT's: --config dit_xl2_imagenet.yml"
    if not files or files[0].suffix != ".pth":
        return ""
    return f"; {files[0]} is a published checkpoint: python convert.py {files[0]} --config cifar10_pretrain.yml"


class Pin:
    """A shared lock on a snapshot's meta.json: while this lives its run does not delete it. A crash lets go of it."""

    def __init__(self, file: int):
        weakref.finalize(self, os.close, file)

    @classmethod
    def on(cls, snapshot: Path) -> Pin | None:
        """None where the snapshot is being deleted."""
        try:
            file = os.open(snapshot / META, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        pin = cls(file)
        try:
            there = _locked(file, fcntl.LOCK_SH) and os.path.samestat(os.fstat(file), os.stat(snapshot / META))
        except FileNotFoundError:
            return None
        return pin if there else None


@dataclass(frozen=True)
class Snapshot:
    """One snapshot, found and read once: its folder, and its `meta.json`.

    What a run saves meanwhile does not change it: all that is read through it belongs together, and stays while it
    lives. Every file's hash is checked before it is read; InputError where one is missing, cut or altered.
    """

    path: Path
    meta: dict
    pin: Pin | None = None

    @classmethod
    def open(cls, folder: Path | str) -> Snapshot:
        """The newest snapshot of a run folder, or the folder itself where it is a snapshot."""
        for _ in range(TRIES):
            path = resolve(folder)
            if pin := Pin.on(path):
                break
            time.sleep(0.01)  # it was deleted just now: the newest is another
        else:
            raise InputError(f"{path}: is deleted while it is read; run the command again")
        try:
            return cls(path, read_meta(path / META), pin)
        except InputError as error:
            raise InputError(f"{error}{_older(path)}") from None

    def kind(self, wanted: Literal["auto", "ema", "raw"]) -> Literal["ema", "raw"]:
        """`auto` is EMA where the checkpoint has one, otherwise raw."""
        if wanted != "auto":
            return wanted
        return "ema" if FILES["ema"] in self.meta["files"] else "raw"

    def hash(self, kind: Literal["ema", "raw"]) -> str:
        """The recorded SHA-256 of the weights that `weights` reads: a checkpoint's identity in provenance."""
        files = self.meta["files"]
        if FILES[kind] not in files:
            there = ", ".join(k for k, f in FILES.items() if f in files)
            raise InputError(f"{self.path}: has no {kind} weights, only {there} (init_weights, --weights)")
        return files[FILES[kind]]

    def weights(self, kind: Literal["ema", "raw"]) -> dict[str, Tensor]:
        """Weights by plain name, mapped from the file: they take memory as they are used."""
        self.hash(kind)
        return self._tensors(FILES[kind])

    def model(self, kind: Literal["ema", "raw"], build: Callable[[dict, int], torch.nn.Module]) -> torch.nn.Module:
        """The model with these weights; `build` is models.build, whose bound is the bytes of the weights."""
        weights = self.weights(kind)
        try:
            model = build(self.meta["model"], (self.path / FILES[kind]).stat().st_size)
        except InputError as error:
            raise InputError(f"{self.path / META}: {error}") from None
        load_into(model, weights, str(self.path))
        return model

    def state(self) -> dict:
        """Optimiser state and data positions, onto the CPU."""
        path = self._checked(STATE)
        return load_torch(path, path)

    def indices(self) -> dict[str, Tensor] | None:
        """The data of the run, sorted int64 indices into the training part of its data set; None: all, an older file.

        `remain`, what it trained on last; `forget`, what it forgot or was never shown, absent where nothing; `val`,
        what was set aside for validation, may be empty. A model that unlearns next may forget of `remain`, and of
        nothing else.
        """
        return self._tensors(INDICES) if INDICES in self.meta["files"] else None

    def _tensors(self, name: str) -> dict[str, Tensor]:
        path = self._checked(name)
        try:
            return safetensors.torch.load_file(path)
        except SafetensorError as error:
            raise InputError(f"{path}: not a readable safetensors file ({error})") from None

    def _checked(self, name: str) -> Path:
        """The path of a file that is what meta.json says: one that is cut or altered is refused before it is read."""
        path, wanted = self.path / name, self.meta["files"].get(name)
        if wanted is None or not path.is_file():
            raise InputError(f"{path}: missing from the checkpoint{_older(self.path)}")
        if (found := sha256_file(path)) != wanted:
            raise InputError(
                f"{path}: damaged: sha256 {found[:12]}, meta.json says {wanted[:12]} ({path.stat().st_size} bytes)"
                f"{_older(self.path)}"
            )
        return path


def _older(snapshot: Path) -> str:
    """`; RUN/ckpts/step_N is older and whole`: what there is beside a damaged snapshot; nothing where there is none."""
    beside = [path for path in _snapshots(snapshot.parent.parent) if natural(path) < natural(snapshot)]
    for path in reversed(beside):
        try:
            read_meta(path / META)
        except InputError:
            continue
        return f"; {path} is older and whole: name that one, or move {snapshot.name} away"
    return ""


def load_into(model: torch.nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Strict loading; what does not fit, or is NaN or infinite, is one line with the count and the first five names."""
    check_fit(model.state_dict(), weights, source)
    check_finite(source, weights)
    model.load_state_dict(weights)


def check_fit(own: dict[str, Tensor], weights: dict[str, Tensor], source: str) -> None:
    """Raises InputError where names or shapes are not those of the model's `own`: how many, and the first five."""
    wrong = [
        n
        for n in sorted(own.keys() | weights.keys())
        if n not in own or n not in weights or own[n].shape != weights[n].shape
    ]
    if wrong:
        raise InputError(f"{source}: {len(wrong)} tensors do not fit the model: {', '.join(wrong[:5])}")
