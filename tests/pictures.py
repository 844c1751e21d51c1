"""Folders of small images, and a tiny classifier that judges them: what the tests of the evaluation scripts share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

import datasets
import train_classifier


def make_judge(folder: Path) -> Path:
    """A tiny digits classifier, made by the script; the path of its .pth."""
    train_classifier.main(
        ["--dataset", "digits", "--width", "4", "--epochs", "4", "--lr", "1e-2", "--out", str(folder)]
    )
    return folder / "digits_cnn.pth"


def save_images(folder: Path, images) -> Path:
    """uint8 (N,H,W) or (N,H,W,3) as 0.png, 1.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(np.asarray(images)):
        Image.fromarray(image).save(folder / f"{k}.png")
    return folder


def noise(n: int, size: int = 8, colour: bool = False, seed: int = 0):
    return np.random.default_rng(seed).integers(
        0, 256, (n, size, size, 3) if colour else (n, size, size), dtype=np.uint8
    )


def digits(label: int, n: int):
    train = datasets.load("digits")
    return train.images[train.labels == label][:n, 0].numpy()


def photos(name: str, n: int, side: int = 96) -> np.ndarray:
    """uint8 (n,side,side,3): the largest squares in one of scikit-learn's two photographs, from the middle outwards."""
    photo = Image.fromarray(load_sample_image(name))  # 640 x 427
    offsets = [106 + (k + 1) // 2 * (-1) ** k * 8 for k in range(n)]
    squares = [photo.crop((x, 0, x + 427, 427)) for x in offsets]
    return np.stack([np.asarray(s.resize((side, side), Image.Resampling.BICUBIC)) for s in squares])
