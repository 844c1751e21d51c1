"""Data sets on disk: folders, Tiny ImageNet and ImageNet, and what is wrong with them in one line."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from toys import grey_levels, one_line, take, write

import datasets
from datasets import ImageSet, Stream, ordered
from functions.errors import InputError

# ---- folders


def test_folder_order_labels_and_lazy_pixels(folder):
    (folder / "notes.txt").write_text("not an image")
    (folder / "2" / "._0.png").write_text("neither is this")
    (folder / ".cache").mkdir()
    images = datasets.load("folder", path=folder)
    assert (images.classes, images.shape) == (("2", "10"), (1, 4, 4)) and images.labels.tolist() == [0] * 6 + [1] * 6
    x, c = images.gather(torch.tensor([11, 0]))  # 11.png after 2.png ... 9.png
    assert x.shape == (2, 1, 4, 4) and grey_levels(x) == [220, 0] and c.tolist() == [1, 0]
    (x, c), *_ = ordered(images, torch.arange(12), 12, n_workers=1)
    assert grey_levels(x) == [20 * k for k in range(12)] and torch.equal(c, images.labels)


@pytest.mark.parametrize("n_workers", [0, 2])
def test_folder_streams_as_memory_does(folder, n_workers):
    images = datasets.load("folder", path=folder)
    pixels = (images.gather(torch.arange(12))[0] * 255).round().byte()
    memory = ImageSet(pixels, images.labels, images.classes, "memory", "train")
    options = {"batch_size": 5, "seed": 3, "purpose": "remain", "flip": True, "crop": 1}
    plain = Stream(memory, torch.arange(1, 12), **options)
    wanted = [next(plain) for _ in range(6)]
    stream = Stream(images, torch.arange(1, 12), n_workers=n_workers, **options)
    for k in (0, 1, 2, 4, 5, 1):
        if stream.position != k:
            stream.position = k
        x, c = next(stream)
        assert torch.equal(x, wanted[k][0]) and torch.equal(c, wanted[k][1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_outlive_a_signal_to_the_whole_group(folder, number):
    """The run that they work for finishes its step first."""
    batches = datasets.load("folder", path=folder).batches(list(torch.arange(12).split(1)), n_workers=1)
    others = set(multiprocessing.active_children())  # of runs before, not collected yet
    found = [next(batches)]
    (worker,) = set(multiprocessing.active_children()) - others
    os.kill(worker.pid, number)
    found += list(batches)
    assert grey_levels(torch.cat(found).float() / 255) == [20 * k for k in range(12)]


def test_dropped_stream_stops_its_workers_at_once(folder):
    stream = Stream(datasets.load("folder", path=folder), torch.arange(12), 5, 0, "remain", n_workers=1)
    next(stream)
    freed = weakref.ref(stream)
    gc.disable()
    try:
        del stream
        assert freed() is None  # by reference count: when gc frees a loader, its workers linger for 5 s
    finally:
        gc.enable()


def test_folder_train_and_test_parts(tmp_path):
    for place in ("train/cat/a/0.png", "train/dog/0.png", "test/dog/0.png"):
        write(tmp_path / place, np.zeros((4, 4)))
    assert datasets.load("folder", path=tmp_path).classes == ("cat", "dog")
    test = datasets.load("folder", path=tmp_path, split="test")
    assert test.classes == ("cat", "dog") and test.labels.tolist() == [1]
    write(tmp_path / "test/cow/0.png", np.zeros((4, 4)))
    with pytest.raises(InputError, match=r"cow: a class that .*train does not have"):
        datasets.load("folder", path=tmp_path, split="test")


@pytest.mark.parametrize(
    "train, test", [("Train", "TEST"), ("training", "testing"), ("TRAIN", "valid"), ("train", "Dev"), ("train", "eval")]
)
def test_names_of_parts_in_any_case(tmp_path, train, test):
    for place in (f"{train}/cat/0.png", f"{train}/dog/0.png", f"{test}/dog/1.png"):
        write(tmp_path / place, np.zeros((4, 4)))
    found = [datasets.load("folder", path=tmp_path, split=split) for split in ("train", "test")]
    assert [(f.classes, f.labels.tolist()) for f in found] == [(("cat", "dog"), [0, 1]), (("cat", "dog"), [1])]


def test_a_validation_folder_beside_a_test_folder_is_not_read(tmp_path, capsys):
    for part in ("train", "valid", "test"):
        write(tmp_path / part / "cat" / f"{part}.png", np.zeros((4, 4)))
    names = [datasets.load("folder", path=tmp_path, split=s).decoder.files[0] for s in ("train", "test")]
    assert [n.rsplit("/")[-1] for n in names] == ["train.png", "test.png"]
    assert "valid: not read" in capsys.readouterr().err


def test_parts_and_classes_side_by_side_cannot_be_told(tmp_path, capsys):
    for place in ("train/cat/0.png", "test/cat/0.png"):
        write(tmp_path / place, np.zeros((4, 4)))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/0.xml").write_text("")
    assert datasets.load("folder", path=tmp_path).classes == ("cat",)
    assert "left out annotations, without a picture" in capsys.readouterr().err
    write(tmp_path / "car/0.png", np.zeros((4, 4)))
    with pytest.raises(InputError, match=r"holds parts .*\(test, train\) beside other folders \(car\)") as error:
        datasets.load("folder", path=tmp_path)
    one_line(error)


def test_two_folders_of_one_part_are_refused(tmp_path):
    for part in ("train", "Training", "test"):
        write(tmp_path / part / "cat/0.png", np.zeros((4, 4)))
    with pytest.raises(InputError, match="Training and train both say train"):
        datasets.load("folder", path=tmp_path)


def test_classes_may_be_called_like_parts(tmp_path):
    for name in ("train", "car", "Dev"):
        write(tmp_path / name / "0.png", np.zeros((4, 4)))
    assert datasets.load("folder", path=tmp_path).classes == ("Dev", "car", "train")


def test_colour_and_size_are_decided_over_all_parts(tmp_path):
    write(tmp_path / "train/cat/0.png", np.zeros((4, 4)))
    write(tmp_path / "test/cat/0.png", np.zeros((4, 4, 3)), "RGB")
    shapes = [datasets.load("folder", path=tmp_path, split=s).shape for s in ("train", "test")]
    assert shapes == [(3, 4, 4)] * 2
    write(tmp_path / "test/cat/1.png", np.zeros((6, 6)))
    for split in ("train", "test"):
        with pytest.raises(InputError, match=r"train/cat/0\.png is 4x4, .*test/cat/1\.png is 6x6"):
            datasets.load("folder", path=tmp_path, split=split)


@pytest.mark.parametrize(
    "sizes, wanted",
    [
        ([(20, 30), (20, 30)], (1, 30, 20)),  # one size is kept
        ([(20, 30), (40, 40), (50, 90)], (1, 32, 32)),  # shorter sides 20, 40, 50
        ([(300, 200), (400, 400)], (1, 64, 64)),
        ([(4, 4), (5, 5)], (1, 16, 16)),
        ([(300, 300), (300, 300)], (1, 64, 64)),  # too large for any config here
    ],
)
def test_auto_chooses_a_size(tmp_path, sizes, wanted, capsys):
    for k, (width, height) in enumerate(sizes):
        write(tmp_path / "cat" / f"{k}.png", np.zeros((height, width)))
    images = datasets.load("folder", path=tmp_path, image_size="auto")
    assert images.shape == wanted and images.gather(torch.arange(len(sizes)))[0].shape[1:] == wanted
    kept = sizes[0] == sizes[1] and max(sizes[0]) < 300
    assert ("of each the middle square, at" in capsys.readouterr().err) != kept


def test_a_share_is_set_aside_where_there_is_no_test_part(tmp_path, capsys):
    for c in ("cat", "dog"):
        for k in range(10):
            write(tmp_path / c / f"{k}.png", np.zeros((4, 4)))
    train, test = (datasets.load("folder", tmp_path, s, test_fraction=0.2) for s in ("train", "test"))
    assert torch.bincount(train.labels).tolist() == [8, 8] and torch.bincount(test.labels).tolist() == [2, 2]
    assert len({*train.decoder.files, *test.decoder.files}) == 20
    again = datasets.load("folder", tmp_path, "test", seed=5, test_fraction=0.2)
    assert again.decoder.files == test.decoder.files
    said = capsys.readouterr().err
    assert said.count("4 of 20 images are set aside as its test part (data.test_fraction)") == 1
    assert len(datasets.load("folder", tmp_path)) == 20
    assert "has no test part" in capsys.readouterr().err
    write(tmp_path / "cow/0.png", np.zeros((4, 4)))
    with pytest.raises(InputError, match=r"data\.test_fraction 0\.9 leaves no image of class cow to train on"):
        datasets.load("folder", tmp_path, test_fraction=0.9)
    for place in ("P/train/cat", "P/test/cat"):
        write(tmp_path / place / "0.png", np.zeros((4, 4)))
    assert len(datasets.load("folder", tmp_path / "P", "test", test_fraction=0.2)) == 1  # its own


def test_pictures_outside_the_class_folders_are_said(folder, capsys):
    write(folder / "cover.png", np.zeros((4, 4)))
    assert len(datasets.load("folder", path=folder)) == 12
    assert "left out 1 pictures outside the class folders (cover.png)" in capsys.readouterr().err


def test_folder_modes(tmp_path):
    write(tmp_path / "a/0.png", np.full((4, 4), 7))
    write(tmp_path / "a/1.png", np.eye(4) * 255, "1")
    images = datasets.load("folder", path=tmp_path)
    assert images.shape == (1, 4, 4)
    assert torch.equal(images.gather(torch.tensor([1]))[0][0, 0], torch.eye(4))
    write(tmp_path / "a/2.png", np.full((4, 4, 3), (255, 0, 51)), "P")
    images = datasets.load("folder", path=tmp_path)
    x, _ = images.gather(torch.tensor([0, 2]))
    assert images.shape == (3, 4, 4) and x[0, :, 0, 0].mul(255).round().tolist() == [7, 7, 7]
    assert x[1, 0, 0, 0] == 1 and x[1, 2, 0, 0] == pytest.approx(0.2, abs=0.1)


def test_folder_image_size_resizes_the_middle(tmp_path):
    oblong = np.zeros((4, 12))
    oblong[:, 4:8] = 255  # the square in the middle
    write(tmp_path / "a/0.png", oblong)
    write(tmp_path / "a/1.png", np.full((6, 6), 9))
    images = datasets.load("folder", path=tmp_path, image_size=4)
    x, _ = images.gather(torch.arange(2))
    assert images.shape == (1, 4, 4) and (x[0] == 1).all() and torch.allclose(x[1], torch.tensor(9 / 255))


def test_folder_refuses_unequal_sizes(folder):
    write(folder / "10" / "99.png", np.zeros((5, 4)))
    with pytest.raises(InputError, match=r"0\.png is 4x4, .*99\.png is 4x5 \(data.image_size resizes all\)") as error:
        datasets.load("folder", path=folder)
    one_line(error)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_folder_refuses_alpha_and_deep_grey(folder, mode):
    Image.new(mode, (4, 4)).save(folder / "2" / "odd.png")
    with pytest.raises(InputError, match=rf"odd\.png: .*mode {mode}") as error:
        datasets.load("folder", path=folder)
    one_line(error)


def test_folder_refuses_a_transparent_palette(folder):
    Image.new("P", (4, 4)).save(folder / "2" / "odd.png", transparency=0)
    with pytest.raises(InputError, match=r"odd\.png: has an alpha channel"):
        datasets.load("folder", path=folder)


@pytest.mark.parametrize("n_workers", [0, 1])
def test_corrupt_image_is_named_on_the_way(folder, n_workers):
    rng = np.random.default_rng(0)
    write(folder / "2" / "3.png", rng.integers(0, 255, (4, 4)))
    whole = (folder / "2" / "3.png").read_bytes()
    (folder / "2" / "3.png").write_bytes(whole[:50])  # the header is there, the pixels are not
    images = datasets.load("folder", path=folder)
    with pytest.raises(InputError, match=r"3\.png: not a readable image") as error:
        take(Stream(images, torch.arange(12), 12, 0, "remain", n_workers=n_workers), 1)
    one_line(error)


def test_file_that_is_no_image(folder):
    (folder / "2" / "text.png").write_text("hello")
    with pytest.raises(InputError, match=r"text\.png: not a readable image"):
        datasets.load("folder", path=folder)


def test_folder_without_images(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        datasets.load("folder", path=tmp_path / "missing")
    with pytest.raises(InputError, match=r"no images; wanted .*/<class>/<image>.png") as error:
        datasets.load("folder", path=tmp_path)
    one_line(error)
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match="cat: no images in this class folder"):
        datasets.load("folder", path=tmp_path)
    with pytest.raises(InputError, match="no test images"):
        datasets.load("folder", path=tmp_path, split="test")


def test_only_a_test_part_may_lack_classes_and_not_all(tmp_path):
    write(tmp_path / "train/cat/0.png", np.zeros((4, 4)))
    for place in ("train/dog", "test/dog"):
        (tmp_path / place).mkdir(parents=True)
    for part in ("train", "test"):
        for split in ("train", "test"):
            with pytest.raises(InputError, match=rf"{part}/\w+: no images in this class folder"):
                datasets.load("folder", path=tmp_path, split=split)
        write(tmp_path / "train/dog/0.png", np.zeros((4, 4)))
    write(tmp_path / "test/cat/0.png", np.zeros((4, 4)))
    assert datasets.load("folder", path=tmp_path, split="test").labels.tolist() == [0]


# ---- Tiny ImageNet (ImageNet: test_imagenet.py)


@pytest.fixture
def tiny(tmp_path):
    """Two classes of three train images and four test images; the last lines and files are as easily lost."""
    root = tmp_path / "tiny-imagenet-200"
    for c, wnid in enumerate(("n02", "n01")):
        for k in range(3):
            write(root / "train" / wnid / "images" / f"{wnid}_{k}.JPEG", np.full((64, 64, 3), 40 * c + 10 * k))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
    (root / "wnids.txt").write_text("n02\nn01\n")
    for k in range(4):
        write(root / "val" / "images" / f"val_{k}.JPEG", np.full((64, 64), 200 + k))
    rows = [f"val_{k}.JPEG\t{('n01', 'n02', 'n02', 'n01')[k]}\t0\t32\t44\t62" for k in (0, 2, 1, 3)]
    (root / "val" / "val_annotations.txt").write_text("\n".join(rows))
    return root


def tree(root) -> dict:
    return {p: p.stat().st_mtime_ns for p in root.rglob("*")}


def test_tinyimagenet_as_it_is_unpacked(tiny):
    before = tree(tiny)
    for path in (tiny, tiny.parent):
        train = datasets.load("tinyimagenet", path=path)
        assert (len(train), train.shape, train.classes) == (6, (3, 64, 64), ("n01", "n02"))
        x, c = train.gather(torch.arange(6))
        assert c.tolist() == [0, 0, 0, 1, 1, 1] and grey_levels(x) == [40, 50, 60, 0, 10, 20]
        test = datasets.load("tinyimagenet", path=path, split="test")
        (x, c), *_ = ordered(test, torch.arange(4), 4)
        assert grey_levels(x) == [200, 202, 201, 203] and c.tolist() == [0, 1, 1, 0]  # in the order of the list
        assert (test.shape, test.classes, test.split) == (train.shape, train.classes, "test")
    assert datasets.load("tinyimagenet", path=tiny, image_size=8).gather(torch.arange(2))[0].shape == (2, 3, 8, 8)
    assert datasets.describe("tinyimagenet", path=tiny) == ((3, 64, 64), ("n01", "n02"))
    assert tree(tiny) == before  # nothing moved, nothing written


@pytest.mark.parametrize(
    "break_it, message",
    [
        (lambda val: (val / "images" / "val_3.JPEG").unlink(), r"val_3\.JPEG: is not there, but is listed"),
        (lambda val: write(val / "images" / "val_4.JPEG", np.zeros((64, 64))), r"val_4\.JPEG: has no class"),
        (lambda val: (val / "val_annotations.txt").unlink(), r"val_annotations\.txt: no such file"),
        (lambda val: (val / "val_annotations.txt").write_text("val_0.JPEG\tn03\n"), r"val_0\.JPEG n03: wanted .*train"),
        (lambda val: (val / "val_annotations.txt").write_text("n01\n"), r"txt: n01: wanted an image and a class"),
    ],
)
def test_tinyimagenet_test_part_that_does_not_fit_its_list(tiny, break_it, message):
    break_it(tiny / "val")
    with pytest.raises(InputError, match=message) as error:
        datasets.load("tinyimagenet", path=tiny, split="test")
    one_line(error)
    assert len(datasets.load("tinyimagenet", path=tiny)) == 6


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("tinyimagenet", "get http://cs231n.stanford.edu/tiny-imagenet-200.zip and unpack it in {path}"),
        ("imagenet", "make {path}/train/<wnid>/*.JPEG and {path}/val/<wnid>/*.JPEG"),
    ],
)
def test_absent_imagenets_say_what_to_put_where(tmp_path, name, wanted):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError) as error:
            datasets.load(name, path=path)
        message = one_line(error)
        assert message.startswith(f"{name} is not there") and message.endswith(wanted.format(path=path))
        assert "(data.path)" in message
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
    with pytest.raises(InputError, match="train: no images"):
        datasets.load(name, path=tmp_path)
