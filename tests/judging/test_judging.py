"""Judging from the shell: the classifier's file, folders of samples, their scripts, and what bad input gets."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import digits, make_judge, noise, save_images
from PIL import Image

import classifier_evaluation
import datasets
import models
import save_base_dataset
import train_classifier
from functions.errors import InputError
from functions.files import read_json, write_json
from functions.judging import metrics
from functions.judging.classifier import load_classifier, save_classifier
from functions.sampling.folders import find_samples
from functions.storage.contract import contract


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return make_judge(tmp_path_factory.mktemp("judge"))


# ---- the classifier and its file ----


def test_the_digits_classifier_is_good_enough_to_judge(capsys):
    train_classifier.main(["--dataset", "digits", "--epochs", "10"])
    printed = float(re.search(r"Test accuracy: ([\d.]+) \(\d+ images\)", capsys.readouterr().out)[1])
    assert read_json("digits_cnn.json")["test_accuracy"] == pytest.approx(printed, abs=1e-4)
    assert printed >= 0.97


def test_the_record_says_what_the_classifier_is(judge):
    model, record = load_classifier(judge, models.build)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    test = datasets.load("digits", split="test")
    x, c = test.gather(torch.arange(len(test)))
    assert (model(x).argmax(1) == c).double().mean().item() == pytest.approx(record["test_accuracy"])
    assert (record["n_test"], record["shape"], record["dataset"]) == (len(test), [1, 8, 8], "digits")


def test_the_same_seed_makes_the_same_classifier():
    flags = ["--dataset", "digits", "--width", "4", "--epochs", "1"]
    for out, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        train_classifier.main([*flags, "--out", out, "--seed", seed])
    hashes = [read_json(f"{out}/digits_cnn.json")["sha256"] for out in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


def test_without_imagenet_weights_one_line_names_the_remedy(monkeypatch):
    monkeypatch.setenv("TORCH_HOME", "empty")
    with pytest.raises(InputError, match=r"ImageNet weights of resnet18 cannot be had .*--no-pretrained") as found:
        train_classifier.main(["--dataset", "digits", "--arch", "resnet18"])
    assert "\n" not in str(found.value) and not list(Path().glob("*.pth"))


def test_a_resnet_judges_grey_digits():
    flags = ["--arch", "resnet18", "--no-pretrained", "--resize", "0", "--epochs", "1", "--batch_size", "1400"]
    train_classifier.main(["--dataset", "digits", *flags])
    model, record = load_classifier("digits_resnet18.pth", models.build)
    assert record["model"]["name"] == "torchvision" and model.conv1.weight.shape[1] == 1


def broken_copies(judge: Path):
    """(name, what is done to the .pth or its JSON, the message)."""
    record = read_json(judge.with_suffix(".json"))
    data = judge.read_bytes()
    return {
        "truncated": (data[: len(data) // 2], record, r"cut short or changed, its sha256"),
        "no key": (data, {k: v for k, v in record.items() if k != "shape"}, r"digits_cnn\.json: shape: missing"),
        "no json": (data, None, r"digits_cnn\.json: no such file"),
        "no file": (None, record, r"digits_cnn\.pth: no such classifier; train_classifier\.py makes it"),
    }


@pytest.mark.parametrize("case", ["truncated", "no key", "no json", "no file"])
def test_a_broken_classifier_is_one_line(judge, case):
    data, record, message = broken_copies(judge)[case]
    if data is not None:
        Path("digits_cnn.pth").write_bytes(data)
    if record is not None:
        write_json("digits_cnn.json", record)
    with pytest.raises(InputError, match=message) as found:
        load_classifier("digits_cnn.pth", models.build)
    assert "\n" not in str(found.value)


def test_weights_of_another_model_are_refused(judge):
    model, record = load_classifier(judge, models.build)
    wider = {**record, "model": {"name": "cnn", "kwargs": {**record["model"]["kwargs"], "width": 5}}}
    save_classifier("digits_cnn.pth", model, wider)
    with pytest.raises(InputError, match=r"digits_cnn\.pth \(model .*\): 21 tensors do not fit the model"):
        load_classifier("digits_cnn.pth", models.build)


# ---- folders of samples ----


def test_a_folder_is_read_in_order_whatever_the_batch(tmp_path):
    images = noise(12)
    save_images(tmp_path / "F" / "3", images)
    save_images(tmp_path / "F" / "x", images[:1])
    found = find_samples(tmp_path / "F")
    assert found.labels.tolist() == [3] * 12 + [-1]  # and 2.png comes before 10.png:
    for batch_size in (1, 5, 100):
        got = torch.cat(list(found.batches(batch_size, 1)))
        assert np.array_equal(got[:12, 0], images) and got.dtype == torch.uint8


def test_an_npz_is_a_folder():
    images = noise(6, colour=True)
    np.savez("batch.npz", images, np.arange(6) % 3)
    found = find_samples("batch.npz")
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert np.array_equal(torch.cat(list(found.batches(4, 3))).permute(0, 2, 3, 1), images)
    np.savez("grey.npz", noise(2)[..., None])
    assert find_samples("grey.npz").images(3).shape == (2, 3, 8, 8)
    with pytest.raises(InputError, match=r"batch\.npz: colour images, the network reads grey ones"):
        found.images(1)


def test_grey_and_palette_images_become_what_the_network_reads():
    grey = Image.fromarray(noise(1)[0])
    forms = {"l": grey, "p": grey.convert("P"), "rgb": grey.convert("RGB"), "1": grey.convert("1")}
    for name, image in forms.items():
        Path(name).mkdir()
        image.save(f"{name}/0.png")
        expected = np.array(image.convert("L"))
        for channels in (1, 3):
            got = find_samples(name).images(channels)[0].numpy()
            assert got.shape == (channels, 8, 8) and (got == expected).all(), (name, channels)


def bad_folder(case: str) -> str:
    """A folder of samples with something wrong in it; the name of the bad file."""
    save_images(Path("F/0"), noise(3))
    image, bad = Image.fromarray(noise(1)[0]), Path("F/0/1.png")
    if case == "alpha":
        image.convert("RGBA").save(bad)
    elif case == "transparent":
        image.convert("P").save(bad, transparency=0)
    elif case == "colour":
        Image.fromarray(noise(1, colour=True)[0]).save(bad)
    elif case == "16 bits":
        Image.fromarray(noise(1)[0].astype(np.uint16)).save(bad)
    elif case == "unequal":
        Image.fromarray(noise(1, 9)[0]).save(bad)
    elif case == "truncated":
        bad.write_bytes(bad.read_bytes()[:60])
    elif case == "no image":
        bad.write_text("not an image")
    return str(bad)


BAD = {
    "alpha": "has an alpha channel",
    "transparent": "has an alpha channel",
    "colour": "a colour image, the network reads grey ones",
    "16 bits": "wanted 8-bit grey, palette or RGB",
    "unequal": r"9x9 pixels, but F/0/0\.png has 8x8",
    "truncated": "not a readable image",
    "no image": "not a readable image",
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_image_is_named(case):
    bad = bad_folder(case)
    with pytest.raises(InputError, match=f"^{re.escape(bad)}: .*{BAD[case]}") as found:
        find_samples("F").images(1)
    assert "\n" not in str(found.value)


def test_folders_without_images_are_refused():
    Path("empty/0").mkdir(parents=True)
    Path("empty/0/notes.txt").write_text("")
    with pytest.raises(InputError, match="empty: no picture in it"):
        find_samples("empty")
    with pytest.raises(InputError, match="absent: no such folder"):
        find_samples("absent")


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"arr_0": np.zeros((2, 8, 8, 3))}, "arr_0 is float64"),
        ({"arr_0": np.zeros((2, 3, 8, 8), np.uint8)}, "wanted uint8 .N,H,W,C."),
        ({"arr_0": np.zeros((0, 8, 8, 3), np.uint8)}, "no image in it"),
        ({"other": np.zeros(2)}, "no such array"),
        ({"arr_0": np.zeros((2, 8, 8, 3), np.uint8), "arr_1": np.zeros(3, int)}, "one integer label an image"),
        ({"arr_0": np.array([{"a": 1}], dtype=object)}, "arr_0: refused: holds objects of Python"),
    ],
)
def test_a_bad_npz_is_one_line(arrays, message):
    np.savez("bad.npz", **arrays)
    with pytest.raises(InputError, match=rf"bad\.npz: .*{message}"):
        find_samples("bad.npz")


# ---- classifier_evaluation.py ----


def test_classifier_evaluation_prints_the_published_lines_and_saves_the_numbers(judge, capsys):
    save_images(Path("F/0"), digits(0, 20))
    save_images(Path("F/1"), digits(7, 5))  # asked for 1, drew 7
    made = contract({"steps": 20, "w": 2.0}, {"seed": 0, "classes": [0]})
    write_json("F/samples.json", made)
    flags = ["--dataset", "digits", "--classifier", str(judge)]
    classifier_evaluation.main(["--sample_path", "F/0", "--label_of_forgotten_class", "0", *flags])
    lines = capsys.readouterr().out.splitlines()
    section = read_json("F/0/metrics.json")["classifier_evaluation"]
    numbers = section["forgotten"]
    assert lines[0] == "Classifier evaluation:"
    assert lines[1] == f"Average entropy: {numbers['entropy']}"
    assert lines[2] == f"Average prob of forgotten class: {numbers['prob']}"
    model, _ = load_classifier(judge, models.build)
    logits = model(torch.from_numpy(digits(0, 20))[:, None].float() / 255)
    expected = metrics.forgetting(logits, 0)
    assert numbers["confusion"] == expected["confusion"] and numbers["n"] == 20
    assert numbers["entropy"] == pytest.approx(expected["entropy"], rel=1e-4)
    protocol = section["contract"]["protocol"]
    assert protocol["generation"] == made["protocol"]
    assert protocol["evaluation"]["judge"]["sha256"] == read_json(judge.with_suffix(".json"))["sha256"]
    assert section["contract"]["record"]["evaluation"]["class"] == 0

    classifier_evaluation.main(["--sample_path", "F", "--label_of_forgotten_class", "0", *flags, "--out", "both.json"])
    both = read_json("both.json")["classifier_evaluation"]
    assert both["forgotten"] == numbers
    assert set(both["kept"]) == {"1"} and both["kept"]["1"]["n"] == 5 and both["kept"]["1"]["accuracy"] <= 0.2


@pytest.mark.parametrize(
    "path, label, message",
    [
        ("F/0", "10", r"10 is not a class of digits, which has 10 classes \(0\.\.9\)"),
        ("F/0", "3", "F/0: holds class 0, --label_of_forgotten_class says 3"),
        ("absent", "0", "absent: no such folder"),
        ("large", "0", r"large: images of 9x9 pixels, the classifier was trained on 8x8"),
        ("mixed", "0", "mixed: 1 images lie outside the class folders"),
    ],
)
def test_classifier_evaluation_refuses(judge, path, label, message):
    save_images(Path("F/0"), noise(2))
    save_images(Path("large"), noise(2, 9))
    save_images(Path("mixed/0"), noise(2))
    save_images(Path("mixed/other"), noise(1))
    flags = ["--dataset", "digits", "--classifier", str(judge), "--label_of_forgotten_class", label]
    with pytest.raises(InputError, match=message):
        classifier_evaluation.main(["--sample_path", path, *flags])
    assert not list(Path().rglob("metrics.json"))


def test_a_judge_of_another_data_set_is_refused(judge):
    save_images(Path("F/0"), noise(2))
    with pytest.raises(InputError, match="trained on digits, --dataset says cifar10"):
        flags = ["--dataset", "cifar10", "--label_of_forgotten_class", "0", "--classifier", str(judge)]
        classifier_evaluation.main(["--sample_path", "F/0", *flags])


# ---- save_base_dataset.py ----


def test_the_reference_is_the_remaining_training_images_and_resumes(capsys):
    flags = ["--dataset", "digits", "--label_to_forget", "3"]
    save_base_dataset.main(flags)
    train = datasets.load("digits")
    saved = find_samples("digits_without_label_3")
    assert torch.bincount(saved.labels, minlength=10).tolist() == [
        0 if c == 3 else int((train.labels == c).sum()) for c in range(10)
    ]
    assert torch.equal(saved.images(1)[saved.labels == 7], train.images[train.labels == 7])
    assert read_json("digits_without_label_3/reference.json")["record"]["n"] == len(saved)

    Path("digits_without_label_3/7/11.png").unlink()
    before = Path("digits_without_label_3/7/12.png").stat().st_mtime_ns
    save_base_dataset.main(flags)
    assert "(1 new)" in capsys.readouterr().out
    assert Path("digits_without_label_3/7/12.png").stat().st_mtime_ns == before
    assert torch.equal(find_samples("digits_without_label_3").images(1), saved.images(1))


def test_the_published_subset_is_the_first_per_class():
    save_base_dataset.main(["--dataset", "digits", "--label_to_forget", "0", "--per_class", "2", "--out", "ref"])
    assert sorted(p.name for p in Path("ref/9").iterdir()) == ["0.png", "1.png"]
    assert not Path("ref/0").exists() and len(find_samples("ref")) == 18


def test_a_folder_that_holds_something_else_is_refused():
    flags = ["--dataset", "digits", "--out", "ref", "--label_to_forget"]
    save_base_dataset.main([*flags, "0", "--per_class", "2"])
    for other in (["0", "--per_class", "3"], ["1", "--per_class", "2"], ["0"]):
        with pytest.raises(InputError, match="ref: holds another reference"):
            save_base_dataset.main([*flags, *other])
    save_images(Path("ref/0"), noise(1))
    with pytest.raises(InputError, match=r"1 pictures that are no part of the reference, e\.g\. 0/0\.png"):
        save_base_dataset.main([*flags, "0", "--per_class", "2"])
    os.remove("ref/reference.json")
    with pytest.raises(InputError, match=r"ref: holds pictures but no reference\.json"):
        save_base_dataset.main([*flags, "0"])
    with pytest.raises(InputError, match=r"10 is not a class of digits, which has 10 classes \(0\.\.9\)"):
        save_base_dataset.main(["--dataset", "digits", "--label_to_forget", "10"])
