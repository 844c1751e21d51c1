"""Files that are whole or absent: atomic writes, hashes, sealed JSON, orders of names, the version. Torch-free.

A JSON object is written with a seal, the SHA-256 of what else it says, and no reader takes one whose seal is wrong.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
import secrets
import stat
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from functions.errors import InputError

VERSION = "0.1.0"
PARTIAL = ".partial"  # how temporary names end
LARGEST_JSON = 32 * 2**20  # bytes: the indices of 4 million images; parsed, nested lists take twenty times as much
DEEPEST_JSON = 64
# "sealed" tells a file that has lost its seal from one of a version that wrote none; it is part of what is sealed
SEALED, SEAL, SEAL_FORMAT = "sealed", "seal", 1


class HashedFile:
    """A file open for writing that hashes what passes, and keeps the reason of a failed write: torch.save hides it."""

    def __init__(self, file: BinaryIO):
        self._file, self._digest = file, hashlib.sha256()
        self.failed: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        try:
            written = self._file.write(data)
        except OSError as error:
            self.failed = error
            raise
        self._digest.update(data)
        return written

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            self.failed = error
            raise

    def overwrite(self, at: int, data: bytes) -> None:
        """Put `data` in the place of what was written at `at`; the hash stays that of what passed."""
        try:
            self._file.seek(at)
            self._file.write(data)
            self._file.seek(0, os.SEEK_END)
        except OSError as error:
            self.failed = error
            raise

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of what was written so far."""
        return self._digest.hexdigest()


