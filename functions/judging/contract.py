"""The contract of a number: what must be equal before two numbers may stand in one table, and what is told beside it.

`{"hash", "protocol", "record"}`. The hash covers the protocol alone (sampler, steps, w, eta, weights kind, N per class,
feature network, judge, clamp, reference rule); the record holds what differs between the rows of one table (seed,
class, version, paths). Torch-free.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from functions.errors import InputError
from functions.files import read_json

GENERATION = "samples.json"  # written by sample.py beside its images
REFERENCE = "reference.json"  # written by save_base_dataset.py beside its images
RECORDED = ("seed", "class", "classes", "label", "version")  # would make each row of a table its own protocol


def contract(protocol: dict, record: dict) -> dict:
    """The contract of `protocol`, with `record` beside it. ValueError where the protocol holds a record's key."""
    misplaced = sorted(set(protocol) & set(RECORDED))
    if misplaced:
        raise ValueError(f"contract: {misplaced[0]} belongs to the record, not to the protocol")
    return {"hash": protocol_hash(protocol), "protocol": protocol, "record": record}


def protocol_hash(protocol: dict) -> str:
    """16 hex digits of the SHA-256 of the protocol as sorted JSON; 2 and 2.0 are the same number."""
    canonical = json.dumps(_plain(protocol), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _plain(value):
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def read_generation(samples: Path | str) -> dict | None:
    """The contract in samples.json of the folder, or of the folder above (a class folder was named); None if neither.

    Raises InputError where it is broken or its hash is not its protocol's.
    """
    folder = Path(samples).resolve()
    beside = [path for path in (folder / GENERATION, folder.parent / GENERATION) if path.is_file()]
    return _read(beside[0], "sample again") if beside else None


def reference_rule(reference: Path | str, fingerprint: Callable[[], str]) -> dict:
    """The protocol in the reference folder's reference.json; where there is none, the images' fingerprint."""
    path = Path(reference) / REFERENCE
    if path.is_file():
        return _read(path, "save_base_dataset.py writes it")["protocol"]
    return {"fingerprint": fingerprint()}


def _read(path: Path, remedy: str) -> dict:
    """A contract on disk. Raises InputError where it is none or its hash is not its protocol's."""
    found = read_json(path)
    protocol = found.get("protocol") if isinstance(found, dict) else None
    whole = isinstance(protocol, dict) and isinstance(found.get("record"), dict)
    if not whole or found.get("hash") != protocol_hash(protocol):
        raise InputError(f"{path}: not a contract, or edited by hand; {remedy}")
    return found


def join(generation: dict | None, protocol: dict, record: dict) -> dict:
    """The contract of a metrics.json: how samples were made (None: unknown) and how they were judged, one hash."""
    made = generation or {"protocol": None, "record": None}
    return contract(
        {"generation": made["protocol"], "evaluation": protocol}, {"generation": made["record"], "evaluation": record}
    )
