"""safetensors written one tensor at a time: no second copy of a model, wherever its weights lie and in what order.

A sealed file holds, in its metadata, the SHA-256 of all of it with zeros in the seal's place.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from functions.errors import InputError
from functions.files import HashedFile

# In the order in which safetensors lays them out: by alignment, so that each tensor can be read where it lies.
DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
WRAPPERS = ("module.", "_orig_mod.")
ORDER = {dtype: place for place, dtype in enumerate(DTYPES)}
# "sealed" is part of what is sealed: a file that has lost its seal is told from one of a version that wrote none.
# In the header neither can stand inside a text, whose quotes have backslashes before them.
SEALED, MARK, BLANK = {"sealed": "1"}, b'"seal":"', b"0" * 64
LARGEST_HEADER = 100_000_000  # bytes, of the format itself


def plain_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Strip what DataParallel, DistributedDataParallel and torch.compile put before names."""
    plain = {}
    for name, tensor in state.items():
        while name.startswith(WRAPPERS):
            name = name[len(next(w for w in WRAPPERS if name.startswith(w))) :]
        plain[name] = tensor
    return plain


def write_tensors(file: BinaryIO, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """The bytes of `safetensors.torch.save`, from tensors on any device and of any strides.

    Its own `save_file` wants all of them on the CPU and contiguous at once, which is a copy of a model that is on a GPU
    or in channels_last, and reports a full disk without its errno. Here a copy of the largest tensor is the most.
    Layout: header's length (8 bytes, little endian), header (JSON, padded to 8), data. Returns the first two.
    """
    if unknown := [name for name, t in tensors.items() if t.dtype not in ORDER]:
        raise InputError(f"{unknown[0]}: {tensors[unknown[0]].dtype} has no place in a safetensors file")
    names = sorted(tensors, key=lambda name: (ORDER[tensors[name].dtype], name))
    header, end = {"__metadata__": metadata} if metadata else {}, 0
    for name in names:
        t = tensors[name]
        start, end = end, end + t.numel() * t.element_size()
        header[name] = {"dtype": DTYPES[t.dtype], "shape": list(t.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    text = len(text).to_bytes(8, "little") + text
    file.write(text)
    for name in names:
        file.write(_bytes_of(tensors[name]))
    return text


def write_sealed(file: HashedFile, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """`write_tensors` with a seal, which takes the place of its zeros once all has passed and is hashed."""
    header = write_tensors(file, tensors, {**SEALED, **metadata, "seal": BLANK.decode()})
    file.overwrite(header.index(MARK) + len(MARK), file.sha256.encode())


def has_seal(path: Path | str) -> bool:
    """Whether a safetensors file is sealed; older versions did not. Raises InputError where the seal is wrong.

    The file is read in pieces and never held.
    """
    with open(path, "rb") as file:
        length = file.read(8)
        header = length + file.read(min(int.from_bytes(length, "little"), LARGEST_HEADER))
        at = header.find(MARK) + len(MARK)
        if at < len(MARK):
            if b'"sealed":"' in header:
                raise InputError(f"{path}: damaged: it has lost its seal")
            return False
        digest = hashlib.sha256(header[:at] + BLANK + header[at + len(BLANK) :])
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest().encode() != header[at : at + len(BLANK)]:
        raise InputError(f"{path}: damaged: its bytes are not what its seal was made of")
    return True


def _bytes_of(t: Tensor) -> memoryview:
    """Those of the tensor in row-major order: its own where it lies so on the CPU, else a copy's."""
    return memoryview(t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
