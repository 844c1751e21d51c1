"""scripts/dit_shapes.py at toy size: every stage for real, the table, the picture, and what a second call skips."""

import json
import runpy
from pathlib import Path

import pytest
import yaml

import datasets
import train_classifier
import train_vae
from functions.config import layers
from functions.config.load import load_config

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("pretrain", "retrain", "finetune", "sa", "salun", "sfron")  # in the order of the table
CONFIG = "configs/dit/shapes_dit_s.yml"


@pytest.fixture
def script(small_configs, monkeypatch):
    """The names of the script, where models are tiny, two steps are taken and shapes has 40 images."""
    cfg = yaml.safe_load(Path(CONFIG).read_text())
    cfg["diffusion"]["timesteps"] = 25
    tiny = {"n_iters": 2, "batch_size": 8, "snapshot_freq": 2}
    cfg["training"] |= tiny | {"curves": False}
    for block in cfg["modes"].values():
        if "training" in block:
            block["training"] |= tiny
    cfg["modes"]["pretrain"]["model"] |= {"hidden_size": 8, "depth": 1, "num_heads": 2}
    cfg["modes"]["generate_mask"]["saliency"]["draws"] = 1
    cfg["modes"]["fim"] = {"fim": {"n_chunks": 2, "per_class": 2}}
    cfg["modes"]["sample"]["sampling"]["timesteps"] = 4
    Path(CONFIG).write_text(yaml.safe_dump(cfg))
    monkeypatch.setattr(datasets.shapes, "N", {"train": 40, "test": 20})
    small = {train_vae: ["--steps", "2", "--width", "4"], train_classifier: ["--width", "4"]}
    for module, more in small.items():
        monkeypatch.setattr(module, "main", lambda argv, main=module.main, more=more: main([*argv, *more]))
    return runpy.run_path(str(ROOT / "scripts" / "dit_shapes.py"))


def test_from_nothing_to_the_table_and_the_picture(script, capsys):
    argv = ["--out", "out", "--per_class", "2"]
    script["main"]([*argv, "--prepare"])
    prepared = capsys.readouterr().out
    assert [line.split()[2] for line in prepared.splitlines() if line.startswith("$ ")] == [
        *("train_vae.py", "encode_dataset.py", "train_classifier.py", "train.py", "train.py")
    ]
    argv += ["--methods", *METHODS[1:]]
    script["main"](argv)
    rows = {r["labels"][0]: r["values"] for r in json.loads(Path("out/comparison.json").read_text())}
    assert list(rows) == [script["TITLES"][m] for m in METHODS]
    assert all(0 <= v["ua"][0] <= 100 and v["fid"][0] >= 0 for v in rows.values())
    assert rows["original"]["steps"] == []
    assert rows["SFR-on"]["steps"] == [2] and rows["SFR-on"]["seconds"][0] > 0
    # two steps of 8 images, forward and backward
    assert rows["fine-tuning"]["passes"] == [2 * 16 / 1000]
    assert Path("out/before_after.png").is_file()
    capsys.readouterr()
    script["main"](argv)
    assert "$ python" not in capsys.readouterr().out


def test_the_share_is_of_the_originals_kept_accuracy(script):
    found = script["row"](("a",), {"kept": 45.0, "ua": 1.0}, {"kept": 90.0})
    assert found.values["share"] == [50] and found.values["ua"] == [1.0] and found.values["steps"] == []


def test_trials_are_judged_with_a_seed_of_their_own(script, monkeypatch):
    monkeypatch.setitem(script["TRIALS"], "ga", [{"optim.lr": "1e-4", "training.n_iters": 1}])
    script["main"](["--tune", "--methods", "ga", "--out", "out", "--per_class", "2"])
    rows = json.loads(Path("out/tuning.json").read_text())
    assert [r["labels"] for r in rows] == [["original", ""], ["gradient ascent", "lr 1e-4, n_iters 1"]]
    assert rows[1]["values"]["steps"] == [1]
    assert script["VALIDATION"] != script["SEED"]


def test_no_method_has_more_steps_than_another_or_rates_that_were_not_tried(script, monkeypatch):
    monkeypatch.setattr(layers, "CONFIG_FOLDER", ROOT / "configs")
    flags = {"ckpt_folder": "RUN", "label_to_forget": script["LABEL"]}
    steps = {}
    for method, trials in script["TRIALS"].items():
        cfg = load_config(script["CONFIG"], method, flags=flags)
        steps[method] = cfg.training.n_iters
        tried = [(float(t["optim.lr"]), t["training.n_iters"]) for t in trials]
        assert (cfg.optim.lr, cfg.training.n_iters) in tried, method
    assert max(steps.values()) == steps["sfron"] == steps["salun"] == steps["finetune"]


def test_the_config_has_the_trials_that_the_rule_chose(script, monkeypatch):
    """Lowest FID among UA >= 95 and share >= 90, else the largest min(UA, share); from the page's table of trials."""
    monkeypatch.setattr(layers, "CONFIG_FOLDER", ROOT / "configs")
    page = (ROOT / "docs" / "comparison_dit_shapes.md").read_text().split("## How")[1]
    found = [line.strip("| ").split(" | ") for line in page.splitlines() if "n_iters" in line]
    flags = {"ckpt_folder": "RUN", "label_to_forget": script["LABEL"]}
    for method, trials in script["TRIALS"].items():
        rows = [[float(x) for x in row[2:6]] for row in found if row[0] == script["TITLES"][method]]
        assert len(rows) == len(trials) >= 2
        good = [r for r in rows if r[0] >= 95 and r[2] >= 90]
        best = min(good, key=lambda r: r[3]) if good else max(rows, key=lambda r: min(r[0], r[2]))
        settings = [f"{key}={value}" for key, value in trials[rows.index(best)].items()]
        plain = load_config(script["CONFIG"], method, flags=flags)
        assert load_config(script["CONFIG"], method, settings=settings, flags=flags) == plain, method
