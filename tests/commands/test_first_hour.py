"""A new user's first hour: one's own folder of pictures, classes by name, no config file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from cases import stats
from PIL import Image

import evaluate
import train
from functions.files import read_json
from functions.storage.checkpoint import Snapshot

SMALL = ("--epochs", "2", "--batch_size", "8")


def own_pictures(folder: Path) -> None:
    """Three classes of ten pictures, PNG beside JPEG, of unequal sizes, in colour."""
    rng = np.random.default_rng(0)
    for c, name in enumerate(("cat", "dog", "emu")):
        (folder / name).mkdir(parents=True)
        for k in range(10):
            pixels = rng.integers(0, 60, (20 + k, 24, 3), dtype=np.uint8)
            pixels[..., c] += 150
            Image.fromarray(pixels).save(folder / name / (f"{k}.JPG" if k % 2 else f"{k}.png"))


def test_ones_own_pictures_are_learned_and_a_class_forgotten_by_name(capsys):
    own_pictures(Path("pets"))
    model = ("--set", "model={name: cnn, width: 4}")
    train.main(["--mode", "pretrain", "--dataset", "folder", "--data_path", "pets", "--save_dir", "A", *SMALL, *model])
    said = capsys.readouterr().err
    assert "of each the middle square, at 16 pixels" in said and "6 of 30 images are set aside" in said
    # the data set and its place are the model's
    train.main(["--unlearn", "GA", "--model_path", "A", "--label_to_forget", "dog", "--save_dir", "B", *SMALL])
    meta = Snapshot.open("B").meta
    assert (meta["data"]["classes"], meta["data"]["shape"]) == (["cat", "dog", "emu"], [3, 16, 16])
    assert meta["selection"]["label"] == 1 and stats(Path("B"))
    train.main(["--resume", "B"])
    evaluate.main(["B", "--original", "A", "--retrain", str(retrained())])
    found = read_json("B/metrics.json")["classification"]
    assert found["n"]["test"] == 4 and found["TA_forgotten"] is not None  # two of each kept class
    assert "| ga | B |" in capsys.readouterr().out


def retrained() -> Path:
    return train.main(["--mode", "retrain", "--model_path", "A", "--label_to_forget", "dog", "--save_dir", "C", *SMALL])
