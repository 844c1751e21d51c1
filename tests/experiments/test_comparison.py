"""The comparison on digits at toy size, its tables, and the sweep over classes."""

import csv
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import cases
import pytest

import datasets
import train_classifier
from functions.errors import InputError
from functions.experiments import tables
from functions.experiments.tables import Column, Row

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = [Column("ua", "UA %", 1), Column("fid", "FID", 2)]
ROWS = [
    Row(("0", "SFR-on"), {"ua": [90.0, 100.0, 98.0], "fid": [1.234]}),
    Row(("0", "original"), {"ua": [], "fid": [2.0, 4.0]}),
]


def test_cells_are_mean_and_sample_deviation():
    # mean 96, deviations -6, 4, 2: variance (36 + 16 + 4) / 2 = 28
    assert tables.cell([90.0, 100.0, 98.0], 1) == "96.0 ± 5.3"
    assert tables.cell([1.234], 2) == "1.23" and tables.cell([], 2) == "–"


def test_the_three_formats_hold_the_same_numbers():
    assert tables.markdown(("class", "method"), COLUMNS, ROWS) == (
        "| class | method | UA % | FID |\n| --- | --- | --- | --- |\n"
        "| 0 | SFR-on | 96.0 ± 5.3 | 1.23 |\n| 0 | original | – | 3.00 ± 1.41 |\n"
    )
    tex = tables.latex(("class", "method"), COLUMNS, ROWS)
    assert r"class & method & UA \% & FID \\" in tex and r"0 & SFR-on & 96.0 $\pm$ 5.3 & 1.23 \\" in tex
    assert r"0 & original & -- & 3.00 $\pm$ 1.41 \\" in tex and r"\begin{tabular}{llrr}" in tex
    header, first, second = csv.reader(tables.to_csv(("class", "method"), COLUMNS, ROWS).splitlines())
    assert header == ["class", "method", "ua_mean", "ua_sd", "ua_n", "fid_mean", "fid_sd", "fid_n"]
    assert first[2:] == ["96.0", str(28**0.5), "3", "1.234", "", "1"] and second[2:5] == ["", "", "0"]


def test_numbers_of_two_protocols_are_refused():
    same = {"a": {"hash": "1"}, "b": {"hash": "1"}}
    tables.require_one_protocol(same)
    with pytest.raises(InputError, match=r"c: measured by another protocol \(2\) than a \(1\)"):
        tables.require_one_protocol({**same, "c": {"hash": "2"}})


@pytest.fixture
def script(small_configs, monkeypatch):
    """The names of scripts/compare_digits.py, over configs that make everything small; the judge learns for an epoch."""
    judge = train_classifier.main
    monkeypatch.setattr(train_classifier, "main", lambda argv: judge([*argv, "--epochs", "1"]))
    return runpy.run_path(str(ROOT / "scripts" / "compare_digits.py"))


def test_the_comparison_from_nothing_to_its_table_in_pieces(script, capsys):
    """All methods on one case, every stage for real; the second call runs nothing, and a changed number is seen."""
    for method, trials in script["TRIALS"].items():
        trials[script["CHOSEN"][method]] = {"training.n_iters": 2}
    argv = ["--out", "cmp", "--per_class", "3", "--only_cases", "1"]
    script["main"]([*argv, "--methods", "pretrain", "sfron"])
    assert [r["labels"][1] for r in json.loads(Path("cmp/comparison.json").read_text())] == ["original", "SFR-on"]
    script["main"](argv)
    first = capsys.readouterr().out
    rows = json.loads(Path("cmp/comparison.json").read_text())
    assert [r["labels"] for r in rows] == [["0", title] for title in script["TITLES"].values()]
    by_method = {r["labels"][1]: r["values"] for r in rows}
    assert all(0 <= v["ua"][0] <= 100 and v["fid"][0] >= 0 and len(v["kept"]) == 1 for v in by_method.values())
    assert by_method["original"]["steps"] == [] and by_method["SFR-on"]["steps"] == [2]
    # two steps of 8 images forward and backward; SalUn's target is one more forward; its score 8 guided draws of all zeros
    assert by_method["fine-tuning"]["passes"] == [2 * 16 / 1000]
    forget = 8 * int((datasets.load("digits").labels == 0).sum())
    assert by_method["SalUn"]["passes"] == [(2 * (16 + 16 + 8) + 2 * 2 * forget) / 1000]
    # Selective Amnesia: two steps, 20 images at 25 timesteps, and 200 replay samples of 4 steps with guidance
    assert by_method["Selective Amnesia"]["passes"] == [(2 * 32 + 2 * 20 * 25 + 200 * 4 * 2) / 1000]
    script["main"](argv)
    again = capsys.readouterr().out
    assert "$ python" in first and "$ python" not in again
    assert Path("cmp/comparison.md").read_text() in again


