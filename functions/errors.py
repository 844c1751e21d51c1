"""The one exception that means "your input is wrong", how values are shown in it, and the hint for misspelt names."""

from __future__ import annotations

from collections.abc import Iterable

# characters of a value that a message shows: what was typed is recognised, and the line stays one
SHOWN = 80


class InputError(ValueError):
    """Bad input. `str(e)` is one line that says what came, what was wanted and where it is set."""


def shown(value: object) -> str:
    """`repr(value)`, its middle left out where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 20]}...{text[-15:]}"


def nearest(word: object, choices: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the choice that `word` looks like a misspelling or the beginning of, else nothing."""
    word, choices = str(word).lower(), list(choices)
    near = {c: d for c in choices if (d := _distance(word, c.lower())) <= _slips(max(len(word), len(c)))}
    begun = [c for c in choices if len(word) >= 3 and c.lower().startswith(word)]
    close = min(near, key=near.get) if near else begun[0] if len(begun) == 1 else None
    return f" (did you mean '{close}'?)" if close else ""


def _slips(length: int) -> int:
    """How many slips of the finger a word of this length may have: of two letters none, or all words would be near."""
    return 0 if length < 3 else 1 if length < 6 else 2 if length < 12 else 3


def _distance(a: str, b: str) -> int:
    """Letters to insert, delete, replace or swap with a neighbour to make `b` of `a` (optimal string alignment)."""
    if abs(len(a) - len(b)) > 3:
        return 4
    before, row = [], list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, above, row = row, before, [i]
        for j, y in enumerate(b, 1):
            row.append(min(row[j - 1] + 1, before[j] + 1, before[j - 1] + (x != y)))
            if i > 1 and j > 1 and (x, y) == (b[j - 2], a[i - 2]):
                row[j] = min(row[j], above[j - 2] + 1)
    return row[-1]
