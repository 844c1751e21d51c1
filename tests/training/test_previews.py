"""Looks at a run on its way: so many classes, chosen evenly, always the forgotten one."""

import itertools

import cases
import pytest
import torch
from PIL import Image

import train
from functions.sampling import sheet
from runners import previews


@pytest.mark.parametrize("n, most", [(10, 10), (10, 12), (10, 3), (10, 1), (1000, 10), (1001, 7), (2, 1)])
def test_so_many_classes_chosen_evenly_and_always_the_forgotten_one(n, most):
    plain = sheet.spread_classes(n, most, [])
    assert len(plain) == min(n, most) and plain[0] == 0
    steps = [b - a for a, b in itertools.pairwise(plain)]
    assert all(step > 0 for step in steps) and (not steps or max(steps) - min(steps) <= 1)
    assert most == 1 or plain[-1] == n - 1
    for forgotten in range(n):
        chosen = sheet.spread_classes(n, most, [forgotten])
        assert forgotten in chosen and chosen == sorted(set(chosen)) and len(chosen) == len(plain)
        assert all(0 <= c < n for c in chosen) and len(set(chosen) - set(plain)) <= 1  # the others are as before


def test_several_forgotten_ones_are_shown_as_far_as_there_is_room():
    assert sheet.spread_classes(10, 3, [3, 8]) == [0, 3, 8]
    assert sheet.spread_classes(10, 2, [3, 0, 9]) == [0, 3]
    assert sheet.spread_classes(10, 1, [3, 4]) == [3]


def test_a_run_draws_a_row_of_each(originals, monkeypatch):
    """Three of ten classes are 0, 4, 9; where 3 is forgotten it stands in place of 4."""
    drawn, generate = [], previews.generate
    run = originals["ddpm"].run
    monkeypatch.setattr(
        previews, "generate", lambda task, model, c, *rest, **k: drawn.append(c) or generate(task, model, c, *rest, **k)
    )
    for label, rows in ((4, [0, 4, 9]), (3, [0, 3, 9])):
        drawn.clear()
        out = cases.unlearn("ddpm", "finetune", run, "--set", "training.preview=3", label=label)
        assert [c.tolist() for c in drawn] == 2 * [torch.tensor(rows).repeat_interleave(previews.GRID_ROW).tolist()]
        grids = sorted((out / "previews").iterdir())
        assert [p.name for p in grids] == ["step_0000002.png", "step_0000004.png"]
        for path in grids:  # images of 8 pixels are 64 wide
            with Image.open(path) as grid:
                assert grid.width > previews.GRID_ROW * 64 and grid.height > len(rows) * 64
                colours = {colour for _, colour in grid.getcolors(1 << 16)}
                assert sheet.RED in colours  # the forgotten row's frame


def test_off_draws_nothing(originals, monkeypatch):
    run = originals["ddpm"].run
    monkeypatch.setattr(previews, "generate", lambda *_, **__: pytest.fail("drew"))
    assert not (cases.unlearn("ddpm", "finetune", run) / "previews").exists()
    assert not (run / "previews").exists()


# ---- as many as the run's passes pay for


def test_the_budget_at_the_settings_of_dits_readme():
    """600 iterations of SFR-on at batch 1, --snapshot-every 50: 50 steps x 2 images x (1 forward + 2 backward) are 300
    passes from one grid to the next, a tenth of them 30; a decoded image of 256 x 256 is 2.62 passes of DiT-XL/2
    (benchmarks/previews.py). Published: 12 grids of 10 images, 1000 guided steps each: 20,000 passes a grid.
    """
    grid = previews.affordable(30, 2.62, 1000)
    assert grid == (1, 1, 13)  # 2 * 13 + 2.62 = 28.62
    assert 12 * grid.passes(2.62) < 0.1 * 600 * 2 * 3 < 12 * grid._replace(steps=14).passes(2.62)
    assert previews.affordable(30 * 64, 2.62, 1000) == (6, 7, 20)  # batch 64: 45 images of 42.62 passes
    assert previews.affordable(1e6, 2.62, 1000) == (10, 8, 20)  # no more than can be looked at
    assert previews.affordable(1e6, 2.62, 3) == (3, 8, 20)
    assert previews.affordable(12.63, 2.62, 1000) == (1, 1, 5) and previews.affordable(12.6, 2.62, 1000) is None
    assert previews.affordable(6, 0, 10, steps=3) == (1, 1, 3)  # a model of four timesteps