def test_tuning_gives_every_method_as_many_trials(script):
    trials = script["TRIALS"]
    assert {len(t) for t in trials.values()} == {6}
    assert set(trials) == set(script["TITLES"]) - {"pretrain", "retrain"}
    assert all(0 < s["training.n_iters"] <= 350 and "optim.lr" in s for t in trials.values() for s in t)
    assert script["VALIDATION"][1] not in {seed for _, seed in script["CASES"]}


def test_the_chosen_trials_are_those_of_the_rule(script):
    """Lowest mean of the two FIDs over the original's among UA, kept >= 95 %, else the largest min(UA, kept); from LOG.md."""
    rows = re.findall(
        r"^\| (\*\*)?([\w -]+?)(?:\*\*)? \| ([^|]*) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| [\d.–]+ \| [\d–]+ \|",
        (ROOT / "LOG.md").read_text().split("**Tuning**")[1],
        re.M,
    )
    (original,) = ((float(fid), float(unguided)) for _, title, _, _, _, fid, unguided in rows if title == "original")
    assert len(rows) == 31
    for method, chosen in script["CHOSEN"].items():
        trials = [
            (bool(bold), *map(float, numbers)) for bold, title, _, *numbers in rows if title == script["TITLES"][method]
        ]
        good = [t for t in trials if t[1] >= 95 and t[2] >= 95]
        best = (
            min(good, key=lambda t: t[3] / original[0] + t[4] / original[1])
            if good
            else max(trials, key=lambda t: min(t[1:3]))
        )
        assert trials.index(best) == chosen and [t[0] for t in trials] == [i == chosen for i in range(6)], method


def test_a_tuning_table_names_its_trials(script, monkeypatch):
    monkeypatch.setitem(script["TRIALS"], "ga", script["TRIALS"]["ga"][:1])
    argv = ["--tune", "--methods", "ga", "--out", "cmp", "--per_class", "3"]
    script["main"](argv)
    rows = json.loads(Path("cmp/tuning.json").read_text())
    assert [r["labels"] for r in rows] == [["gradient ascent", "lr 1e-4, n_iters 25"], ["original", ""]]


# ---- all classes


def sweep(*argv, **env):
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / "sweep_forget_classes.sh"), *argv],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **env},
    )


def test_the_sweep_skips_what_is_done_and_resumes_what_is_not(originals):
    run = Path(shutil.copytree(originals["ddpm"].run, "run"))
    settings = ["--", *cases.TOY]
    done = sweep(str(run), "digits", "1", "3", *settings)
    assert done.returncode == 0, done.stderr
    results = run / "sweep_digits_1.0"  # 1 and 1.0 are one threshold
    folder = next((results / "digits" / "forget_3" / "sfron").iterdir())
    assert (results / "runs.tsv").read_text() == f"3\t{folder}\n"
    (results / "3.done").unlink()  # as if killed before the end
    steps = (folder / "logs" / "stats.jsonl").read_text()
    again = sweep(str(run), "digits", "1.0", "3", *settings)
    assert again.returncode == 0 and f"resuming {folder} at step 4" in again.stdout
    assert "Fisher diagonals" not in again.stdout and (folder / "logs" / "stats.jsonl").read_text() == steps
    skipped = sweep(str(run), "digits", "1.0", "3", *settings)
    assert f"class 3: done, {folder}" in skipped.stdout and "resuming" not in skipped.stdout
    other = sweep(str(run), "digits", "1.0", "3", *settings, "--seed", "1")
    assert other.returncode == 2 and re.search("^sweep: .*began with the arguments", other.stderr)


def test_the_sweep_says_what_it_misses():
    assert "usage: sweep_forget_classes.sh RUN" in sweep().stderr
    for argv, message in ((["nowhere"], "nowhere: no such run folder"), ([".", "digits", "x"], "gamma is a number")):
        found = sweep(*argv)
        assert found.returncode == 2 and re.search(f"^sweep: {message}", found.stderr)


# ---- on a terminal


def test_on_a_terminal_columns_are_aligned_and_what_is_too_wide_stands_below(monkeypatch, capsys):
    wide = tables.aligned(("class", "method"), COLUMNS, ROWS, 80).splitlines()
    assert wide == [
        "class  method          UA %          FID",
        "─" * 40,
        "0      SFR-on    96.0 ± 5.3         1.23",
        "0      original           –  3.00 ± 1.41",
    ]
    narrow = tables.aligned(("class", "method"), COLUMNS, ROWS, 30).splitlines()
    assert (
        narrow[0] == "class  method          UA %" and narrow[5] == "class  method            FID" and narrow[4] == ""
    )
    assert tables.aligned(("run",), [], [Row(("a",), {})], 80).splitlines() == ["run", "───", "a"]
    plain = tables.markdown(("class", "method"), COLUMNS, ROWS)
    assert tables.shown(("class", "method"), COLUMNS, ROWS) == plain  # a pipe gets what it got
    monkeypatch.setattr(tables.sys.stdout, "isatty", lambda: True, raising=False)
    assert tables.shown(("class", "method"), COLUMNS, ROWS).splitlines()[0].split() == wide[0].split()