@contextmanager
def stream_atomic(path: Path | str) -> Iterator[HashedFile]:
    """A file to write to piece by piece; at the end it is flushed to disk and renamed to `path`, whole or absent.

    Until then it has a temporary name in the same folder, which is gone after any error. Raises OSError, with the name
    `path`, where the disk is full or the folder cannot be written to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    stream = HashedFile(os.fdopen(handle, "wb"))
    try:
        with stream._file as file:
            yield stream
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~umask())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        cause = stream.failed or error
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_atomic(path: Path | str, data: bytes | str) -> None:
    """Write through a temporary name in the same folder, flush to disk, rename: no reader sees half a file."""
    with stream_atomic(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path` that no other process takes."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")


@contextmanager
def stream_exported(path: Path | str) -> Iterator[HashedFile]:
    """`stream_atomic` for formats of others, which have no place for a seal: `<name>.sha256` beside the file has it.

    In the form of sha256sum, whose -c checks it too. A kill between the two leaves the file without it.
    """
    path = Path(path)
    with stream_atomic(path) as file:
        yield file
        _digest_of(path).unlink(missing_ok=True)  # of what was there before
    write_atomic(_digest_of(path), f"{file.sha256}  {path.name}\n")


def check_exported(path: Path | str) -> None:
    """Raises InputError where a file is not what `<name>.sha256` beside it says, if there is one."""
    beside = _digest_of(Path(path))
    if beside.is_file() and beside.read_bytes()[:64] != sha256_file(path).encode():
        raise InputError(f"{path}: damaged: its sha256 is not the one in {beside.name}")


def _digest_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


@functools.cache
def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of a byte string."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def unchanged(path: Path | str) -> Iterator[None]:
    """Whatever is read of a file inside is of one file. Raises InputError where another took its place meanwhile."""
    before = _identity(path)
    yield
    if _identity(path) != before:
        raise InputError(f"{path}: was written anew while it was read; run the command again")


def _identity(path: Path | str) -> tuple | None:
    """None where there is no file: whoever reads it says so."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def write_json(path: Path | str, content: object, indent: int | None = 2) -> None:
    """Atomic, strict JSON (`indent` None: one line). NaN and infinity are refused: no reader elsewhere takes them.

    An object gets a seal as its last key; a list is plain, as others read it.
    """
    content = sealed(content) if isinstance(content, dict) else content
    write_atomic(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def sealed(content: dict) -> dict:
    """The object as JSON holds it, with "sealed" and, over all of that, "seal"."""
    whole = {**json.loads(json.dumps(content, allow_nan=False)), SEALED: SEAL_FORMAT}
    return {**whole, SEAL: _seal(whole)}


def sha256_json(content: object) -> str:
    """Hex SHA-256 of the canonical form of what JSON holds: keys sorted, no spaces."""
    return sha256_bytes(json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


def _seal(content: dict) -> str:
    return sha256_json({key: value for key, value in content.items() if key != SEAL})


def read_json(path: Path | str):
    """What a JSON file holds, its seal checked and taken off.

    Raises InputError with the file's name where it is missing, no file, too large, broken, or not what was sealed.
    """
    return read_sealed(path)[0]


def read_sealed(path: Path | str) -> tuple[object, bool]:
    """`read_json`, and whether there was a seal: older versions wrote none, and people write none."""
    return unsealed(_text_of(path), path)


def unsealed(text: bytes, path: Path | str) -> tuple[object, bool]:
    """The same of JSON that was read from `path` or from inside it."""
    content = parse_json(text, path)
    if not (isinstance(content, dict) and content.keys() & {SEALED, SEAL}):
        return content, False
    if content.get(SEAL) != _seal(content) or content.get(SEALED) != SEAL_FORMAT:
        raise InputError(f"{path}: damaged, or edited by hand: its content is not what its seal was made of")
    return {key: value for key, value in content.items() if key not in (SEALED, SEAL)}, True


def _text_of(path: Path | str) -> bytes:
    """The bytes of a file that may hold JSON: not of a folder, nor of a pipe, that nobody may ever write to."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file") from None
    except ValueError as error:
        raise InputError(f"{str(path)!r}: no name of a file ({error})") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: a {'folder' if stat.S_ISDIR(status.st_mode) else 'pipe or device'}, wanted a file")
    if status.st_size > LARGEST_JSON:
        raise InputError(f"{path}: {status.st_size:,} bytes; wanted JSON of at most {LARGEST_JSON:,}")
    return Path(path).read_bytes()


class _Twice(ValueError):
    """A key that stands twice in one object."""


def parse_json(data: bytes, source: Path | str):
    """What JSON in UTF-8 says: no key twice in an object, no NaN, no number beyond float64. Else InputError."""
    try:
        text = data.decode()
        found = json.loads(text, object_pairs_hook=_unique, parse_constant=_refused, parse_float=_finite)
        if text.count("[") + text.count("{") > DEEPEST_JSON and _deeper(found, DEEPEST_JSON):
            raise RecursionError
        return found
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not valid JSON (not UTF-8: {error.reason} at byte {error.start})") from None
    except _Twice as twice:
        raise InputError(f"{source}: key {str(twice)!r} stands twice in one object{_lines(text, str(twice))}") from None
    except ValueError as error:
        raise InputError(f"{source}: not valid JSON ({str(error).split(';')[0]})") from None
    except RecursionError:
        raise InputError(f"{source}: nested more than {DEEPEST_JSON} levels deep") from None


def _deeper(content: object, levels: int) -> bool:
    """Whether lists and objects lie in one another more than so many times: who walks them calls itself."""
    level = [content]
    for _ in range(levels + 1):
        inside = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list)))
        level = [value for values in inside for value in values if isinstance(value, (dict, list))]
    return bool(level)


def _unique(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Twice(next(key for i, key in enumerate(keys) if key in keys[:i]))
    return found


def _refused(token: str) -> float:
    raise ValueError(f"{token} is no number in JSON")


def _finite(token: str) -> float:
    if math.isinf(value := float(token)):
        raise ValueError(f"{token} is beyond what a float64 can hold")
    return value


def _lines(text: str, key: str) -> str:
    """` (lines 3 and 7)` of the first object that holds `key` twice. Read as YAML, whose nodes know their lines."""
    import yaml  # only once a key was seen twice

    if len(text) > 2**20:  # a megabyte is a second
        return ""
    try:
        # JSON's tabs are spaces between tokens, and YAML takes none there
        pending = [yaml.compose(text.replace("\t", " "), yaml.SafeLoader)]
    except (yaml.YAMLError, RecursionError):
        return ""
    while pending:
        node = pending.pop()
        if isinstance(node, yaml.MappingNode):
            lines = [k.start_mark.line + 1 for k, _ in node.value if k.value == key]
            if len(lines) > 1:
                return f" (lines {lines[0]} and {lines[1]})"
            pending += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            pending += node.value
    return ""


@functools.cache
def note(line: str) -> None:
    """What a person should know beside a result: to stderr, each line once; of several processes the first speaks."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(line, file=sys.stderr, flush=True)


def check_png(data: bytes) -> None:
    """ValueError where a chunk of a PNG is not what its CRC says: Pillow does not look at those of the pixels."""
    at = 8  # after the signature
    while data.startswith(b"\x89PNG") and at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")  # length, type, content, CRC
        if zlib.crc32(data[at + 4 : end - 4]).to_bytes(4, "big") != data[end - 4 : end]:
            raise ValueError(f"damaged: the CRC at byte {end - 4} is not that of its chunk")
        at = end


def natural(path: Path | str) -> list:
    """Sort key in which img2.png comes before img10.png: every run of digits counts as a number."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def integers_first(name: str) -> tuple[int, int, str]:
    """Sort key in which 2 comes before 10 and both before img10, and that before img2, as in an alphabet.

    The order of class folders and images: labels and index lists hang on it, so `natural` cannot take its place.
    """
    return (0, int(name), name) if name.isascii() and name.isdigit() else (1, 0, name)


@functools.cache
def version() -> str:
    """`0.1.0+abc1234`: toolkit version and, in a git checkout, the commit (`-dirty`: with changes)."""
    root = Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        # no git, no checkout, no commit: the version alone is true
        return VERSION
    return f"{VERSION}+{commit}"
