"""Foreign pickles, read without running what is in them: files of `torch.save`, and plain pickles of tensors by name.

Selective Amnesia's `fisher_dict.pkl` is `pickle.dump` of a dict. A tensor in such a stream is a call of
`torch._utils._rebuild_tensor_v2` on `torch.storage._load_from_bytes(bytes)`, and the bytes are a file of `torch.save`
again: both layers are read by allow-list.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from functions.errors import InputError
from functions.files import check_exported, stream_exported, unchanged
from functions.storage.inspection import FORGOTTEN, Forgotten, inspect, misfit, refused, scan, unwanted
from functions.storage.tensors import plain_names

# What unpicklers, torch's too, raise for a stream that is cut or altered.
BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,
    OverflowError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def load_torch(file: Path | str | BinaryIO, source: Path | str, mapped: bool = False) -> object:
    """What `torch.save` wrote: tensors, numbers and containers, on the CPU. An argparse.Namespace is left out.

    `mapped`: tensors take memory as they are used, as far as the file's format lets them.
    Raises InputError for code, named as the file calls it, for damage, and for what would take more room than the file.
    """
    if isinstance(file, (Path, str)):
        with open(file, "rb") as opened:
            place = file if mapped and zipfile.is_zipfile(opened) else None
            return _load(opened, source, place)
    return _load(file, source)


def _load(file: BinaryIO, source: Path | str, mapped: Path | str | None = None) -> object:
    """`mapped`: the path to map in place of reading `file`."""
    try:
        file.seek(0)
        inspect(file, source)
        file.seek(0)
        with torch.serialization.safe_globals([(Forgotten, ".".join(FORGOTTEN))]):
            if mapped is None:
                return torch.load(file, map_location="cpu", weights_only=True)
            with unchanged(mapped):
                return torch.load(mapped, map_location="cpu", weights_only=True, mmap=True)
    except InputError:
        raise
    except BROKEN as error:
        raise InputError(f"{source}: damaged or not a file of torch.save ({reason(error)})") from None


def load_tensor_dict(path: Path | str) -> dict[str, Tensor]:
    """Tensors by plain name from `pickle.dump` of a dict, on the CPU.

    Raises InputError for any global that tensors do not need, before it is looked up, and for other contents.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    check_exported(path)
    data = path.read_bytes()
    try:
        # BUILD sets attributes of what is on the stack, and a dict of tensors has no use for it.
        if "BUILD" in scan(io.BytesIO(data), path):
            raise refused(path, "BUILD")
        found = TensorUnpickler(data, path).load()
    except InputError:
        raise
    except BROKEN as error:
        raise InputError(f"{path}: damaged or not a pickle of tensors ({reason(error)})") from None
    return plain_names({name: t.detach() for name, t in tensors_by_name(found, path).items()})


def save_tensor_dict(path: Path | str, tensors: dict[str, Tensor]) -> None:
    """`pickle.dump` of a plain dict, under the names given (`wrapped_names` for the published code). Atomic."""
    with stream_exported(path) as file:
        TensorPickler(file).dump(dict(tensors))


class TensorPickler(pickle.Pickler):
    """Plain CPU copies of tensors, one at a time: its memo would keep the bytes of all of them until the end."""

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.fast = True  # no memo

    def reducer_override(self, value: object) -> object:
        if not isinstance(value, Tensor):
            return NotImplemented
        copy = value.detach().cpu().clone(memory_format=torch.contiguous_format)  # a part's storage may be large
        return copy.__reduce_ex__(pickle.DEFAULT_PROTOCOL)


class TensorUnpickler(pickle.Unpickler):
    """A pickle that may call what tensors are made of and nothing else, and take no more room than it has itself.

    Its calls can be repeated at a few bytes each: the bytes that they are given count, as text and as a storage.
    """

    def __init__(self, data: bytes, source: Path):
        super().__init__(io.BytesIO(data))
        self.source, self.left = source, 3 * len(data)
        self.allowed = {
            ("collections", "OrderedDict"): empty,
            ("torch._utils", "_rebuild_tensor_v2"): self.tensor,
            ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
            ("torch.storage", "_load_from_bytes"): self.storage,
            ("_codecs", "encode"): self.latin1,
        }

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.allowed:
            raise unwanted(self.source, module, name)
        return self.allowed[module, name]

    def storage(self, data: bytes) -> object:
        """torch's own `_load_from_bytes` would run code in `data`."""
        self.take(len(data))
        found = load_torch(io.BytesIO(data), self.source)
        if not torch.is_storage(found):
            raise InputError(f"{self.source}: wanted the storage of a tensor, got a {type(found).__name__}")
        return found

    def tensor(self, storage: object, offset: int, shape: tuple, stride: tuple, *rest: object) -> Tensor:
        """torch's own makes the storage larger where the shape asks for it."""
        n = storage._untyped_storage.nbytes() // storage.dtype.itemsize
        if complaint := misfit(n, offset, shape, stride):
            raise InputError(f"{self.source}: {complaint}")
        return torch._utils._rebuild_tensor_v2(storage, offset, shape, stride, *rest)

    def latin1(self, text: str, encoding: str) -> bytes:
        """How protocols 0 to 2 write bytes; `_codecs.encode` knows more encodings, compressed ones among them."""
        if encoding != "latin1":
            raise ValueError(f"bytes encoded as {encoding}")
        self.take(len(text))
        return text.encode("latin1")

    def take(self, n: int) -> None:
        self.left -= n
        if self.left < 0:
            raise InputError(f"{self.source}: refused: its calls take more room than the file itself")


def empty(*items: object) -> OrderedDict:
    """An OrderedDict as torch writes it; filled at once, one could be copied again and again."""
    if items:
        raise ValueError("an OrderedDict with arguments")
    return OrderedDict()


def tensors_by_name(found: object, source: Path | str) -> dict[str, Tensor]:
    """`found`, which has to be a dict with at least one tensor and nothing else; else InputError."""
    if not isinstance(found, dict):
        raise InputError(f"{source}: wanted a dict of tensors by name, got a {type(found).__name__}")
    if not found:
        raise InputError(f"{source}: holds no tensors")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(f"{source}: {name}: wanted a tensor by name, got a {type(value).__name__}")
    return found


def reason(error: BaseException) -> str:
    """The first line of what a library says, or the name of the error where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0][:150]
