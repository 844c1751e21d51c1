"""Which samples are judged as what: those of the forgotten classes, and those of classes that were to be kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from functions.config.selection import label_name
from functions.errors import InputError

SHOWN = 10  # classes of a list, in a line for people


def select(labels: Tensor, wanted: list[int], n_classes: int, source: str) -> tuple[Tensor, Tensor]:
    """Indices of the forgotten classes' samples and of the others'. No class folders: all are the forgotten class's."""
    known = (labels >= 0) & (labels < n_classes)
    if not known.any():
        if len(wanted) > 1:
            raise InputError(f"{source}: has no class folders that say which of the forgotten classes an image is of")
        return (~known).nonzero().flatten(), known.nonzero().flatten()
    if not known.all():
        raise InputError(f"{source}: {int((~known).sum())} images lie outside the class folders 0 to {n_classes - 1}")
    there = labels.unique().tolist()
    if absent := [c for c in wanted if c not in there]:
        raise InputError(f"{source}: holds class {_listed(there)}, --label_of_forgotten_class says {absent[0]}")
    forgotten = torch.isin(labels, torch.tensor(wanted))
    return forgotten.nonzero().flatten(), (~forgotten).nonzero().flatten()


def among(
    labels: Tensor, kept: Tensor, chosen: list[int] | None, source: str, called: Sequence[str]
) -> tuple[Tensor, list[str]]:
    """Those of the indices `kept` whose class is chosen (None: all), and a note on chosen classes without a sample.

    A forgotten class among the chosen is not meant: lists are pasted. Raises InputError where no sample is left.
    """
    if chosen is None:
        return kept, []
    there = set(labels[kept].tolist())
    chosen = [c for c in chosen if c in there or not (labels == c).any()]
    if not there & set(chosen):
        wanted = f"wanted some of class {_listed(chosen)}" if chosen else "only the forgotten class is asked for"
        raise InputError(f"{source}: no samples of the kept classes: {wanted} (--kept, --neighbours)")
    absent = [c for c in chosen if c not in there]
    listed = ", ".join(f"{c} {called[c]}" for c in absent[:SHOWN]) + _more(absent)
    notes = [f"not sampled, so not in the kept accuracy: {listed}"] if absent else []
    return kept[torch.isin(labels[kept], torch.tensor(chosen))], notes


def _listed(classes: Sequence[int]) -> str:
    return ", ".join(map(str, classes[:SHOWN])) + _more(classes)


def _more(classes: Sequence[int]) -> str:
    return f" and {len(classes) - SHOWN} more" if len(classes) > SHOWN else ""


def constant(labels: Tensor, one_colour: Tensor, wanted: list[int], forgotten: Tensor) -> list[str]:
    """Notes on classes whose images are each of one colour: nothing is drawn, which is no class, and no failure."""
    classes = {c: labels == c for c in labels.unique().tolist() if c not in (*wanted, -1)}
    notes = [f"all images of class {c} are of one colour" for c, own in classes.items() if one_colour[own].all()]
    if one_colour[forgotten].all():
        notes.insert(0, f"all images of class {label_name(wanted)} are of one colour: UA is of constant pictures")
    return notes
