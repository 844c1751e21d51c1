"""What a file of `torch.save` says it holds, looked at before torch reads it: what it calls, and how large it gets.

torch's own reader runs no code, but it makes whatever sizes a file asks for: storages, tensors that are larger than
their storage, members that are deflated. So the stream is read once with stand-ins that have a size and no values.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from functions.errors import InputError

OPCODES = 1_000_000  # of one pickle: a checkpoint of a thousand tensors has 50,000
BITS = 128  # of one integer: the magic number of old files has 77
DIMENSIONS = 64  # torch's own limit
SPARE = 1 << 20  # bytes that tensors may have beyond twice those of the file
MAGIC = 0x1950A86A20F9469CFC6C  # how files of torch before 1.6 begin
# bytes of a number in each kind of storage
STORAGES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
# What torch would read, and no weights, mask or Fisher is.
ODD = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_meta_tensor_no_storage": "a meta tensor, which has no values",
    "_rebuild_wrapper_subclass": "a subclass of tensors",
    "_rebuild_from_type_v2": "a subclass of tensors",
}


def refused(source: Path | str, wanted: str) -> InputError:
    """The line for a pickle that asks for more than data."""
    return InputError(f"{source}: refused, nothing of it was run: it calls {wanted}, and data needs no such thing")


def unwanted(source: Path | str, module: str, name: str) -> InputError:
    """The line for a global that is not on the list."""
    if name in ODD and module.startswith("torch."):
        return InputError(f"{source}: holds {ODD[name]} ({module}.{name}); wanted plain tensors")
    return refused(source, f"{module}.{name}")


class Storage(NamedTuple):
    """A stand-in: n numbers of so many bytes."""

    itemsize: int
    n: int


class Shape(NamedTuple):
    """A stand-in for a tensor; `complaint` says why its storage cannot hold it."""

    shape: Sequence[int]
    complaint: str | None


class Names(dict):
    """A stand-in for an OrderedDict as torch writes them: made empty, with at most `_metadata` beside its items."""

    __slots__ = ()

    def __init__(self, *items: object):
        if items:
            raise pickle.UnpicklingError("an OrderedDict with arguments")

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict) or state.keys() - {"_metadata"}:
            raise pickle.UnpicklingError("an OrderedDict with attributes")


class Forgotten:
    """What stands for an `argparse.Namespace`, the settings that published training code saves beside its weights.

    It keeps nothing of them: only where they stand has a meaning.
    """

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


FORGOTTEN = ("argparse", "Namespace")


class Inspector(pickle.Unpickler):
    """Reads a pickle of torch with stand-ins. `members`: bytes of each storage, None where they follow the pickle.

    `room` is the size of the file, which bounds what storages, and twice what tensors, may take together.
    """

    def __init__(self, file: BinaryIO, source: Path | str, room: int, members: dict[str, int] | None = None):
        super().__init__(file, encoding="utf-8")
        self.source, self.room, self.members = source, room, members
        self.stored: set[tuple] = set()
        self.storages, self.tensors = 0, 0  # bytes
        self.allowed = {
            ("collections", "OrderedDict"): Names,
            ("torch._utils", "_rebuild_tensor_v2"): self.tensor,
            ("torch._utils", "_rebuild_parameter"): self.parameter,
            FORGOTTEN: Forgotten,
            **{("torch", name): Storage(size, 0) for name, size in STORAGES.items()},
        }

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.allowed:
            raise unwanted(self.source, module, name)
        return self.allowed[module, name]

    def persistent_load(self, pid: tuple) -> Storage:
        """`("storage", type, key, device, n)`, in old files with a view of it: None or (key, offset, n)."""
        kind, storage, key, _, n, *view = pid
        if kind != "storage" or not isinstance(storage, Storage) or not whole(n):
            raise pickle.UnpicklingError(f"no storage: {kind!r:.40}")
        if (key, n) not in self.stored:
            self.stored.add((key, n))
            self.storages += n * storage.itemsize
        if self.members is not None and self.members.get(key) != n * storage.itemsize:
            there = self.members.get(key, "no")
            raise InputError(f"{self.source}: damaged: data/{key} has {there} bytes, wanted {n * storage.itemsize}")
        if self.storages > self.room:
            raise InputError(
                f"{self.source}: damaged or not a file of torch.save (storages of {self.storages:,} bytes in a file of "
                f"{self.room:,})"
            )
        if view and view[0] is not None:
            _, offset, part = view[0]
            if not whole(offset, part) or offset + part > n:
                raise pickle.UnpicklingError("a view beyond its storage")
            n = part
        return Storage(storage.itemsize, n)

    def tensor(self, storage: Storage, offset: int, shape: tuple, stride: tuple, *rest: object) -> Shape:
        complaint = misfit(storage.n, offset, shape, stride)
        self.tensors += math.prod(shape) * storage.itemsize
        return Shape(shape, complaint)

    def parameter(self, data: Shape, *rest: object) -> Shape:
        return data

    def complain(self, found: object) -> None:
        """Raises InputError, by name, for tensors that their storage cannot hold, and for too many of one storage."""
        for name, value in named(found):
            if isinstance(value, Shape) and value.complaint:
                raise InputError(f"{self.source}: {name}: {value.complaint}")
        if self.tensors > 2 * self.room + SPARE:
            raise InputError(
                f"{self.source}: its tensors take {self.tensors:,} bytes, more than twice the file's {self.room:,}"
            )


def whole(*numbers: object) -> bool:
    """Whether all are integers from 0 on."""
    return all(type(n) is int and n >= 0 for n in numbers)


def misfit(n: int, offset: int, shape: tuple, stride: tuple) -> str | None:
    """Why a storage of n numbers cannot hold a tensor of this shape, or would hold numbers of it twice; else None."""
    if not whole(offset, *shape, *stride) or len(shape) != len(stride) or len(shape) > DIMENSIONS:
        raise pickle.UnpicklingError("a tensor whose shape is none")
    numel = math.prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride))
    if numel and (numel > n or last >= n):
        return f"a tensor of shape {tuple(shape)!s:.60} in a storage of {n} numbers; wanted one that is whole"
    return None


def named(found: object) -> list[tuple[object, object]]:
    """What a state dict holds by name, or state dicts in a list or a dict by place and name; no deeper."""
    if isinstance(found, dict):
        inside = [(f"{key}: {name}", v) for key, of in found.items() if isinstance(of, dict) for name, v in of.items()]
        return [*found.items(), *inside]
    if isinstance(found, list):
        return [
            (f"entry {i}: {name}", v) for i, of in enumerate(found) if isinstance(of, dict) for name, v in named(of)
        ]
    return [("it", found)]


def scan(file: BinaryIO, source: Path | str) -> set[str]:
    """The names of the opcodes of one pickle, from here to its end. ValueError for a cut one.

    Raises InputError for integers, memo places and lengths of streams that no pickle of data has: an unpickler would
    make room for them.
    """
    seen, n = set(), 0
    for n, (opcode, argument, _) in enumerate(pickletools.genops(file), start=1):
        seen.add(opcode.name)
        if isinstance(argument, int) and argument.bit_length() > BITS:
            raise InputError(f"{source}: refused: an integer of {argument.bit_length():,} bits")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > n:
            raise InputError(f"{source}: refused: keeps object {n} in place {argument:,} of its memo")
        if n > OPCODES:
            raise InputError(f"{source}: refused: a pickle of more than {OPCODES:,} instructions")
    return seen


def inspect(file: BinaryIO, source: Path | str) -> None:
    """Raises InputError where a file of `torch.save` calls what data do not need, or takes more than it holds.

    What is cut or altered may also raise what unpicklers raise.
    """
    head = file.read(262)
    room = file.seek(0, 2)
    file.seek(0)
    if head.startswith(b"PK\x03\x04"):
        _inspect_zip(file, source, room)
    elif head[257:] == b"ustar":
        raise InputError(f"{source}: refused: a .tar file of torch before 0.1.10, which may hold code; save it anew")
    else:
        _inspect_old(file, source, room)


def _inspect_zip(file: BinaryIO, source: Path | str, room: int) -> None:
    """A zip of `data.pkl` and, in `data/`, one member for each storage, none of them deflated."""
    with zipfile.ZipFile(file) as archive:
        members = {m.filename: m for m in archive.infolist()}
        for m in members.values():
            if m.compress_type != zipfile.ZIP_STORED or m.compress_size != m.file_size:
                raise InputError(
                    f"{source}: refused: {m.filename} is deflated, {m.compress_size:,} bytes of {m.file_size:,}: "
                    "torch.save never does that"
                )
        if len(members) < len(archive.infolist()) or sum(m.file_size for m in members.values()) > room:
            raise InputError(f"{source}: refused: its members overlap, or say that they are larger than the file")
        pickles = [name for name in members if name.partition("/")[2] == "data.pkl"]
        if len(pickles) != 1 or any(name.endswith("/constants.pkl") for name in members):
            raise InputError(f"{source}: damaged or not a file of torch.save (a zip file of something else)")
        root = pickles[0].removesuffix("data.pkl") + "data/"
        stream = io.BytesIO(archive.read(pickles[0]))
    sizes = {name.removeprefix(root): m.file_size for name, m in members.items() if name.startswith(root)}
    _load(stream, source, room, sizes)


def _inspect_old(file: BinaryIO, source: Path | str, room: int) -> None:
    """Pickles in a row: the magic number, a version, the machine, the object, the keys of the storages that follow."""
    if _load(file, source, room) != MAGIC:
        raise InputError(f"{source}: damaged or not a file of torch.save (no magic number)")
    for _ in range(4):
        _load(file, source, room)


def _load(file: BinaryIO, source: Path | str, room: int, members: dict[str, int] | None = None) -> object:
    """The pickle that starts here, with stand-ins; the file is then at its end."""
    start = file.tell()
    scan(file, source)
    end = file.tell()
    file.seek(start)
    inspector = Inspector(file, source, room, members)
    found = inspector.load()
    inspector.complain(found)
    file.seek(end)
    return found
