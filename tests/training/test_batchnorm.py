"""BatchNorm's statistics while unlearning: followed, kept, or made anew from the remain set."""

import copy
import json

import bounds
import cases
import pytest
import torch
from torch import nn

import datasets
import models
import train
from functions.tasks import Classification
from functions.training.batchnorm import freeze_statistics, recalibrate

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
VIT = "{img_size: 8, patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2}"


class OneLayer(nn.Module):
    """BatchNorm of one channel behind a scale of 2, dropout behind both."""

    def __init__(self, momentum=0.1):
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm2d(1, momentum=momentum), nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.norm(2 * x))


def batches():
    """Of 3, 3 and 2 images: a short last one."""
    g = torch.Generator().manual_seed(0)
    return [(torch.rand(n, 1, 2, 2, generator=g) * s, None) for n, s in ((3, 1.0), (3, 5.0), (2, 9.0))]


@pytest.mark.parametrize("momentum", [0.1, None])
def test_recalibrated_statistics_are_the_average_over_batches(momentum):
    model, data = OneLayer(momentum).train(), batches()
    model.norm.eval()  # frozen, in a model that trains
    model(torch.rand(4, 1, 2, 2))
    recalibrate(model, iter(data))
    seen = [[2 * float(v) for v in x.flatten()] for x, _ in data]
    means = [sum(s) / len(s) for s in seen]
    variances = [sum((v - m) ** 2 for v in s) / (len(s) - 1) for s, m in zip(seen, means)]
    assert model.norm.running_mean.item() == pytest.approx(sum(means) / 3, rel=1e-6)
    assert model.norm.running_var.item() == pytest.approx(sum(variances) / 3, rel=1e-6)
    assert model.norm.num_batches_tracked.item() == 3
    assert model.norm.momentum == momentum
    assert [m.training for m in model.modules()] == [True, False, True]  # as before


def test_later_layers_are_calibrated_on_what_dropout_leaves_alone():
    """Meanwhile everything else is in eval mode: dropout before the norm changes nothing."""
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(1)).train()
    x = torch.rand(8, 1, 4, 4)
    recalibrate(model, [(x, None)])
    assert model[1].running_mean.item() == pytest.approx(x.mean().item(), rel=1e-6)
    assert all(m.training for m in model)


def test_frozen_layers_normalise_by_what_they_have():
    model = OneLayer().train()
    model.norm.running_mean.fill_(3.0)
    model.norm.running_var.fill_(4.0)
    freeze_statistics(model)
    assert model.dropout.training and not model.norm.training
    x = torch.rand(4, 1, 2, 2)
    assert torch.allclose(model.norm(2 * x), (2 * x - 3) / (4 + 1e-5) ** 0.5)
    assert model.norm.running_mean.item() == 3.0 and model.norm.num_batches_tracked.item() == 0


def test_layers_without_statistics_are_left_alone():
    """They always normalise by their batch, frozen or not."""
    model = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.LayerNorm(4)).train()
    freeze_statistics(model)
    assert all(m.training for m in model)
    recalibrate(model, None)  # reads no batch: there is nothing to make anew


# ---- in runs


def original(folder, *model):
    (folder / "hundred.json").write_text(json.dumps(list(range(0, 1500, 15))))
    run = train.main(
        [
            "--mode",
            "pretrain",
            "--dataset",
            "digits",
            *model,
            "--epochs",
            "2",
            "--batch_size",
            "32",
            "--set",
            f"data.indices={folder / 'hundred.json'}",
            "--save_dir",
            str(folder / "origin"),
        ]
    )
    return run, ["--model_path", str(run), "--forget_fraction", "0.2"]


@pytest.fixture(scope="module")
def cnn(tmp_path_factory):
    return original(tmp_path_factory.mktemp("bn"), "--set", "model={name: cnn, width: 4}")


def unlearn(start, bn_mode, *more, mode="salun"):
    return train.main(
        [
            "--mode",
            mode,
            *start,
            "--epochs",
            "1",
            "--batch_size",
            "16",
            "--bn_mode",
            bn_mode,
            "--save_dir",
            f"{mode}_{bn_mode}",
            *more,
        ]
    )


def statistics(run):
    weights = cases.load_weights(run, "raw")
    return {n: t for n, t in weights.items() if n.endswith(STATISTICS)}


def model_of(run):
    model = models.build(cases.load_meta(run)["model"])
    model.load_state_dict(cases.load_weights(run, "raw"))
    return model.eval()


