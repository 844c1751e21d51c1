"""Choosing classes on the command line, by number or by name, and naming what was chosen. Torch-free.

A class is called by its number, by its name, or, where a number is also another class's name, by `number:3` or
`name:3`. Those of ImageNet, whose names are wnids, have English names as well. Classes are given as their names, or as
how many there are.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from functions import imagenet
from functions.errors import InputError, nearest, shown

Classes = int | Sequence[str]  # their number, or their names
Label = int | str | list[int | str]


def labels(text: str) -> Label:
    """`3` -> 3, `cat` -> "cat", `0,cat` -> [0, "cat"]: as a flag gives them."""
    found = [int(part) if re.fullmatch("-?[0-9]{1,9}", part) else part for part in map(str.strip, text.split(","))]
    if "" in found:
        raise argparse.ArgumentTypeError(f"got {shown(text)}; wanted a class, or several with commas between them")
    return found[0] if len(found) == 1 else found


def class_numbers(label: Label, classes: Classes, name: str, source: str) -> int | list[int]:
    """The numbers of the classes that `label` calls, ascending; of one class its number itself.

    `name` is the data set's. Raises InputError for what is no class, and for what may be two.
    """
    found = sorted({_number(word, classes, name, source) for word in (label if isinstance(label, list) else [label])})
    return found[0] if len(found) == 1 else found


def _number(word: int | str, classes: Classes, name: str, source: str) -> int:
    found, n = _meant(str(word), classes), _count(classes)
    if len(found) > 1:
        raise InputError(f"{source}: {word} is {_both(str(word), classes)}")
    if not found:
        hint = _nearest(str(word), classes)
        raise InputError(f"{source}: {word} is not a class of {name}, which has {n} classes (0..{n - 1}){hint}")
    return found.pop()


def parse_classes(text: str | None, classes: Classes, flag: str = "--classes_to_generate") -> list[int]:
    """`1,2,cat` -> those, `x0,xcat` -> all but those, None -> all; ascending. Raises InputError for anything else."""
    n = _count(classes)
    if text is None:
        return list(range(n))
    source, chosen, out = f"{flag} {text}", set(), set()
    for part in map(str.strip, text.split(",")):
        wanted, unwanted = _meant(part, classes), _meant(part[1:], classes) if part.startswith("x") else set()
        if len(wanted) > 1 or len(unwanted) > 1:
            raise InputError(f"{source}: {part} is {_both(part if wanted else part[1:], classes)}")
        if wanted and unwanted:
            raise InputError(f"{source}: {part} is a class, and leaves out {part[1:]}; wanted name:{part}, or a number")
        if not wanted and not unwanted:
            raise InputError(f"{source}: {_unknown(part, classes)}")
        chosen |= wanted
        out |= unwanted
    if chosen and out:
        raise InputError(f"{source}: wanted classes (1,2,3) or classes to leave out (x0,x1), not both")
    if not (found := sorted(chosen or set(range(n)) - out)):
        raise InputError(f"{source}: leaves no class")
    return found


def leaves_out(text: str, classes: Classes) -> bool:
    """Whether a list that `parse_classes` takes names the classes to leave out."""
    return not any(_meant(part.strip(), classes) for part in text.split(","))


def _meant(word: str, classes: Classes) -> set[int]:
    """The classes that a word may mean, by number and by name."""
    n, names = _count(classes), () if isinstance(classes, int) else tuple(classes)
    by, colon, rest = word.partition(":")
    only = by if colon and by in ("number", "name") and word not in names else None
    word = rest if only else word
    found = {names.index(word)} if only != "number" and word in names else set()
    if only != "name" and re.fullmatch("0|[1-9][0-9]{0,8}", word) and int(word) < n:
        found.add(int(word))
    if only != "number" and imagenet.is_imagenet(classes):
        found |= imagenet.called(word)
    return found


def _both(word: str, classes: Sequence[str]) -> str:
    """What the several classes are that a word may mean."""
    if imagenet.is_imagenet(classes):
        found = sorted(_meant(word, classes))
        which = " and ".join(f"class {c} ({classes[c]}, {', '.join(imagenet.synonyms()[c])})" for c in found)
        return f"a name of {which}; write {' or '.join(f'number:{c}' for c in found)}"
    number = int(word)
    return (
        f"the number of class {classes[number]!r} and the name of class {classes.index(word)}; "
        f"write number:{word} or name:{word}"
    )


def _unknown(part: str, classes: Classes) -> str:
    """What is wrong with a part of a list of classes."""
    n = _count(classes)
    if not re.fullmatch("x?[0-9]+", part):
        hint = _nearest(part, classes)
        return f"wanted classes (1,2,3, or their names) or classes to leave out (x0,x1){hint}"
    digits = part.removeprefix("x")
    split = ",".join(part[: -len(digits)] + d for d in digits)
    hint = f" (did you mean {split}?)" if len(set(digits)) == len(digits) > 1 else ""
    return f"no class {digits}, there are 0 to {n - 1}{hint}"


def _nearest(word: str, classes: Classes) -> str:
    """` (did you mean ...?)`: the name most like a word, or the English names that it is one of the words of."""
    if not imagenet.is_imagenet(classes):
        return nearest(word, [] if isinstance(classes, int) else classes)
    english = [name for names in imagenet.synonyms() for name in names]
    holds = [name for name in english if f" {word.lower()} " in f" {name.lower()} "]
    if holds:
        return f" (did you mean {' or '.join(map(repr, holds[:5]))}?)"
    return nearest(word, [*english, *classes])


def called(classes: Sequence[str]) -> Sequence[str]:
    """The names of all classes as people call them: of ImageNet the English ones."""
    return imagenet.names() if imagenet.is_imagenet(classes) else classes


def _count(classes: Classes) -> int:
    return classes if isinstance(classes, int) else len(classes)


def classes_suffix(classes: list[int], n_classes: int) -> str:
    """The part of a name that tells which classes are there, whichever way they were asked for; nothing for all."""
    out = [c for c in range(n_classes) if c not in classes]
    if not out:
        return ""
    if len(out) > len(classes):  # the shorter list: names of folders have a limit
        return f"_only_label_{'_'.join(map(str, classes))}"
    return f"_without_label_{'_'.join(map(str, out))}"
