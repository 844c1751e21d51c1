"""How a forget set is called: in folder names, in provenance, in messages. Torch-free."""

from __future__ import annotations

from pathlib import Path

from functions.config.schema import Forget


def is_class(forget: Forget | dict) -> bool:
    """Whether whole classes are forgotten: then their test images are not what is to be kept."""
    f = forget if isinstance(forget, dict) else forget.model_dump()
    return f["label"] is not None and f["count"] is None and f["fraction"] is None


def classes_of(label: int | list[int] | None) -> list[int]:
    """The classes of a `forget.label` by number, none where there is none."""
    return [] if label is None else label if isinstance(label, list) else [label]


def forgotten_classes(forget: Forget | dict | None) -> list[int]:
    """The classes that are forgotten as a whole; none where images are drawn, or nothing is forgotten."""
    if forget is None or not is_class(forget):
        return []
    return classes_of(forget["label"] if isinstance(forget, dict) else forget.label)


def label_name(label: int | list[int] | None) -> str:
    """`0`, or `0+2` for two classes."""
    return str(label) if label is None else "+".join(map(str, classes_of(label)))


def selection_name(forget: Forget, seed: int) -> str:
    """`0` for class 0, `0+2`, `random4500_s2`, `random0.1_c3_s2` (a share of class 3), `idx-<name of the file>`."""
    if is_class(forget):
        return label_name(forget.label)
    if forget.index_file is not None:
        return f"idx-{Path(forget.index_file).stem}"
    amount = forget.count if forget.count is not None else forget.fraction
    of_class = "" if forget.label is None else f"_c{label_name(forget.label)}"
    return f"random{amount}{of_class}_s{seed}"
