"""The contract of a number: how its samples were made, how they were judged, and beside which reference. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from functions.errors import InputError
from functions.records import Count, Record
from functions.sampling.contract import read_generation
from functions.storage.contract import Contract, contract, read_contract

REFERENCE = "reference.json"  # written by save_base_dataset.py beside its images


class LeftOut(Record):
    label: int | list[int] | str
    n: Count


class Held(Record):
    dataset: str | None = None


class Reference(Contract):
    protocol: Held
    record: LeftOut


def read_reference(path: Path) -> dict:
    """What a reference.json says. Raises InputError where it is damaged or edited."""
    return read_contract(path, "save_base_dataset.py writes it", Reference)


def reference_rule(reference: Path | str, fingerprint: Callable[[], str] | None, moments: str | None = None) -> dict:
    """The protocol in the reference folder's reference.json; where there is none, the images' fingerprint.

    `moments` is the hash of the mean and covariance that stand for the images, or for the whole of which they are part.
    """
    path = Path(reference) / REFERENCE
    if path.is_file():
        return read_reference(path)["protocol"]
    rule = {"moments": moments} if moments else {}
    return {**rule, "fingerprint": fingerprint()} if fingerprint else rule


def check_reference(reference: Path | str, n: int) -> None:
    """Raises InputError where a reference folder holds other than the `n` images that its reference.json promises."""
    path = Path(reference) / REFERENCE
    if path.is_file() and (wanted := read_reference(path)["record"]["n"]) != n:
        raise InputError(
            f"{reference}: {n} images, {REFERENCE} says {wanted}: still being written, stopped or altered; the command "
            "of save_base_dataset.py again writes what is missing"
        )


def other_data(one: str | None, other: str | None) -> bool:
    """Whether both names are known and of different data sets. `folder`, anybody's pictures, says nothing."""
    return None not in (one, other) and one != other and "folder" not in (one, other)


def require_same_data(samples: Path | str, reference: Path | str) -> None:
    """Raises InputError where samples.json and reference.json name different data sets; without one, nobody can say."""
    made, path = read_generation(samples), Path(reference) / REFERENCE
    if made is None or not path.is_file():
        return
    drawn, held = made["record"].get("dataset"), read_reference(path)["protocol"].get("dataset")
    if other_data(drawn, held):
        raise InputError(f"{samples}: drawn by a model of {drawn}, and {reference} holds images of {held}")


def join(generation: dict | None, protocol: dict, record: dict) -> dict:
    """The contract of a metrics.json: how samples were made (None: unknown) and how they were judged, one hash."""
    made = generation or {"protocol": None, "record": None}
    return contract(
        {"generation": made["protocol"], "evaluation": protocol}, {"generation": made["record"], "evaluation": record}
    )
