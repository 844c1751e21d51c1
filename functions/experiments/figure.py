"""What our plots share: colours that colour-blind people tell apart, plain axes, files that are whole. matplotlib."""

from __future__ import annotations

import io
from pathlib import Path

from functions.files import write_atomic

# Okabe and Ito, 2008: told apart with every kind of colour blindness
BLUE, RED, GREEN, ORANGE, PURPLE, SKY, YELLOW, INK = (
    *("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#F0E442", "#303030"),
)
COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
STYLES = ("-", "--", "-.", ":")  # and for those who see none
INCH = 120  # pixels


def panels(n_rows: int, n_columns: int, width: float, height: float, **more):
    """(figure, axes (n_rows, n_columns)) of so many inches. matplotlib is loaded now: half a second that few need."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=INCH)
    axes = figure.subplots(n_rows, n_columns, squeeze=False, **more)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="#e4e4e4", linewidth=0.7)
        ax.set_axisbelow(True)
    return figure, axes


def plain_log(axis) -> None:
    """1, 2, 5, 10 on a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def save(figure, path: Path) -> None:
    """As a PNG, whole or absent."""
    page = io.BytesIO()
    figure.savefig(page, format="png", facecolor="white")
    write_atomic(path, page.getvalue())