@pytest.mark.parametrize("mode", ["salun", "scrub", "bad_teacher", "boundary_expand", "boundary_shrink", "sfron"])
def test_frozen_statistics_end_bit_identical(cnn, mode):
    """Also where a method looks at the model in eval mode on the way."""
    run, start = cnn
    out = unlearn(start, "freeze", mode=mode)
    before, after = statistics(run), statistics(out)
    assert len(before) == 3 * 4 and all(torch.equal(before[n], after[n]) for n in before)
    assert cases.load_meta(out)["config"]["unlearn"]["bn_mode"] == "freeze"
    one, two = (cases.load_weights(r, "raw") for r in (run, out))
    assert not any(torch.equal(one[n], two[n]) for n in one if n.endswith(".weight") and n != "head.weight")


def test_frozen_statistics_are_used_in_the_steps(cnn, monkeypatch):
    """The prediction of a training step is that of a copy in eval mode, dropout or not."""
    predict, seen = Classification.predict, []

    def spy(self, model, draw, guidance=0.0):
        logits = predict(self, model, draw, guidance)
        seen.append(torch.equal(logits, copy.deepcopy(model).eval()(draw.x)) and model.training)
        return logits

    monkeypatch.setattr(Classification, "predict", spy)
    unlearn(cnn[1], "freeze")
    assert len(seen) > 3 and all(seen)
    seen.clear()
    unlearn(cnn[1], "update")
    assert len(seen) > 3 and not any(seen)


def test_a_resumed_run_keeps_them_frozen(cnn):
    _, start = cnn
    more = ["--set", "training.snapshot_freq=2"]
    out = unlearn(start, "freeze", *more)
    first = ["--set", "training.n_iters=2"]
    half = train.main(
        ["--mode", "salun", *start, "--batch_size", "16", "--bn_mode", "freeze", *more, *first, "--save_dir", "half"]
    )
    again = ["--mode", "salun", *start, "--batch_size", "16", "--bn_mode", "freeze", *more, "--epochs", "1"]
    train.main([*again, "--save_dir", "half", "--resume", str(half)])
    assert cases.load_meta(half)["step"] == cases.load_meta(out)["step"] > 2
    one, two = (cases.load_weights(r, "raw") for r in (out, half))
    assert all(torch.equal(one[n], two[n]) for n in one)


def test_updated_statistics_follow_the_batches(cnn):
    run, start = cnn
    out = unlearn(start, "update")
    before, after = statistics(run), statistics(out)
    assert not any(torch.equal(before[n], after[n]) for n in before)
    steps = cases.load_meta(out)["step"]
    tracked = [n for n in before if n.endswith("num_batches_tracked")]
    assert all(int(after[n] - before[n]) == steps for n in tracked)
    assert cases.load_meta(out)["config"]["unlearn"]["bn_mode"] == "update"


def test_recalibration_is_of_the_final_weights_on_the_remain_set(cnn):
    """Weights as without it; statistics as the average over the remain set in order, by hooks on the final model."""
    _, start = cnn
    plain, out = unlearn(start, "update"), unlearn(start, "recalibrate")
    one, two = (cases.load_weights(r, "raw") for r in (plain, out))
    assert {n for n in one if not torch.equal(one[n], two[n])} == set(statistics(out))
    images = datasets.load("digits", split="train")
    remain = cases.load_indices(out)["remain"]
    model = model_of(out)
    first = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    inputs = []
    first.register_forward_pre_hook(lambda m, args: inputs.append(args[0].detach()))
    batches = [x for x, _ in datasets.ordered(images, remain, 16)]
    with torch.no_grad():
        for x in batches:
            model(x)
    values = [v.double().transpose(0, 1).flatten(1) for v in inputs]
    assert len(values) == -(-len(remain) // 16) == int(first.num_batches_tracked)
    mean = torch.stack([v.mean(1) for v in values]).mean(0)
    var = torch.stack([v.var(1, correction=1) for v in values]).mean(0)
    size = torch.stack([v.square().mean(1) for v in values]).mean(0)  # what the sums are made of
    off = bounds.rounding(values[0].shape[1] + 3 * len(values))  # per update of the average: two products and a sum
    assert ((first.running_mean - mean).abs() <= off * size.sqrt()).all()
    assert ((first.running_var - var).abs() <= off * size).all()
    assert cases.load_meta(out)["config"]["unlearn"]["bn_mode"] == "recalibrate"


def test_a_model_without_batchnorm_ends_the_same_in_every_mode(tmp_path):
    _, start = original(tmp_path, "--arch", "vit_tiny_patch16_224", "--set", f"model.options={VIT}", "--lr", "0.01")
    runs = [cases.load_weights(unlearn(start, m), "raw") for m in ("update", "freeze", "recalibrate")]
    assert all(torch.equal(runs[0][n], other[n]) for other in runs[1:] for n in runs[0])
