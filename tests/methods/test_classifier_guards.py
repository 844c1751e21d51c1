"""What is refused, and what is counted: classifier runs that would otherwise come out wrong without a word."""

import json
import shutil
from pathlib import Path

import cases
import pytest
from PIL import Image

import evaluate
import train
from functions.config.load import load_config
from functions.errors import InputError
from functions.files import read_json

CNN = ["--set", "model={name: cnn, width: 4}"]
TOY = ["--epochs", "1", "--batch_size", "16"]
FORGET = ["--num_indexes_to_replace", "12"]


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A toy original on a hundred digits."""
    folder = tmp_path_factory.mktemp("guards")
    indices = folder / "hundred.json"
    indices.write_text(json.dumps(list(range(0, 1500, 15))))
    return train.main(
        [
            "--mode",
            "pretrain",
            "--dataset",
            "digits",
            *CNN,
            *TOY,
            "--set",
            f"data.indices={indices}",
            "--save_dir",
            str(folder / "origin"),
        ]
    )


def unlearn(mode, origin, *words, out=None):
    return train.main(["--mode", mode, "--model_path", str(origin), *FORGET, *TOY, "--save_dir", out or mode, *words])


# ---- retraining is of the original's kind


def test_retraining_on_another_data_set_is_refused(origin):
    with pytest.raises(InputError, match=r"data\.dataset: the checkpoint has digits, the config shapes"):
        unlearn("retrain", origin, "--config", "shapes_classifier.yml")
    assert not Path("retrain").exists()


def test_retraining_another_architecture_is_refused(origin):
    with pytest.raises(InputError, match=r"model: the checkpoint has .*resnet20s.*tensors do not fit"):
        unlearn("retrain", origin, "--arch", "resnet20s")


def test_retraining_begins_where_the_original_began(origin, monkeypatch):
    """An original that began with ImageNet's weights is compared with a retrained model that does so too."""
    loaded = []
    monkeypatch.setattr("runners.setup.load_imagenet", lambda model, arch: loaded.append(arch))
    tiny = (
        "model={name: timm, arch: vit_tiny_patch16_224, pretrained: true, options: {img_size: 8, patch_size: 4, "
        "embed_dim: 16, depth: 1, num_heads: 2}}"
    )
    run = train.main(
        ["--mode", "pretrain", "--dataset", "digits", "--set", tiny, "--set", "training.n_iters=1", "--save_dir", "vit"]
    )
    unlearn("retrain", run)
    assert loaded == ["vit_tiny_patch16_224"] * 2
    unlearn("ga", run)
    assert len(loaded) == 2


@pytest.mark.parametrize("mode", ["pretrain", "retrain", "finetune"])
@pytest.mark.parametrize(
    "dataset, arch, name",
    [
        ("imagenet", "resnet18", "torchvision"),
        ("imagenet", "resnet50", "torchvision"),
        ("cifar10", "resnet18", "cifar"),
        ("cifar10", "resnet101", "torchvision"),
        ("digits", "cnn", "cnn"),
        ("tinyimagenet", "resnet18", "cifar"),
        ("tinyimagenet", "swin_tiny_patch4_window7_224", "timm"),
    ],
)
def test_an_architecture_means_the_same_in_every_mode(mode, dataset, arch, name):
    flags = {"arch": arch, **({} if mode == "pretrain" else {"label_to_forget": 0, "ckpt_folder": "x"})}
    model = load_config(f"{dataset}_classifier.yml", mode, flags=flags).model
    assert model.name == name
    if name == "timm":
        assert model.resize == 224 and model.pretrained  # what the config says of it stays


# ---- indices and what they refer to


@pytest.mark.parametrize(
    "content, line",
    {
        "repeated": ("[1, 2, 2]", r"i\.json: index 2 is listed more than once \(data\.indices\)"),
        "range": ("[1, 1500]", r"i\.json: index 1500 is not in 0\.\.1499, .*\(data\.indices\)"),
        "other": ('{"dataset": "cifar10", "indices": [1, 2]}', r"i\.json: indices of .*cifar10.*\(data\.indices\)"),
        "empty": ("[]", r"i\.json: wanted a list of integers that is not empty"),
    }.values(),
)
def test_bad_lists_of_training_images(content, line):
    Path("i.json").write_text(content)
    with pytest.raises(ValueError, match=line):
        train.main(["--mode", "pretrain", "--dataset", "digits", *CNN, *TOY, "--set", "data.indices=i.json"])


def test_a_run_is_not_resumed_on_other_images():
    words = ["--mode", "pretrain", "--dataset", "digits", *CNN, *TOY, "--set", "data.indices=i.json", "--save_dir", "o"]
    Path("i.json").write_text(json.dumps(list(range(100))))
    train.main(words)
    Path("i.json").write_text(json.dumps(list(range(100, 200))))
    with pytest.raises(InputError, match="--resume o: began with another indices"):
        train.main([*words, "--resume", "o"])


