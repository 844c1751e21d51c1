"""What `--dry_run` says a step holds: every tensor counted once, and near what a run then takes from the system."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cases
import pytest
import torch

from functions.training.footprint import Held, outline
from runners import memory, plan

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


def test_storages_are_counted_once_and_for_as_long_as_they_live():
    with Held() as held:
        a = torch.zeros(100)
        views = a.view(10, 10)[0], a.detach()
        assert held.now == held.peak == 400
        b = a + 1
        del a, views
        assert (held.now, held.peak) == (400, 800)
        assert held.hold([b]) == 0
    assert len(b) == 100


def test_an_outline_has_shapes_and_flags_and_no_values():
    def build():
        model = torch.nn.Sequential(torch.nn.Linear(10**6, 10**4), torch.nn.BatchNorm1d(10**4))
        model[0].bias.requires_grad_(False)
        return model

    model = outline(build, CPU)  # 40 GB
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True]
    out = model(torch.zeros(3, 10**6))
    out.sum().backward()
    assert out.shape == (3, 10**4) and model[0].weight.grad.shape == (10**4, 10**6) and model[0].bias.device == CPU


def test_what_is_kept_for_the_backward_pass_is_what_autograd_keeps():
    model = outline(lambda: torch.nn.Linear(100, 100), CPU)
    with Held() as held:
        held.hold(model.parameters())
        before, x = held.now, torch.zeros(50, 100)
        y = model(x).square()  # keeps x, and its own input
        del x
        assert held.now - before == 4 * 3 * 50 * 100
        y.sum().backward()
        del y
        assert held.now - before == 4 * (100 * 100 + 100)


# ---- runs


@pytest.fixture(autouse=True)
def table(monkeypatch):
    """Other files have none: see conftest.py."""
    monkeypatch.setattr(plan, "_memory", TABLE)


TABLE = plan._memory


def rows(text: str) -> dict[str, float]:
    """Row -> MiB."""
    found = re.findall(r"^  (\S.*?) +([+-]?[\d.]+) ([MG])iB$", text, re.M)
    return {name: float(n) * (1024 if unit == "G" else 1) for name, n, unit in found}


def dry(toy, mode, *more) -> list[str]:
    words = ["--mode", mode, "--config", *cases.WORLDS[toy.world][mode], *cases.TOY, *cases.from_run(toy.run, 0)]
    cases.train.main([*words, "--set", "device=cpu", "--dry_run", *more])


@pytest.mark.parametrize(("world", "mode"), [("dit", "erasediff"), ("classifier", "scrub")])
def test_the_table_of_a_run(originals, capsys, world, mode):
    toy = originals[world]
    dry(toy, mode, "--mask_path", str(toy.mask), "--set", "optim.name=adamw")
    found = rows(capsys.readouterr().out)
    weights = sum(t.numel() for t in cases.weights(toy.run).values()) * 4 / 2**20
    assert found["weights"] == pytest.approx(weights, abs=0.06) and found["moments"] == pytest.approx(
        2 * weights, abs=0.2
    )
    assert found["activations for the backward pass"] > 0 and ("autoencoder" in found) == (world == "dit")
    assert found["most at once (gradients come as activations go)"] > 3 * weights
    assert found["optim.sparse_moments=true"] <= 0 and found["optim.name=adamw8bit"] <= 0
    assert ("training.checkpointing=true" in found) == (world != "classifier")  # it has BatchNorm


@pytest.mark.parametrize("settings", [{}, {"sparse_moments": True}, {"name": "sgd"}], ids=str)
def test_moments_that_a_step_makes_are_those_of_the_arithmetic(originals, monkeypatch, settings):
    toy, seen = originals["ddpm"], []
    monkeypatch.setattr(plan, "_memory", lambda run: seen.append(run) or ())
    words = [w for key, value in settings.items() for w in ("--set", f"optim.{key}={str(value).lower()}")]
    dry(toy, "salun", "--mask_path", str(toy.mask), *words)
    (run,) = seen
    made = memory.of_step(type(run), run.cfg, run.materials).parts["moments"]
    assert made == memory.moments(run.cfg, run) > 0


@pytest.mark.parametrize("more", [[], ["training.checkpointing=true", "training.ema=true"]], ids=["plain", "saving"])
def test_the_prediction_is_within_15_percent_of_what_a_run_takes(more):
    """A DiT of 11 million weights in a process of its own, by its resident memory: 250 MiB and more."""
    settings = [
        "model={name: dit, patch_size: 1, hidden_size: 384, depth: 4, num_heads: 6}",
        *("training.batch_size=64", "training.n_iters=2", "training.ema=false", "device=cpu", *more),
    ]
    words = ["--mode", "pretrain", "--config", *cases.DIT, *(w for s in settings for w in ("--set", s))]
    # large blocks go back to the system when they are freed
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}", "MALLOC_MMAP_THRESHOLD_": "65536"}
    script = [sys.executable, str(Path(__file__).with_name("peak.py")), *words]
    found = json.loads(subprocess.check_output(script, env=environment, text=True).splitlines()[-1])
    assert found["taken"] > 200 * 2**20
    assert found["predicted"] == pytest.approx(found["taken"], rel=0.15)
