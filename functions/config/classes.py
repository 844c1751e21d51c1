"""Choosing classes on the command line, and naming what was chosen. Torch-free."""

from __future__ import annotations

import re

from functions.errors import InputError


def parse_classes(text: str | None, n_classes: int, flag: str = "--classes_to_generate") -> list[int]:
    """`1,2,3` -> those, `x0,x1` -> all but those, None -> all; ascending. Raises InputError for anything else."""
    if text is None:
        return list(range(n_classes))
    source, parts = f"{flag} {text}", [part.strip() for part in text.split(",")]
    excluding = {part.startswith("x") for part in parts}
    if len(excluding) > 1 or not all(re.fullmatch("x?[0-9]+", part) for part in parts):
        raise InputError(f"{source}: wanted classes (1,2,3) or classes to leave out (x0,x1)")
    for part in parts:
        digits = part.removeprefix("x")
        if int(digits) >= n_classes or digits != str(int(digits)):
            split = ",".join(part[: -len(digits)] + d for d in digits)
            hint = f" (did you mean {split}?)" if len(set(digits)) == len(digits) > 1 else ""
            raise InputError(f"{source}: no class {digits}, there are 0 to {n_classes - 1}{hint}")
    named = {int(part.removeprefix("x")) for part in parts}
    classes = sorted(set(range(n_classes)) - named if excluding == {True} else named)
    if not classes:
        raise InputError(f"{source}: leaves no class")
    return classes


def classes_suffix(classes: list[int], n_classes: int) -> str:
    """The part of a name that tells which classes are there, whichever way they were asked for; nothing for all."""
    out = [c for c in range(n_classes) if c not in classes]
    if not out:
        return ""
    if len(out) > len(classes):  # the shorter list: names of folders have a limit
        return f"_only_label_{'_'.join(map(str, classes))}"
    return f"_without_label_{'_'.join(map(str, out))}"
