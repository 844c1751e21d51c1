"""Files that ask for code or for room, made small, here and now; and a process that reads them with little room."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import resource
import struct
import sys
import tarfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from functions.config.cli import run_main

HUGE = 10**11
ROOM, SECONDS = 1 << 30, 10.0  # what one file may take: bytes, and seconds of a CPU (others use it as well)


class Calls:
    """A pickle of it calls `function` on `arguments`."""

    def __init__(self, function: Callable, *arguments: object, state: object = None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple:
        return self.call


def code(canary: Path) -> Calls:
    """Creates the file `canary` in whoever unpickles it."""
    return Calls(open, str(canary.resolve()), "w")


# ---- files of torch.save


def torch_file(path: Path, content: object, zipped: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def rezipped(path: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """The zip file `path` with each member changed."""
    with zipfile.ZipFile(path) as old:
        members = {m.filename: old.read(m) for m in old.infolist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members.items():
            new.writestr(name, change(name, data))
    return path


def zeros(archive: zipfile.ZipFile, name: str, megabytes: int, head: bytes = b"") -> None:
    """A deflated member of so many zeros, that never exist all at once."""
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(info, "w", force_zip64=True) as file:
        file.write(head)
        for _ in range(megabytes):
            file.write(bytes(1 << 20))


def deflated(path: Path, megabytes: int = 1500) -> Path:
    """A file of torch.save whose only storage unpacks to so many."""
    torch_file(path, {"w": torch.zeros(4)})
    with zipfile.ZipFile(path) as old:
        members = {m.filename: old.read(m) for m in old.infolist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members.items():
            if name.endswith("data/0"):
                zeros(new, name, megabytes)
            else:
                new.writestr(name, data.replace(b"K\x04", b"J" + struct.pack("<i", megabytes << 18)))
    return path


def expanded(path: Path, zipped: bool = True) -> Path:
    """A number said to be a tensor of 10^11."""
    return torch_file(path, {"w": torch.zeros(1).expand(HUGE)}, zipped)


def larger_than_stored(path: Path) -> Path:
    """A tensor of 4 numbers that says it has 10^10: torch would make its storage that large."""
    torch_file(path, {"w": torch.zeros(4)})
    four, many = b"K\x04\x85", b"\x8a\x06" + (10**10).to_bytes(6, "little") + b"\x85"
    return rezipped(path, lambda name, data: data.replace(four, many) if name.endswith("data.pkl") else data)


def many_views(path: Path, n: int = 3000) -> Path:
    """One storage of a megabyte, n tensors of it."""
    one = torch.zeros(2**18)
    return torch_file(path, {f"w{i}": one[:] for i in range(n)})


def sparse(path: Path) -> Path:
    """A sparse tensor of 10^11 numbers, none of them there."""
    places = torch.zeros(1, 0, dtype=torch.long)
    return torch_file(path, {"w": torch.sparse_coo_tensor(places, torch.zeros(0), (HUGE,), check_invariants=False)})


def in_torch(path: Path, stream: bytes) -> Path:
    """A file of torch.save with this pickle."""
    torch_file(path, {"w": torch.zeros(1)})
    return rezipped(path, lambda name, data: stream if name.endswith("data.pkl") else data)


def old(path: Path, stream: bytes) -> Path:
    """A file of torch before 1.6 with this pickle as its object."""
    torch_file(path, None, zipped=False)
    data, none = path.read_bytes(), b"\x80\x02N."
    assert data.count(none) == 1
    path.write_bytes(data.replace(none, stream))
    return path


def tar(path: Path, canary: Path) -> Path:
    """torch's format before 0.1.10, with code."""
    with tarfile.open(path, "w:") as archive:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(code(canary))
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


# ---- pickles

MEMO = b"\x80\x02}r" + struct.pack("<I", 2**31) + b"."  # an object kept in place 2^31: an unpickler makes room up to it
LONG = b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\x01" * 10**6 + b"."  # an integer of a million bytes
OPCODES = b"\x80\x02" + b"N0" * 3_000_000 + b"N."
BYTEARRAY = b"\x80\x02c__builtin__\nbytearray\nJ\x00\x94\x35\x77\x85R."  # bytearray(2 * 10^9), which torch allows


