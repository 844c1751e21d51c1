"""Forgetting against kept quality, a panel for each setting, from the CSV of a comparison.

python -m functions.experiments.plot docs/comparison_digits.csv --out docs/comparison_digits.png
"""

from __future__ import annotations

import argparse
import csv
import itertools
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

from functions.config.cli import run_main
from functions.errors import InputError
from functions.experiments import figure

# what is no method is told apart: (colour, marker)
LANDMARKS = {
    "original": (figure.INK, "X"),
    "retrained": (figure.GREEN, "*"),
    "retrained without the class": (figure.GREEN, "*"),
    "retrained again (floor)": (figure.GREEN, "*"),
}
METHOD = (figure.BLUE, "o")
# where a legend names them
METHODS = tuple(zip((figure.BLUE, figure.RED, figure.ORANGE, figure.PURPLE, figure.SKY), "os^Dv"))


class Point(NamedTuple):
    """A method in one panel: (mean, standard deviation) to the right and up."""

    name: str
    x: tuple[float, float]
    y: tuple[float, float]


class View(NamedTuple):
    """What a comparison is drawn as: the quantities whose mean is an axis, and how the axes are called and scaled."""

    x: tuple[str, ...]
    y: tuple[str, ...]
    x_label: str
    y_label: str
    x_scale: dict
    y_scale: dict
    percent: bool  # up are percents, whatever their error bars say
    legend: bool  # below, in place of names beside the points


DIGITS = View(
    *(("fid",), ("ua",)),
    "kept classes: FID[classifier], w = 2 (left is better)",
    "forgotten class: UA % (up is more forgetting)",
    *({"value": "log"}, {"value": "linear"}),
    *(True, True),
)
NEAR_ZERO = {"value": "symlog", "linthresh": 0.3}
CLASSIFIERS = View(
    *(("gap_RA", "gap_TA"), ("gap_UA", "gap_MIA")),
    "kept images: mean of ΔRA, ΔTA (left is better)",
    "forgotten images: mean of ΔUA, ΔMIA (down is better)",
    *(NEAR_ZERO, NEAR_ZERO, False, False),
)
# the labels of a row, of which the last is the method -> its view
VIEWS = {("class", "method"): DIGITS, ("model", "forgets", "method"): CLASSIFIERS}


def draw(table: Path, picture: Path) -> None:
    """The picture of a comparison's CSV. Raises InputError where it is of no comparison known here."""
    view, panels = read(table)
    looks = _looks([p.name for points in panels.values() for p in points], view.legend)
    page, axes = figure.panels(1, len(panels), 3.9 * len(panels), 4.6, sharex=True, sharey=True)
    for ax, (title, points) in zip(axes[0], panels.items()):
        _panel(ax, title, points, view, looks)
    if view.percent:
        # by the means: a mean less its spread may be below 0, which no logarithm shows. The panels share their axes
        values = [p.x[0] for points in panels.values() for p in points]
        axes[0, 0].set(xlim=(min(values) / 1.25, max(values) * 1.25), ylim=(-6, 108))
        figure.plain_log(axes[0, 0].xaxis)
    axes[0, 0].set_ylabel(view.y_label)
    axes[0, len(panels) // 2].set_xlabel(view.x_label)
    if view.legend:
        named = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels())))
        page.legend(named.values(), named, loc="outside lower center", ncols=7, fontsize=8.5, frameon=False)
    else:
        page.draw_without_rendering()  # texts know their sizes from here on
        for ax, points in zip(axes[0], panels.values()):
            _name(ax, points)
    figure.save(page, picture)


def read(table: Path) -> tuple[View, dict[str, list[Point]]]:
    """What is drawn of a CSV of `tables.to_csv`: its view, and the points of each panel by title."""
    with open(table, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file) if table.stat().st_size else [[]]
    labels = tuple(itertools.takewhile(lambda name: not name.endswith("_mean"), header))
    if labels not in VIEWS or not rows or any(len(row) != len(header) for row in rows):
        wanted = " or ".join(",".join(names) for names in VIEWS)
        raise InputError(f"{table}: labels {','.join(labels) or 'none'}; wanted a comparison's CSV ({wanted}, ...)")
    view, panels = VIEWS[labels], {}
    for row in rows:
        cells = dict(zip(header, row))
        title = ", ".join(f"{name} {cells[name]}" for name in labels[:-1])
        point = Point(cells["method"], _mean(cells, view.x, table), _mean(cells, view.y, table))
        panels.setdefault(title, []).append(point)
    return view, panels


