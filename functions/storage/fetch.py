"""Public files with a known hash: found in torch's cache folder, or fetched into it; resumed, locked, checked."""

from __future__ import annotations

import fcntl
import http.client
import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from tqdm import tqdm

from functions.errors import InputError
from functions.files import sha256_file

TIMEOUT = 30  # seconds without a byte
# What a broken line raises while connecting or reading; a full disk is none of them.
BROKEN_LINE = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


class PublicFile(NamedTuple):
    """A file as its author published it: its name in the cache, address and SHA-256."""

    name: str
    url: str
    sha256: str


def cache_folder() -> Path:
    """Where torch.hub, and so torch-fidelity, keeps weights: `$TORCH_HOME/hub/checkpoints`, by default in ~/.cache."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def locate(file: PublicFile, given: Path | str | None, flag: str, user: str) -> Path:
    """`given`, the cached file, or the cached file fetched just now; its SHA-256 is checked each time.

    `flag` is what sets `given`, `user` the option that needs the file. Raises InputError, with the file, its address
    and its place, where it is not what was published or cannot be had.
    """
    path = Path(given) if given else cache_folder() / file.name
    if given and not path.is_file():
        raise InputError(f"{path}: no such file ({flag}; {user} wants {file.name} of {file.url})")
    if not path.is_file():
        try:
            _fetch(file, path)
        except BROKEN_LINE as error:
            raise InputError(
                f"{user}: {file.name} is not there and cannot be fetched ({_reason(error)}): put {file.url} "
                f"at {path}, or name a copy with {flag}"
            ) from None
    if (found := sha256_file(path)) != file.sha256:
        raise InputError(
            f"{path}: cut short, or not {file.name} of {file.url}: its {path.stat().st_size} bytes have sha256 "
            f"{found[:12]}..., wanted {file.sha256[:12]}..."
        )
    return path


def _fetch(file: PublicFile, path: Path) -> None:
    """Download to `<path>.part`, going on where an earlier try stopped, and rename it once its hash is right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with open(part, "ab") as out:
        fcntl.flock(out, fcntl.LOCK_EX)  # another evaluator may be at it: wait for it
        if path.is_file():
            return
        _download(file, out)
        out.flush()
        os.fsync(out.fileno())
        if sha256_file(part) != file.sha256:
            out.truncate(0)
            raise InputError(f"{file.url}: what arrived is not {file.name}: its sha256 is wrong; run again")
        os.replace(part, path)


def _download(file: PublicFile, out: BinaryIO) -> None:
    """Append the rest of the file to `out`. ConnectionError where the line ends before the file does."""
    start = out.seek(0, os.SEEK_END)
    try:
        answer = urllib.request.urlopen(_request(file.url, start), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return  # nothing is left to send: the hash tells whether that is so
    with answer:
        if answer.status != http.client.PARTIAL_CONTENT:  # a server without ranges sends all of it
            start = 0
            out.truncate(0)
        left = answer.headers.get("Content-Length")
        total = None if left is None else start + int(left)
        bar = {"total": total, "initial": start, "unit": "B", "unit_scale": True, "disable": None, "leave": False}
        with tqdm(desc=file.name, **bar) as progress:
            while block := answer.read(1 << 18):
                out.write(block)
                progress.update(len(block))
        if total is not None and out.tell() < total:
            raise ConnectionError(f"{out.tell()} of {total} bytes came; run again to fetch the rest")


def _request(url: str, start: int) -> urllib.request.Request:
    headers = {"User-Agent": "palimpsest", **({"Range": f"bytes={start}-"} if start else {})}
    return urllib.request.Request(url, headers=headers)


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "reason", error)).split())
