"""What an artifact was made for and how, and who may use it. Torch-free.

Provenance holds checkpoint hash, forget selection, estimator, guidance, draws, threshold, kept share, names and shapes.
A stage refuses what was made for another model, class or architecture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from functions.config.selection import label_name
from functions.errors import InputError
from functions.records import Amount, Count, Record

Shapes = dict[str, tuple[int, ...]]

# What both Fishers must share and the mask inherits; batch_size is there where the estimator depends on it.
SAME = (
    *("checkpoint", "forget", "estimator", "guidance", "draws", "n_iters", "clip", "batch_size"),
    *("weights", "seed", "version"),
)


class Selection(Record):
    """A forget set; files older than names say its class alone."""

    dataset: str
    label: int | list[int] | str | None
    name: str | None = None
    indices: str | None = None


class Cost(Record):
    seconds: Amount
    forward: Count
    backward: Count


class Provenance(Record):
    """What every artifact may say of itself."""

    checkpoint: str | None = None
    forget: Selection | None = None
    estimator: str | None = None
    set: str | None = None
    n: Count | None = None
    cost: Cost | None = None


class OfFisher(Provenance):
    """What makes a mask of two of them."""

    set: str
    zero_ratio_salient: bool
    cost: Cost


class OfMask(Provenance):
    checkpoint: str | None
    forget: Selection
    shapes: dict[str, list[Count]]


class OfSums(Provenance):
    """What goes on where it was stopped."""

    n: Count
    cost: Cost


def inherited(made: dict) -> dict:
    """What a mask's provenance takes over from that of its Fishers."""
    return {key: made[key] for key in SAME if key in made}


def check_pair(made_f: dict, made_r: dict, paths: Sequence[Path]) -> None:
    """Raises InputError where the Fishers at `paths` are not of the forget and of the remain set of one run."""
    for side, path, made in zip(("forget", "remain"), paths, (made_f, made_r)):
        if made["set"] != side:
            raise InputError(f"{path}: holds the Fisher of the {made['set']} set, not of the {side} set")
    for key in SAME:
        if made_f.get(key) != made_r.get(key):
            raise InputError(
                f"{paths[0].parent}: the two Fishers differ in {key}: {made_f.get(key)} and {made_r.get(key)}"
            )


def check_shapes(found: Shapes, wanted: Shapes, what: str) -> None:
    """Raises InputError with the number of names or shapes that differ, and the first five."""
    wrong = [n for n in sorted(found.keys() | wanted.keys()) if found.get(n) != wanted.get(n)]
    if wrong:
        raise InputError(
            f"{what}: made for another architecture: {len(wrong)} names or shapes differ: "
            f"{', '.join(wrong[:5])}{', ...' if len(wrong) > 5 else ''}"
        )


def check_provenance(found: dict, wanted: dict, path: Path | str, what: str = "mask") -> None:
    """Raises InputError where a mask or Fisher was made for another data set, forget set or checkpoint than `wanted`.

    `forget` is {"dataset", "label"} and, in newer files, the selection's "name" and "indices", the SHA-256 of its
    sorted indices. What one side lacks is not compared; a file without a name is of a whole class.
    """
    if found.get("forget") is None or "checkpoint" not in found:
        raise InputError(f"{what} {path}: does not say what it was made for (forget, checkpoint)")
    made, asked = found["forget"], wanted["forget"]
    if made["dataset"] != asked["dataset"]:
        raise InputError(f"{what} {path}: made for {made['dataset']}, this run uses {asked['dataset']} (data.dataset)")
    if made["label"] != asked["label"] and _whole_class(made) and _whole_class(asked):
        raise InputError(
            f"{what} {path}: made for class {label_name(made['label'])}, this run forgets class "
            f"{label_name(asked['label'])} "
            "(--label_to_forget)"
        )
    if found["checkpoint"] != wanted["checkpoint"]:
        raise InputError(
            f"{what} {path}: made from another checkpoint ({str(found['checkpoint'])[:12]}, this run "
            f"starts from {str(wanted['checkpoint'])[:12]}; --ckpt_folder, init_weights)"
        )
    if _selection(made) != _selection(asked) or _differ(made, asked, "indices"):
        raise InputError(
            f"{what} {path}: made for forget set {_described(made)}, this run forgets "
            f"{_described(asked)} (--num_indexes_to_replace, --forget_idx, --seed)"
        )


def _whole_class(forget: dict) -> bool:
    return _selection(forget)[0] == label_name(forget["label"])


def _selection(forget: dict) -> tuple[str, object]:
    """(name, label) of a forget set, its name the class where the file is older than names."""
    name = forget.get("name")
    return label_name(forget["label"]) if name is None else name, forget["label"]


def _differ(made: dict, asked: dict, key: str) -> bool:
    return None not in (made.get(key), asked.get(key)) and made[key] != asked[key]


def _described(forget: dict) -> str:
    """`random4500_s2 (4f2a91c3b07d)`: the name and, where there is one, the start of the indices' hash."""
    indices = forget.get("indices")
    return _selection(forget)[0] + (f" ({indices[:12]})" if indices else "")
