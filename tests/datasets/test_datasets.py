"""Data sets and streams: sizes and values that can be derived, and every error in one line."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from unittest.mock import Mock
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
from datasets import ImageSet, Stream, ordered, shapes
from datasets.facts import FACTS
from datasets.split import train_val_split
from functions.errors import InputError
from functions.randomness import order_generator


def toy(n: int = 10, size: int = 4) -> ImageSet:
    """Image k is constant k; labels 0 1 2 0 1 2 ..."""
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, size, size).contiguous()
    return ImageSet(images, torch.arange(n) % 3, ("a", "b", "c"), "toy", "train")


def which(x: torch.Tensor) -> list[int]:
    """The indices of toy images in a batch."""
    return (x[:, 0].amax((1, 2)) * 255).round().long().tolist()


def take(stream: Stream, n: int) -> list[torch.Tensor]:
    return [next(stream)[0] for _ in range(n)]


def grey_levels(x: torch.Tensor) -> list[int]:
    """The first pixel of each image of a batch, 0..255."""
    return (x[:, 0, 0, 0] * 255).round().long().tolist()


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def write(path, pixels, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path):
    """12 grey images in the classes 2 and 10: image k, in sorted order, is constant 20 k."""
    for k in range(12):
        write(tmp_path / "images" / ("2" if k < 6 else "10") / f"{k}.png", np.full((4, 4), 20 * k))
    return tmp_path / "images"


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


def test_moments_are_those_of_the_train_part():
    for name in ("digits", "shapes"):
        x = datasets.load(name).images.double().div(255)  # (N, C, H, W)
        for found, wanted in zip((x.mean((0, 2, 3)), x.std((0, 2, 3), correction=0)), datasets.MOMENTS[name]):
            assert found.tolist() == pytest.approx(wanted, abs=6e-5), name
    for name, moments in datasets.MOMENTS.items():
        channels = FACTS[name][0] if name in FACTS else 3
        assert name in datasets.DATASETS and [len(m) for m in moments] == [channels] * 2


# ---- gather, ordered, Stream


def test_gather_and_ordered():
    x, c = toy().gather(torch.tensor([7, 2]))
    assert x.dtype == torch.float32 and which(x) == [7, 2] and c.tolist() == [1, 2]
    assert torch.equal(x[0], torch.full((1, 4, 4), 7 / 255))
    batches = list(ordered(toy(), torch.tensor([5, 3, 9, 0, 1]), 2))
    assert [which(x) for x, _ in batches] == [[5, 3], [9, 0], [1]] and batches[0][1].tolist() == [2, 0]


def test_stream_crosses_epochs_with_full_batches():
    stream = Stream(toy(), torch.tensor([1, 3, 5, 7, 9]), 3, seed=0, purpose="remain")
    drawn = []
    for _ in range(5):
        x, c = next(stream)
        drawn += which(x)
        assert c.tolist() == [k % 3 for k in which(x)]
    assert stream.position == 5
    assert [sorted(drawn[e : e + 5]) for e in (0, 5, 10)] == [[1, 3, 5, 7, 9]] * 3
    assert len({tuple(drawn[e : e + 5]) for e in (0, 5, 10)}) == 3  # another order each epoch


def test_stream_batch_larger_than_the_set():
    x, _ = next(Stream(toy(), torch.tensor([4, 6]), 7, seed=0, purpose="forget"))
    assert [which(x).count(k) for k in (4, 6)] in ([3, 4], [4, 3])


def test_stream_depends_on_seed_purpose_and_position_alone():
    def make(seed=0, purpose="remain", **options):
        return Stream(toy(), torch.arange(10), 4, seed, purpose, flip=True, crop=1, **options)

    whole = take(make(), 9)
    torch.manual_seed(123)
    resumed = make()
    resumed.position = 6
    assert all(torch.equal(a, b) for a, b in zip(take(resumed, 3), whole[6:]))
    assert resumed.position == 9
    resumed.position = 1  # also backwards, after use
    assert torch.equal(next(resumed)[0], whole[1])
    for other in (make(seed=1), make(purpose="forget")):
        assert not all(torch.equal(a, b) for a, b in zip(take(other, 9), whole))
    plain = Stream(toy(), torch.arange(10), 4, 0, "remain")
    assert [which(x) for x in take(plain, 9)] == [which(x) for x in whole]  # augmentation keeps the order


def test_stream_keeps_the_global_generator(folder):
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    for images in (toy(), datasets.load("folder", path=folder)):
        take(Stream(images, torch.arange(len(images)), 4, 0, "remain", flip=True), 3)
    assert torch.equal(torch.rand(1), wanted)


def test_order_generator_tells_keys_apart():
    keys = [(0, "a"), (1, "a"), (0, "b"), ("0a",), (0, "a", 0), (0, "a", 1)]
    assert len({int(torch.randint(2**60, (1,), generator=order_generator(*k))) for k in keys}) == len(keys)


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
    write(tmp_path / "car/0.png", np.zeros((4, 4)))  # now `train` is a class beside `car`
    assert datasets.load("folder", path=tmp_path).classes == ("car", "test", "train")


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
    with pytest.raises(InputError, match=r"odd\.png: has transparency"):
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
    for split in ("train", "test"):
        with pytest.raises(InputError, match=rf"{split}/\w+: no images in this class folder"):
            datasets.load("folder", path=tmp_path, split=split)
    write(tmp_path / "train/dog/0.png", np.zeros((4, 4)))
    write(tmp_path / "test/cat/0.png", np.zeros((4, 4)))
    assert datasets.load("folder", path=tmp_path, split="test").labels.tolist() == [0]


# ---- Tiny ImageNet and ImageNet


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


def test_imagenet_resizes_all(tmp_path):
    for part, value in (("train", 10), ("val", 20)):
        for c, wnid in enumerate(("n02", "n01")):
            write(tmp_path / "imagenet" / part / wnid / "a.JPEG", np.full((30, 50 + c, 3), value + c))
            write(tmp_path / "imagenet" / part / wnid / "b.JPEG", np.full((40, 20), value + c))  # grey
    (tmp_path / "imagenet" / "devkit").mkdir()
    for path in (tmp_path, tmp_path / "imagenet"):
        for part, value in (("train", 10), ("test", 20)):
            images = datasets.load("imagenet", path=path, split=part, image_size=16)
            x, c = images.gather(torch.arange(4))
            assert (images.classes, images.shape, c.tolist()) == (("n01", "n02"), (3, 16, 16), [0, 0, 1, 1])
            assert grey_levels(x) == [value + 1, value + 1, value, value] and x.shape == (4, 3, 16, 16)
    assert datasets.load("imagenet", path=tmp_path).shape == (3, 224, 224)
    write(tmp_path / "imagenet" / "val" / "n03" / "a.JPEG", np.zeros((30, 30)))
    with pytest.raises(InputError, match=r"n03: a class that .*train does not have"):
        datasets.load("imagenet", path=tmp_path, split="test")


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
        source.assert_called_once_with("here", **part, download=True)
        assert torch.equal(images.images, torch.from_numpy(pixels)) and images.labels.tolist() == [1, 0]
        assert images.classes == (tuple("0123456789") if name == "SVHN" else ("x", "y"))
        assert (images.name, images.split, images.labels.dtype) == (name.lower(), "test", torch.int64)


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
