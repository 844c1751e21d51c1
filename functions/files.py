"""Files that are whole or absent: atomic writes, hashes, JSON, orders of names, the toolkit's version. Torch-free."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from functions.errors import InputError

VERSION = "0.1.0"
PARTIAL = ".partial"  # how temporary names end


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


def write_json(path: Path | str, content: object, indent: int | None = 2) -> None:
    """Atomic, strict JSON (`indent` None: one line). NaN and infinity are refused: no reader elsewhere takes them."""
    write_atomic(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def read_json(path: Path | str):
    """What a JSON file holds. Raises InputError with the file's name where it is missing or broken."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


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
