"""Arrays in .npy and .npz files: their sizes are looked at before their values, and no pickle is read. Torch-free."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from functions.errors import InputError

# A deflated member may hold so many times its bytes, or so many bytes: images of one colour shrink a thousandfold.
UNPACKED, SMALL = 20, 1 << 26
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# What numpy and zipfile raise for a file that is cut, altered, encrypted or none of theirs.
BROKEN = (
    ValueError,
    EOFError,
    LookupError,
    SyntaxError,
    RuntimeError,
    TypeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)


def read_npy(path: Path | str) -> np.ndarray:
    """The array of a .npy file. Raises InputError where it is damaged, holds objects, or is shorter than it says."""
    with open(path, "rb") as file:
        _checked(file, Path(path).stat().st_size, str(path))
        file.seek(0)
        return _read(lambda: np.load(file, allow_pickle=False), str(path))


def read_npz(path: Path | str, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Those arrays of a .npz file that are called so. Raises InputError as `read_npy` does, and for deflated bombs."""
    with _read(lambda: zipfile.ZipFile(path), str(path)) as archive:
        members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
        if sum(m.compress_size for m in members.values()) > Path(path).stat().st_size:
            raise InputError(f"{path}: refused: its members overlap, or say that they are larger than the file")
        wanted = {name: members[name] for name in names if name in members}
        for name, m in wanted.items():
            if m.compress_type != zipfile.ZIP_STORED and m.file_size > max(SMALL, UNPACKED * m.compress_size):
                raise InputError(
                    f"{path}: refused: {name} is {m.compress_size:,} bytes that unpack to {m.file_size:,}, wanted at "
                    f"most {UNPACKED} times as many; numpy.savez, without compression, writes them as they are"
                )
            with _read(lambda m=m: archive.open(m), str(path)) as member:
                _checked(member, m.file_size, f"{path}: {name}")
        read = lambda m: np.lib.format.read_array(archive.open(m), allow_pickle=False)
        return {name: _read(lambda m=m: read(m), str(path)) for name, m in wanted.items()}


def read_member(path: Path | str, name: str, largest: int = 1 << 25) -> tuple[bytes | None, list[str]]:
    """What a file of another kind inside a .npz holds, None where it has none; and the names of all that is there.

    Raises InputError for a .npz that is damaged, and for more than `largest` bytes.
    """
    with _read(lambda: zipfile.ZipFile(path), str(path)) as archive:
        names = archive.namelist()
        if name not in names:
            return None, names
        if (size := archive.getinfo(name).file_size) > largest:
            raise InputError(f"{path}: refused: {name} in it is {size:,} bytes, wanted at most {largest:,}")
        return _read(lambda: archive.read(name), str(path)), names


def _checked(file: BinaryIO, size: int, source: str) -> None:
    """Raises InputError where the header at the start of `file` asks for other bytes than the `size` that are there."""
    shape, dtype = _read(lambda: _header(file), source)
    if dtype.hasobject:
        raise InputError(f"{source}: refused: holds objects of Python (a pickle); wanted numbers")
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise InputError(
            f"{source}: cut short or damaged: its header says {dtype} of shape {shape!s:.60}, and "
            f"{size - file.tell():,} bytes are there"
        )


def _header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    shape, _, dtype = HEADERS[np.lib.format.read_magic(file)](file)
    return shape, dtype


def _read(read: Callable, source: str):
    """`read()`, and what is wrong with a file as one line."""
    try:
        return read()
    except BROKEN as error:
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise InputError(f"{source}: damaged, or not a file of numpy ({reason})") from None
