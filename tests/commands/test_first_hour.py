"""A new user's first hour: one's own folder of pictures, classes by name, no config file."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from cases import TOY
from PIL import Image

import evaluate
import sample
import train
from functions.config.cli import run_main
from functions.config.load import load_config
from functions.config.methods import METHODS, MODES
from functions.errors import InputError
from functions.files import read_json
from functions.storage.checkpoint import Snapshot
from functions.storage.meta import levels, model_meta
from runners.base import Runner

SMALL = ["--epochs", "2", "--batch_size", "8"]


@pytest.fixture(autouse=True)
def pets(own_folder):
    """Three classes of ten pictures, PNG beside JPEG, of unequal sizes, in colour."""
    rng = np.random.default_rng(0)
    for c, name in enumerate(("cat", "dog", "emu")):
        Path("pets", name).mkdir(parents=True)
        for k in range(10):
            pixels = rng.integers(0, 60, (20 + k, 24, 3), dtype=np.uint8)
            pixels[..., c] += 150
            Image.fromarray(pixels).save(Path("pets", name, f"{k}.JPG" if k % 2 else f"{k}.png"))


def at_each_step(patch: pytest.MonkeyPatch, act) -> None:
    one_step = Runner._one_step
    patch.setattr(Runner, "_one_step", lambda self, k: act() or one_step(self, k))


def test_five_commands(monkeypatch, capsys):
    model = ["--set", "model={name: cnn, width: 4}"]
    train.main(["--mode", "pretrain", "--dataset", "folder", "--data_path", "pets", "--save_dir", "A", *SMALL, *model])
    said = capsys.readouterr().err
    assert "of each the middle square, at 16 pixels" in said and "6 of 30 images are set aside" in said

    # the data set and its place are the model's; Ctrl-C in the first of its steps
    forget = ["--unlearn", "GA", "--model_path", "A", "--label_to_forget", "dog", "--save_dir", "B", *SMALL]
    with monkeypatch.context() as patch:
        at_each_step(patch, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert run_main(lambda _: train.main(forget)) == 130
    assert "stopped by SIGINT after step 1 of 2; train.py --resume B goes on there" in capsys.readouterr().err
    meta = Snapshot.open("B").meta
    assert (meta["data"]["classes"], meta["data"]["shape"]) == (["cat", "dog", "emu"], [3, 16, 16])
    assert (meta["step"], meta["selection"]["label"]) == (1, 1)

    train.main(["--resume", "B"])
    assert Snapshot.open("B").meta["step"] == 2

    words = ["--mode", "retrain", "--model_path", "A", "--label_to_forget", "dog", "--save_dir", "C", *SMALL]
    train.main(words)
    evaluate.main(["B", "--original", "A", "--retrain", "C"])
    found = read_json("B/metrics.json")["classification"]
    assert found["n"]["test"] == 4 and found["TA_forgotten"] is not None  # two of each kept class
    table = capsys.readouterr().out
    assert all(mode in table for mode in ("pretrain", "retrain", "ga")) and "UA %" in table
    with Image.open("B/curves.png") as picture:
        assert min(picture.size) > 100


def test_a_ddpm_of_ones_own_pictures():
    small = ["--set", "model.ch=8", "--set", "model.num_res_blocks=1", "--set", "diffusion.timesteps=25", *TOY]
    own = ["--config", "folder_ddpm.yml", "--data_path", "pets"]
    train.main(["--mode", "pretrain", *own, *small, "--save_dir", "A"])
    model = Snapshot.open("A").meta["model"]["kwargs"]
    assert (model["image_size"], model["ch_mult"], model["attn_resolutions"]) == (16, [1, 2, 2], [8])
    small = ["--set", "diffusion.timesteps=25"]
    train.main(
        ["--mode", "ga", *own, *small, *TOY, "--ckpt_folder", "A", "--label_to_forget", "emu", "--save_dir", "B"]
    )
    words = ["--config", "folder_ddpm.yml", *small, "--ckpt_folder", "B", "--timesteps", "2"]
    picture = sample.main([*words, "--mode", "visualization", "--n_samples_per_class", "2"])
    with Image.open(picture) as image:
        assert min(image.size) > 16
    folder = sample.main(
        [*words, "--mode", "sample_classes", "--classes_to_generate", "emu", "--n_samples_per_class", "2"]
    )
    assert sorted(p.name for p in (folder / "2").iterdir()) == ["0.png", "1.png"]


@pytest.mark.parametrize(
    "size, wanted",
    [
        ((32, 32), ([1, 2, 2, 2], [16])),  # as the published DDPM of CIFAR-10
        ((8, 8), ([1, 2], [4])),  # as the digits'
        ((64, 64), ([1, 2, 2, 2, 2], [16])),
        ((28, 28), ([1, 2, 2], [14])),
        ((48, 64), ([1, 2, 2, 2], [12])),
        ((6, 6), ([1], [6])),
    ],
)
def test_levels_follow_the_size(size, wanted):
    section = load_config("folder_ddpm.yml", "pretrain").model
    kwargs = model_meta(section, {"shape": [3, *size], "n_classes": 3})["kwargs"]
    assert (kwargs["ch_mult"], kwargs["attn_resolutions"]) == wanted


def test_a_size_that_cannot_be_halved_is_one_line():
    with pytest.raises(InputError, match="images of 97x33 pixels cannot be halved: --image_size 32 can"):
        levels(33, 97)


@pytest.mark.parametrize("dataset", ["folder", "stl10"])
def test_every_mode_has_its_settings(dataset):
    flags = lambda mode: {} if mode == "pretrain" else {"label_to_forget": "cat", "ckpt_folder": "x"}
    for mode in MODES:
        assert load_config(f"{dataset}_classifier.yml", mode, flags=flags(mode)).data.dataset == dataset
    own = ("pretrain", "retrain", "generate_fisher", "sfron", "generate_mask", "salun", "finetune", "ga", "sa", "esd")
    for mode in own:
        assert load_config(f"{dataset}_ddpm.yml", mode, flags=flags(mode)).world == "ddpm"
    for mode in ("fim", "sample"):
        assert mode in METHODS and load_config(f"{dataset}_ddpm.yml", mode, flags={"ckpt_folder": "x"})
