"""The picture of a run: what it reads, what stands on it, and that no run is lost to it."""

import json

import cases
import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from functions.experiments import curves
from runners.base import Runner


def lines(path, *records, tail=""):
    path.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(r) + "\n" for r in records) + tail
    (path / "stats.jsonl").write_text(text)
    return path / "stats.jsonl"


def test_quantities_by_step_and_broken_lines_counted(tmp_path):
    bad = '[1]\n{"loss": 2}\n{"step": 3, "loss": NaN}\n' + "[" * 5000 + '\n{"step": 9, "lo'
    path = lines(tmp_path, {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0, "val_accuracy": 0.5}, tail=bad)
    stats = curves.read(path)
    assert stats.series == {"loss": [(1, 3.0), (2, 2.0)], "val_accuracy": [(2, 0.5)]} and stats.broken == 5


@pytest.fixture
def drawn(monkeypatch):
    """The axes of every figure that is saved."""
    found = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda f, *a, **k: found.append(f.axes) or save(f, *a, **k)
    )
    return found


def test_losses_in_one_picture_and_a_panel_for_everything_else(tmp_path, drawn):
    record = lambda s: {"step": s, "lr": 0.1 / s, "alpha": 1.0, "forget": 3.0 * s, "remain": 0.01, "val_accuracy": 0.9}
    lines(tmp_path / "logs", *map(record, (3, 1, 2)))  # an older line may stand behind a newer one
    assert curves.of_run(tmp_path, "sfron") == f"curves of the run: {tmp_path / 'curves.png'}"
    ((losses, accuracy, rate, alpha),) = drawn
    found = {line.get_label(): line.get_xydata().tolist() for line in losses.get_lines()}
    assert found == {"remain": [[1, 0.01], [2, 0.01], [3, 0.01]], "forget": [[1, 3.0], [2, 6.0], [3, 9.0]]}
    assert losses.get_yscale() == "log" and rate.get_yscale() == "linear"
    assert losses.get_lines()[0].get_linestyle() != losses.get_lines()[1].get_linestyle()
    names = [ax.get_ylabel() for ax in (losses, accuracy, rate, alpha)]
    assert names == ["loss", "validation accuracy", "learning rate", "alpha"]
    assert alpha.get_xlabel() == "step"
    with Image.open(tmp_path / "curves.png") as page:
        assert page.width > 800 and np.asarray(page.convert("L")).std() > 5


def test_a_run_is_not_lost_to_its_picture(tmp_path, monkeypatch):
    assert curves.of_run(tmp_path, "x").startswith(f"{tmp_path / 'curves.png'}: not drawn: [Errno 2]")
    lines(tmp_path / "logs", tail="{")
    assert curves.of_run(tmp_path, "x").endswith("not drawn: logs/stats.jsonl holds no numbers")
    lines(tmp_path / "logs", {"step": 1, "loss": 3.0}, tail='{"st')
    assert curves.of_run(tmp_path, "x").endswith("curves.png (without 1 broken lines)")
    monkeypatch.setattr(curves.figure, "panels", lambda *a, **k: (_ for _ in ()).throw(ImportError("no matplotlib")))
    assert curves.of_run(tmp_path, "x").endswith("not drawn: no matplotlib")


def test_runs_end_with_their_curves_resumed_ones_too(originals, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(curves, "draw", lambda series, title, path: seen.append((series, title)) or path.touch())
    on = ["--set", "training.curves=true", "--set", "optim.lr_schedule=constant"]
    half = cases.unlearn("ddpm", "finetune", originals["ddpm"].run, *on, "--set", "training.n_iters=2")
    run = cases.unlearn("ddpm", "finetune", originals["ddpm"].run, *on, "--resume", str(half))
    assert (run / "curves.png").is_file() and "curves of the run" in (run / "logs" / "stdout.txt").read_text()
    assert [[s for s, _ in series["remain"]] for series, _ in seen] == [[1, 2], [1, 2, 3, 4]]
    assert {title for _, title in seen} == {"finetune"} and all("lr" in series for series, _ in seen)


def test_a_damaged_log_is_said_and_the_run_ends_well(originals, monkeypatch, capsys):
    save = Runner._snapshot

    def damage(self, *args, **kwargs):
        save(self, *args, **kwargs)
        (self.folder.logs / "stats.jsonl").write_bytes(b"\xff\xfe")

    monkeypatch.setattr(Runner, "_snapshot", damage)
    run = cases.unlearn("ddpm", "ga", originals["ddpm"].run, "--set", "training.curves=true")
    assert cases.weights(run) and "curves.png: not drawn: logs/stats.jsonl holds no numbers" in capsys.readouterr().out
