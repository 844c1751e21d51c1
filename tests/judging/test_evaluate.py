"""evaluate.py on small runs: an overfitted original, a model retrained without the forget set, and broken ones."""

import json
import math
import shutil
from pathlib import Path

import cases
import pytest
import safetensors.torch
import torch

import datasets
import evaluate
import models
from datasets.split import train_val_split
from functions.errors import InputError
from functions.files import write_json
from functions.judging import forgetting as forgetting_metrics
from functions.judging import logits as classifier_runs
from functions.judging import membership
from functions.storage import checkpoint

N_FORGET = 200


@pytest.fixture(scope="module")
def train_set():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def split(train_set):
    """300 images to train on, half of their labels wrong, so that fitting them is memory; 400 for validation."""
    g = torch.Generator().manual_seed(0)
    order = torch.randperm(len(train_set), generator=g)
    sort = lambda i: i.sort().values
    return {"forget": sort(order[:N_FORGET]), "remain": sort(order[N_FORGET:800]), "val": sort(order[800:1100])}


def fitted(images, indices, steps: int, seed: int = 0):
    """A SmallCNN after so many full-batch steps of Adam."""
    torch.manual_seed(seed)
    description = models.classifiers.describe("cnn", 10, 1, 8, width=8)
    model = models.build(description).train()
    x, c = images.gather(indices)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), c).backward()
        optimizer.step()
    return description, model


def save_run(path: Path, model, mode: str, indices, forget=None, seconds=60.0, **more) -> Path:
    description, net = model
    meta = cases.meta() | {
        "mode": mode,
        "model": description,
        "forget": forget,
        "data": {"dataset": "digits", "n_classes": 10, "shape": [1, 8, 8], "classes": list("0123456789")},
        "config": {"data": {"dataset": "digits", "path": "data", "image_size": None}},
        "cost": {"seconds": seconds, "forward": 1, "backward": 1},
        **more,
    }
    checkpoint.save(path, 1, {"raw": net.state_dict()}, {}, meta, 1, indices)
    return path


@pytest.fixture(scope="module")
def nets(train_set, split):
    """Trained once: on everything, and without the forget set."""
    noisy = noisy_labels(train_set)
    whole = torch.cat([split["remain"], split["forget"]])
    return {"original": fitted(noisy, whole, 150), "retrained": fitted(noisy, split["remain"], 150, 1)}


def noisy_labels(images):
    """Every other label is off by one: what a model knows of these it can only have seen."""
    from dataclasses import replace

    wrong = (images.labels + 1) % 10
    odd = torch.arange(len(images)) % 2 == 1
    return replace(images, labels=torch.where(odd, wrong, images.labels))


@pytest.fixture
def runs(nets, split, monkeypatch):
    """Run folders of both, and data whose labels are those that they learned."""
    load = datasets.load
    monkeypatch.setattr(datasets, "load", lambda *args, **more: noisy_labels(load(*args, **more)))
    forget = {"label": None, "count": N_FORGET, "fraction": None, "index_file": None}
    trained = torch.cat([split["remain"], split["forget"]]).sort().values
    original = save_run(Path("original"), nets["original"], "pretrain", {"remain": trained, "val": split["val"]})
    retrained = save_run(Path("retrained"), nets["retrained"], "retrain", split, forget)
    prepared = {"seconds": 15.0, "forward": 0, "backward": 0}
    unlearned = save_run(Path("unlearned"), nets["original"], "salun", split, forget, 30.0, prepared=prepared)
    return {"original": original, "retrained": retrained, "unlearned": unlearned}


def section(path: Path, name="classification") -> dict:
    return json.loads(path.read_text())[name]


def argv(runs, *names, retrain=True, more=()):
    return [str(runs[n]) for n in names] + (["--retrain", str(runs["retrained"])] if retrain else []) + list(more)