@pytest.mark.parametrize("passes", [13, 20, 42.6, 85.3, 300, 1234, 3000])
@pytest.mark.parametrize("decoding", [0.0, 2.62, 100.0])
def test_no_grid_costs_more_than_it_may(passes, decoding):
    grid = previews.affordable(passes, decoding, 1000)
    assert grid is None or (grid.passes(decoding) <= passes and min(grid) > 0)


def test_the_forgotten_class_first_then_its_neighbours():
    assert sheet.nearest_classes(1000, 1, [207]) == [207]
    assert sheet.nearest_classes(1000, 4, [207]) == [207, 206, 208, 205]
    assert sheet.nearest_classes(10, 4, [0, 9]) == [0, 9, 1, 8]
    assert sheet.nearest_classes(10, 3, []) == [0, 4, 9]


AUTO = ["preview=auto", "preview_freq=1", "snapshot_freq=2", "batch_size=64"]
AUTO = [word for setting in AUTO for word in ("--set", f"training.{setting}")]
AUTO += ["--set", "optim.lr_schedule=constant"]  # or a longer run would be another one


@pytest.fixture
def spent(monkeypatch):
    """Images that went through the model for previews."""
    passes, generate = [], previews.generate

    def counted(task, model, *rest, **more):
        hook = model.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
        try:
            return generate(task, model, *rest, **more)
        finally:
            hook.remove()

    monkeypatch.setattr(previews, "generate", counted)
    return passes


@pytest.mark.parametrize("world", ["ddpm", "dit"])
def test_auto_takes_at_most_a_tenth_of_the_passes(world, originals, spent, capsys):
    """A preview at every step, a checkpoint at every second; a line says the share; a resumed run draws the same."""
    out = cases.unlearn(world, "finetune", originals[world].run, *AUTO)
    assert sorted(p.name for p in (out / "previews").iterdir()) == [f"step_000000{k}.png" for k in (1, 2, 3, 4)]
    assert sorted(p.name for p in (out / "ckpts").glob("step_*")) == ["step_0000002", "step_0000004"]
    cost = cases.load_meta(out)["cost"]
    passes = cost["forward"] + 2 * cost["backward"]
    assert cost["forward"] == 4 * 64 and 0.04 * passes < sum(spent) <= 0.1 * passes
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("previews of")]
    assert len(said) == 1 and sum(spent) / passes <= float(said[0].split()[-6].rstrip("%")) / 100 <= 0.1
    short = cases.unlearn(world, "finetune", originals[world].run, *AUTO, "--set", "training.n_iters=2")
    more = [*cases.WORLDS[world]["finetune"], *cases.TOY, *cases.from_run(originals[world].run, 0), *AUTO]
    train.main(["--mode", "finetune", "--resume", str(short), "--config", *more])
    for k in (1, 2, 3, 4):
        name = f"previews/step_000000{k}.png"
        assert (short / name).read_bytes() == (out / name).read_bytes()


def test_where_the_passes_pay_for_nothing_a_line_says_so(originals, spent, capsys):
    out = cases.unlearn("dit", "finetune", originals["dit"].run, *AUTO, "--set", "training.batch_size=2")
    assert not spent and not (out / "previews").exists()
    assert capsys.readouterr().out.count("no preview: 6 passes from one to the next") == 1  # of four steps
