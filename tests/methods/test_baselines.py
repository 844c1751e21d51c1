"""ESD and EraseDiff: one step of each against numbers that can be derived, and the parts of tasks they ask for."""

import types

import pytest
import torch

from functions.tasks import Classification, Denoising, Draw
from models.encoders import Pixels
from runners.methods.erasediff import EraseDiff
from runners.methods.esd import ESD


class Shift(torch.nn.Module):
    """eps-hat = theta_0 + theta_1 c: everything about it can be written down."""

    def __init__(self):
        super().__init__()
        self.theta = torch.nn.Parameter(torch.tensor([0.0, 1.0]))

    def forward(self, x, t, c):
        return self.theta[0] + self.theta[1] * c.view(-1, 1, 1, 1) + 0 * x


def denoising():
    return Denoising(torch.tensor([0.9, 0.5]), Pixels(), 3, 0.0, "sum")


def runner(cls, task, model, forget, remain=None, **sections):
    """A runner without files and optimiser, whose updates are collected instead of made."""
    r = cls.__new__(cls)
    r.task, r.model, r.plain, r.mask, r.updates = task, model, model, None, []
    r.params = tuple(model.parameters())
    r.cfg = types.SimpleNamespace(optim=types.SimpleNamespace(grad_clip=None), **sections)
    r.cost = types.SimpleNamespace(watch=lambda model: None)
    r.forget, r.remain = iter([forget]), iter([remain])
    r.descend = lambda loss, mask=None, clip=None: r.updates.append(loss)
    r.gradients = lambda loss: list(torch.autograd.grad(loss, r.params))
    r.device, r.cfg.training = torch.device("cpu"), None
    r.begin(None)
    return r


def test_esd_follows_the_original_guided_away_from_the_class():
    # eps_c = 2, eps_null = 3: target 3 - eta (2 - 3) = 3 + eta; the prediction is 2
    for eta in (1.0, 0.5):
        r = runner(
            ESD,
            denoising(),
            Shift(),
            (torch.zeros(2, 1, 1, 1), torch.tensor([2, 2])),
            unlearn=types.SimpleNamespace(eta=eta),
        )
        stats = r.step(0)
        assert stats["forget"].item() == pytest.approx((1 + eta) ** 2)
        (loss,) = r.updates
        (g,) = torch.autograd.grad(loss, r.params)
        assert g.tolist() == pytest.approx([-2 * (1 + eta), -4 * (1 + eta)])  # the target is a constant


def test_esds_teacher_stays_the_original_in_eval_mode():
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(2, 2)).train()
    r = runner(ESD, Classification(2), model, None, unlearn=types.SimpleNamespace(eta=1.0))
    with torch.no_grad():
        model[1].weight.zero_()
    assert r.original[1].weight.abs().sum() > 0 and not r.original.training
    assert not any(p.requires_grad for p in r.original.parameters())


def erasediff_step(eta, forget, remain, seed=0):
    """(gradient taken, g_f, g_r, stats) of one step, the two gradients computed again from the same draws."""
    model, task = Shift(), denoising()
    torch.manual_seed(seed)
    r = runner(EraseDiff, task, model, forget, remain, unlearn=types.SimpleNamespace(eta=eta))
    stats = r.step(0)
    torch.manual_seed(seed)
    draw_f = task.scrambled(task.draw(*forget))
    g_f = torch.autograd.grad(task.losses(model, draw_f).mean(), r.params)[0]
    g_r = torch.autograd.grad(task.losses(model, task.draw(*remain, drop=True)).mean(), r.params)[0]
    return r.updates[0][0], g_f, g_r, stats


@pytest.mark.parametrize("eta", [0.0, 0.5, 3.0])
def test_erasediff_takes_the_smallest_weight_that_lowers_the_forget_loss(eta):
    forget = (torch.rand(8, 1, 2, 2), torch.full((8,), 2))
    remain = (torch.rand(8, 1, 2, 2), torch.zeros(8, dtype=torch.long))
    taken, g_f, g_r, stats = erasediff_step(eta, forget, remain)
    lambda_ = max(0.0, eta - float(g_r @ g_f) / float(g_f @ g_f))
    assert stats["lambda"].item() == pytest.approx(lambda_, abs=1e-5)
    assert torch.allclose(taken, g_r + lambda_ * g_f, rtol=1e-4)
    assert taken @ g_f >= eta * (g_f @ g_f) * (1 - 1e-4)


def test_erasediff_leaves_the_remain_step_alone_where_it_is_enough():
    images = (torch.rand(512, 1, 2, 2), torch.full((512,), 2))
    taken, g_f, g_r, stats = erasediff_step(0.1, images, images)  # both pull the prediction of class 2 down
    assert g_r @ g_f > 0.1 * (g_f @ g_f) and stats["lambda"].item() == 0
    assert torch.equal(taken, g_r)


# ---- what they ask of tasks


def test_scrambled_targets_say_nothing_and_keep_the_input():
    torch.manual_seed(0)
    draw = denoising().draw(torch.rand(64, 1, 8, 8), torch.zeros(64, dtype=torch.long))
    scrambled = denoising().scrambled(draw)
    assert torch.equal(scrambled.x, draw.x) and torch.equal(scrambled.t, draw.t) and torch.equal(scrambled.c, draw.c)
    assert scrambled.eps.min() >= 0 and scrambled.eps.max() <= 1
    assert abs(scrambled.eps.mean() - 0.5) < 0.02 and abs(scrambled.eps.std() - 12**-0.5) < 0.01
    labels = Classification(4).scrambled(Draw(torch.zeros(800, 1), torch.zeros(800, dtype=torch.long))).c
    assert (torch.bincount(labels, minlength=4) > 150).all()


def test_guided_logits_move_the_label_alone():
    # logits [1, 2, 6], mean 3; label 2: (1 + w) 6 - 3 w
    model = torch.nn.Identity()
    draw = Draw(torch.tensor([[1.0, 2.0, 6.0]]), torch.tensor([2]))
    predict = lambda w: Classification(3).predict(model, draw, guidance=w)[0].tolist()
    assert predict(0.0) == [1, 2, 6] and predict(1.0) == [1, 2, 9] and predict(-1.0) == [1, 2, 3]
    assert predict(-2.0) == [1, 2, 0]  # ESD with eta = 1: 3 - (6 - 3)
    loss = Classification(3).losses(model, draw, guidance=-2.0)
    wanted = torch.nn.functional.cross_entropy(torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([2]))
    assert loss.item() == pytest.approx(wanted.item())
