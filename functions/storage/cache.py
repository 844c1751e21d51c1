"""Tensors that can be computed again: kept under a key, sealed, and made anew where they are not what was kept."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from functions.errors import InputError
from functions.files import note, stream_atomic
from functions.finite import bad_values
from functions.storage.tensors import has_seal, write_sealed


def save_cached(path: Path, key: str, tensors: dict[str, Tensor]) -> None:
    """Keep them under `key`, one at a time on the host. Atomic."""
    with stream_atomic(path) as file:
        write_sealed(file, tensors, {"key": key})


def load_cached(path: Path, key: str, device: torch.device | str = "cpu") -> dict[str, Tensor] | None:
    """What is kept under `key`; None where there is nothing, or another thing, or a file that is damaged or unsealed.

    Computing anew is the remedy for all of these; of damage a line says so.
    """
    if not path.is_file():
        return None
    try:
        if not has_seal(path):
            return None
        with safe_open(path, framework="pt", device=str(device)) as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return None if bad_values(found) else found
    except (InputError, SafetensorError) as error:
        note(f"{path}: computed anew ({error})")
        return None
