"""The toy original of the tests of single steps, made once."""

import json

import pytest
from steps import start

import train


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A toy original on a hundred digits, all of them for training, in origin/; SalUn's mask in mask/."""
    folder = tmp_path_factory.mktemp("steps")
    (folder / "hundred.json").write_text(json.dumps(list(range(0, 1500, 15))))
    train.main(
        [
            "--mode",
            "pretrain",
            "--dataset",
            "digits",
            "--set",
            "model={name: cnn, width: 4}",
            "--epochs",
            "4",
            "--batch_size",
            "16",
            "--set",
            f"data.indices={folder / 'hundred.json'}",
            "--lr",
            "0.01",
            "--set",
            "data.val_fraction=0",
            "--save_dir",
            str(folder / "origin"),
        ]
    )
    train.main(["--mode", "generate_mask", *start(folder), "--save_dir", str(folder / "mask")])
    return folder
