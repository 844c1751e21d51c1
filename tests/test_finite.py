"""What crosses from numbers to an image, a feature, a metric or a file is finite, or one line and nothing written."""

from pathlib import Path

import cases
import numpy as np
import pytest
import torch
from pictures import make_judge, noise, save_images

import classifier_evaluation
import convert
import models
import sample
import train
import train_classifier
from functions.errors import InputError
from functions.files import read_json
from functions.finite import bad_rows, bad_values, check_finite
from functions.judging import metrics
from functions.judging.classifier import load_classifier, save_classifier
from functions.judging.features import Features, extract
from functions.judging.membership import u_lira
from functions.sampling.folders import find_samples
from functions.storage import checkpoint, published
from functions.training.finite import Latch

NAN, INF = float("nan"), float("inf")


# ---- the check


def test_values_are_counted_by_name():
    tensors = {"a": torch.tensor([1.0, NAN, INF]), "b": torch.ones(2), "c": torch.tensor([3]), "d": torch.tensor(-INF)}
    assert bad_values(tensors) == {"a": 2, "d": 1}
    assert bad_values({}) == bad_values({"c": torch.tensor([3])}) == {}
    with pytest.raises(InputError, match="^the file: 3 of 7 values are NaN or infinite, in a, d: the model diverged$"):
        check_finite("the file", tensors)
    check_finite("the file", {"a": torch.tensor([3e38, -3e38])})


def test_rows_are_named():
    x = torch.zeros(4, 1, 2, 2)
    x[1, 0, 1, 1], x[3] = NAN, INF
    assert bad_rows(x) == [1, 3] and bad_rows(torch.zeros(2, 3)) == []


@pytest.mark.parametrize("value", [NAN, INF, 3e38])
def test_the_latch_names_the_weight(value):
    latch, model = Latch(torch.device("cpu")), torch.nn.Linear(100, 1)
    assert latch.complaint(1, model) is None
    with torch.no_grad():
        model.weight.fill_(value)
    assert latch.complaint(2, model) == "a weight is NaN, infinite or near it at step 2 (weight)"


# ---- images


def huge(run: Path, out: str) -> Path:
    """A copy of a toy run whose weights are finite and whose predictions are not."""
    weights, meta = cases.weights(run), cases.load_meta(run)
    large = {name: t * 1e30 if name.startswith("conv_out") else t for name, t in weights.items()}
    checkpoint.save(out, 1, {"raw": large}, {"optimizers": []}, meta, keep=1)
    return Path(out)


DRAW = ["--config", "digits_sample.yml", "--n_samples_per_class", "2", "--timesteps", "2", "--classes_to_generate", "0"]


@pytest.mark.parametrize("mode", ["sample_classes", "sample_fid", "visualization"])
def test_samples_of_a_diverged_model_are_not_written(originals, mode):
    run = huge(originals["ddpm"].run, "diverged")
    with pytest.raises(InputError, match=r"2 of 2 images are NaN or infinite \(first: image 0 of class 0\)"):
        sample.main(["--mode", mode, *DRAW, "--ckpt_folder", str(run)])
    assert not [p for p in run.rglob("*") if p.suffix in (".png", ".partial")] and not list(run.rglob("samples.json"))


def test_guidance_that_is_too_much_is_named(originals):
    with pytest.raises(InputError, match=r"guidance|cond_scale"):
        sample.main(
            ["--mode", "sample_classes", *DRAW, "--ckpt_folder", str(originals["ddpm"].run), "--cond_scale", "1e308"]
        )


