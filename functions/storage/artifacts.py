"""Fishers and masks on disk: sealed safetensors with their provenance as JSON, checked before use."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from functions.config.passes import ESTIMATORS
from functions.curvature.gradients import check_diagonal
from functions.curvature.saliency import Mask
from functions.errors import InputError
from functions.files import check_exported, note, parse_json, stream_atomic, stream_exported
from functions.records import check_record
from functions.storage.pickles import load_tensor_dict, load_torch
from functions.storage.provenance import (
    OfFisher,
    OfMask,
    Provenance,
    Shapes,
    check_pair,
    check_provenance,
    check_shapes,
)
from functions.storage.tensors import has_seal, plain_names, write_sealed

CHUNK = 1 << 22  # weights packed at once: what is extra stays small beside them


def save_tensors(path: Path | str, tensors: dict[str, Tensor], provenance: dict) -> None:
    """Tensors by parameter name, with the provenance and a seal in the file's header. Atomic."""
    with stream_atomic(path) as file:
        write_sealed(file, tensors, {"provenance": json.dumps(provenance, allow_nan=False)})


def load_tensors(path: Path | str, schema: type[Provenance] = Provenance) -> tuple[dict[str, Tensor], dict]:
    """(tensors, provenance). Raises InputError where the file is missing, damaged, not ours, or not what `schema` says.

    A file of an older version has no seal: it is taken, and a line says so.
    """
    with _opened(path, schema) as (file, provenance):
        return {name: file.get_tensor(name) for name in file.keys()}, provenance  # noqa: SIM118


def read_provenance(path: Path | str) -> dict:
    """The provenance alone; empty for a foreign mask or Fisher. Raises InputError as `load_tensors` does."""
    if _is_foreign(path) or Path(path).suffix == ".pkl":
        return {}
    with _opened(path, Provenance) as (_, provenance):
        return provenance


@contextmanager
def _opened(path: Path | str, schema: type[Provenance]) -> Iterator[tuple[safe_open, dict]]:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    sealed = has_seal(path)
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("provenance")
            if text is None:
                raise InputError(f"{path}: carries no provenance: not written by this toolkit")
            provenance = parse_json(text.encode(), f"{path}: provenance")
            check_record(provenance, schema, f"{path}: provenance")
            if not sealed:
                note(f"{path}: of an older version, without a seal: damage would not be noticed")
            yield file, provenance
    except SafetensorError as error:
        raise InputError(f"{path}: damaged or not a safetensors file ({error})") from None


def _is_foreign(path: Path | str) -> bool:
    return Path(path).suffix in (".pt", ".pth")


def save_mask(path: Path | str, mask: Mask, provenance: dict) -> None:
    """Packed bits, N / 8 bytes; the shapes go into the provenance."""
    shapes = {name: list(m.shape) for name, m in mask.items()}
    save_tensors(path, {name: pack_bits(m) for name, m in mask.items()}, {**provenance, "shapes": shapes})


def pack_bits(m: Tensor) -> Tensor:
    """Bool tensor -> ceil(N / 8) bytes, first weight in the highest bit."""
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=m.device)
    parts = []
    for part in m.flatten().view(torch.uint8).split(CHUNK):
        rows = torch.nn.functional.pad(part, (0, -len(part) % 8)).view(-1, 8)
        parts.append((rows << places).sum(1, dtype=torch.uint8))
    return torch.cat(parts)


