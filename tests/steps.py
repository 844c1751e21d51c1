"""What the tests of single steps share: a classifier's runner at its step 0, on a hundred digits."""

from __future__ import annotations

import json

import bounds
import cases
import torch
import torch.nn.functional as F

import datasets
import train
from functions.config import load as config
from functions.config.cli import config_flags
from functions.training.batchnorm import freeze_statistics
from runners import MODES
from runners.setup import prepare

BATCH = 16


def start(folder, forget=("--forget_fraction", "0.2")):
    return ["--model_path", str(folder / "origin"), *forget]


def words(folder, mode, *more, **kwargs):
    """80 remain, 20 are forgotten: passes of 5 and 2 steps, 7 where both are mixed."""
    return [
        "--mode",
        mode,
        *start(folder, **kwargs),
        "--epochs",
        "2",
        "--batch_size",
        str(BATCH),
        "--set",
        "training.log_freq=1",
        "--set",
        "training.curves=false",
        "--set",
        "device=cpu",
        *more,
    ]


def build(folder, mode, *more, **kwargs):
    """The runner of a command, ready for its step 0; what it descends on is collected in `losses` and changes nothing."""
    args = train.parser().parse_args(words(folder, mode, *more, **kwargs))
    cfg = config.load_config(train.config_name(args), mode, args.overlay, args.set, config_flags(args, train.FLAGS))
    runner = MODES[mode](cfg, prepare(cfg, mode, False))
    runner.plain.train()
    if cfg.unlearn.bn_mode == "freeze":
        freeze_statistics(runner.plain)
    runner.losses, runner.draws = [], []
    runner.descend = lambda loss, *rest: runner.losses.append(loss)
    draw = runner.task.draw
    runner.task.draw = lambda x, c, **kw: runner.draws.append(draw(x, c, **kw)) or runner.draws[-1]
    return runner


def perturb(model, by=0.05):
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(by * torch.randn_like(p))


def gradient(runner, loss):
    return torch.autograd.grad(loss, runner.params)


def assert_gradients(found, wanted):
    """Within 1.2e-4 of the largest gradient: float32's unit roundoff times a condition of 500, with SLACK."""
    largest = max(float(g.detach().abs().max()) for g in wanted)
    for a, b in zip(found, wanted, strict=True):
        assert float((a - b).detach().abs().max()) <= bounds.SLACK * 500 * bounds.unit() * largest


def cross_entropy(model, draw):
    return F.cross_entropy(model(draw.x), draw.c)


def stats(run):
    """The lines of logs/stats.jsonl, without what the loop says of every method."""
    lines = [json.loads(line) for line in (run / "logs" / "stats.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("lr", "val_accuracy")} for line in lines]


def weights(run):
    return cases.load_weights(run, "raw")


def known(runner):
    """Pixels -> (true label, whether it is to be forgotten) of the hundred images."""
    images = datasets.load("digits", split="train")
    found = {}
    for name in ("forget", "remain"):
        for x, c in datasets.ordered(images, runner.materials.indices[name], 1):
            found[x.numpy().tobytes()] = (int(c), name == "forget")
    assert len(found) == 100
    return found
