"""The README's first command: the quickstart's Python at toy size."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

from functions.files import read_json
from functions.sampling.sheet import TILE

ROOT = Path(__file__).resolve().parents[2]


def quickstart():
    spec = importlib.util.spec_from_file_location("quickstart", ROOT / "scripts" / "quickstart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_quickstart_from_nothing_to_table_and_picture(small_configs, capsys):
    toy = ["--pretrain_steps", "3", "--unlearn_steps", "2", "--per_class", "8", "--judge_epochs", "1"]
    quickstart().main([*toy, "--label_to_forget", "3"])
    out = capsys.readouterr().out
    metrics = read_json("results/quickstart/metrics.json")
    for when in ("before", "after"):
        forgotten, kept = metrics["forgotten"][when], metrics["kept"][when]
        assert (forgotten["class"], forgotten["n"]) == (3, 8)
        assert forgotten["ua"] == pytest.approx(1 - forgotten["accuracy"])
        assert {"prob", "entropy"} <= set(forgotten)
        assert {"accuracy", "fid", "precision", "recall", "fid_unguided"} <= set(kept)
        assert sorted(kept["classes"], key=int) == [str(c) for c in range(10) if c != 3]
        assert set(metrics["contract"][when]) == {"classes", "guided", "unguided"}
    hashes = [{part: c["hash"] for part, c in metrics["contract"][when].items()} for when in ("before", "after")]
    assert hashes[0] == hashes[1] and len(set(hashes[0].values())) == 3  # the same protocol on both sides
    stages = ("import", "pretrain", "fisher", "mask", "sfron", "classifier", "sample before", "judge after", "total")
    assert all(metrics["seconds"][stage] >= 0 for stage in stages)
    assert "class 3 (forgotten): UA" in out and "kept classes, w = 0.0: FID[classifier]" in out
    with Image.open("results/quickstart/before_after.png") as page:
        assert page.width > 16 * TILE