def unpack_bits(packed: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The inverse of `pack_bits` for a tensor of `shape`."""
    bits = (packed[:, None] >> torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)) & 1
    return bits.flatten()[: torch.Size(shape).numel()].bool().view(shape)


def _unpacked(packed: dict[str, Tensor], shapes: dict[str, list[int]], what: str) -> Mask:
    """Raises InputError where the bytes of a tensor are not those of its shape: shapes are text, and text is cheap."""
    if wrong := sorted(packed.keys() ^ shapes.keys()):
        raise InputError(f"{what}: {wrong[0]}: has {'no shape' if wrong[0] in packed else 'no bits'}")
    for name, shape in shapes.items():
        have, need = packed[name], (math.prod(shape) + 7) // 8
        if have.dtype != torch.uint8 or tuple(have.shape) != (need,):
            raise InputError(
                f"{what}: {name}: {have.dtype} of shape {tuple(have.shape)}, wanted {need} bytes for {tuple(shape)}"
            )
    return {name: unpack_bits(packed[name], tuple(shape)) for name, shape in shapes.items()}


def load_mask(path: Path | str, shapes: Shapes | None, wanted: dict | None) -> Mask:
    """The mask in `path`: ours, or a `.pt` of the SalUn scripts.

    Raises InputError where its names and shapes are not `shapes`, or its provenance is not `wanted` (see
    `check_provenance`); None leaves that check out.
    """
    foreign = _is_foreign(path)
    if foreign:
        mask = _foreign_mask(path, shapes)
    else:
        packed, found = load_tensors(path)
        if "shapes" not in found:
            raise InputError(
                f"mask {path}: is no mask, but a file of {found.get('estimator', 'other')} tensors "
                "(generate_fisher_mask.py makes masks)"
            )
        check_record(found, OfMask, f"mask {path}: provenance")
        if wanted is not None:
            check_provenance(found, wanted, path)
        mask = _unpacked(packed, found["shapes"], f"mask {path}")
    if shapes is not None:
        check_shapes(_shapes_of(mask), shapes, f"mask {path}")
    if foreign:
        print(f"mask {path}: foreign, provenance: none; only names and shapes are checked", file=sys.stderr)
    return mask


def export_mask_pt(path: Path | str, mask: Mask, device: torch.device | str = "cpu") -> None:
    """A `.pt` for the published scripts: dict of 0/1 uint8 tensors by name, an eighth of their int64. Atomic.

    Not bool, because they compute `1 - m`. They multiply by what they load without moving it, and torch loads a tensor
    to where it was saved: for their runs on a GPU save with `device="cuda:0"`, as their own generate_mask.py does.
    """
    with stream_exported(path) as file:
        torch.save({name: m.to(device=device, dtype=torch.uint8) for name, m in mask.items()}, file)


def load_fisher(path: Path | str, shapes: Shapes, wanted: dict) -> dict[str, Tensor]:
    """A Fisher diagonal of what is to be kept: ours, or a published `.pkl` through the allow-list unpickler.

    Raises InputError where its names and shapes are not `shapes`, where it was made from another checkpoint than
    `wanted`, or holds the class that is to be forgotten, or is no Fisher.
    """
    if not Path(path).is_file():
        raise InputError(f"Fisher {path}: no such file; fim.py makes it (sa.fisher_path names another)")
    if Path(path).suffix == ".pkl":
        fisher = load_tensor_dict(path)
        print(f"Fisher {path}: foreign, provenance: none; only names and shapes are checked", file=sys.stderr)
    else:
        fisher, made = load_tensors(path)
        if made.get("estimator") not in ("sweep", *ESTIMATORS) or "threshold" in made:
            raise InputError(
                f"Fisher {path}: is no Fisher, but a file of {made.get('estimator', 'other')} tensors "
                "(fim.py and train.py --mode generate_fisher make Fishers)"
            )
        if made.get("set") == "forget":
            raise InputError(f"Fisher {path}: of the forget set; wanted that of the remain set (sa.fisher_path)")
        if made.get("forget") is None:  # sweep: of all classes
            made = {**made, "forget": wanted["forget"]}
        check_provenance(made, wanted, path, "Fisher")
    check_shapes(_shapes_of(fisher), shapes, f"Fisher {path}")
    check_diagonal(fisher, f"Fisher {path}")
    return fisher


def load_fishers(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict, dict]:
    """F_f, F_r and the provenance of each, as `generate_fisher` leaves them in `folder`.

    Raises InputError where they are not there, do not belong together, or are no Fishers.
    """
    paths = [folder / f"{side}_fisher.safetensors" for side in ("forget", "remain")]
    (fisher_f, made_f), (fisher_r, made_r) = (load_tensors(p, OfFisher) for p in paths)
    check_pair(made_f, made_r, paths)
    check_shapes(_shapes_of(fisher_r), _shapes_of(fisher_f), str(paths[1]))
    for path, fisher in zip(paths, (fisher_f, fisher_r)):
        check_diagonal(fisher, str(path))
    return fisher_f, fisher_r, made_f, made_r


def _shapes_of(tensors: dict[str, Tensor]) -> Shapes:
    return {name: tuple(t.shape) for name, t in tensors.items()}


def _foreign_mask(path: Path | str, shapes: Shapes | None) -> Mask:
    """A dict of 0/1 tensors of any number type, `module.` before names, int 0 for a tensor that is all zero."""
    if not Path(path).is_file():
        raise InputError(f"mask {path}: no such file")
    check_exported(path)
    found = load_torch(path, f"mask {path}")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise InputError(f"mask {path}: wanted a dict of tensors by name, got a {type(found).__name__}")
    mask = {}
    for name, m in plain_names(found).items():
        if isinstance(m, int) and m == 0:
            m = torch.zeros((shapes or {}).get(name, ()))
        if not isinstance(m, Tensor) or not bool(((m == 0) | (m == 1)).all()):
            raise InputError(f"mask {path}: {name}: wanted a tensor of zeros and ones")
        mask[name] = m.bool()
    return mask
