"""The files of encode_dataset.py: posterior moments of images in half precision, by their indices in a data set.

`index.json` says what they are of: data set, size, autoencoder. `000000.f16` holds images one after another, of each
the moments (2 Cz, h, w) and those of its mirror image, float16; `000000.json` beside it their indices, the CRC-32 of
each of the two, and the SHA-256 of the file. Both are written whole, the JSON last: moments without one are not there.
JSON has a seal. Torch-free.

Opening reads the JSON alone. An image's moments are compared with their CRCs when a process first uses them, so damage
is noticed wherever it is, and what is not used is not read. The SHA-256 is for encode_dataset.py, which reads all that
is there when it is run again, and encodes anew what is damaged.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from functions.errors import InputError
from functions.files import note, sha256_file, sha256_json, stream_atomic, write_json
from functions.records import Count, Exact, Sha, check_record, read_record

FORMAT, INDEX, MOMENTS = 1, "index.json", ".f16"
NUMBER = "[0-9]" * 6  # how shards are called
REMEDY = "encode_dataset.py encodes it anew"
Size = Annotated[int, Field(gt=0, le=2**16)]
Shape = Annotated[list[Size], Field(min_length=3, max_length=3)]
Crc = Annotated[int, Field(ge=0, lt=2**32)]
# key of an identity -> what sets it in a run
SET_BY = {
    "vae": "encoder.vae",
    "dataset": "data.dataset",
    "n": "data.path",
    "content": "data.path: other images, names or labels",
    "shape": "data.image_size",
    "fit": "data.fit",
    "moments": "encoder.vae",
    "format": "another version of this toolkit",
}


class Identity(Exact):
    """What all moments of a folder are of."""

    format: Count
    dataset: str
    n: Count  # images of the data set
    content: Sha  # of their names and labels
    shape: Shape  # of an image (C, H, W)
    fit: str
    vae: Sha  # of the autoencoder's weights
    moments: Shape  # (2 Cz, h, w)


class Shard(Exact):
    """What stands beside a file of moments."""

    of: Sha  # the folder's identity
    sha256: Sha
    images: Annotated[list[Count], Field(min_length=1)]
    crc: list[Annotated[list[Crc], Field(min_length=2, max_length=2)]]


def identity_of(folder: Path) -> dict:
    """What the moments in `folder` are of. Raises InputError where it holds none, or the index is damaged."""
    if not (folder / INDEX).is_file():
        raise InputError(f"{folder}: no {INDEX}: not a folder that encode_dataset.py has written (data.latents)")
    return read_record(folder / INDEX, Identity)


def check_same(folder: Path, found: dict, wanted: dict) -> None:
    """Raises InputError where the moments in `folder` are of other images, another size or another autoencoder."""
    for key, value in wanted.items():
        if found[key] != value:
            was, is_now = (f"{v[:12]}..." if isinstance(v, str) and len(v) > 40 else v for v in (found[key], value))
            raise InputError(f"{folder}: latents made with {key} {was}, this run has {is_now} ({SET_BY[key]})")


class Shards:
    """The moments in a folder, to be read by index."""

    def __init__(self, folder: Path, identity: dict, damaged_too: bool = False):
        """`damaged_too`: shards that cannot be read are left out with a line, for who encodes them anew."""
        self.folder, self.identity, n = folder, identity, identity["n"]
        self.shape = (2, *identity["moments"])
        self.bytes = math.prod(self.shape) * 2  # of an image
        self.shard = np.full(n, -1, np.int32)  # -1: not there
        self.row = np.zeros(n, np.int32)
        self.crc = np.zeros((n, 2), np.uint32)
        self.seen = np.zeros(n, bool)  # compared with their CRCs by this process
        self.sha256: dict[int, str] = {}
        self._open: dict[int, np.ndarray] = {}
        for path in sorted(folder.glob(f"{NUMBER}.json")):
            try:
                self._add(path)
            except InputError as error:
                if not damaged_too:
                    raise InputError(f"{error}; {REMEDY}") from None
                note(f"{error}: encoded anew")

    def _add(self, path: Path) -> None:
        record = read_record(path, Shard)
        images, moments = np.array(record["images"]), path.with_suffix(MOMENTS)
        if record["of"] != sha256_json(self.identity):
            raise InputError(f"{path}: of other latents than {self.folder / INDEX} says")
        if images.max() >= len(self.shard) or len(images) != len(record["crc"]):
            raise InputError(f"{path}: damaged: its images are not those of the data set, or their CRCs are missing")
        size = moments.stat().st_size if moments.is_file() else 0
        if size != len(images) * self.bytes:
            raise InputError(f"{moments}: cut short or missing: {size:,} of {len(images) * self.bytes:,} bytes")
        number = int(path.stem)
        self.sha256[number] = record["sha256"]
        self.shard[images], self.row[images], self.crc[images] = number, np.arange(len(images)), record["crc"]

    def missing(self, indices: np.ndarray) -> np.ndarray:
        """Those of the indices whose moments are not there."""
        return indices[self.shard[indices] < 0]

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """(B, 2, 2 Cz, h, w) float16: the moments of each image, and of its mirror image.

        Raises InputError for an image that is not there, for damage and for what is not finite.
        """
        found = np.empty((len(indices), *self.shape), np.float16)
        for k, i in enumerate(indices):
            if self.shard[i] < 0:
                raise InputError(f"{self.folder}: no latents of image {i} (data.latents); encode_dataset.py adds it")
            found[k] = self._mapped(int(self.shard[i]))[self.row[i]]
            if not self.seen[i]:
                self._check(i, found[k])
        return found

    def _check(self, i: int, moments: np.ndarray) -> None:
        path = self.path(int(self.shard[i]))
        if [zlib.crc32(m) for m in moments] != self.crc[i].tolist():
            raise InputError(f"{path}: damaged: the latents of image {i} are not what was written; {REMEDY}")
        if not np.isfinite(moments).all():
            raise InputError(f"{path}: the latents of image {i} are NaN or infinite")
        self.seen[i] = True

    def _mapped(self, number: int) -> np.ndarray:
        if number not in self._open:
            self._open[number] = np.memmap(self.path(number), np.dtype("<f2"), "r").reshape(-1, *self.shape)
        return self._open[number]

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06d}{MOMENTS}"

    # ---- for who holds the folder

    def drop_damaged(self) -> Iterator[int]:
        """Read every shard whole; what is not what its SHA-256 says is taken out, with a line. Yields each number."""
        for number, sha256 in list(self.sha256.items()):
            if sha256_file(self.path(number)) != sha256:
                note(f"{self.path(number)}: damaged: encoded anew")
                self.shard[self.shard == number] = -1
                del self.sha256[number]
            yield number
        for path in self.folder.glob(f"{NUMBER}{MOMENTS}"):
            if int(path.stem) not in self.sha256:
                path.with_suffix(".json").unlink(missing_ok=True)
                path.unlink()

    def write(self, images: Sequence[int], moments: np.ndarray) -> None:
        """One more shard, (B, 2, 2 Cz, h, w) float16."""
        number = max(self.sha256, default=-1) + 1
        moments = np.ascontiguousarray(moments, "<f2")  # convolutions may leave them in another order
        with stream_atomic(self.path(number)) as file:
            file.write(memoryview(moments).cast("B"))
        crc = [[zlib.crc32(m) for m in pair] for pair in moments]
        record = {"of": sha256_json(self.identity), "sha256": file.sha256, "images": list(images), "crc": crc}
        check_record(record, Shard, self.path(number))
        write_json(self.path(number).with_suffix(".json"), record, indent=None)
        self.sha256[number] = file.sha256
        self.shard[images], self.row[images], self.crc[images] = number, np.arange(len(images)), crc


def claimed(folder: Path, identity: dict) -> Shards:
    """The shards of `folder`, which becomes the place of this identity where it is of none yet; damaged ones are left
    out. For who holds the folder. Raises InputError where it is of another."""
    if (folder / INDEX).is_file():
        check_same(folder, identity_of(folder), identity)
    else:
        if any(folder.glob(f"{NUMBER}{MOMENTS}")):
            raise InputError(f"{folder}: holds latents without {INDEX}: nobody knows of what; move it away (--latents)")
        write_json(folder / INDEX, identity)
    return Shards(folder, identity, damaged_too=True)
