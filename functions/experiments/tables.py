"""Tables of results: means over repetitions with their spread, as aligned text, Markdown, LaTeX and CSV. Torch-free."""

from __future__ import annotations

import csv
import io
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from functions.errors import InputError


class Column(NamedTuple):
    """One quantity: its key in a row, its title, and how many decimals are shown."""

    key: str
    title: str
    decimals: int


class Row(NamedTuple):
    """What stands in front, and the repetitions of each quantity: one value per seed, none where it does not exist."""

    labels: tuple[str, ...]
    values: dict[str, list[float]]


def cell(values: Sequence[float], decimals: int, plus_minus: str = "±") -> str:
    """`mean ± sd` over repetitions (sample standard deviation, n - 1), the number alone for one, a dash for none."""
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.{decimals}f}"
    return mean if len(values) == 1 else f"{mean} {plus_minus} {statistics.stdev(values):.{decimals}f}"


def markdown(labels: Sequence[str], columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """A pipe table."""
    lines = [[*labels, *(c.title for c in columns)], ["---"] * (len(labels) + len(columns))]
    lines += [[*r.labels, *(cell(r.values[c.key], c.decimals) for c in columns)] for r in rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def shown(labels: Sequence[str], columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """For standard output: aligned to be read on a terminal, Markdown where a program or a file takes it."""
    if not sys.stdout.isatty():
        return markdown(labels, columns, rows)
    return aligned(labels, columns, rows, shutil.get_terminal_size().columns)


def aligned(labels: Sequence[str], columns: Sequence[Column], rows: Sequence[Row], width: int) -> str:
    """Aligned columns, numbers to the right. What does not fit beside one another stands below, labels repeated."""
    named = [_column([label, *(row.labels[i] for row in rows)], str.ljust) for i, label in enumerate(labels)]
    left = ["  ".join(line) for line in zip(*named)]
    numbers = [_column([c.title, *(cell(row.values[c.key], c.decimals) for row in rows)], str.rjust) for c in columns]
    blocks = []
    while numbers or not blocks:
        block, taken = left, 0
        # at least one column, however narrow the terminal is
        while taken < len(numbers) and (not taken or len(block[0]) + 2 + len(numbers[taken][0]) <= width):
            block = [f"{line}  {part}" for line, part in zip(block, numbers[taken])]
            taken += 1
        numbers = numbers[taken:]
        blocks.append([block[0], "─" * min(len(block[0]), width), *block[1:]])
    return "\n".join("".join(f"{line.rstrip()}\n" for line in block) for block in blocks)


def _column(cells: Sequence[str], to_width: Callable[[str, int], str]) -> list[str]:
    width = max(map(len, cells))
    return [to_width(text, width) for text in cells]


def latex(labels: Sequence[str], columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """A `tabular` in booktabs style."""
    lines = [
        rf"\begin{{tabular}}{{{'l' * len(labels)}{'r' * len(columns)}}}",
        r"\toprule",
        " & ".join(map(_escaped, [*labels, *(c.title for c in columns)])) + r" \\",
        r"\midrule",
        *(
            " & ".join(
                [
                    *map(_escaped, r.labels),
                    *(cell(r.values[c.key], c.decimals, r"$\pm$").replace("–", "--") for c in columns),
                ]
            )
            + r" \\"
            for r in rows
        ),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def to_csv(labels: Sequence[str], columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Unrounded: mean, standard deviation (empty for one repetition) and number of repetitions of each quantity."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*labels, *(f"{c.key}_{part}" for c in columns for part in ("mean", "sd", "n"))])
    for row in rows:
        numbers = [part for c in columns for part in _mean_sd_n(row.values[c.key])]
        writer.writerow([*row.labels, *numbers])
    return out.getvalue()


def require_one_protocol(contracts: dict[str, dict]) -> None:
    """Raises InputError where numbers of different protocols would stand in one table; `contracts` by source."""
    by_hash: dict[str, str] = {}
    for source, found in contracts.items():
        by_hash.setdefault(found["hash"], source)
    if len(by_hash) > 1:
        (h1, one), (h2, other), *_ = by_hash.items()
        raise InputError(f"{other}: measured by another protocol ({h2}) than {one} ({h1}): not for one table")


def _mean_sd_n(values: Sequence[float]) -> tuple:
    if not values:
        return "", "", 0
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else "", len(values)


def _escaped(text: str) -> str:
    for special in "&%_#":
        text = text.replace(special, "\\" + special)
    return text
