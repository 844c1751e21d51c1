"""Checkpoints: `ckpts/step_NNNNNNN/{model,ema}.safetensors, state.pt, meta.json`, whole or absent.

A snapshot is written under a temporary name, flushed and renamed; `ckpts/latest` names the newest. Weights are plain
safetensors under the plain model's names; `state.pt` holds tensors and numbers only and loads with `weights_only=True`.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from functions.errors import InputError
from functions.files import read_json, sha256_file, stream_atomic, temporary_name, write_atomic, write_json
from functions.finite import check_finite
from functions.storage.pickles import load_torch
from functions.storage.tensors import plain_names, write_tensors

FILES = {"raw": "model.safetensors", "ema": "ema.safetensors"}
INDICES, STATE = "indices.safetensors", "state.pt"


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

    `weights` maps `raw` and, where there is one, `ema` to state dicts; `indices` are those of `load_indices`. The
    files' hashes are added to `meta`.
    """
    for kind, tensors in weights.items():
        check_finite(f"{run}: {kind} weights of step {step}", tensors)
    ckpts = Path(run) / "ckpts"
    final = ckpts / f"step_{step:07d}"
    temporary = temporary_name(final)
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
        write_json(temporary / "meta.json", {**meta, "step": step, "files": hashes})
        shutil.rmtree(final, ignore_errors=True)  # the same step, written again after a resume
        os.rename(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    write_atomic(ckpts / "latest", final.name + "\n")
    for old in sorted(ckpts.glob("step_*"))[: -max(keep, 1)]:
        shutil.rmtree(old)
    return final


def resolve(folder: Path | str) -> Path:
    """The newest snapshot of a run folder, or the folder itself where it is a snapshot."""
    folder = Path(folder)
    if (folder / "meta.json").is_file():
        return folder
    if folder.is_file():
        raise InputError(f"{folder}: a file, wanted a run folder{_published([folder])} (--ckpt_folder)")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder (--ckpt_folder)")
    latest = folder / "ckpts" / "latest"
    if latest.is_file():
        named = folder / "ckpts" / latest.read_text().strip()
        if (named / "meta.json").is_file():
            return named
    snapshots = sorted((folder / "ckpts").glob("step_*/meta.json"))
    if not snapshots:
        foreign = _published(sorted((folder / "ckpts").glob("ckpt*.pth")))
        raise InputError(f"{folder}: holds no checkpoint (wanted ckpts/step_*/meta.json; --ckpt_folder){foreign}")
    return snapshots[-1].parent


def _published(files: list[Path]) -> str:
    """What to do with a checkpoint of the published code; nothing where the first file cannot be one."""
    if not files or files[0].suffix != ".pth":
        return ""
    return f"; {files[0]} is a published checkpoint: python convert.py {files[0]} --config cifar10_pretrain.yml"


@dataclass(frozen=True)
class Snapshot:
    """One snapshot, found and read once: its folder, and its `meta.json`.

    What a run saves meanwhile does not change it: all that is read through it belongs together. Every file's hash is
    checked before it is read; InputError where one is missing, cut or altered.
    """

    path: Path
    meta: dict

    @classmethod
    def open(cls, folder: Path | str) -> Snapshot:
        """The newest snapshot of a run folder, or the folder itself where it is a snapshot."""
        path = resolve(folder)
        return cls(path, read_json(path / "meta.json"))

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
        path = self.path / FILES[kind]
        check_hash(path, self.hash(kind))
        try:
            return safetensors.torch.load_file(path)
        except SafetensorError as error:
            raise InputError(f"{path}: not a readable safetensors file ({error})") from None

    def state(self) -> dict:
        """Optimiser state and data positions, onto the CPU."""
        path = self.path / STATE
        check_hash(path, self.meta["files"][STATE])
        return load_torch(path, path)

    def indices(self) -> dict[str, Tensor] | None:
        """The data of the run, sorted int64 indices into the training part of its data set; None: all, an older file.

        `remain`, what it trained on last; `forget`, what it forgot or was never shown, absent where nothing; `val`,
        what was set aside for validation, may be empty. A model that unlearns next may forget of `remain`, and of
        nothing else.
        """
        wanted = self.meta["files"].get(INDICES)
        if wanted is None:
            return None
        check_hash(self.path / INDICES, wanted)
        return safetensors.torch.load_file(self.path / INDICES)


# Each of these finds the newest snapshot anew; whoever reads two things of one run wants a `Snapshot`.


def load_meta(folder: Path | str) -> dict:
    """`meta.json` of the newest snapshot."""
    return Snapshot.open(folder).meta


def weights_hash(folder: Path | str, kind: Literal["ema", "raw"]) -> str:
    """`Snapshot.hash` of the newest snapshot."""
    return Snapshot.open(folder).hash(kind)


def choose_kind(folder: Path | str, kind: Literal["auto", "ema", "raw"]) -> Literal["ema", "raw"]:
    """`Snapshot.kind` of the newest snapshot."""
    return Snapshot.open(folder).kind(kind)


def load_weights(folder: Path | str, kind: Literal["ema", "raw"]) -> dict[str, Tensor]:
    """`Snapshot.weights` of the newest snapshot."""
    return Snapshot.open(folder).weights(kind)


def load_state(folder: Path | str) -> dict:
    """`Snapshot.state` of the newest snapshot."""
    return Snapshot.open(folder).state()


def load_indices(folder: Path | str) -> dict[str, Tensor] | None:
    """`Snapshot.indices` of the newest snapshot."""
    return Snapshot.open(folder).indices()


def check_hash(path: Path, wanted: str) -> None:
    """A file that is cut in half or altered is refused before anything reads it."""
    if not path.is_file():
        raise InputError(f"{path}: missing from the checkpoint")
    if (found := sha256_file(path)) != wanted:
        raise InputError(
            f"{path}: damaged: sha256 {found[:12]}, meta.json says {wanted[:12]} ({path.stat().st_size} bytes)"
        )


def load_into(model: torch.nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Strict loading; what does not fit, or is NaN or infinite, is one line with the count and the first five names."""
    own = model.state_dict()
    wrong = [
        n
        for n in sorted(own.keys() | weights.keys())
        if n not in own or n not in weights or own[n].shape != weights[n].shape
    ]
    if wrong:
        raise InputError(f"{source}: {len(wrong)} tensors do not fit the model: {', '.join(wrong[:5])}")
    check_finite(source, weights)
    model.load_state_dict(weights)
