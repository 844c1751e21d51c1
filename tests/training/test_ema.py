"""The moving average against its formula, and the latch that remembers where a run lost its mind."""

import pytest
import torch
from torch import nn

from functions.training.ema import EMA
from functions.training.finite import Latch


def test_the_first_update_copies_and_then_it_moves_by_its_rate():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    ema, seen = EMA(model, 0.75), []
    for step in range(4):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        model[1].running_mean.fill_(step)
        model[1].num_batches_tracked.fill_(step)
        seen.append([p.detach().clone() for p in model.parameters()])
        ema.update(model)
    wanted = seen[0]
    for weights in seen[1:]:
        wanted = [0.75 * w + 0.25 * p for w, p in zip(wanted, weights)]
    for own, w in zip(ema.module.parameters(), wanted, strict=True):
        torch.testing.assert_close(own, w)
        assert not own.requires_grad
    assert ema.n_averaged == 4 and isinstance(ema.n_averaged, int)
    assert ema.module[1].running_mean.tolist() == [3, 3] and int(ema.module[1].num_batches_tracked) == 3


def test_a_resumed_average_goes_on_instead_of_copying():
    model = nn.Linear(1, 1, bias=False)
    ema = EMA(model, 0.5)
    ema.n_averaged = 7
    before = ema.module.weight.item()
    with torch.no_grad():
        model.weight.add_(1.0)
    ema.update(model)
    assert ema.module.weight.item() == pytest.approx(before + 0.5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_latch_keeps_the_first_bad_step(bad):
    latch, model = Latch(torch.device("cpu")), nn.Linear(1, 1)
    latch.watch(1, [torch.tensor(1.0), torch.tensor(2.0)])
    assert latch.complaint(1, model) is None
    latch.watch(2, [torch.tensor(1.0), torch.tensor(bad)])
    latch.watch(3, [torch.tensor(bad), torch.tensor(bad)])
    latch.watch(4, [torch.tensor(1.0)])
    assert latch.complaint(4, model) == "the loss became NaN or infinite at step 2"


def test_the_latch_looks_at_weights_and_statistics():
    latch, model = Latch(torch.device("cpu")), nn.BatchNorm1d(2)
    assert latch.complaint(3, model) is None
    model.running_var[1] = float("nan")
    assert latch.complaint(3, model) == "a weight is NaN, infinite or near it at step 3 (running_var)"
