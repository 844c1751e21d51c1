"""The one walk over folders of pictures, by samples and by data sets alike."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys import one_line, write

import datasets
import save_base_dataset
from functions import pictures
from functions.errors import InputError
from functions.judging.logits import fingerprint
from functions.sampling.folders import find_samples
from functions.storage.meta import content


def both(root: str = "F") -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """(class, name) of each picture, as samples and as a data set see them; folders are called 0, 1, ..."""
    samples, data = find_samples(root), datasets.load("folder", path=root)
    as_samples = [(int(c), p.name) for c, p in zip(samples.labels, samples.paths)]
    as_data = [(int(data.classes[c]), Path(f).name) for c, f in zip(data.labels, data.decoder.files)]
    assert len(as_samples) == len(as_data)
    return sorted(as_samples), sorted(as_data)


@pytest.fixture
def plain():
    """F/0 and F/1 with two pictures each."""
    for c in range(2):
        for k in range(2):
            write(Path(f"F/{c}/{k}.png"), np.full((4, 4), 10 * c + k))
    return [(0, "0.png"), (0, "1.png"), (1, "0.png"), (1, "1.png")]


def test_nothing_is_said_where_nothing_is_left_out(plain, capsys):
    Path("F/samples.json").write_text("{}")
    Path("F/.DS_Store").write_text("")
    assert both() == (plain, plain)
    assert "left out" not in capsys.readouterr().err


def test_a_linked_picture_belongs_to_the_folder_in_which_it_stands(plain):
    write(Path("pool/7/a.png"), np.zeros((4, 4)))
    os.symlink(Path("pool/7/a.png").resolve(), "F/1/a.png")
    assert both() == (sorted([*plain, (1, "a.png")]),) * 2


def test_a_linked_class_folder_is_a_class(plain):
    write(Path("pool/x/a.png"), np.zeros((4, 4)))
    os.symlink("../pool/x", "F/2")
    assert both() == ([*plain, (2, "a.png")],) * 2


@pytest.mark.parametrize("target", [".", "..", "../..", "../0"])
def test_a_loop_of_links_is_left_out_and_said(plain, target, capsys):
    os.symlink(target, "F/1/again")
    assert both() == (plain, plain)
    assert "F: left out 1 links to a folder that is counted already (1/again)" in capsys.readouterr().err


def test_a_link_back_up_is_no_class(plain):
    os.symlink(".", "F/loop")
    assert both() == (plain, plain)


def test_hidden_names_are_left_out_and_said(plain, capsys):
    write(Path("F/0/.ipynb_checkpoints/0-checkpoint.png"), np.zeros((4, 4)))
    write(Path("F/.Trash/0.png"), np.zeros((4, 4)))
    Path("F/1/._0.png").write_text("a resource fork")
    Path("F/1/.0.png.partial").write_text("being written")
    assert both() == (plain, plain)
    assert "F: left out 3 hidden (" in capsys.readouterr().err


def test_every_type_counts_in_any_case(plain, capsys):
    grey = Image.fromarray(np.zeros((4, 4), np.uint8))
    for name in ("a.JPG", "b.jpeg", "c.Png", "d.webp", "e.tif", "f.bmp"):
        grey.save(f"F/0/{name}")
    Path("F/1/photo.heic").write_text("")
    new = [(0, n) for n in ("a.JPG", "b.jpeg", "c.Png", "d.webp", "e.tif", "f.bmp")]
    assert both() == (sorted([*plain, *new]),) * 2
    assert "F: left out 1 of another type (1/photo.heic)" in capsys.readouterr().err


def test_what_is_no_regular_file_is_left_out_and_nothing_waits_for_it(plain, capsys):
    os.mkfifo("F/0/2.png")
    os.symlink("nowhere", "F/0/3.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("F/0/4.png")
        assert both() == (plain, plain)
    said = capsys.readouterr().err
    assert "left out 1 links that lead nowhere (0/3.png), 2 no regular files (0/2.png)" in said


def test_names_need_not_be_utf8(plain):
    os.rename("F/0/1.png", os.fsencode("F/0/") + b"\xff.png")
    odd = [(0, "0.png"), (0, "\udcff.png"), *plain[2:]]
    assert both() == (odd, odd)
    images = datasets.load("folder", path="F")
    assert find_samples("F").fingerprint() and fingerprint(images) and content(images)


def test_a_folder_that_cannot_be_read_is_one_line(plain, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "1":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for look in (find_samples, lambda root: datasets.load("folder", path=root)):
        with pytest.raises(PermissionError, match="F/1"):
            look("F")


def test_names_of_classes_that_are_no_labels(plain):
    write(Path("F/99999999999999999999/0.png"), np.zeros((4, 4)))
    write(Path("F/\u0663/0.png"), np.zeros((4, 4)))  # an Arabic three
    assert sorted(find_samples("F").labels.tolist()) == [-1, -1, 0, 0, 1, 1]


@pytest.mark.parametrize("mode", ["CMYK", "RGB", "P", "L", "1"])
def test_both_decode_alike(mode):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Path("F/0").mkdir(parents=True)
    name = "F/0/0.tif" if mode == "CMYK" else "F/0/0.png"
    Image.fromarray(pixels).convert(mode).save(name)
    data = datasets.load("folder", path="F")
    x, _ = data.gather(torch.tensor([0]))
    assert torch.equal((x * 255).round().byte(), find_samples("F").images(data.shape[0]))


@pytest.mark.parametrize("mode, why", [("RGBA", "has an alpha channel"), ("LA", "has an alpha"), ("I;16", "mode I;16")])
def test_both_refuse_alike(mode, why):
    Path("F/0").mkdir(parents=True)
    Image.new(mode, (4, 4)).save("F/0/0.png")
    for look in (lambda: datasets.load("folder", path="F"), lambda: find_samples("F").images(3)):
        with pytest.raises(InputError, match=rf"^F/0/0\.png: {why}") as error:
            look()
        one_line(error)


def test_pictures_of_every_type_keep_a_folder_from_being_written_to():
    Path("R/0").mkdir(parents=True)
    Image.new("L", (8, 8)).save("R/0/0.jpg")
    with pytest.raises(InputError, match=r"R: holds pictures but no reference\.json"):
        save_base_dataset.main(["--dataset", "digits", "--label_to_forget", "3", "--out", "R"])
    assert pictures.any_below("R") == Path("R/0/0.jpg") and pictures.any_below("R/..") is not None
