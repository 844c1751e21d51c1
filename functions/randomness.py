"""Stateless randomness: a draw depends on what it is for, never on what was drawn before it.

So a resumed run, another batch size or another number of workers sees the same numbers.
"""

from __future__ import annotations

import hashlib

import torch


def key_seed(*key: int | str) -> int:
    """A 63-bit seed from the SHA-256 of the key, e.g. `key_seed(0, "noise", c, k)`."""
    return _seed(repr(key))


def keyed_generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device`, seeded by the key alone."""
    return torch.Generator(device=device).manual_seed(key_seed(*key))


def order_generator(*key: int | str) -> torch.Generator:
    """A CPU generator for splits, orders and augmentation of images, seeded by the key with all its parts as text.

    So its seeds are not those of `key_seed`; one form for both would split and shuffle every data set anew.
    """
    return torch.Generator().manual_seed(_seed(repr([str(k) for k in key])))


def _seed(text: str) -> int:
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
