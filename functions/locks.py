"""Who writes where: one process at a time, by locks of the operating system that end with their process. Torch-free.

A lock is flock(2) on a hidden file that says who holds it. The file goes with the lock; what a kill leaves of it holds
nothing. flock, and not a library around it, because such a library empties the file, and what it says is the point.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import os
import random
import secrets
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from functions.errors import InputError
from functions.files import PARTIAL

SHORT = 60.0  # seconds to wait for those who only read, change and write a file
# what flock says where a file system has none
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_open: set[int] = set()


def _forked() -> None:
    """A forked worker holds nothing: it would go on holding after a kill of the process that does."""
    for handle in _open:
        os.close(handle)
    _open.clear()


os.register_at_fork(after_in_child=_forked)


class Busy(InputError):
    """Another process writes there."""


@contextlib.contextmanager
def writing_folder(folder: Path | str, patience: float = 0.0) -> Iterator[None]:
    """Hold `folder`, made where it is missing and removed again where nothing came into it.

    Raises Busy where another process holds it longer than `patience` seconds, InputError where it is no folder.
    """
    folder = Path(folder)
    with _made(folder), held(folder / ".lock", folder, patience):
        yield


@contextlib.contextmanager
def writing_file(path: Path | str, patience: float = 0.0) -> Iterator[None]:
    """Hold the file `path`, there or not yet, as `writing_folder` holds a folder."""
    path = Path(path)
    with _made(path.parent), held(path.with_name(f".{path.name}.lock"), path, patience):
        yield


@contextlib.contextmanager
def sharing_folder(folder: Path | str, join: Callable[[list[str]], None]) -> Iterator[list[str]]:
    """Write into `folder` together with others who do so; yields who they are.

    `join(others)` runs before, while nobody else joins: what it raises leaves this process outside.
    """
    folder = Path(folder)
    with contextlib.ExitStack() as own:
        with writing_folder(folder, SHORT):
            others = sharers(folder)
            join(others)
            own.enter_context(held(folder / f".{os.getpid()}-{secrets.token_hex(4)}.shared", folder))
        yield others


def sharers(folder: Path) -> list[str]:
    """Who writes into a shared folder now."""
    return [holder for path in folder.glob(".*.shared") if (holder := _holder_of(path))]


def remove_leftovers(folder: Path, names: str = "*") -> None:
    """Remove what killed writers of `names` in `folder` left under temporary names; for who holds the folder."""
    for path in folder.glob(f".{names}{PARTIAL}"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextlib.contextmanager
def held(file: Path, what: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock `file` of `what`, whose name complaints bear."""
    handle = None
    try:
        try:
            handle = _acquired(file, what, patience)
            os.ftruncate(handle, 0)
            os.write(handle, _myself().encode(errors="replace"))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(what)) from error
        yield
    finally:
        if handle is not None and _names(file, handle):
            file.unlink(missing_ok=True)
        if handle in _open:  # a forked worker has closed its own
            _open.remove(handle)
            os.close(handle)


def _acquired(file: Path, what: Path, patience: float) -> int:
    """The open lock file, locked."""
    began, told = time.monotonic(), False
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)  # another process may just have removed it, empty
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            locked = _flock(handle, what)
            if locked and _names(file, handle):
                _open.add(handle)
                return handle
            holder = None if locked else _read(handle)
            os.close(handle)
            waited = time.monotonic() - began
            if holder is not None and waited >= patience:
                raise Busy(f"{what}: {holder} is writing here: wait until it has ended, or stop it")
            if holder is not None and waited > 1 and not told:
                print(f"{what}: waiting for {holder}", file=sys.stderr, flush=True)
                told = True
        time.sleep(random.uniform(0.005, 0.03))


def _flock(handle: int, what: Path) -> bool:
    """Whether this process holds the lock now."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            os.close(handle)
            raise
        print(f"{what}: this file system has no locks: let no other process write here", file=sys.stderr, flush=True)
    return True


def _names(file: Path, handle: int) -> bool:
    """Whether the file of this name still is the open one: whoever gives a lock up removes its file."""
    try:
        return os.path.samestat(os.stat(file), os.fstat(handle))
    except FileNotFoundError:
        return False


def _holder_of(file: Path) -> str | None:
    """Who holds a lock file; None where nobody does any more, and then it is removed."""
    try:
        handle = os.open(file, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        if not _flock(handle, file.parent):
            return _read(handle)
        file.unlink(missing_ok=True)
        return None
    finally:
        os.close(handle)


def _read(handle: int) -> str:
    """What the holder wrote, which it does right after it has locked the file."""
    for _ in range(20):
        if text := " ".join(os.pread(handle, 1000, 0).decode(errors="replace").split()):
            return text
        time.sleep(0.005)
    return "another process"


def _myself() -> str:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    since = datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()} since {since} ({command[:200]})"


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """`folder` exists meanwhile; what was made for it and stayed empty is removed."""
    if "\0" in str(folder):
        raise InputError(f"{str(folder)!r}: a path holds no NUL")
    missing = [path for path in (folder, *folder.parents) if not path.exists()]  # the deepest first
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        what = "a link to nothing" if there.is_symlink() and not there.exists() else "a file"
        raise InputError(f"{folder}: {there} is {what}, wanted a folder") from None
    try:
        yield
    finally:
        for path in missing:
            with contextlib.suppress(OSError):  # not empty, or another's already
                path.rmdir()
