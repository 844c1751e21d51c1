"""Masks by name: the one of a forget set and a threshold in a folder. Torch-free."""

from __future__ import annotations

from pathlib import Path

from functions.errors import InputError

GAMMA = 1.0  # of the mask that is taken where nobody says which


def mask_file(given: str, forget: str, gamma: float | None) -> str:
    """`given` where that is a file; of a folder the mask of this threshold, in the forget set's own folder or here.

    Published names are read as well: fisher_1.0.pt, fisher_1.pt. Raises InputError where there is no such mask, and
    says which there are.
    """
    path = Path(given)
    if path.is_file():
        if gamma is not None:
            raise InputError(f"--threshold {gamma}: chooses a mask from a folder; --mask_path {path} is a file")
        return given
    if not path.is_dir():
        raise InputError(f"{path}: no such file (--mask_path)")
    asked = GAMMA if gamma is None else gamma
    names = (f"fisher_{asked}.safetensors", f"fisher_{asked}.pt", f"fisher_{asked:g}.pt")
    folder = path / forget if (path / forget).is_dir() else path
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise InputError(
            f"{folder / names[0]}: no such file (--mask_path {path}, --threshold {asked}); {_offer(path, folder)}"
        )
    return str(found[0])


def _offer(path: Path, folder: Path) -> str:
    """The masks in `folder`, or for which forget sets there are some below `path`."""
    if there := _masks(folder):
        return f"there are {', '.join(there)}"
    if of := sorted(f.name for f in path.iterdir() if f.is_dir() and _masks(f)):
        return f"there are masks of {', '.join(of)} (--label_to_forget)"
    return "there is no mask (generate_fisher_mask.py makes masks)"


def _masks(folder: Path) -> list[str]:
    files = [f for f in folder.iterdir() if f.name.startswith(("fisher_", "with_")) and f.is_file()]
    return sorted(f.name for f in files if f.suffix in (".safetensors", ".pt"))
