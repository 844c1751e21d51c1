"""Data sets by name: sizes and values that can be derived, and every error in one line."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import Mock
from urllib.error import URLError

import numpy as np
import pytest
import torch
from toys import one_line

import datasets
from datasets import shapes
from datasets.facts import FACTS
from datasets.split import train_val_split
from functions.errors import InputError
from functions.locks import Busy, writing_file

# ---- digits, shapes


def test_digits_are_sklearns():
    from sklearn.datasets import load_digits

    train, test = datasets.load("digits"), datasets.load("digits", split="test", seed=5)
    assert (len(train), len(test), train.shape, train.n_classes) == (1500, 297, (1, 8, 8), 10)
    original = load_digits()
    counts = np.bincount(original.target)
    assert (torch.bincount(test.labels) - torch.tensor(counts * 297 / 1797)).abs().max() < 1  # stratified
    rounded = np.rint(original.images * 255 / 16).astype(np.uint8)
    wanted = sorted((int(c), x.tobytes()) for x, c in zip(rounded, original.target))
    found = [(int(c), x.numpy().tobytes()) for s in (train, test) for x, c in zip(s.images, s.labels)]
    assert sorted(found) == wanted  # the two parts together are the 1,797 images
    assert train.images.max() == 255


def test_digits_split_is_fixed():
    labels = torch.from_numpy(datasets.digits._read()[:, 64]).long()
    assert train_val_split(labels, 297 / 1797, seed=0)[1][:6].tolist() == [8, 30, 31, 38, 42, 50]  # never to change


def test_image_size_resizes():
    small, large = datasets.load("digits", split="test"), datasets.load("digits", split="test", image_size=16)
    assert large.shape == (1, 16, 16)
    assert (large.images.float().mean((1, 2, 3)) - small.images.float().mean((1, 2, 3))).abs().max() < 2


def test_shapes_by_index_alone():
    test = datasets.load("shapes", split="test", image_size=16)
    assert (len(test), test.shape) == (1000, (3, 16, 16)) and len(test.classes) == 10
    assert test.labels.tolist() == [i % 10 for i in range(1000)]
    assert torch.equal(test.images[537], torch.from_numpy(shapes.render(0, "test", 537, 16)))
    others = [shapes.render(1, "test", 537, 16), shapes.render(0, "train", 537, 16), shapes.render(0, "test", 547, 16)]
    assert all((shapes.render(0, "test", 537, 16) != o).any() for o in others)


def test_shapes_draw_the_class_of_the_index(monkeypatch):
    corners = []
    monkeypatch.setattr(shapes, "_coverage", lambda points, size: corners.append(len(points)) or np.zeros((size, size)))
    for i in range(10, 20):
        shapes.render(0, "train", i, 8)
    assert corners == [48, 96, 48, 96, 3, 4, 4, 12, 10, 7]  # circle ring semicircle crescent triangle ... arrow


def test_shapes_have_their_areas():
    # In a unit circle: disc pi; ring pi (1 - 0.55^2); half disc pi / 2; triangle 3 sqrt(3) / 4; square 2
    areas = {"circle": np.pi, "ring": 2.1912, "semicircle": 1.5708, "triangle": 1.2990, "square": 2.0}
    for name, area in areas.items():
        coverage = shapes._coverage(0.5 + 0.4 * shapes.OUTLINES[name], 64)
        assert coverage.mean() == pytest.approx(0.16 * area, rel=0.02), name
    assert max(np.linalg.norm(o, axis=1).max() for o in shapes.OUTLINES.values()) <= 1 + 1e-9


def test_upright_shapes_are_the_same_ones_near_the_middle():
    turned, upright = (datasets.load(name, split="test") for name in ("shapes", "shapes_upright"))
    assert upright.classes == turned.classes and torch.equal(upright.labels, turned.labels)
    assert not torch.equal(upright.images, turned.images) and upright.name == "shapes_upright"
    bars = shapes.OUTLINES["bar"] @ shapes._rotation(2 * np.pi * 0.75)
    assert np.abs(bars[:, 0]).max() < 0.3 < 0.9 < np.abs(bars[:, 1]).max()  # the long side stands
    arrow = shapes.OUTLINES["arrow"] @ shapes._rotation(2 * np.pi * 0.75)
    assert arrow[0] == pytest.approx([0, -1])  # its point is at the top: y runs down
    # none reaches the border: the background varies by less than 0.22 there, a shape differs by 0.35 or more
    x = upright.images.int()
    border = torch.cat([x[:, :, 0], x[:, :, -1], x[..., 0], x[..., -1]], dim=2)
    assert (border.amax(2) - border.amin(2)).max() < 0.25 * 255


def test_moments_are_those_of_the_train_part():
    for name in ("digits", "shapes", "shapes_upright"):
        x = datasets.load(name).images.double().div(255)  # (N, C, H, W)
        for found, wanted in zip((x.mean((0, 2, 3)), x.std((0, 2, 3), correction=0)), datasets.MOMENTS[name]):
            assert found.tolist() == pytest.approx(wanted, abs=6e-5), name
    for name, moments in datasets.MOMENTS.items():
        channels = FACTS[name][0] if name in FACTS else 3
        assert name in datasets.DATASETS and [len(m) for m in moments] == [channels] * 2


# ---- torchvision's


def test_torchvision_layouts(monkeypatch):
    import torchvision.datasets as tv

    pixels = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)  # N, C, H, W
    cifar = SimpleNamespace(data=pixels.transpose(0, 2, 3, 1), targets=[1, 0], classes=["x", "y"])
    plain = SimpleNamespace(data=pixels, labels=np.array([1, 0], dtype=np.uint8), classes=["x", "y"])
    for name, raw in {"CIFAR10": cifar, "CIFAR100": cifar, "SVHN": plain, "STL10": plain}.items():
        source = Mock(return_value=raw, split_list={"test": ["url", "archive", "md5"]})
        monkeypatch.setattr(tv, name, source)
        images = datasets.load(name.lower(), path="here", split="test")
        part = {"train": False} if name.startswith("CIFAR") else {"split": "test"}
        source.assert_called_once_with("here", **part, download=False)
        assert torch.equal(images.images, torch.from_numpy(pixels)) and images.labels.tolist() == [1, 0]
        assert images.classes == (tuple("0123456789") if name == "SVHN" else ("x", "y"))
        assert (images.name, images.split, images.labels.dtype) == (name.lower(), "test", torch.int64)


def test_one_process_downloads_and_the_others_wait(monkeypatch):
    import torchvision.datasets as tv

    def source(path, train, download):
        if not download:
            raise RuntimeError("not found or corrupted")
        with pytest.raises(Busy), writing_file("here/archive"):
            pass
        pixels = np.zeros((2, 4, 5, 3), np.uint8)
        return SimpleNamespace(data=pixels, targets=[1, 0], classes=["x", "y"])

    source.filename, source.url = "archive", "url"
    monkeypatch.setattr(tv, "CIFAR10", source)
    assert len(datasets.load("cifar10", path="here", split="test")) == 2


@pytest.mark.parametrize(
    "name, archive",
    [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("cifar100", "cifar-100-python.tar.gz"),
        ("svhn", "train_32x32.mat"),
        ("stl10", "stl10_binary.tar.gz"),
    ],
)
@pytest.mark.parametrize("failure", [URLError("no network"), RuntimeError("File not found or corrupted.")])
def test_offline_says_what_to_put_where(monkeypatch, tmp_path, name, archive, failure):
    import torchvision.datasets as tv

    def fail(self):
        raise failure

    monkeypatch.setattr(getattr(tv, name.upper()), "download", fail)
    with pytest.raises(InputError) as error:
        datasets.load(name, path=str(tmp_path))
    message = one_line(error)
    assert all(part in message for part in (name, archive, str(tmp_path), "data.path", "http", str(failure)))
    assert message.endswith(f"put {archive} there")


def test_unknown_names():
    with pytest.raises(InputError, match=r"data\.dataset: 'digit' is not one of digits, shapes"):
        datasets.load("digit")
    with pytest.raises(InputError, match="split: 'val' is not one of train, test"):
        datasets.load("digits", split="val")
