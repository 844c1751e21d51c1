"""Paths as people type them, and whether a place can be written to before the work that ends there. Torch-free."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from functions.errors import InputError, shown

# what Linux, macOS and Windows' file systems take at most: bytes of a name, and of a whole path
LONGEST_NAME, LONGEST_PATH = 255, 4096


def place(text: str) -> str:
    """A path with its leading `~` replaced by the home folder; nothing else is expanded.

    Raises ValueError where no file can have this name: it is empty, has a NUL, or is longer than file systems take.
    """
    if not text:
        raise ValueError("got an empty name; wanted a path")
    if "\0" in text:
        raise ValueError(f"got {shown(text)}; wanted a path, which has no NUL in it")
    longest = max(len(os.fsencode(part)) for part in text.split("/"))
    if longest > LONGEST_NAME or len(os.fsencode(text)) > LONGEST_PATH:
        raise ValueError(
            f"got {shown(text)}, {len(text)} characters; wanted a path of at most {LONGEST_PATH} bytes, each name "
            f"in it at most {LONGEST_NAME}"
        )
    return os.path.expanduser(text) if text == "~" or text.startswith("~/") else text


def check_file_place(path: Path | str, flag: str) -> None:
    """Raises InputError where the file `path`, which `flag` sets, could not be written at the end of the work."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{flag} {path}: is a folder; wanted the name of a file")
    _check_parent(path, flag)


def check_folder_place(path: Path | str, flag: str) -> None:
    """Raises InputError where no file could be written into the folder `path`, which need not exist yet."""
    _check_parent(Path(path) / "file", flag)


def _check_parent(path: Path, flag: str) -> None:
    """The nearest folder above that exists takes a file; the trial has no name and is gone at once."""
    folder = path.parent
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except NotADirectoryError:
        raise InputError(f"{flag} {path}: {folder} is a file; wanted a folder there") from None
    except OSError as error:
        raise InputError(f"{flag} {path}: cannot write in {folder} ({error.strerror})") from None
