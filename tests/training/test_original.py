"""The original is found and read once: what its run saves meanwhile does not reach the run that starts from it."""

import shutil
from pathlib import Path

import cases
import pytest
import torch

import train
from functions.errors import InputError
from functions.files import read_json, write_json
from functions.storage import checkpoint
from runners.original import Original


@pytest.fixture
def run():
    return cases.pretrain("classifier")


def test_unlearning_looks_for_the_newest_snapshot_once(run, monkeypatch):
    opened, resolve = [], checkpoint.resolve
    monkeypatch.setattr(checkpoint, "resolve", lambda folder: opened.append(str(folder)) or resolve(folder))
    cases.unlearn("classifier", "finetune", run)
    assert opened.count(str(run)) == 1


def test_what_is_saved_after_the_opening_is_not_read(run):
    """Weights of one snapshot with the hash of another would be the end of provenance."""
    cfg = train.config.load_config(
        "digits_classifier.yml", "finetune", flags={"ckpt_folder": str(run), "label_to_forget": 0}
    )
    original = Original.open(cfg)
    first = {n: t.clone() for n, t in original.weights.items()}
    older = Path(run) / "ckpts" / "step_0000004"
    newer = shutil.copytree(older, older.with_name("step_0000009"))
    (newer.parent / "latest").write_text("step_0000009\n")
    write_json(newer / "meta.json", {**read_json(newer / "meta.json"), "step": 9})
    again = Original.open(cfg)
    assert (original.meta["step"], again.meta["step"]) == (4, 9)
    model = original.model(dropout=True)
    assert all(torch.equal(t, first[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize(
    "setting, message",
    [
        ("model={name: cnn, width: 8}", "tensors do not fit the model"),
        ("data.image_size=16", "data.shape: the checkpoint has"),
    ],
)
def test_what_the_config_asks_for_and_the_original_is_not(run, setting, message):
    with pytest.raises(InputError, match=message):
        cases.unlearn("classifier", "finetune", run, "--set", setting)


def test_the_encoder_is_the_originals(run):
    diffusion = cases.pretrain("ddpm", "--set", "training.preview=off")
    assert cases.load_meta(diffusion)["encoder"] == {"name": "pixels", "kwargs": {}}
    out = cases.unlearn("ddpm", "ga", diffusion, "--set", "encoder={name: pixels}", "--set", "training.preview=off")
    assert cases.load_meta(out)["encoder"] == {"name": "pixels", "kwargs": {}}
    path = diffusion / "ckpts" / "step_0000004" / "meta.json"
    write_json(path, {**read_json(path), "encoder": {"name": "other", "kwargs": {}}})
    with pytest.raises(InputError, match="encoder: 'other' is none that this version knows: pixels"):
        cases.unlearn("ddpm", "ga", diffusion)
