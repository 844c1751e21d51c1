"""The 1000 classes of ImageNet in label order: their wnids and English names, from timm's package data. Torch-free.

Labels are places in the sorted list of all wnids, so that 207 is n02099601, golden retriever, whichever folders of a
subset are there.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from functions.errors import InputError

N_CLASSES = 1000


@functools.cache
def wnids() -> tuple[str, ...]:
    """n01440764 ... n15075141, sorted. Raises InputError where timm has no such list."""
    found = tuple(_table("imagenet_synsets.txt").split())
    if len(found) != N_CLASSES or list(found) != sorted(set(found)):
        raise InputError(f"{_file('imagenet_synsets.txt')}: wanted the {N_CLASSES} wnids of ImageNet, sorted; damaged?")
    return found


@functools.cache
def synonyms() -> tuple[tuple[str, ...], ...]:
    """The English names of each class, the usual one first; one may belong to several classes (`crane`)."""
    rows = (line.partition("\t") for line in _table("imagenet_synset_to_lemma.txt").splitlines())
    lemmas = {wnid: tuple(names.split(", ")) for wnid, _, names in rows}
    if missing := [wnid for wnid in wnids() if not lemmas.get(wnid)]:
        raise InputError(f"{_file('imagenet_synset_to_lemma.txt')}: no name of {missing[0]}; damaged?")
    return tuple(lemmas[wnid] for wnid in wnids())


@functools.cache
def names() -> tuple[str, ...]:
    """One name for each class, no two alike: the usual one, with the wnid behind it where two classes share that."""
    count = Counter(first.lower() for first, *_ in synonyms())
    return tuple(
        first if count[first.lower()] == 1 else f"{first} ({wnid})" for wnid, (first, *_) in zip(wnids(), synonyms())
    )


def called(word: str) -> set[int]:
    """The classes of an English name, in any case: those whose usual name it is, else those that it is a name of."""
    usual, others = _by_name()
    return usual.get(word.lower()) or others.get(word.lower(), set())


@functools.cache
def _by_name() -> tuple[dict[str, set[int]], dict[str, set[int]]]:
    """name -> classes: by usual names, and by all others."""
    usual: dict[str, set[int]] = {}
    others: dict[str, set[int]] = {}
    for c, (name, (first, *rest)) in enumerate(zip(names(), synonyms())):
        for word in {name.lower(), first.lower()}:
            usual.setdefault(word, set()).add(c)
        for word in rest:
            others.setdefault(word.lower(), set()).add(c)
    return usual, others


def is_imagenet(classes: int | Sequence[str]) -> bool:
    """Whether these are the classes of ImageNet: only then have they English names."""
    return not isinstance(classes, int) and len(classes) == N_CLASSES and tuple(classes) == wnids()


def _table(file: str) -> str:
    path = _file(file)
    if not path.is_file():
        raise InputError(f"{path}: no such file; it comes with timm and lists the classes of ImageNet")
    return path.read_text()


def _file(name: str) -> Path:
    # only found: importing timm imports torch
    spec = find_spec("timm")
    if spec is None:
        raise InputError("timm is not installed, whose package data list the classes of ImageNet: pip install timm")
    return Path(spec.submodule_search_locations[0], "data", "_info", name)
