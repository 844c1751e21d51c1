"""The encoder of a checkpoint and the one that a config names: one and the same, at another place. Torch-free."""

from __future__ import annotations

from pathlib import Path

from functions.errors import InputError


def placed(own: dict, asked: dict | None, source: str) -> dict:
    """The encoder `own` of the checkpoint `source` (`{"name", "kwargs"}`), where `asked` says it lies now.

    Its identity is the SHA-256 of its weights. One that is asked for by its published name has none before it is first
    used; where the checkpoint knows a folder that is there, that is read. Raises InputError for another encoder.
    """
    if asked is None:
        return own
    hashes = [e["kwargs"].get("sha256") for e in (own, asked)]
    free = {"vae", "sha256"} if None in hashes else {"vae"}
    found, wanted = ((e["name"], {k: v for k, v in e["kwargs"].items() if k not in free}) for e in (own, asked))
    if wanted != found:
        raise InputError(f"{source}: encoder: the checkpoint has {found}, the config {wanted} (encoder.vae, --vae)")
    if hashes[0] and not hashes[1] and Path(own["kwargs"]["vae"]).is_dir():
        return own
    known = {"sha256": hashes[0] or hashes[1]} if any(hashes) else {}
    return {**asked, "kwargs": {**asked["kwargs"], **known}}
