"""The plots of comparisons, and that the pages in docs/ hold the numbers that they draw."""

import csv
from pathlib import Path

import matplotlib.figure
import pytest
from PIL import Image

from functions.errors import InputError
from functions.experiments import figure, plot, tables
from functions.experiments.tables import Column, Row

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def pages(monkeypatch):
    """Every figure that is saved."""
    found, save = [], matplotlib.figure.Figure.savefig
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda f, *a, **k: found.append(f) or save(f, *a, **k))
    return found


def points(ax) -> dict[str, tuple[float, float]]:
    return {c.get_label(): c.lines[0].get_xydata()[0].tolist() for c in ax.containers}


def test_digits_a_panel_a_class_and_a_look_a_method(pages):
    columns = [Column("ua", "UA %", 1), Column("fid", "FID", 2)]
    rows = [
        Row(("0", "original"), {"ua": [0.0, 0.0], "fid": [2.0, 4.0]}),
        Row(("0", "SFR-on"), {"ua": [90.0, 100.0], "fid": [1.0, 3.0]}),
        Row(("3", "original"), {"ua": [0.0], "fid": [2.5]}),
        Row(("3", "SalUn"), {"ua": [97.0], "fid": [400.0]}),
        Row(("3", "SFR-on"), {"ua": [96.0], "fid": [2.25]}),
    ]
    Path("t.csv").write_text(tables.to_csv(("class", "method"), columns, rows))
    assert plot.main(["t.csv"]) == Path("t.png")
    zero, three = pages[0].axes
    assert (zero.get_title(), three.get_title()) == ("class 0", "class 3")
    assert points(zero) == {"original": [3.0, 0.0], "SFR-on": [2.0, 95.0]}
    assert points(three) == {"original": [2.5, 0.0], "SalUn": [400.0, 97.0], "SFR-on": [2.25, 96.0]}
    assert three.get_xlim()[0] > 0 and three.get_xlim()[1] > 400
    look = lambda ax: {c.get_label(): (c.lines[0].get_color(), c.lines[0].get_marker()) for c in ax.containers}
    assert look(zero)["SFR-on"] == look(three)["SFR-on"] != look(three)["SalUn"]
    assert look(zero)["original"] == (figure.INK, "X")


def test_classifiers_are_drawn_by_their_distance_to_retraining(pages):
    labels = ("model", "forgets", "method")
    columns = [Column(f"gap_{key}", key, 1) for key in ("UA", "RA", "TA", "MIA")]
    gaps = lambda *values: {c.key: [v] for c, v in zip(columns, values)}
    rows = [
        Row(("cnn", "class", "retrained"), gaps(0, 0, 0, 0)),
        Row(("cnn", "class", "FT"), gaps(1.0, 0.5, 1.5, 2.0)),
        Row(("cnn", "class", "RL"), gaps(1.0, 0.5, 1.5, 2.0)),
        Row(("cnn", "class", "GA"), gaps(20.0, 3.0, 1.0, 40.0)),
    ]
    Path("t.csv").write_text(tables.to_csv(labels, columns, rows))
    plot.main(["t.csv", "--out", "p.png"])
    (ax,) = pages[0].axes
    assert points(ax) == {"retrained": [0, 0], "FT": [1.0, 1.5], "RL": [1.0, 1.5], "GA": [2.0, 30.0]}
    named = {t.get_text(): t for t in ax.texts if t.get_text()}
    assert set(named) == {"retrained", "FT, RL", "GA"}  # two in one place share a name
    boxes = [t.get_window_extent() for t in named.values()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "t.csv: labels none; wanted a comparison's CSV"),
        ("a,b\n1,2\n", "t.csv: labels a,b; wanted"),
        ("class,method,ua_mean\n", "t.csv: labels class,method; wanted"),
        ("class,method,ua_mean,ua_sd\n0,x,1\n", "t.csv: labels class,method; wanted"),
        ("class,method,ua_mean,ua_sd,fid_mean,fid_sd\n0,x,1,,much,\n", "t.csv: x: no number for fid"),
        ("class,method,ua_mean,ua_sd\n0,x,1,\n", "t.csv: x: no number for fid"),
    ],
)
def test_another_table_is_one_line(text, message):
    Path("t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        plot.main(["t.csv"])
    assert not Path("t.png").exists()


@pytest.mark.parametrize("name, n_labels, n_rows", [("digits", 2, 21), ("classifiers", 3, 41)])
def test_the_pages_hold_the_numbers_that_are_drawn(name, n_labels, n_rows, pages):
    with open(DOCS / f"comparison_{name}.csv", newline="") as file:
        _, *rows = csv.reader(file)
    cells = lambda numbers: [
        "–" if n == "0" else mean if n == "1" else f"{mean} ± {sd}" for mean, sd, n in zip(*[iter(numbers)] * 3)
    ]
    lines = [line for line in (DOCS / f"comparison_{name}.md").read_text().splitlines() if line.startswith("|")]
    assert lines[2:] == [f"| {' | '.join([*row[:n_labels], *cells(row[n_labels:])])} |" for row in rows]
    assert len(rows) == n_rows
    plot.main([str(DOCS / f"comparison_{name}.csv"), "--out", "p.png"])
    with Image.open("p.png") as drawn, Image.open(DOCS / f"comparison_{name}.png") as committed:
        assert drawn.size == committed.size
