"""Tables of results: means over repetitions with their spread, as Markdown, LaTeX and CSV. Torch-free."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
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
