"""A finished folder of samples as one `.npz`, as ADM's evaluator reads it: images, labels, and their samples.json."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
from torch import Tensor

from functions import pictures
from functions.errors import InputError
from functions.files import natural, sealed, stream_atomic
from functions.sampling.contract import ARRAYS, GENERATION, check_complete, read_generation
from functions.sampling.folders import SampleSet, find_samples

BATCH = 64  # images in memory at once
DATE = (1980, 1, 1, 0, 0, 0)  # of all members: the same images make the same file


def beside(folder: Path) -> Path:
    """Where the `.npz` of a folder lies: RUN/class_samples.npz."""
    return folder.with_name(f"{folder.name}.npz")


def check(path: Path, wanted: dict) -> None:
    """Raises InputError where a file is there that is not of images made as the contract `wanted` says."""
    if not path.exists():
        return
    made = read_generation(path) if path.is_file() else None
    keys = ("seed", "weights", "checkpoint")
    same = made and made["hash"] == wanted["hash"] and all(made["record"].get(k) == wanted["record"][k] for k in keys)
    if not same:
        raise InputError(f"{path}: is there, and is not of images made in this way: move it away (--npz)")


def write(folder: Path) -> Path:
    """`<folder>.npz` of a folder that holds all that its samples.json promises, whole or absent.

    `arr_0` uint8 (N,H,W,C) and `arr_1` (N,) labels, image 0 of every class first: scores over parts of a file, as ADM's
    inception score, want all classes in each part. Raises InputError where images are missing.
    """
    found, made = find_samples(folder), read_generation(folder)
    check_complete(folder, found.labels.tolist())
    order = sorted(range(len(found)), key=lambda i: (natural(found.paths[i].stem), int(found.labels[i])))
    images = SampleSet(folder, found.labels[order], tuple(found.paths[i] for i in order))
    path = beside(folder)
    with stream_atomic(path) as file, zipfile.ZipFile(file, "w") as archive:
        _write_images(archive, images)
        _write_array(archive, ARRAYS[1], (len(images),), "<i8", [images.labels])
        text = json.dumps(sealed(made), indent=2, allow_nan=False) + "\n"
        archive.writestr(zipfile.ZipInfo(GENERATION, DATE), text)
    return path


def _write_images(archive: zipfile.ZipFile, images: SampleSet) -> None:
    with pictures.opened(images.paths[0]) as first:
        (width, height), channels = first.size, 1 if first.mode == "L" else 3
    parts = (part.permute(0, 2, 3, 1).contiguous() for part in images.batches(BATCH, channels))
    _write_array(archive, ARRAYS[0], (len(images), height, width, channels), "|u1", parts)


def _write_array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: str, parts) -> None:
    """Piece by piece, not compressed."""
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    with archive.open(zipfile.ZipInfo(name, DATE), "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for part in parts:
            member.write(_bytes(part))


def _bytes(part: Tensor) -> memoryview:
    return memoryview(part.numpy()).cast("B")