def test_attacks_tell_the_original_from_the_retrained_model(runs, split, train_set):
    """The original knows its forget set; the retrained model takes it for what it never saw, like validation images."""
    original, retrained = (section(p) for p in evaluate.main(argv(runs, "original", "retrained")))
    assert original["SVC_MIA_forget_efficacy"]["confidence"] < 0.1
    assert original["UA"] < 5 < 40 < retrained["UA"]
    # held-out images in place of the forget set, for the same model
    run = classifier_runs.read_run("retrained")
    logits = safetensors.torch.load_file(Path(f"retrained/logits/{run.sha256[:16]}_train.safetensors"))["logits"]
    test = safetensors.torch.load_file(Path(f"retrained/logits/{run.sha256[:16]}_test.safetensors"))["logits"]
    unseen = forgetting_metrics.forgetting_numbers(
        logits,
        datasets.load("digits").labels,
        {**split, "forget": split["val"]},
        test,
        datasets.load("digits", "data", "test").labels,
    )
    mine, other = retrained["SVC_MIA_forget_efficacy"], unseen["SVC_MIA_forget_efficacy"]
    assert mine["confidence"] == pytest.approx(other["confidence"], abs=0.12) and mine["confidence"] > 0.3
    assert original["entropy_lr_mia"] > retrained["entropy_lr_mia"] + 0.2  # called member: the other direction
    assert original["average_gap"] > 10 and retrained["average_gap"] == 0.0
    assert original["RTE"] is None and retrained["RTE"] == 1.0  # pretraining is no unlearning


def test_numbers_and_their_contract(runs, split, capsys):
    (path,) = evaluate.main(argv(runs, "unlearned", more=["--original", "original"]))
    assert path == Path("unlearned/metrics.json") and not Path("original/metrics.json").exists()
    found, text = section(path), capsys.readouterr().out
    model = models.build(cases.load_meta("unlearned")["model"]).eval()
    model.load_state_dict(cases.load_weights("unlearned", "raw"))
    images, test = datasets.load("digits"), datasets.load("digits", "data", "test")

    def accuracy(images, indices):
        x, c = images.gather(indices)
        return 100 * (model(x).argmax(1) == c).double().mean().item()

    expected = {
        "retain": accuracy(images, split["remain"]),
        "forget": accuracy(images, split["forget"]),
        "val": accuracy(images, split["val"]),
        "test": accuracy(test, torch.arange(len(test))),
    }
    assert found["accuracy"] == pytest.approx(expected)
    assert [found[k] for k in ("RA", "FA", "val", "TA")] == list(found["accuracy"].values())
    assert found["UA"] == 100 - found["FA"] and found["MIA"] == 100 * found["SVC_MIA_forget_efficacy"]["confidence"]
    assert list(found["SVC_MIA_forget_efficacy"]) == ["correctness", "confidence", "entropy", "m_entropy", "prob"]
    assert found["RTE"] == pytest.approx(0.75)  # 30 s and 15 s for its mask
    assert found["TA_forgotten"] is None and 0 < found["JS"] <= math.log(2) and found["D_KL"] > 0
    goal = found["retrained"]
    assert found["average_gap"] == pytest.approx(sum(abs(found[k] - goal[k]) for k in ("UA", "RA", "TA", "MIA")) / 4)
    record = found["contract"]["record"]
    assert found["n"] == {"retain": 600, "forget": N_FORGET, "val": 300, "test": len(test)} == record["n"]
    assert record["sha256"] == cases.weights_hash("unlearned", "raw") and record["weights"] == "raw"
    assert found["contract"]["protocol"]["on"] == "test" and "non-member" in str(found["contract"]["protocol"])
    assert "share of forgotten images called non-member; the retrained model has" in text and "not 1" in text
    assert "opposite direction: share of forgotten images called member; the retrained model has" in text
    assert f"(retrained {goal['SVC_MIA_forget_efficacy']['prob']:.4f})" in text
    assert [line.split(" | ")[0] for line in text.splitlines()[2:5]] == ["| pretrain", "| retrain", "| salun"]


def test_logits_are_made_once_and_again_where_damaged(runs, monkeypatch, capsys):
    (path,) = evaluate.main(argv(runs, "unlearned"))
    first, passes = section(path), []
    forward = classifier_runs._forward
    monkeypatch.setattr(classifier_runs, "_forward", lambda *a: passes.append(a[-1]) or forward(*a))
    write_json(path, {"other": 1, "classification": {}})
    evaluate.main(argv(runs, "unlearned", more=["--batch_size", "7"]))
    assert passes == [] and section(path) == first and json.loads(path.read_text())["other"] == 1
    kept = sorted(Path("unlearned/logits").iterdir())
    assert len(kept) == 2
    data = bytearray(kept[1].read_bytes())
    kept[0].write_bytes(kept[0].read_bytes()[:100])
    data[-3] ^= 1
    kept[1].write_bytes(data)
    evaluate.main(argv(runs, "unlearned"))
    assert len(passes) == 2 and section(path) == first
    # other weights, other logits, even where the folder is the same; other images too
    shutil.copytree("retrained/ckpts", "unlearned/ckpts", dirs_exist_ok=True)
    evaluate.main(argv(runs, "unlearned"))
    assert len(passes) == 4
    load = datasets.load
    monkeypatch.setattr(datasets, "load", lambda *args, **more: shifted(load(*args, **more)))
    evaluate.main(argv(runs, "unlearned", retrain=False))
    assert len(passes) == 6


