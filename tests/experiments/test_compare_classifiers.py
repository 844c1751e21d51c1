"""The classifiers' comparison at toy size: trials, the rule that chooses, the table, and pieces of it."""

import importlib.util
import json
from pathlib import Path

import pytest

from functions.config.methods import MODES
from functions.errors import InputError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "compare_classifiers.py"


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("compare_classifiers", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def toy(script, monkeypatch):
    """Two methods with two trials each on a tiny CNN for an epoch, two repetitions."""
    Path("toy.yml").write_text(
        "base: digits_classifier.yml\ntraining: {epochs: 1, batch_size: 256, curves: false}\nmodes:\n"
        "  pretrain:\n    model: {name: cnn, width: 4}\n"
    )
    few = {"salun": [["--epochs", 1], ["--epochs", 2]], "sfron": [["--set", "training.n_iters=2"]]}
    monkeypatch.setattr(script, "CONFIG", "toy.yml")
    monkeypatch.setattr(script, "TRIALS", few)
    monkeypatch.setattr(script, "MORE", {"salun": {"cnn": [["--epochs", 3]]}, "sfron": {"cnn": []}})
    monkeypatch.setattr(script, "METHODS", {"cnn": list(few), "resnet18": []})
    monkeypatch.setattr(script, "VALIDATION", [script.Case("cnn", "random", 100)])
    monkeypatch.setattr(script, "FINAL", [script.Case("cnn", "random", s) for s in (0, 1)])
    return script


def test_tuning_and_comparison_from_nothing_in_pieces(toy, capsys):
    toy.main(["--tune", "--out", "out", "--methods", "salun"])
    toy.main(["--tune", "--out", "out"])
    chosen = json.loads(Path("out/constants.json").read_text())
    gaps = {tuple(t["words"]): t["gap"] for t in chosen["trials"] if t["method"] == "salun"}
    assert len(gaps) == 3
    assert gaps[tuple(chosen["cnn"]["random"]["salun"])] == min(gaps.values())
    records = {p.name: p.stat().st_mtime_ns for p in Path("out/stages").iterdir()}
    toy.main(["--tune", "--out", "out"])
    assert records == {p.name: p.stat().st_mtime_ns for p in Path("out/stages").iterdir()}  # nothing ran twice

    toy.main(["--out", "out", "--constants", "out/constants.json", "--n_seeds", "1"])
    once = Path("out/comparison.md").read_text()
    assert "±" not in once
    toy.main(["--out", "out", "--constants", "out/constants.json"])
    table = Path("out/comparison.md").read_text().splitlines()
    titles = [line.split(" | ")[2] for line in table[2:]]
    assert titles == ["original", "retrained", "retrained again (floor)", "SalUn", "SFR-on"]
    cells = dict(zip((t.strip() for t in table[0].split("|")), (c.strip() for c in table[3].split("|"))))
    assert cells["avg. gap"] == "0.00 ± 0.00" and cells["ΔUA"] == "0.0 ± 0.0"  # retrained against itself
    floor = dict(zip((t.strip() for t in table[0].split("|")), (c.strip() for c in table[4].split("|"))))
    assert "±" in floor["avg. gap"] and floor["seconds"] != "–"
    forgotten = [
        json.loads(Path(f"out/runs/cnn_random_s{s}_salun/logs/forget_indices.json").read_text()) for s in (0, 1)
    ]
    assert len(forgotten[0]) == 135 and set(forgotten[0]) != set(forgotten[1])


def test_trials_never_see_the_test_set(toy, monkeypatch):
    toy.main(["--tune", "--out", "out", "--methods", "salun"])
    for record in Path("out/stages").glob("evaluate_*"):
        assert "--on val" in json.loads(record.read_text())["command"]


def test_the_floor_differs_from_the_retrained_in_nothing_but_initialisation_and_order(toy):
    pieces, case = toy.Pieces(Path("out")), toy.FINAL[0]
    one, other = pieces.retrained(case), pieces.floor(case)
    commands = [json.loads(Path(f"out/stages/{run.name}.json").read_text())["command"].split() for run in (one, other)]
    sets = ["--set", "seeds.init=1000", "--set", "seeds.order=1000"]
    assert [w for w in commands[1] if w not in commands[0]] == [*sets, str(other)]
    assert commands[0][-1] == str(one)


def test_a_method_that_was_not_tuned_is_one_line(toy):
    Path("none.json").write_text("{}")
    with pytest.raises(InputError, match="constants: nothing for cnn, random, salun; --tune chooses"):
        toy.main(["--out", "out", "--constants", "none.json", "--n_seeds", "1"])


def test_the_rule_takes_the_smallest_gap_and_the_first_of_equals(script):
    trial = lambda words, gap: {"model": "cnn", "scenario": "class", "method": "ga", "words": words, "gap": gap}
    assert script.choose([trial(["a"], 2.0), trial(["b"], 1.0), trial(["c"], 1.0)]) == {"cnn": {"class": {"ga": ["b"]}}}


def test_the_committed_constants_follow_from_the_committed_trials(script):
    committed = json.loads(script.CONSTANTS.read_text())
    trials = committed.pop("trials")
    assert committed == script.choose(trials)
    for model, scenarios in (("cnn", ("random", "class")), ("resnet18", ("random",))):
        for scenario in scenarios:
            assert set(committed[model][scenario]) == set(script.METHODS[model])
    for t in trials:
        same = [o for o in trials if all(o[k] == t[k] for k in ("model", "scenario", "method"))]
        assert len(same) == 9


def test_every_method_has_a_mode_a_title_and_the_same_number_of_trials(script):
    assert {len(t) for t in script.TRIALS.values()} == {6}
    for model, methods in script.METHODS.items():
        assert {len(script.MORE[method][model]) for method in methods} == {3}
    assert script.TRIALS.keys() == script.MORE.keys() == script.TITLES.keys() - {"pretrain", "retrain", "floor"}
    assert {script.MODE.get(m, m) for m in script.TRIALS} <= set(MODES)
