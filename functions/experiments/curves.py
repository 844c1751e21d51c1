"""The picture of a run: what its stats.jsonl holds, against the step. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from functions.experiments import figure

LOSSES = ("loss", "remain", "forget", "both", "replay", "divergence")  # one picture: what is kept beside what goes
TITLES = {"lr": "learning rate", "val_accuracy": "validation accuracy"}
COLOUR = {"forget": figure.RED, "replay": figure.GREEN, "divergence": figure.PURPLE, "both": figure.GREEN}
LINE = TypeAdapter(dict[str, FiniteFloat])  # of stats.jsonl; `step` is one of the keys
FEW = 60  # points that are marked each

Series = dict[str, list[tuple[float, float]]]  # name -> (step, value)


class Stats(NamedTuple):
    """What a stats.jsonl holds, and how many of its lines hold nothing that can be read."""

    series: Series
    broken: int


def of_run(run: Path, title: str) -> str:
    """Draw RUN/curves.png. Returns the line that says so, or why it was not: a run is not lost to its picture."""
    path = run / "curves.png"
    try:
        stats = read(run / "logs" / "stats.jsonl")
        draw(stats.series, title, path)
    except (ImportError, OSError, ValueError) as error:
        return f"{path}: not drawn: {' '.join(str(error).split())}"
    return f"curves of the run: {path}" + (f" (without {stats.broken} broken lines)" if stats.broken else "")


def read(path: Path) -> Stats:
    """Every quantity's values by step; lines that are not whole are counted and left out."""
    series, broken = {}, 0
    for line in path.read_bytes().splitlines():
        try:
            found = LINE.validate_json(line)
            step = found.pop("step")
        except (ValidationError, KeyError):
            broken += 1
            continue
        for name, value in found.items():
            series.setdefault(name, []).append((step, value))
    return Stats(series, broken)


def draw(series: Series, title: str, path: Path) -> None:
    """Losses together, then the learning rate, validation accuracy and whatever else the method says, a panel each.

    Raises ValueError where there is nothing to draw.
    """
    losses = [name for name in LOSSES if name in series]
    groups = [losses] * bool(losses) + [[name] for name in _others(series)]
    if not groups:
        raise ValueError("logs/stats.jsonl holds no numbers")
    heights = [2.0 if group is losses else 1.0 for group in groups]
    page, axes = figure.panels(
        len(groups), 1, 7.5, 1.4 * sum(heights) + 0.6, sharex=True, gridspec_kw={"height_ratios": heights}
    )
    for ax, group in zip(axes[:, 0], groups):
        _panel(ax, {name: series[name] for name in group})
    page.suptitle(title, fontsize=11)
    page.align_ylabels()
    axes[-1, 0].set_xlabel("step")
    figure.save(page, path)


def _others(series: Series) -> list[str]:
    """Accuracy, then the rate, then what a method alone has."""
    first = [name for name in ("val_accuracy", "lr") if name in series]
    return first + [name for name in series if name not in (*LOSSES, *first)]


def _panel(ax, group: Series) -> None:
    values = [v for points in group.values() for _, v in points]
    if group.keys() <= set(LOSSES) and min(values) > 0 and max(values) > 20 * min(values):
        ax.set_yscale("log")
    for i, (name, points) in enumerate(group.items()):
        steps, numbers = zip(*sorted(points))
        mark = "." if len(points) <= FEW else None
        style = figure.STYLES[i % len(figure.STYLES)]
        ax.plot(steps, numbers, style, marker=mark, color=COLOUR.get(name, figure.BLUE), linewidth=1.4, label=name)
    if list(group) == ["val_accuracy"]:
        ax.set_ylim(max(0, min(values) - 0.02), min(1.005, max(values) + 0.02))
        ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    elif not group.keys() <= set(LOSSES) and min(values) >= 0:
        ax.set_ylim(bottom=0)  # a constant is no cliff
    if len(group) > 1:
        ax.legend(frameon=False, fontsize=9)
    ax.set_ylabel("loss" if group.keys() <= set(LOSSES) else TITLES.get(*group, *group), fontsize=9)
    ax.tick_params(labelsize=8)
