"""Judges by their name in timm: weights out of the hub's cache, and what is said where they cannot be had."""

import logging
from pathlib import Path

import huggingface_hub
import pytest
import torch
from pictures import photos, save_images
from safetensors.torch import save_file

import classifier_evaluation
import models
from functions.errors import InputError
from functions.files import read_json, sha256_file
from functions.judging import judges, libraries
from models.classifiers import WeightsError, pretrained
from models.hub import config_of, weights_file

NAME = "efficientnet_lite0"
CPU = torch.device("cpu")


@pytest.fixture
def cache(monkeypatch):
    """An empty cache of the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(Path("hub").resolve()))
    return Path("hub")


@pytest.fixture
def weights(cache):
    """There the weights of Lite0, the package's, lie as if timm had published them."""
    repository = cache / f"models--timm--{NAME}.ra_in1k"
    for folder in (repository / "refs", repository / "snapshots" / "abc"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    state = libraries.lite0(models.build, "the test")[0].state_dict()
    path = repository / "snapshots" / "abc" / "model.safetensors"
    save_file({name: t for name, t in state.items() if name not in ("mean", "std")}, path)
    return path


@torch.no_grad()
def test_a_model_by_name_is_the_hubs_with_timms_own_preprocessing(weights):
    judge = judges.open_judge(f"timm:{NAME}", models.build, pretrained, CPU)
    ours = libraries.lite0(models.build, "the test")[0]
    assert not judge.model.training and not any(p.requires_grad for p in judge.model.parameters())
    x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    # ours takes (x - 1/2) / (1/2)
    torch.testing.assert_close(judge.run(x).logits, ours(((x - mean) / std + 1) / 2), rtol=1e-4, atol=1e-4)
    record = judge.record
    assert (record["arch"], record["sha256"]) == (f"{NAME}.ra_in1k", sha256_file(weights))
    assert record["preprocessing"] == (
        "[0,1], whole image to 224x224 (bicubic, antialiased), mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225]"
    )
    assert pretrained(f"{NAME}.ra_in1k")[1]["arch"] == record["arch"]


def test_it_judges_a_folder(weights, capsys):
    save_images(Path("S/985"), photos("flower.jpg", 2))
    words = ["--dataset", "imagenet", "--label_of_forgotten_class", "daisy", "--classifier", f"timm:{NAME}"]
    classifier_evaluation.main(["--sample_path", "S", *words])
    assert "Judge: imagenet efficientnet_lite0.ra_in1k, test accuracy unknown" in capsys.readouterr().out
    judge = read_json("S/metrics.json")["classifier_evaluation"]["contract"]["protocol"]["evaluation"]["judge"]
    assert judge["sha256"] == sha256_file(weights) and judge["test_accuracy"] is None


def test_a_damaged_file_is_one_line(weights):
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=f"ImageNet weights of {NAME} cannot be had") as found:
        pretrained(NAME)
    assert "\n" not in str(found.value)


def test_without_a_network_nothing_is_tried_six_times(cache, caplog, monkeypatch):
    with caplog.at_level(logging.WARNING), pytest.raises(WeightsError, match="ImageNet weights of .* cannot be had"):
        pretrained(NAME)
    assert caplog.records == []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="cannot be had .not in the cache, and HF_HUB_OFFLINE is set"):
        pretrained(NAME)


def test_a_hub_that_answers_is_asked_for_the_file(weights, monkeypatch):
    """Any answer will do, as long as there is a line."""
    asked = []
    monkeypatch.setattr("models.hub._ask_the_hub", lambda constants: asked.append("hub"))
    download = huggingface_hub.hf_hub_download

    def fetch(repository, file, local_files_only=False):
        if not local_files_only:
            asked.append(f"{repository}/{file}")
            (weights.parent / "moved").rename(weights)
        return download(repository, file, local_files_only=True)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    weights.rename(weights.parent / "moved")
    assert weights_file(config_of(NAME)) == weights.resolve() and asked == [
        "hub",
        f"timm/{NAME}.ra_in1k/model.safetensors",
    ]
    assert weights_file(config_of(NAME)) == weights.resolve() and len(asked) == 2


@pytest.mark.parametrize(
    "name, message",
    [
        ("resnet81", "'resnet81' is no model of timm's .did you mean 'resnet18'"),
        ("hf-hub:somebody/something", "'hf-hub:somebody/something' is no model of timm's"),
        ("resnet18.a9_in1k", r"weights of resnet18\.a9_in1k cannot be had: timm has resnet18\.a1_in1k, "),
        ("vit_base_patch16_224.augreg_in21k", "has 21843 outputs; wanted those of ImageNet's 1000 classes"),
        ("resmlp_12_224.fb_dino", "has 1000 outputs; wanted those of ImageNet's"),
        ("gcvit_tiny", "ImageNet weights of gcvit_tiny cannot be had .timm has them elsewhere than on the hub"),
    ],
)
def test_names_that_are_no_judges(cache, name, message):
    with pytest.raises(InputError, match=message):
        pretrained(name)