def _mean(cells: dict[str, str], keys: tuple[str, ...], table: Path) -> tuple[float, float]:
    """Mean of several quantities; the spread of one, of several none: the table does not hold it."""
    try:
        values = [float(cells[f"{key}_mean"]) for key in keys]
        spread = float(cells[f"{keys[0]}_sd"] or 0) if len(keys) == 1 else 0.0
    except (KeyError, ValueError) as error:
        raise InputError(f"{table}: {cells['method']}: no number for {' or '.join(keys)} ({error})") from None
    return statistics.fmean(values), spread


def _looks(names: list[str], apart: bool) -> dict[str, tuple[str, str]]:
    """Colour and marker by name; methods are told `apart`, or all look the same."""
    methods = [name for name in dict.fromkeys(names) if name not in LANDMARKS]
    return {**LANDMARKS, **{m: METHODS[i % len(METHODS)] if apart else METHOD for i, m in enumerate(methods)}}


def _panel(ax, title: str, points: list[Point], view: View, looks: dict[str, tuple[str, str]]) -> None:
    ax.set_xscale(**view.x_scale)
    ax.set_yscale(**view.y_scale)
    for p in points:
        colour, mark = looks[p.name]
        style = {"fmt": mark, "color": colour, "markersize": 9 if mark == "*" else 6, "alpha": 0.85, "elinewidth": 0.8}
        ax.errorbar(p.x[0], p.y[0], xerr=p.x[1] or None, yerr=p.y[1] or None, label=p.name, **style)
    ax.set_title(title, fontsize=10)
    ax.tick_params(labelsize=8)


# places of a name around its point, in points of 1/72 inch, the nearest first
AROUND = [
    (far * dx, far * dy)
    for far in (7, 13, 22, 34, 48)
    for dx, dy in ((1, 0), (1, 1), (1, -1), (0, 1), (0, -1), (-1, 1), (-1, -1), (-1, 0))
]
FAR = 13  # a name further off has a line to its point,
CLEAR = 14.0  # and is so many pixels from other points


def _name(ax, points: list[Point]) -> None:
    """Names beside every place where points are, where nothing stands yet; several points in one place share theirs."""
    places: dict[tuple[float, float], list[str]] = {}
    for p in points:
        places.setdefault((p.x[0], p.y[0]), []).append(p.name)
    marks = [tuple(ax.transData.transform(place)) for place in places]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in marks]
    frame = ax.get_window_extent()
    room = (frame.x0, frame.y0, frame.x1 + 4, frame.y1 + 4)
    for mark, (place, names) in zip(marks, places.items()):
        text = ax.annotate(", ".join(names), place, xytext=(0, 0), textcoords="offset points", fontsize=7.5)
        for offset in AROUND:
            box = _put(text, *offset)
            lined = max(map(abs, offset)) > FAR
            others = [_distance(m, box) for m in marks if m != mark]
            own = min(others, default=CLEAR) >= (CLEAR if lined else _distance(mark, box))
            if own and _inside(box, room) and not any(_overlap(box, other) for other in taken):
                break
        taken.append(box)
        if lined:
            line = {"arrowstyle": "-", "color": "#888888", "linewidth": 0.6}
            ax.annotate("", place, xytext=offset, textcoords="offset points", arrowprops=line)


Box = tuple[float, float, float, float]  # left, lower, right, upper in pixels


def _put(text, dx: float, dy: float) -> Box:
    """The name moved there; the room it takes."""
    text.set(ha=("center", "left", "right")[(dx > 0) - (dx < 0)], va="center" if dy == 0 else "baseline")
    text.set_position((dx, dy))
    box = text.get_window_extent()
    return box.x0, box.y0, box.x1, box.y1


def _distance(mark: tuple[float, float], box: Box) -> float:
    x, y = (max(low - at, 0, at - high) for at, low, high in zip(mark, box[:2], box[2:]))
    return (x * x + y * y) ** 0.5


def _inside(a: Box, b: Box) -> bool:
    return b[0] <= a[0] and a[2] <= b[2] and b[1] <= a[1] and a[3] <= b[3]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def main(argv: list[str] | None = None) -> Path:
    """Returns the picture's path."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "table", type=Path, metavar="CSV", help="of scripts/compare_digits.sh or scripts/compare_classifiers.sh"
    )
    p.add_argument("--out", type=Path, metavar="PNG", help="the picture (default: beside the table)")
    args = p.parse_args(argv)
    picture = args.out or args.table.with_suffix(".png")
    draw(args.table, picture)
    print(f"Saved {picture}")
    return picture


if __name__ == "__main__":
    sys.exit(run_main(main))