def test_a_folder_that_has_changed_is_refused():
    """Indices in a checkpoint refer to files; one more file shifts them, and validation images would be trained on."""
    for c in "ab":
        for i in range(12):
            path = Path("pictures") / c / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 20 * i).save(path)
    Path("mine.yml").write_text(
        "base: classifier.yml\ndata: {dataset: folder, path: pictures, val_fraction: 0.25, "
        "n_workers: 0}\ntraining: {channels_last: false}\n"
    )
    run = train.main(["--mode", "pretrain", "--config", "mine.yml", *CNN, *TOY, "--save_dir", "o"])
    shutil.copytree("pictures", "moved")
    train.main(
        [
            "--mode",
            "ga",
            "--config",
            "mine.yml",
            "--model_path",
            str(run),
            "--num_indexes_to_replace",
            "3",
            *TOY,
            "--data_path",
            "moved",
            "--save_dir",
            "fine",
        ]
    )
    Image.new("L", (8, 8)).save("moved/a/00b.png")
    with pytest.raises(InputError, match=r"data\.n: the checkpoint has 24, the config 25"):
        train.main(
            [
                "--mode",
                "ga",
                "--config",
                "mine.yml",
                "--model_path",
                str(run),
                "--num_indexes_to_replace",
                "3",
                *TOY,
                "--data_path",
                "moved",
                "--save_dir",
                "out",
            ]
        )
    Path("moved/b/11.png").unlink()
    with pytest.raises(InputError, match=r"data\.content: "):
        train.main(
            [
                "--mode",
                "ga",
                "--config",
                "mine.yml",
                "--model_path",
                str(run),
                "--num_indexes_to_replace",
                "3",
                *TOY,
                "--data_path",
                "moved",
                "--save_dir",
                "out",
            ]
        )


# ---- what a run cost


@pytest.mark.parametrize("mode", ["iu", "fisher_forget"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_closed_forms_are_counted_in_any_memory_format(origin, mode, channels_last):
    sets = ["--set", f"training.channels_last={channels_last}", *(["--set", "iu.k=8"] if mode == "iu" else [])]
    cost = cases.load_meta(unlearn(mode, origin, *sets))["cost"]
    assert cost["forward"] >= cost["backward"] >= (90 if mode == "iu" else 78)  # forget and remain, or remain


def test_the_step_across_the_boundary_is_counted(origin):
    cost = cases.load_meta(unlearn("boundary_shrink", origin))["cost"]
    # one batch of 16: the original forward and backward for the step, forward beyond it, the model forward and backward
    assert (cost["forward"], cost["backward"]) == (3 * 16, 2 * 16)


# ---- command line and configs


def test_two_flags_for_one_key_must_agree(origin):
    with pytest.raises(
        InputError, match="--label_to_forget 3 and --class_to_replace 4: both set forget.label, and differ"
    ):
        train.main(["--mode", "ga", "--model_path", str(origin), "--label_to_forget", "3", "--class_to_replace", "4"])


@pytest.mark.parametrize(
    "mode, setting, line",
    [
        ("boundary_expand", "training.bf16=true", "bf16, compile and accumulate are not for boundary_expand"),
        ("ga", "training.ema=true", "recalibrate is for the weights themselves; training.ema must be false"),
    ],
)
def test_combinations_without_a_meaning(mode, setting, line):
    flags = {"num_indexes_to_replace": 3, "ckpt_folder": "x"}
    with pytest.raises(InputError, match=line):
        load_config("digits_classifier.yml", mode, settings=[setting, "unlearn.bn_mode=recalibrate"], flags=flags)


def test_recalibration_survives_a_last_batch_of_one_image(origin):
    """ResNet-18 on 8 x 8 images ends in 1 x 1 maps, of which one image alone has no variance."""
    out = train.main(
        [
            "--mode",
            "pretrain",
            "--dataset",
            "digits",
            "--arch",
            "resnet18",
            *TOY,
            "--save_dir",
            "r",
            "--set",
            "data.val_fraction=0.97",
        ]
    )
    n = len(cases.load_indices(out)["remain"])
    unlearned = train.main(
        [
            "--mode",
            "ga",
            "--model_path",
            str(out),
            "--num_indexes_to_replace",
            str((n - 1) % 16 or 16),
            *TOY,
            "--bn_mode",
            "recalibrate",
            "--arch",
            "resnet18",
            "--save_dir",
            "u",
        ]
    )
    assert len(cases.load_indices(unlearned)["remain"]) % 16 == 1


# ---- evaluation


def test_only_a_retrained_model_is_a_target(origin):
    ga, finetuned = unlearn("ga", origin), unlearn("finetune", origin)
    with pytest.raises(InputError, match="ga: a run of mode ga, wanted a retrained model"):
        evaluate.main([str(finetuned), "--retrain", str(ga)])


def test_a_class_forgotten_after_another_is_not_judged(origin):
    words = [*TOY, "--model_path"]
    first = train.main(["--mode", "ga", *words, str(origin), "--label_to_forget", "0", "--save_dir", "first"])
    second = train.main(["--mode", "ga", *words, str(first), "--label_to_forget", "1", "--save_dir", "second"])
    assert [s["name"] for s in cases.load_meta(second)["forgotten_before"]] == ["0"]
    with pytest.raises(InputError, match="second: its original had forgotten class 0 before"):
        evaluate.main([str(second)])


def test_numbers_on_validation_images_stand_beside_those_of_the_test_set(origin):
    retrained, out = unlearn("retrain", origin), unlearn("finetune", origin)
    words = [str(out), "--retrain", str(retrained)]
    evaluate.main([*words, "--on", "val"])
    assert set(read_json("finetune/metrics.json")) == {"classification_val"}
    evaluate.main(words)  # 78 remain images, 297 test images: as many of these are drawn
    found = read_json("finetune/metrics.json")
    assert set(found) == {"classification", "classification_val"}
    assert found["classification"]["contract"]["record"]["svc_nonmembers"]["n"] == 78
