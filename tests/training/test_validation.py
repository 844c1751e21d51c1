"""Accuracy on the images set aside, each epoch: where it is said, and that the run is the same as without it."""

import cases
import pytest
import torch

import train
from runners import base, snapshots

SHORT = ["--mode", "pretrain", "--config", "digits_classifier.yml", "--arch", "resnet20s", "--epochs", "3"]
SHORT += ["--batch_size", "512", "--set", "training.log_freq=2", "--set", "training.curves=false"]  # 3 steps an epoch


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three epochs of three steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("validated"))
        return train.main([*SHORT, "--save_dir", "out"]).resolve()


def test_each_epoch_has_its_line_and_its_record(run):
    found = {s["step"]: s["val_accuracy"] for s in cases.stats(run) if "val_accuracy" in s}
    assert list(found) == [3, 6, 9]
    assert [sorted(s) for s in cases.stats(run)] == [
        ["loss", "lr", "step"],
        ["step", "val_accuracy"],
        ["loss", "lr", "step"],
        ["loss", "lr", "step", "val_accuracy"],
        ["loss", "lr", "step"],
        ["loss", "lr", "step", "val_accuracy"],
    ]
    said = (run / "logs" / "stdout.txt").read_text().splitlines()
    shown = [line for line in said if line.startswith("validation accuracy")]
    assert shown == [f"validation accuracy {a:.2%} after step {s}" for s, a in found.items()]
    assert cases.load_meta(run)["val_accuracy"] == found[9]
    assert sum(" left" in line for line in said) >= 4


def test_it_changes_no_draw_no_statistic_and_no_cost(run, monkeypatch):
    """A model with BatchNorm ends with the same bits, whether looked at or not."""
    looked = []
    monkeypatch.setattr(snapshots, "val_accuracy", lambda run, done: looked.append(done) or 0.0)
    blind = train.main([*SHORT, "--save_dir", "blind"])
    assert looked == [3, 6, 9, 9] and cases.same(cases.weights(run), cases.weights(blind))
    losses = lambda r: [(s["step"], s["loss"]) for s in cases.stats(r) if "loss" in s]
    assert losses(run) == losses(blind)
    costs = [cases.load_meta(r)["cost"] for r in (run, blind)]
    assert costs[0]["forward"] == costs[1]["forward"] == 9 * 512


def test_an_epoch_and_a_snapshot_that_end_together_look_once(monkeypatch):
    looks, score = [], base.Runner.__init__

    def watched(self, *args, **kwargs):
        score(self, *args, **kwargs)
        validate = self.validate
        self.validate = lambda model: looks.append(torch.is_inference_mode_enabled()) or validate(model)

    monkeypatch.setattr(base.Runner, "__init__", watched)
    train.main([*SHORT, "--set", "training.snapshot_freq=6", "--save_dir", "out"])
    assert len(looks) == 3


def test_no_images_set_aside_no_line():
    run = train.main([*SHORT, "--epochs", "1", "--set", "data.val_fraction=0", "--save_dir", "out"])
    assert all("val_accuracy" not in s for s in cases.stats(run))
    assert "validation" not in (run / "logs" / "stdout.txt").read_text()
