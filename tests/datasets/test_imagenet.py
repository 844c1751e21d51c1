"""ImageNet: labels by the list of all wnids, names, ADM's centre crop; and pools of what remains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys import grey_levels, one_line, write

import datasets
import save_base_dataset
from datasets.images import FITS, fit_adm
from datasets.split import pool_of, select
from functions import imagenet
from functions.config import schema
from functions.config.classes import class_numbers, parse_classes
from functions.config.load import config_hash, load_config
from functions.errors import InputError
from functions.files import note
from functions.judging.contract import read_reference

RETRIEVER, TENCH, CRANE = "n02099601", "n01440764", "n02012849"  # 207, 0, 134
WNIDS = imagenet.wnids()


@pytest.fixture
def subset(tmp_path):
    """Two classes of two images in train, one below another name; no val."""
    for wnid, value in ((RETRIEVER, 10), (TENCH, 20)):
        write(tmp_path / "train" / wnid / "a.JPEG", np.full((30, 50, 3), value))
        write(tmp_path / "train" / wnid / "deeper" / "b.JPEG", np.full((40, 20), value + 1))  # grey
    note.cache_clear()
    return tmp_path


def test_a_subset_shifts_no_label(subset, capsys):
    images = datasets.load("imagenet", path=subset, image_size=16)
    x, c = images.gather(torch.arange(4))
    assert (c.tolist(), grey_levels(x)) == ([0, 0, 207, 207], [20, 21, 10, 11])
    assert (images.n_classes, images.shape, images.classes[207]) == (1000, (3, 16, 16), RETRIEVER)
    said = capsys.readouterr().err
    assert "no images of 998 of ImageNet's 1000 classes: 1 n01443537 (goldfish), " in said and said.count("\n") == 1
    assert datasets.load("imagenet", path=subset).shape == (3, 224, 224)


def test_an_empty_folder_is_a_missing_class(subset, capsys):
    (subset / "train" / WNIDS[1]).mkdir()
    assert datasets.load("imagenet", path=subset).labels.tolist() == [0, 0, 207, 207]
    assert "998 of ImageNet's" in capsys.readouterr().err


def test_forgetting_a_class_without_images_is_one_line(subset):
    images = datasets.load("imagenet", path=subset)
    with pytest.raises(InputError, match=rf"class 134 \({CRANE}\) of imagenet has no examples to forget$"):
        select(images.labels, images.classes, images.name, 0, label=134)


def test_the_test_part_has_the_same_labels(subset):
    with pytest.raises(InputError, match=r"lack the folders train and val \(data.path\)"):
        datasets.load("imagenet", path=subset, split="test")
    write(subset / "val" / RETRIEVER / "a.JPEG", np.full((30, 50), 30))
    test = datasets.load("imagenet", path=subset, split="test", image_size=8)
    assert (test.labels.tolist(), test.n_classes) == ([207], 1000)
    write(subset / "val" / CRANE / "a.JPEG", np.full((30, 50), 30))
    with pytest.raises(InputError, match=rf"{CRANE}: a class that .*train does not have"):
        datasets.load("imagenet", path=subset, split="test")


@pytest.mark.parametrize(
    "folder, message",
    [("n02099602", r"n02099602 is no wnid of ImageNet's 1000 classes \(did you mean '"), ("dogs", "dogs is no wnid")],
)
def test_a_folder_that_is_no_class_is_one_line(subset, folder, message):
    write(subset / "train" / folder / "a.JPEG", np.zeros((8, 8)))
    with pytest.raises(InputError, match=message) as error:
        datasets.load("imagenet", path=subset)
    assert one_line(error).endswith("data.dataset folder makes a data set (data.path)")


def test_a_root_without_train_is_one_line(tmp_path):
    (tmp_path / "val").mkdir()
    with pytest.raises(InputError, match=r"imagenet is not there: .* lack the folder train \(data.path\); make"):
        datasets.load("imagenet", path=tmp_path)


# ---- names


def test_the_list_is_imagenets():
    assert (len(WNIDS), WNIDS[207], list(WNIDS)) == (1000, RETRIEVER, sorted(set(WNIDS)))
    assert (imagenet.names()[207], imagenet.names()[134]) == ("golden retriever", f"crane ({CRANE})")
    assert len(set(imagenet.names())) == 1000
    assert all(imagenet.called(name) == {c} for c, name in enumerate(imagenet.names()))


@pytest.mark.parametrize(
    "label, wanted",
    [
        ("golden retriever", 207),
        ("Golden Retriever", 207),
        (RETRIEVER, 207),
        (207, 207),
        ("number:207", 207),
        ("name:golden retriever", 207),
        (["tench", 207], [0, 207]),
        ("Tinca tinca", 0),
        ("harp", 594),  # also a name of the harmonica, whose usual one is another
        (f"crane ({CRANE})", 134),
    ],
)
def test_classes_by_english_names(label, wanted):
    assert class_numbers(label, WNIDS, "imagenet", "label_to_forget") == wanted


@pytest.mark.parametrize(
    "label, message",
    [
        ("crane", r"crane is a name of class 134 \(n02012849, crane\) and class 517 .*write number:134 or number:517$"),
        ("maillot", "class 638 .* and class 639 .*maillot, tank suit"),
        ("panther", "class 286 .* and class 290"),
        ("golden retreiver", r"is not a class of imagenet, .* \(did you mean 'golden retriever'\?\)"),
        ("retriever", "did you mean 'flat-coated retriever' or 'curly-coated retriever' or 'golden retriever'"),
        ("n02099602", r"is not a class of imagenet, .*did you mean 'n0"),
        (1000, r"1000 is not a class of imagenet, which has 1000 classes \(0\.\.999\)$"),
    ],
)
def test_names_that_are_none_or_of_two_classes_are_one_line(label, message):
    with pytest.raises(InputError, match=message) as error:
        class_numbers(label, WNIDS, "imagenet", "label_to_forget")
    assert one_line(error)


def test_lists_of_classes_to_generate_take_english_names():
    assert parse_classes("golden retriever,tench", WNIDS) == [0, 207]
    assert len(parse_classes("xgolden retriever", WNIDS)) == 999


def test_other_data_sets_have_no_english_names():
    with pytest.raises(InputError, match="tench is not a class of pets"):
        class_numbers("tench", WNIDS[:10], "pets", "label_to_forget")


# ---- ADM's centre crop


def test_adm_halves_by_boxes_then_bicubic_then_cuts_the_middle():
    pixels = np.random.default_rng(0).integers(0, 256, (70, 131, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    # 131x70 -> halved twice to 32x17, for 17 < 2 * 16; then to round(32 * 16 / 17) x 16 = 30x16; then the middle
    halved = image.resize((65, 35), Image.Resampling.BOX).resize((32, 17), Image.Resampling.BOX)
    wanted = np.asarray(halved.resize((30, 16), Image.Resampling.BICUBIC))[:, 7:23]
    assert np.array_equal(np.asarray(fit_adm(image, 16)), wanted)


def test_adm_of_what_is_smaller_or_fits_already():
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16), dtype=np.uint8)
    assert np.array_equal(np.asarray(fit_adm(Image.fromarray(pixels), 16)), pixels)
    assert fit_adm(Image.fromarray(pixels[:9]), 16).size == (16, 16)


def test_a_data_set_is_cut_as_its_config_says(subset):
    pixels = np.random.default_rng(2).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(subset / "train" / TENCH / "a.png")
    for fit in FITS:
        images = datasets.load("imagenet", path=subset, image_size=16, fit=fit)
        x, _ = images.gather(torch.tensor([1]))
        wanted = torch.from_numpy(np.array(FITS[fit](Image.fromarray(pixels), 16))).permute(2, 0, 1)
        assert torch.equal((x[0] * 255).round().byte(), wanted)
    assert tuple(FITS) == schema.FITS


def test_a_reference_says_how_its_images_were_cut(subset):
    words = ["--dataset", "imagenet", "--data_path", str(subset), "--label_to_forget", "tench", "--image_size", "16"]
    hashes = set()
    for fit in FITS:
        save_base_dataset.main([*words, "--fit", fit, "--out", fit])
        made = read_reference(Path(fit, "reference.json"))
        assert made["protocol"].get("fit", "middle") == fit and sorted(p.name for p in Path(fit, "207").iterdir())
        hashes.add(made["hash"])
    assert len(hashes) == 2


@pytest.mark.parametrize(
    "settings, message",
    [
        (["data.fit=adm"], "data.fit: adm is for dataset folder, tinyimagenet, imagenet, this is digits"),
        (["data.dataset=folder", "data.fit=adm"], r"data.fit: adm needs a size \(data.image_size\)"),
        (["data.fit=centre"], "data.fit: got 'centre'"),
        (["data.latents=x", "data.crop=2"], "data.crop: latents are of whole images"),
        (["data.remain_pool=3"], "data.remain_pool: has no meaning where nothing is forgotten"),
    ],
)
def test_options_without_a_meaning_are_one_line(settings, message):
    with pytest.raises(InputError, match=message):
        load_config("digits_pretrain.yml", "pretrain", settings=settings)


def test_another_pool_is_another_run_and_so_are_latents_wherever_they_lie():
    hashed = lambda *settings: config_hash(load_config("digits_pretrain.yml", "pretrain", settings=settings))
    assert hashed("data.latents=a") == hashed("data.latents=b") != hashed()
    assert hashed("data.pool_seed=1") != hashed("data.pool_seed=0") == hashed()


# ---- a pool of what remains

LABELS = torch.tensor([0] * 40 + [1] * 20 + [3] * 10)[torch.randperm(70, generator=torch.Generator().manual_seed(0))]


def test_a_pool_is_of_each_class_its_share():
    _, remain = select(LABELS, 4, "toy", 0, label=1)
    pool = pool_of(LABELS, remain, 20, seed=0)
    assert torch.bincount(LABELS[pool]).tolist() == [16, 0, 0, 4]
    assert torch.isin(pool, remain).all() and torch.equal(pool, pool.unique())


def test_a_pool_is_fixed_by_its_seed_and_holds_smaller_ones():
    remain = torch.arange(70)
    pools = [pool_of(LABELS, remain, n, seed=3) for n in (5, 20, 69)]
    assert torch.equal(pools[1], pool_of(LABELS, remain, 20, seed=3))
    assert not torch.equal(pools[1], pool_of(LABELS, remain, 20, seed=4))
    assert torch.isin(pools[0], pools[1]).all() and torch.isin(pools[1], pools[2]).all()
    assert torch.equal(pool_of(LABELS, remain, 70, seed=3), remain)


def test_a_pool_larger_than_what_remains_is_one_line():
    with pytest.raises(InputError, match="data.remain_pool: 71 is more than the 70 images that remain"):
        pool_of(LABELS, torch.arange(70), 71, seed=0)