def raw(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def repeated_bytes(path: Path, times: int = 50_000) -> Path:
    """A megabyte of text, encoded again and again at five bytes each."""
    text = b"a" * 2**20
    setup = b"c_codecs\nencode\nq\x00X" + struct.pack("<I", len(text)) + text + b"X\x06\x00\x00\x00latin1\x86q\x01"
    return raw(path, b"\x80\x02(" + setup + b"h\x00h\x01R" * times + b"t.")


def repeated_storages(path: Path, times: int = 5000) -> Path:
    """A megabyte as a storage, read again and again."""
    buffer = io.BytesIO()
    torch.save(torch.zeros(2**18)._typed_storage(), buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    setup = b"ctorch.storage\n_load_from_bytes\nq\x00B" + struct.pack("<I", len(data)) + data + b"\x85q\x01"
    return raw(path, b"\x80\x03(" + setup + b"h\x00h\x01R" * times + b"t.")


def shadowed(path: Path) -> Path:
    """An OrderedDict whose `items` is a number."""
    return torch_file(path, Calls(OrderedDict, state={"items": 1}))


def diffusers(folder: Path, weights: dict[str, torch.Tensor], **sizes: int) -> Path:
    """A DiTTransformer2DModel whose config says other sizes than its weights have."""
    from safetensors.torch import save_file

    from functions.storage.dit_files import to_diffusers

    config = {"_class_name": "DiTTransformer2DModel", "num_attention_heads": 4, "attention_head_dim": 12}
    config |= {"in_channels": 2, "out_channels": 4, "num_layers": 3, "sample_size": 4, "num_embeds_ada_norm": 10}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config, **sizes}))
    tensors = {name: t.clone() for name, t in to_diffusers(weights, 3).items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    return folder


# ---- arrays, images, text


def npy(path: Path, shape: tuple = (HUGE,), dtype: str = "<i8") -> Path:
    """A header that promises more than there is."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
        file.write(bytes(64))
    return path


def npz(path: Path, shape: tuple = (HUGE, 8, 8, 3)) -> Path:
    inner = npy(path.with_suffix(".npy"), shape, "|u1")
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(inner, "arr_0.npy")
    inner.unlink()
    return path


def npz_deflated(path: Path, megabytes: int = 1500) -> Path:
    """Black images that unpack to so many megabytes."""
    head = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (megabytes, 1024, 1024, 1)}
    np.lib.format.write_array_header_1_0(head, shape)
    with zipfile.ZipFile(path, "w") as archive:
        zeros(archive, "arr_0.npy", megabytes, head.getvalue())
    return path


def npz_pickled(path: Path, canary: Path) -> Path:
    np.savez(path, arr_0=np.array([code(canary)], dtype=object))
    return path


def image(path: Path, side: int = 12_000) -> Path:
    """A black PNG of side^2 pixels in some 20 kB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("1", (side, side)).save(path)
    return path


def aliases(levels: int = 12) -> bytes:
    """YAML whose list holds ten lists of ten lists of ..., where a config has the name of a folder."""
    lists = ["&a0 [x, x, x, x, x, x, x, x, x, x]"]
    lists += [f"&a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(["base: digits_classifier.yml", "results:", *(f"  - {of}" for of in lists), ""]).encode()


def safetensors(path: Path, header: dict | str, length: int | None = None) -> Path:
    """A header as given, of the length that it has or says, and sixteen bytes."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return raw(path, struct.pack("<Q", len(text) if length is None else length) + text + bytes(16))


# ---- the process


def attacked(commands: dict[str, tuple[str, list[str]]], out: str) -> None:
    """Each command (script, words) in turn, in this process, with ROOM more than it has; what came of it, to `out`.

    A command that asks for more has a MemoryError, whether it would have touched it or not.
    """
    import classifier_evaluation
    import convert
    import evaluator
    import fim
    import generate_fisher_mask
    import sample
    import train

    modules = (classifier_evaluation, convert, evaluator, fim, generate_fisher_mask, sample, train)
    scripts = {module.__name__: module.main for module in modules}
    torch.nn.functional.conv2d(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 3, 3))  # what torch itself wants, once
    found = {}
    for name, (script, words) in commands.items():
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, resource.RLIM_INFINITY))
        sys.argv, began, said = [script, *words], time.process_time(), io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            try:
                code = run_main(lambda _, main=scripts[script], words=words: main(words))
            except BaseException as error:
                code = f"{type(error).__name__}: {error}"
        found[name] = {"code": code, "said": said.getvalue(), "seconds": time.process_time() - began}
        Path(out).write_text(json.dumps(found))
