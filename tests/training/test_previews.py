"""Looks at a run on its way: so many classes, chosen evenly, always the forgotten one."""

import itertools

import cases
import pytest
import torch
from PIL import Image

from functions.sampling import sheet
from runners import worlds


@pytest.mark.parametrize("n, most", [(10, 10), (10, 12), (10, 3), (10, 1), (1000, 10), (1001, 7), (2, 1)])
def test_so_many_classes_chosen_evenly_and_always_the_forgotten_one(n, most):
    plain = worlds.grid_conditions(n, most, [])
    assert len(plain) == min(n, most) and plain[0] == 0
    steps = [b - a for a, b in itertools.pairwise(plain)]
    assert all(step > 0 for step in steps) and (not steps or max(steps) - min(steps) <= 1)
    assert most == 1 or plain[-1] == n - 1
    for forgotten in range(n):
        chosen = worlds.grid_conditions(n, most, [forgotten])
        assert forgotten in chosen and chosen == sorted(set(chosen)) and len(chosen) == len(plain)
        assert all(0 <= c < n for c in chosen) and len(set(chosen) - set(plain)) <= 1  # the others are as before


def test_several_forgotten_ones_are_shown_as_far_as_there_is_room():
    assert worlds.grid_conditions(10, 3, [3, 8]) == [0, 3, 8]
    assert worlds.grid_conditions(10, 2, [3, 0, 9]) == [0, 3]
    assert worlds.grid_conditions(10, 1, [3, 4]) == [3]


def test_a_run_draws_a_row_of_each(originals, monkeypatch):
    """Three of ten classes are 0, 4, 9; where 3 is forgotten it stands in place of 4."""
    drawn, generate = [], worlds.generate
    run = originals["ddpm"].run
    monkeypatch.setattr(
        worlds, "generate", lambda task, model, c, *rest, **k: drawn.append(c) or generate(task, model, c, *rest, **k)
    )
    for label, rows in ((4, [0, 4, 9]), (3, [0, 3, 9])):
        drawn.clear()
        out = cases.unlearn("ddpm", "finetune", run, "--set", "training.preview=3", label=label)
        assert [c.tolist() for c in drawn] == 2 * [torch.tensor(rows).repeat_interleave(worlds.GRID_ROW).tolist()]
        grids = sorted((out / "previews").iterdir())
        assert [p.name for p in grids] == ["step_0000002.png", "step_0000004.png"]
        for path in grids:  # images of 8 pixels are 64 wide
            with Image.open(path) as grid:
                assert grid.width > worlds.GRID_ROW * 64 and grid.height > len(rows) * 64
                colours = {colour for _, colour in grid.getcolors(1 << 16)}
                assert sheet.RED in colours  # the forgotten row's frame


def test_off_draws_nothing(originals, monkeypatch):
    run = originals["ddpm"].run
    monkeypatch.setattr(worlds, "generate", lambda *_, **__: pytest.fail("drew"))
    assert not (cases.unlearn("ddpm", "finetune", run) / "previews").exists()
    assert not (run / "previews").exists()
