"""The commands of the published classification README, ours, on a stand-in for CIFAR-10 with eighty images.

Rows of docs/command_map.md name these tests. Flags are those of the published commands, by their names.
"""

import json
import shlex
from functools import partial
from pathlib import Path

import cases
import pytest
import torch

import datasets
import evaluate
import train
from functions.errors import InputError
from functions.storage.artifacts import load_mask

SMALL = " --set training.batch_size=32"


def fake_cifar10(path, split, image_size, seed, train=80):
    """Noise on a class's grey level: 80 training and 40 test images of CIFAR-10's shape."""
    n = {"train": train, "test": 40}[split]
    labels = torch.arange(n) % 10
    noise = torch.randint(0, 60, (n, 3, 32, 32), generator=torch.Generator().manual_seed(n))
    images = (noise + 19 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    return datasets.ImageSet(images, labels, tuple("abcdefghij"), "cifar10", split)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "cifar10", fake_cifar10)


def run(command: str):
    python, script, *argv = shlex.split(command)
    assert python == "python"
    return {"train.py": train, "evaluate.py": evaluate}[script].main(argv)


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """The original model, and the mask folder of four forgotten images."""
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets.DATASETS, "cifar10", fake_cifar10)
        run(
            f"python train.py --mode pretrain --arch resnet20s --dataset cifar10 --epochs 4 --lr 0.1 --save_dir {folder}/origin"
            + SMALL
        )
        run(
            f"python train.py --mode generate_mask --save_dir {folder}/mask --model_path {folder}/origin "
            "--num_indexes_to_replace 4 --export"
        )
    return folder


def test_main_train(monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "cifar10", partial(fake_cifar10, train=20))
    out = run("python train.py --mode pretrain --arch resnet18 --dataset cifar10 --lr 0.1 --epochs 1")
    meta = cases.load_meta(out)
    assert out.parent == Path("results/cifar10/pretrain")
    assert meta["model"]["kwargs"]["arch"] == "resnet18" and meta["model"]["kwargs"]["n_classes"] == 10
    assert meta["model"]["kwargs"]["std"] == [0.2470, 0.2435, 0.2616]
    assert {k: len(v) for k, v in cases.load_indices(out).items()} == {"remain": 18, "val": 2}
    assert meta["config"]["training"]["epochs"] == 1 and meta["config"]["optim"]["lr"] == 0.1


def test_generate_mask(origin):
    names = {p.name for p in (origin / "mask").iterdir()}
    shares = [f"{q / 10:.1f}" for q in range(1, 11)]
    assert names == {
        "score.safetensors",
        *(f"with_{q}.{s}" for q in shares for s in ("pt", "pt.sha256", "safetensors")),
    }
    total = sum(t.numel() for t in load_mask(origin / "mask" / "with_1.0.pt", None, None).values())
    for q in (0.1, 0.5, 0.7, 1.0):
        theirs, ours = (load_mask(origin / "mask" / f"with_{q}.{s}", None, None) for s in ("pt", "safetensors"))
        assert all(torch.equal(theirs[n], ours[n]) for n in ours)
        assert sum(int(m.sum()) for m in ours.values()) == int(total * q)


def unlearn(origin, method: str, more: str) -> Path:
    return run(
        f"python train.py --unlearn {method} --model_path {origin}/origin --num_indexes_to_replace 4 "
        f"--save_dir {method} {more}" + SMALL
    )


@pytest.mark.parametrize("mask", ["with_0.5.pt", "with_0.5.safetensors"])
def test_salun(origin, mask):
    out = unlearn(origin, "RL", f"--unlearn_epochs 1 --unlearn_lr 0.013 --mask_path {origin}/mask/{mask}")
    before, after = (cases.load_weights(r, "raw") for r in (origin / "origin", out))
    frozen = {n: ~m for n, m in load_mask(origin / "mask" / mask, None, None).items()}
    assert all(torch.equal(before[n][f], after[n][f]) for n, f in frozen.items())
    meta = cases.load_meta(out)
    assert meta["step"] == 4 and meta["config"]["unlearn"]["order"] == "split"  # 1 + 3 batches of 32
    assert meta["config"]["optim"]["lr"] == 0.013


def test_retrain(origin):
    out = unlearn(origin, "retrain", "--unlearn_epochs 2 --unlearn_lr 0.1")
    theirs, ours = (cases.load_indices(r) for r in (origin / "origin", out))
    assert torch.equal(theirs["remain"], torch.cat([ours["forget"], ours["remain"]]).sort().values)
    assert not torch.equal(*(cases.load_weights(r, "raw")["fc.weight"] for r in (origin / "origin", out)))


@pytest.mark.parametrize(
    "method, more, steps",
    [
        ("FT", "--unlearn_epochs 2 --unlearn_lr 0.01", 6),
        ("GA", "--unlearn_epochs 5 --unlearn_lr 1e-4 --num_indexes_to_replace 4", 5),
        ("FT_prune", "--alpha 5e-4 --unlearn_epochs 2 --unlearn_lr 0.01", 6),
        ("wfisher", "--alpha 0.5 --set iu.k=16", 1),
    ],
)
def test_main_forget(origin, method, more, steps):
    out = unlearn(origin, method, more)
    meta = cases.load_meta(out)
    assert meta["step"] == steps and meta["forget"]["count"] == 4
    alpha = {"FT_prune": ("weight", 5e-4), "wfisher": ("step", 0.5)}.get(method)
    if alpha:
        key, value = alpha
        assert meta["config"]["unlearn"][key] == value


def test_evaluation_has_the_published_keys(origin, capsys):
    retrained = unlearn(origin, "retrain", "--unlearn_epochs 4 --unlearn_lr 0.1")
    out = unlearn(origin, "FT", "--unlearn_epochs 1 --unlearn_lr 0.01")
    run(f"python evaluate.py {out} --retrain {retrained} --original {origin}/origin")
    found = json.loads((out / "metrics.json").read_text())["classification"]
    assert set(found["SVC_MIA_forget_efficacy"]) == {"correctness", "confidence", "entropy", "m_entropy", "prob"}
    assert set(found["accuracy"]) == {"retain", "forget", "val", "test"}
    assert found["UA"] == pytest.approx(100 - found["accuracy"]["forget"])
    assert found["MIA"] == pytest.approx(100 * found["SVC_MIA_forget_efficacy"]["confidence"])
    printed = capsys.readouterr().out
    assert "share of forgotten images called non-member" in printed and "that is the target, not 1" in printed


@pytest.mark.parametrize("flag", ["--workers 4", "--gpu 0", "--print_freq 50", "--rate 0.95"])
def test_flags_that_did_nothing_are_not_accepted(origin, flag):
    with pytest.raises(InputError, match=f"^{flag.split()[0]}: no such flag"):
        unlearn(origin, "FT", flag)


def test_a_flag_without_a_meaning_in_its_mode_is_one_line(origin):
    with pytest.raises(InputError, match="--epochs: has no meaning in mode generate_mask"):
        run(
            f"python train.py --mode generate_mask --model_path {origin}/origin --num_indexes_to_replace 4 --unlearn_epochs 1"
        )