def shifted(images):
    from dataclasses import replace

    return replace(images, images=images.images // 2)


def test_without_a_retrained_model_no_target_is_claimed(runs, capsys):
    (path,) = evaluate.main(argv(runs, "unlearned", retrain=False))
    found, text = section(path), capsys.readouterr().out
    assert [found[k] for k in ("D_KL", "JS", "average_gap", "retrained")] == [None] * 4
    assert text.count("no target is known") == 2 and "(retrained" not in text and "| – | – | – | 0.75 |" in text


def test_on_val_never_looks_at_the_test_part(runs, split, monkeypatch, capsys):
    load = datasets.load

    def no_test(name, path="data", part="train", *more, **options):
        assert part == "train"
        return load(name, path, part, *more, **options)

    monkeypatch.setattr(datasets, "load", no_test)
    found = section(evaluate.main(argv(runs, "unlearned", more=["--on", "val"]))[0], "classification_val")
    assert found["TA"] == found["val"] and found["n"]["test"] == len(split["val"])
    assert found["contract"]["protocol"]["on"] == "val"
    assert "VALIDATION part in place of the test part" in capsys.readouterr().out


def test_a_forgotten_class_is_out_of_the_test_set(runs, nets, train_set):
    """TA, val and both attacks over the kept classes; the forgotten one's test accuracy beside them."""
    images = datasets.load("digits")
    labels = images.labels
    train, val = train_val_split(labels, 0.2, 0)
    parts = {"forget": train[labels[train] == 3], "remain": train[labels[train] != 3], "val": val}
    run = save_run(Path("class"), nets["original"], "salun", parts, {"label": 3, "count": None, "fraction": None})
    found = section(evaluate.main([str(run)])[0])
    test = datasets.load("digits", "data", "test")
    x, c = test.gather(torch.arange(len(test)))
    model = nets["original"][1].eval()
    right = model(x).argmax(1) == c
    assert found["TA"] == pytest.approx(100 * right[c != 3].double().mean().item())
    assert found["TA_forgotten"] == pytest.approx(100 * right[c == 3].double().mean().item())
    assert found["n"]["test"] == int((c != 3).sum()) and found["n"]["val"] == int((labels[val] != 3).sum())
    logits, kept = model(images.images.float() / 255).detach(), c != 3
    judged = lambda i: (logits[i], labels[i])
    sets = judged(parts["remain"]), (model(x).detach()[kept], c[kept]), judged(parts["forget"])
    assert found["SVC_MIA_forget_efficacy"] == pytest.approx(membership.svc_mia(*sets), abs=0.01)
    assert found["entropy_lr_mia"] == pytest.approx(membership.entropy_lr_mia(*sets), abs=0.01)
    counted = save_run(Path("counted"), nets["original"], "salun", parts, {"label": 3, "count": 5, "fraction": None})
    found = section(evaluate.main([str(counted)])[0])
    assert found["TA_forgotten"] is None and found["n"]["test"] == len(c)


def test_runs_that_cannot_be_compared_are_refused(runs, nets, split):
    forget = {"label": None, "count": N_FORGET, "fraction": None}
    moved = {**split, "forget": split["forget"].clone()}
    moved["forget"][0], moved["remain"] = moved["val"][0], moved["remain"]
    other = save_run(Path("other"), nets["original"], "salun", moved, forget)
    with pytest.raises(InputError, match="other and retrained: not the same forget set, of 200 and 200 images"):
        evaluate.main(argv({**runs, "other": other}, "other"))
    cut = save_run(Path("cut"), nets["original"], "salun", {**split, "val": split["val"][1:]}, forget)
    with pytest.raises(InputError, match="not the same val set, of 299 and 300"):
        evaluate.main(argv({**runs, "cut": cut}, "cut"))
    more = save_run(Path("more"), nets["original"], "pretrain", {"remain": split["remain"], "val": split["val"]})
    # it never saw the forget set
    with pytest.raises(InputError, match="more and retrained: the first was not trained on what the second remains"):
        evaluate.main(argv({**runs, "more": more}, "more"))
    with pytest.raises(InputError, match="original: forgot nothing; --retrain names"):
        evaluate.main(["original"])
    with pytest.raises(InputError, match="original: a run of mode pretrain, wanted a retrained model"):
        evaluate.main(["unlearned", "--retrain", "original"])
    old = save_run(Path("old"), nets["original"], "salun", None, forget)
    with pytest.raises(InputError, match="old: an older run that kept no indices of its data; run it again"):
        evaluate.main([str(old)])
    none = save_run(Path("none"), nets["original"], "salun", {**split, "val": split["val"][:0]}, forget)
    with pytest.raises(InputError, match="none: set no validation images aside"):
        evaluate.main([str(none), "--on", "val"])
    assert section(evaluate.main([str(none)])[0])["val"] is None


def test_a_diverged_model_is_refused(runs, nets, split):
    description, net = nets["original"]
    broken = models.build(description)
    broken.load_state_dict({k: v.clone() for k, v in net.state_dict().items()})
    for p in broken.head.parameters():
        p.data.fill_(3e38)  # finite, and no sum of them is: weights that are not finite are never saved
    run = save_run(Path("diverged"), (description, broken), "ga", split, {"label": None, "count": N_FORGET})
    with pytest.raises(InputError, match="diverged: logits of 1500 of 1500 train images are not finite"):
        evaluate.main([str(run)])
    assert not list(Path("diverged").rglob("*train.safetensors"))


def test_files_go_where_they_are_told(runs, capsys):
    tables = ["--latex", "t.tex", "--csv", "t.csv", "--markdown", "t.md"]
    written = evaluate.main(argv(runs, "unlearned", "retrained", more=["--out", "here", *tables]))
    assert Path("t.md").read_text() in capsys.readouterr().out  # what a pipe gets
    assert [p.name.split("_")[0] for p in written] == ["salun", "retrain"] and all(
        p.parent == Path("here") for p in written
    )
    assert r"\toprule" in Path("t.tex").read_text() and "average_gap_mean" in Path("t.csv").read_text()
    assert not Path("unlearned/metrics.json").exists()
    assert evaluate.main(argv(runs, "unlearned", more=["--out", "one.json"])) == [Path("one.json")]
    with pytest.raises(InputError, match="one.json: one file for 2 runs"):
        evaluate.main(argv(runs, "unlearned", "retrained", more=["--out", "one.json"]))


def test_weights_are_those_that_were_asked_for(runs, nets, split):
    net = nets["original"][1]
    other = nets["retrained"][1].state_dict()
    meta = {**cases.load_meta("unlearned"), "files": None}
    checkpoint.save(Path("both"), 1, {"raw": net.state_dict(), "ema": other}, {}, meta, 1, split)
    found = [section(evaluate.main(["both", "--weights", w, "--out", f"{w}.json"])[0]) for w in ("raw", "ema", "auto")]
    assert [f["contract"]["record"]["weights"] for f in found] == ["raw", "ema", "ema"]
    assert found[0]["UA"] < 5 < found[1]["UA"] == found[2]["UA"]
    with pytest.raises(InputError, match="unlearned.*: has no ema weights"):
        evaluate.main(["unlearned", "--weights", "ema"])


def small(nets, split, **parts):
    """A retrained and an unlearned run whose parts of the data are these instead."""
    parts, forget = {**split, **parts}, {"label": None, "count": len(parts.get("forget", split["forget"]))}
    retrained = save_run(Path("small_retrained"), nets["retrained"], "retrain", parts, forget)
    return {"retrained": retrained, "small": save_run(Path("small"), nets["original"], "salun", parts, forget)}


@pytest.mark.parametrize("n_remain, n_forget", [(100, 200), (1, 1)])
def test_a_test_set_that_outnumbers_the_remain_set(runs, nets, split, capsys, n_remain, n_forget):
    """SVC-MIA against as many test images, by a draw that the contract tells; all other numbers are of everything."""
    parts = {"remain": split["remain"][:n_remain], "forget": split["forget"][:n_forget]}
    found, whole = (
        section(evaluate.main(argv(which, name))[0])
        for which, name in ((small(nets, split, **parts), "small"), (runs, "unlearned"))
    )
    n_test = whole["n"]["test"]
    assert found["n"] == {"retain": n_remain, "forget": n_forget, "val": 300, "test": n_test}
    assert all(
        found[key] is not None for key in ("UA", "RA", "TA", "MIA", "entropy_lr_mia", "D_KL", "JS", "average_gap")
    )
    assert found["TA"] == whole["TA"] and found["val"] == whole["val"]
    assert found["contract"]["record"]["svc_nonmembers"] == {"seed": 0, "n": n_remain, "of": n_test}
    text = f"Note: small: SVC-MIA: the test set outnumbers the remain set, {n_remain} of {n_test} test images"
    assert text in capsys.readouterr().out
    # another attack is another protocol
    assert "|D_r| of D_test drawn with seed 0" in found["contract"]["protocol"]["attacks"]["SVC_MIA_forget_efficacy"]
    assert (
        found["contract"]["hash"] != whole["contract"]["hash"] and "svc_nonmembers" not in whole["contract"]["record"]
    )
    assert whole["notes"] == []


def test_the_protocol_is_what_it_was_where_enough_remain(runs):
    found = section(evaluate.main(argv(runs, "unlearned"))[0])
    assert found["contract"]["hash"] == "547f2ba9869baeb9"


def test_numbers_of_no_images_are_blank_and_the_others_stand(runs, nets, split, capsys):
    """A remain set of none: the gap is over what exists. A validation part of the forgotten class alone: the same."""
    found = section(evaluate.main(argv(small(nets, split, remain=split["remain"][:0]), "small"))[0])
    blank = ("RA", "MIA", "SVC_MIA_forget_efficacy", "entropy_lr_mia")
    assert [found[key] for key in blank] == [None] * 4 and found["TA"] > 0 and found["D_KL"] > 0
    goal = found["retrained"]
    assert found["average_gap"] == pytest.approx(sum(abs(found[k] - goal[k]) for k in ("UA", "TA")) / 2)
    assert "svc_nonmembers" not in found["contract"]["record"]
    out = capsys.readouterr().out
    assert "Note: small: SVC-MIA and LR-MIA are blank: the remain set has no images" in out
    assert "Note: small: avg. gap: of UA, TA alone" in out and "called non-member;" not in out

    labels = datasets.load("digits").labels
    three = lambda part: split[part][labels[split[part]] == 3]
    parts = {"forget": three("forget"), "remain": split["remain"], "val": three("val")}
    run = save_run(Path("three"), nets["original"], "salun", parts, {"label": 3, "count": None, "fraction": None})
    found = section(evaluate.main([str(run), "--on", "val"])[0], "classification_val")
    assert found["TA"] is None and found["MIA"] is None and found["TA_forgotten"] is not None and found["RA"] > 90
    assert "the test set has no images of kept classes" in capsys.readouterr().out


def test_a_forget_set_of_none_is_refused_by_name(runs, nets, split):
    both = small(nets, split, forget=split["forget"][:0])
    for more in ([], ["--retrain", str(both["retrained"])]):
        with pytest.raises(InputError, match="small.*: forgot nothing"):
            evaluate.main([str(both["small"]), *more])


def test_a_forgotten_class_without_test_images(runs, nets, split, monkeypatch):
    """Its own test accuracy is blank, all else is there; and more are forgotten than remain."""
    load, test_of = datasets.load, datasets.load("digits", "data", "test")
    kept = torch.nonzero(test_of.labels != 3)[:, 0]
    monkeypatch.setattr(
        datasets, "load", lambda *a, **k: without(load(*a, **k), kept) if a[2] == "test" else load(*a, **k)
    )
    parts = {"forget": split["remain"], "remain": split["forget"]}
    forget = {"label": 3, "count": None, "fraction": None}
    found = section(evaluate.main([str(save_run(Path("run"), nets["original"], "salun", split | parts, forget))])[0])
    assert found["TA_forgotten"] is None and found["n"]["test"] == len(kept)
    assert all(found[key] is not None for key in ("UA", "RA", "TA", "MIA", "entropy_lr_mia"))


def without(images, kept):
    from dataclasses import replace

    return replace(images, images=images.images[kept], labels=images.labels[kept])
