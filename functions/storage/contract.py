"""The contract of a number or an image: what must be equal for two to stand in one table, and what is told beside it.

`{"hash", "protocol", "record"}`. The hash covers the protocol alone (sampler, steps, w, eta, weights kind, N per class,
feature network, classifier, clamp, reference rule); the record holds what differs between the rows of one table (seed,
class, version, paths). Torch-free.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from functions.errors import InputError
from functions.records import Record, read_record

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


class Contract(Record):
    hash: str
    protocol: dict
    record: dict


def read_contract(path: Path, remedy: str, schema: type[Contract] = Contract, text: bytes | None = None) -> dict:
    """A contract on disk, or the `text` of one inside the file `path`.

    Raises InputError where it is none or its hash is not its protocol's; `remedy` ends it.
    """
    found = read_record(path, schema, remedy, text)
    if found["hash"] != protocol_hash(found["protocol"]):
        raise InputError(f"{path}: hash: not that of the protocol, so edited by hand; {remedy}")
    return found
