"""From epochs to steps, against a plain loop; what each method passes over; which of two lengths counts."""

import json
import math
from pathlib import Path

import pytest

import train
from functions.config.load import load_config
from functions.training.epochs import Epochs
from functions.training.schedules import step_decay
from runners import MODES
from runners.methods.finetune import Finetune

SIZES = {"remain": 10, "forget": 5, "both": 15}  # of 4: 3, 2 and 4 steps
STEPS = {"remain": 3, "forget": 2, "both": 4}
PASSES = {
    "remain": lambda e: ("remain",),
    "forget": lambda e: ("forget",),
    "joint": lambda e: ("both",),
    "split": lambda e: ("forget", "remain"),
    "scrub": lambda e: ("forget", "remain") if e < 2 else ("remain",),
}
# of three epochs: by hand
TOTALS = {"remain": 9, "forget": 6, "joint": 12, "split": 15, "scrub": 13}


def loop(passes, epochs):
    """Every step in turn: (epoch, set)."""
    for e in range(epochs):
        for name in passes(e):
            for _ in range(0, SIZES[name], 4):
                yield e, name


@pytest.mark.parametrize("kind", PASSES)
def test_steps_are_those_of_a_plain_loop(kind):
    epochs, steps = Epochs(SIZES, 4, PASSES[kind]), list(loop(PASSES[kind], 3))
    assert epochs.total(3) == len(steps) == TOTALS[kind]
    assert [epochs.at(k) for k in range(len(steps))] == steps
    backwards = Epochs(SIZES, 4, PASSES[kind])  # a resumed run asks for a late step first
    assert [backwards.at(k) for k in reversed(range(len(steps)))] == steps[::-1]
    assert epochs.at(len(steps)) == (3, PASSES[kind](3)[0])  # a run with n_iters may go on


@pytest.mark.parametrize("n, batch, steps", [(1, 4, 1), (4, 4, 1), (5, 4, 2), (8, 4, 2), (3, 1, 3)])
def test_a_pass_is_rounded_up(n, batch, steps):
    assert Epochs({"remain": n}, batch, PASSES["remain"]).total(1) == steps == math.ceil(n / batch)


def test_the_rate_falls_by_ten_at_each_milestone():
    rates = [step_decay(0.1, e, [91, 136]) for e in (0, 90, 91, 135, 136, 181)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rel=1e-12)
    assert step_decay(0.1, 500, []) == 0.1


