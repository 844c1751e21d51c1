"""Several classes forgotten at once: runs, masks, replay, and who judges them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cases import TOY, WORLDS, stats
from pictures import digits, make_judge, noise, save_images

import classifier_evaluation
import datasets
import evaluate
import save_base_dataset
import train
from functions.errors import InputError
from functions.files import read_json
from functions.judging import metrics
from functions.sampling.folders import find_samples
from functions.storage import checkpoint
from runners.methods import sa
from runners.methods.boundary_shrink import BoundaryShrink
from runners.setup import Materials


def unlearn(mode: str, run: Path, label: str, *more: str, world: str = "classifier") -> Path:
    config = WORLDS[world][mode]
    return train.main(
        ["--mode", mode, "--config", *config, *TOY, "--ckpt_folder", str(run), "--label_to_forget", label, *more]
    )


@pytest.fixture(scope="module")
def labels():
    return datasets.load("digits").labels


def test_two_classes_are_one_forget_set(originals, labels):
    run = unlearn("salun", originals["classifier"].run, "0,2")
    assert "forget_0+2" in run.parts
    indices, meta = checkpoint.Snapshot.open(run).indices(), checkpoint.Snapshot.open(run).meta
    assert set(labels[indices["forget"]].tolist()) == {0, 2}
    assert not set(labels[indices["remain"]].tolist()) & {0, 2}
    assert (meta["selection"]["label"], meta["selection"]["name"], meta["forget"]["label"]) == ([0, 2], "0+2", [0, 2])
    # the test images of both are not what is to be kept
    evaluate.main([str(run), "--out", "two.json"])
    found = read_json("two.json")["classification"]
    test = datasets.load("digits", split="test").labels
    assert found["n"]["test"] == int(((test != 0) & (test != 2)).sum()) and found["TA_forgotten"] is not None


def test_a_class_called_otherwise_is_the_same_run(originals):
    """Names become numbers before anything is written: the runs are equal, also in what --resume compares."""
    first, second = (unlearn("ga", originals["classifier"].run, label) for label in ("3", "name:3"))
    one, two = (read_json(run / "logs" / "origin.json") for run in (first, second))
    assert one == two and "forget_3" in second.parts and stats(first) == stats(second)


def test_a_mask_of_two_classes_goes_with_both(originals):
    run = originals["classifier"].run
    words = ["--config", "digits_classifier.yml", "--ckpt_folder", str(run), "--label_to_forget", "2,0"]
    made = train.main(["--mode", "generate_mask", *words])
    assert made.name == "0+2"
    mask = ("--mask_path", str(made / "with_0.5.safetensors"))
    unlearn("salun", run, "0,2", *mask)
    with pytest.raises(InputError, match=r"made for class 0\+2, this run forgets class 0 "):
        unlearn("salun", run, "0", *mask)


def test_no_target_is_another_forgotten_class(originals, monkeypatch):
    seen, nearest = [], BoundaryShrink.nearest
    monkeypatch.setattr(BoundaryShrink, "nearest", lambda self, draw: seen.append(nearest(self, draw)) or seen[-1])
    unlearn("boundary_shrink", originals["classifier"].run, "0,2,4,5,7,8,9")
    assert seen and all(set(found.tolist()) <= {1, 3, 6} for found in seen)


def test_amnesia_replays_none_of_them(originals, monkeypatch):
    toy, post_init = originals["ddpm"], Materials.__post_init__
    fisher, made, asked = str(toy.replay_fisher), [], []
    monkeypatch.setattr(Materials, "__post_init__", lambda self: made.append(self) or post_init(self))
    monkeypatch.setattr(sa, "own_samples", lambda cfg, m, classes: asked.append(classes) or m.images)
    monkeypatch.setattr(sa, "fingerprint", lambda images: "x")
    unlearn("sa", toy.run, "1,4", "--set", f"sa.fisher_path={fisher}", world="ddpm")
    assert asked == [{0, 2, 3, 5, 6, 7, 8, 9}]
    assert made[0].task.other(torch.tensor([0, 1, 3, 4])).tolist() == [2, 2, 5, 5]


def test_several_in_a_share(originals, labels):
    run = unlearn("ga", originals["classifier"].run, "0,2", "--num_indexes_to_replace", "30")
    assert run.parent.parent.name == "forget_random30_c0+2_s0"
    assert set(labels[checkpoint.Snapshot.open(run).indices()["forget"]].tolist()) == {0, 2}


def test_an_unknown_class_writes_nothing(originals):
    original = originals["classifier"].run
    for label, message in (("0,12", "12 is not a class of digits"), ("cat", "cat is not a class of digits")):
        with pytest.raises(InputError, match=message):
            unlearn("ga", original, label)
    assert not Path("results").exists()


def test_the_indices_of_a_run_are_offered_and_taken(originals, capsys):
    run = originals["classifier"].run
    capsys.readouterr()
    train.main(["--print_indices", str(run)])
    printed = json.loads(capsys.readouterr().out)
    known = checkpoint.Snapshot.open(run).indices()
    assert printed["indices"] == known["remain"].tolist() and printed["val"] == known["val"].tolist()
    Path("some.json").write_text(json.dumps({**printed, "indices": printed["indices"][:20]}))
    words = ["--config", "digits_classifier.yml", *TOY, "--ckpt_folder", str(run), "--forget_idx", "some.json"]
    made = train.main(["--mode", "ga", *words])
    assert checkpoint.Snapshot.open(made).indices()["forget"].tolist() == printed["indices"][:20]


# ---- judges


def test_forgetting_counts_each_sample_by_its_own_class():
    logits = torch.eye(4)[[0, 0, 1, 2]] * 9
    two = metrics.forgetting(logits, torch.tensor([0, 1, 1, 1]))
    assert (two["class"], two["n"], two["accuracy"], two["ua"]) == ([0, 1], 4, 0.5, 0.5)
    same = torch.zeros(4, dtype=torch.long)
    assert metrics.forgetting(logits, same) == metrics.forgetting(logits, 0)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return make_judge(tmp_path_factory.mktemp("judge"))


def test_samples_of_two_classes_are_judged_together(judge):
    for c in range(3):
        save_images(Path(f"F/{c}"), digits(c, 5))
    flags = ["--dataset", "digits", "--classifier", str(judge), "--out", "m.json"]
    judged = lambda path, label: classifier_evaluation.main(
        ["--sample_path", path, "--label_of_forgotten_class", label, *flags]
    )
    judged("F", "2,0")
    section = read_json("m.json")["classifier_evaluation"]
    assert section["forgotten"]["class"] == [0, 2] and section["forgotten"]["n"] == 10 and set(section["kept"]) == {"1"}
    with pytest.raises(InputError, match="F: holds class 0, 1, 2, --label_of_forgotten_class says 5"):
        judged("F", "0,5")
    save_images(Path("bare"), noise(2))
    with pytest.raises(InputError, match="bare: has no class folders that say which"):
        judged("bare", "0,2")


def test_a_reference_without_two_classes():
    save = lambda *more: save_base_dataset.main(["--dataset", "digits", "--per_class", "2", *more])
    save("--label_to_forget", "1,0")
    found = find_samples("digits_without_label_0_1")
    assert sorted(set(found.labels.tolist())) == list(range(2, 10))
    with pytest.raises(InputError, match=r"holds another reference, .* without class 0\+1"):
        save("--label_to_forget", "0", "--out", "digits_without_label_0_1")


def test_classes_of_samples_by_name():
    for c in range(3):
        save_images(Path(f"S/{c}"), noise(4, seed=c))
    whole, names = find_samples("S"), ("ant", "cat", "dog", "emu")
    assert whole.only("cat", names).labels.tolist() == [1] * 4
    assert whole.only("xcat,x0", names).labels.tolist() == [2] * 4
    with pytest.raises(InputError, match="no images of class 3"):
        whole.only("emu", names)