@pytest.mark.parametrize("flag", ["cond_scale", "eta"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_flags_are_finite(originals, flag, value):
    with pytest.raises(InputError, match=flag):
        sample.main(
            ["--mode", "sample_classes", *DRAW, "--ckpt_folder", str(originals["ddpm"].run), f"--{flag}", value]
        )


def test_a_preview_that_is_not_finite_ends_the_run_before_it_is_saved(originals, monkeypatch):
    run, words = originals["ddpm"].run, ["--set", "training.preview=2", "--save_dir", "out"]
    monkeypatch.setattr("models.encoders.Pixels.decode", lambda self, z: z * NAN)
    with pytest.raises(InputError, match=r"preview of step 2: .*NaN or infinite.*no checkpoint had been written"):
        cases.unlearn("ddpm", "finetune", run, *words)
    assert not list(Path("out").rglob("*.png")) and not list(Path("out").rglob("model.safetensors"))


def test_an_infinite_moment_ends_the_run_before_it_is_saved(originals):
    words = ["--mode", "finetune", "--config", "digits_classifier.yml", *cases.TOY, "--save_dir", "out"]
    # a gradient of more than 1.8e19, whose square is no float32; Adam then moves nothing
    scale = ["--set", "training.preview=off", "--set", "optim={name: adam, lr: 1e-12}"]
    cfg = [*words, *cases.from_run(originals["classifier"].run, 0), *scale]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runners.base.Runner.remain_loss", lambda self: self.params[0].mean() * 1e25)
        with pytest.raises(InputError, match=r"exp_avg_sq of weight 0 is NaN or infinite at step 2; no checkpoint had"):
            train.main(cfg)
    assert not list(Path("out").rglob("model.safetensors"))


# ---- weights


@pytest.fixture
def broken(originals):
    """A copy of a toy run with a NaN in its weights, whole otherwise."""
    weights = {name: t.clone() for name, t in cases.weights(originals["ddpm"].run).items()}
    weights["conv_in.bias"][0] = NAN
    meta, check = cases.load_meta(originals["ddpm"].run), checkpoint.check_finite
    checkpoint.check_finite = lambda *_: None
    try:
        checkpoint.save("broken", 1, {"raw": weights}, {"optimizers": []}, meta, keep=1)
    finally:
        checkpoint.check_finite = check
    return Path("broken")


def test_a_checkpoint_with_nan_is_not_started_from_sampled_or_exported(broken):
    message = "1 of .* values are NaN or infinite, in conv_in.bias"
    with pytest.raises(InputError, match=message):
        cases.unlearn("ddpm", "finetune", broken, "--set", "init_weights=raw", "--save_dir", "out")
    with pytest.raises(InputError, match=message):
        sample.main(["--mode", "sample_classes", *DRAW, "--ckpt_folder", str(broken)])
    with pytest.raises(InputError, match=r"ckpt\.pth: not written: raw weights: 1 of"):
        convert.main([str(broken), "--export", "ddim"])
    assert not Path("out").exists() and not list(broken.rglob("*.pth"))


def test_a_published_checkpoint_with_nan_is_not_imported(originals):
    weights = {n: t.clone() for n, t in cases.weights(originals["ddpm"].run).items()}
    weights["conv_in.bias"][0] = INF
    published.check_finite, check = (lambda *_: None), published.check_finite
    published.save_list("ckpt.pth", {"raw": weights}, {"state": {}, "param_groups": []}, 3)
    published.check_finite = check
    with pytest.raises(InputError, match=r"ckpt\.pth \(raw\): 1 of .* in conv_in\.bias"):
        convert.main(["ckpt.pth", "--config", "digits_pretrain.yml", "--set", "model.ch=8", "--out", "imported"])
    assert not Path("imported").exists()


def test_no_snapshot_of_an_average_that_is_not_finite(tmp_path):
    weights = {"raw": {"w": torch.ones(2)}, "ema": {"w": torch.tensor([1.0, INF])}}
    with pytest.raises(InputError, match="ema weights of step 3: 1 of 2 values are NaN or infinite, in w"):
        checkpoint.save(tmp_path / "run", 3, weights, {}, {}, keep=1)
    assert not list(tmp_path.rglob("*"))


def test_a_fisher_that_overflows_is_not_saved(originals):
    run = huge(originals["ddpm"].run, "diverged")
    words = ["--config", *cases.WORLDS["ddpm"]["fisher"], *cases.from_run(run, 0), "--set", "init_weights=raw"]
    with pytest.raises(InputError, match=r"Fisher of the forget set of diverged: negative, NaN or infinite"):
        train.main(["--mode", "generate_fisher", *words])
    assert not list(run.rglob("*fisher*"))


@pytest.mark.parametrize("mode", ["iu", "fisher_forget"])
def test_a_closed_form_that_diverges_saves_nothing(originals, mode, monkeypatch):
    monkeypatch.setattr("runners.closed_form.add_to_weights", lambda params, *_: params[0].data.fill_(INF))
    with pytest.raises(InputError, match="a weight is NaN, infinite or near it at step 1"):
        cases.unlearn("classifier", mode, originals["classifier"].run, "--save_dir", "out")
    assert not list(Path("out").rglob("*.safetensors"))


# ---- judges


@pytest.mark.parametrize("lr", ["1e30", "inf", "nan"])
def test_a_judge_that_diverges_is_not_saved(lr):
    with pytest.raises(InputError, match="--lr"):
        train_classifier.main(["--dataset", "digits", "--width", "2", "--epochs", "1", "--lr", lr])
    assert not list(Path().iterdir())


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return make_judge(tmp_path_factory.mktemp("judge"))


def with_nan(judge: Path, monkeypatch) -> Path:
    model, record = load_classifier(judge, models.build)
    model.head.bias.data[0] = NAN
    with pytest.raises(InputError, match=r"digits_cnn\.pth: not saved: 1 of .* in head\.bias"):
        save_classifier("digits_cnn.pth", model, record)
    assert not list(Path().glob("digits*"))
    with monkeypatch.context() as patch:
        patch.setattr("functions.judging.classifier.check_finite", lambda *_: None)
        save_classifier("digits_cnn.pth", model, record)
    return Path("digits_cnn.pth")


def test_a_judge_with_nan_is_neither_saved_nor_used(judge, monkeypatch):
    path = with_nan(judge, monkeypatch)
    save_images(Path("F/0"), noise(4))
    with pytest.raises(InputError, match=r"digits_cnn\.pth .*: 1 of .* values are NaN or infinite, in head\.bias"):
        classifier_evaluation.main(
            [
                "--sample_path",
                "F/0",
                "--dataset",
                "digits",
                "--label_of_forgotten_class",
                "0",
                "--classifier",
                str(path),
            ]
        )
    assert not Path("F/0/metrics.json").exists()


# ---- features and metrics


def test_features_that_are_not_finite_are_not_judged(tmp_path):
    samples = find_samples(save_images(tmp_path / "F", noise(3)))
    network = lambda x: Features(x.flatten(1) / (x.sum((1, 2, 3)) > 0)[:, None] * INF, x.flatten(1))
    with pytest.raises(InputError, match=r"features of .*F: \d+ of \d+ values are NaN or infinite, in pool"):
        extract(network, samples, 1, 2)


def test_features_whose_distances_overflow_have_no_precision():
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="distances between features: .*in samples, reference: the features are too"):
        metrics.precision_recall(x * 1e30, x * 1e30 + 1)


def test_scores_of_models_that_agree_are_no_scores():
    unlearned = torch.tensor([[True], [True], [True], [False], [False], [False]]).expand(6, 50)
    with pytest.raises(InputError, match=r"U-LiRA: 300 of 300 scores are NaN or infinite"):
        u_lira(torch.zeros(6, 50), unlearned, ~unlearned)


def test_pictures_of_one_colour_are_judged_with_a_note(judge, capsys):
    black = np.zeros((3, 8, 8), np.uint8)
    save_images(Path("F/0"), black)
    save_images(Path("F/1"), noise(3))
    words = ["--dataset", "digits", "--label_of_forgotten_class", "0", "--classifier", str(judge)]
    classifier_evaluation.main(["--sample_path", "F", *words])
    note = "all images of class 0 are of one colour: UA is of constant pictures"
    assert f"Note: {note}\n" in capsys.readouterr().out
    assert read_json("F/metrics.json")["classifier_evaluation"]["notes"] == [note]
    save_images(Path("F/0"), noise(1))
    classifier_evaluation.main(["--sample_path", "F", *words])
    assert "Note" not in capsys.readouterr().out