# ---- in runs


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The command line for a toy original on a hundred digits: 80 remain, 20 are forgotten."""
    folder = tmp_path_factory.mktemp("epochs")
    (folder / "hundred.json").write_text(json.dumps(list(range(0, 1500, 15))))
    run = train.main(
        [
            "--mode",
            "pretrain",
            "--dataset",
            "digits",
            "--set",
            "model={name: cnn, width: 4}",
            "--epochs",
            "1",
            "--batch_size",
            "32",
            "--set",
            f"data.indices={folder / 'hundred.json'}",
            "--set",
            "data.val_fraction=0",
            "--save_dir",
            str(folder / "origin"),
        ]
    )
    assert [s["step"] for s in stats(run)] == [4]  # ceil(100 / 32)
    return ["--model_path", str(run), "--forget_fraction", "0.2"]


def stats(run):
    return [json.loads(line) for line in (Path(run) / "logs" / "stats.jsonl").read_text().splitlines()]


# steps of 3 epochs of batch 32: ceil(80 / 32) = 3, ceil(20 / 32) = 1, ceil(100 / 32) = 4 a pass
REMAIN = 9  # of all that are not named here
LENGTHS = {
    "esd": 3,
    "ga": 3,
    "boundary_expand": 3,
    "boundary_shrink": 3,
    "bad_teacher": 12,
    "scrub": 11,
    "salun": 12,
    "salun_soft": 12,
    "iu": 1,
    "fisher_forget": 1,
}


@pytest.mark.parametrize("mode", [m for m in MODES if m not in ("pretrain", "generate_fisher", "generate_mask")])
def test_epochs_become_steps(start, mode, capsys, monkeypatch):
    """By what --dry_run says; sa is asked for no Fisher here."""
    monkeypatch.setattr(MODES["sa"], "begin", lambda self, materials: None)
    train.main(["--mode", mode, *start, "--epochs", "3", "--batch_size", "32", "--dry_run"])
    assert f": {LENGTHS.get(mode, REMAIN)} steps of batch 32" in capsys.readouterr().out


@pytest.mark.parametrize("order, n", [("paired", 9), ("split", 12), ("joint", 12)])
def test_the_order_decides_what_an_epoch_passes_over(start, order, n, capsys):
    train.main(["--mode", "salun", *start, "--order", order, "--epochs", "3", "--batch_size", "32", "--dry_run"])
    assert f": {n} steps of batch 32" in capsys.readouterr().out


def test_scrub_forgets_in_its_first_epochs(start):
    run = train.main(
        [
            "--mode",
            "scrub",
            *start,
            "--epochs",
            "3",
            "--batch_size",
            "32",
            "--set",
            "scrub.msteps=2",
            "--set",
            "training.log_freq=1",
            "--save_dir",
            "out",
        ]
    )
    what = ["forget" if "forget" in s else "remain" for s in stats(run)]
    epoch = ["forget", *["remain"] * 3]
    assert what == [*epoch, *epoch, *["remain"] * 3]


def test_the_rate_of_a_run_follows_its_epochs(start, monkeypatch):
    """Steps 0..2 are epoch 0, the milestone is epoch 1 (3 steps later), and the next epoch 2."""
    rates, step = [], Finetune.step
    monkeypatch.setattr(
        Finetune, "step", lambda self, k: rates.append(self.optimizer.param_groups[0]["lr"]) or step(self, k)
    )
    train.main(
        [
            "--mode",
            "finetune",
            *start,
            "--epochs",
            "3",
            "--batch_size",
            "32",
            "--lr",
            "0.1",
            "--decreasing_lr",
            "1,2",
            "--set",
            "optim.lr_schedule=steps",
            "--save_dir",
            "out",
        ]
    )
    assert rates == pytest.approx([0.1] * 3 + [0.01] * 3 + [0.001] * 3, rel=1e-12)


# ---- which length counts


def length(settings=(), flags=None, mode="finetune", name="cifar10_classifier.yml"):
    cfg = load_config(name, mode, settings=settings, flags={"label_to_forget": 0, "ckpt_folder": "x", **(flags or {})})
    return cfg.training.n_iters, cfg.training.epochs


def test_the_length_that_was_set_last_counts(tmp_path):
    assert length() == (None, 10)
    assert length(mode="sfron") == (1500, None)  # its block, over the 182 epochs above it
    assert length(["training.n_iters=7"]) == (7, None)
    assert length(["training.epochs=2"], mode="sfron") == (None, 2)
    assert length(["training.n_iters=7", "training.epochs=2"]) == (None, 2)
    assert length(["training.epochs=2", "training.n_iters=7"]) == (7, None)
    assert length(["training.n_iters=7"], {"epochs": 3}) == (None, 3)  # flags come after --set
    (tmp_path / "mine.yml").write_text("base: cifar10_classifier.yml\nmodes: {finetune: {training: {n_iters: 5}}}\n")
    assert length(name=str(tmp_path / "mine.yml")) == (5, None)


def test_a_dumped_run_counts_its_steps_and_takes_other_epochs(start):
    """A run's config.yml holds both lengths; the flag still wins."""
    run = train.main(["--mode", "ga", *start, "--epochs", "2", "--batch_size", "32", "--save_dir", "out"])
    config = str(run / "logs" / "config.yml")
    assert length(name=config, mode="ga") == (2, 2)
    assert length(flags={"epochs": 5}, name=config, mode="ga") == (None, 5)
