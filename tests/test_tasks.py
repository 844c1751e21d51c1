"""Tasks, losses and schedules against numbers that can be derived."""

import math

import bounds
import pytest
import torch
import torch.nn.functional as F

from functions.randomness import key_seed, keyed_generator
from functions.tasks import Classification, Denoising, Draw, denoising, linear_alpha_bar
from functions.training.losses import adaptive_mean, adaptive_weights
from functions.training.schedules import cosine_decay
from models import Pixels


@pytest.fixture
def task():
    return Denoising(linear_alpha_bar(1000, 1e-4, 0.02), Pixels(), n_conditions=10, p_uncond=0.25, reduction="sum")


def test_alpha_bar_is_the_product_of_alphas():
    assert linear_alpha_bar(3, 0.1, 0.3).tolist() == pytest.approx([0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7])


def test_cosine_decay():
    assert [cosine_decay(2.0, k, 4) for k in (0, 2, 4)] == pytest.approx([2.0, 1.0, 0.0])


def test_adaptive_weights_by_hand():
    # l = [1, 4], lambd = 1/2: u = [1, 1/2], w = [4/3, 2/3], mean (4/3 + 8/3) / 2 = 2
    losses = torch.tensor([1.0, 4.0], requires_grad=True)
    torch.testing.assert_close(adaptive_weights(losses, 0.5), torch.tensor([4 / 3, 2 / 3]))
    mean = adaptive_mean(losses, 0.5)
    assert mean.item() == pytest.approx(2.0)
    mean.backward()  # the weights are constants: d mean / d l_i = w_i / 2
    torch.testing.assert_close(losses.grad, torch.tensor([2 / 3, 1 / 3]))


def test_classes_forgotten_together_take_none_of_each_other(task):
    c = torch.tensor([2, 3, 9]).repeat(400)
    both = task.forgetting([2, 3, 9])
    assert both.other(c[:3]).tolist() == [4, 4, 0] and task.other(c[:3]).tolist() == [3, 4, 0]
    torch.manual_seed(0)
    assert set(both.wrong(c).tolist()) == {0, 1, 4, 5, 6, 7, 8}
    assert (task.wrong(c) != c).all() and task.kept is None  # the task itself is as it was
    barred = both.barred(torch.tensor([2, 0]))
    assert barred[0].nonzero().flatten().tolist() == [2, 3, 9]
    assert barred[1].nonzero().flatten().tolist() == [0, 2, 3, 9]
    assert task.barred(torch.tensor([2]))[0].nonzero().flatten().tolist() == [2]


def test_draw_is_antithetic_and_noised_as_equation_4(task):
    x = torch.rand(6, 1, 4, 4)
    draw = task.draw(x, torch.arange(6), generator=torch.Generator().manual_seed(0))
    assert (draw.t[:2] + draw.t[4:]).tolist() == [999, 999]
    a = linear_alpha_bar(1000, 1e-4, 0.02)[draw.t].view(-1, 1, 1, 1)  # float64: 1 - a would cancel for small t
    signal, noise = a.sqrt() * (2 * x.double() - 1), (1 - a).sqrt() * draw.eps
    # two rounded factors, two products, 2 x - 1 and their sum
    assert ((draw.x - (signal + noise)).abs() <= bounds.rounding(6) * (signal.abs() + noise.abs() + a.sqrt())).all()
    again = task.draw(x, torch.arange(6), generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(p, q) for p, q in zip(draw, again))


def test_labels_are_dropped_only_on_request_and_at_the_rate(task):
    x, c = torch.zeros(4000, 1, 1, 1), torch.zeros(4000, dtype=torch.long)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(task.draw(x, c, generator=generator).c, c)
    share = (task.draw(x, c, drop=True, generator=generator).c == 10).float().mean()
    assert abs(float(share) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 4000)


def test_guidance_equals_two_passes(task):
    model = lambda x, t, c: x * (1 + c.view(-1, 1, 1, 1)) + t.view(-1, 1, 1, 1)
    draw = Draw(
        torch.randn(3, 1, 2, 2).double(),
        torch.tensor([0, 4, 9]),
        torch.tensor([1, 2, 3]),
        torch.zeros(3, 1, 2, 2).double(),
    )
    null = torch.full((3,), 10)
    wanted = 3 * model(draw.x, draw.t, draw.c) - 2 * model(draw.x, draw.t, null)
    assert bounds.error(task.predict(model, draw, guidance=2.0), wanted) < bounds.TIGHT


def test_reductions(task):
    model = lambda x, t, c: torch.zeros_like(x)
    draw = Draw(
        torch.zeros(2, 1, 2, 2),
        torch.zeros(2),
        torch.zeros(2),
        torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2),
    )
    assert task.losses(model, draw).tolist() == [4.0, 16.0]
    task.reduction = "mean"
    assert task.losses(model, draw).tolist() == [1.0, 4.0]


def test_classification_losses_and_divergence():
    task = Classification(3)
    logits = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, -1.0]])
    draw = task.draw(logits, torch.tensor([1, 0]))
    losses = task.losses(lambda x: x, draw)
    assert float(losses[0]) == pytest.approx(math.log(3))
    p, q = logits.softmax(1), logits.flip(0).softmax(1)
    wanted = (p * (p / q).log()).sum(1)
    torch.testing.assert_close(task.divergence(logits, logits.flip(0)), wanted)
    torch.testing.assert_close(F.cross_entropy(logits, draw.c, reduction="none"), losses)


def test_denoising_divergence_is_the_mean_squared_difference(task):
    p, q = torch.zeros(1, 1, 2, 2), torch.tensor([1.0, 1.0, 3.0, 1.0]).view(1, 1, 2, 2)
    assert task.divergence(p, q).tolist() == [3.0]


def test_keyed_generators_depend_on_the_whole_key():
    assert torch.equal(
        torch.rand(3, generator=keyed_generator(0, "a", 1)), torch.rand(3, generator=keyed_generator(0, "a", 1))
    )
    assert (
        len({key_seed(0, "a", 1), key_seed(0, "a", 2), key_seed(0, "b", 1), key_seed(1, "a", 1), key_seed(0, "a1")})
        == 5
    )


def test_pixels_round_trip():
    x = torch.rand(2, 1, 3, 3)
    torch.testing.assert_close(Pixels().decode(Pixels().encode(x)), x)
    assert Pixels().decode(torch.tensor([-3.0, 3.0])).tolist() == [0.0, 1.0]


# ---- a learned variance: predictions are eps-hat and v


def learned(**more):
    d = {"timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "p_uncond": 0.1, "reduction": "mean"}
    return denoising({**d, "learned_variance": True, **more}, Pixels(), 10)


def drawn(n: int = 3) -> Draw:
    generator = torch.Generator().manual_seed(0)
    return learned().draw(torch.rand(n, 1, 4, 4, generator=generator), torch.arange(n), generator=generator)


def test_the_bound_trains_v_alone_and_the_error_eps_alone():
    task, draw = learned(), drawn()
    prediction = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (g,) = torch.autograd.grad(task.losses_of(prediction, draw).sum(), prediction)
    eps_hat = prediction.detach()[:, :1]
    torch.testing.assert_close(g[:, :1], 2 * (eps_hat - draw.eps) / 16)  # d/d eps-hat of the mean squared error alone
    assert (g[:, 1:] != 0).all()


def test_guidance_leaves_v_as_the_condition_says_and_may_leave_channels():
    model = lambda x, t, c: torch.cat([x, 2 * x], 1) * (1 + c.view(-1, 1, 1, 1))
    x = torch.randn(2, 4, 2, 2)
    draw = Draw(x, torch.tensor([0, 4]), torch.tensor([1, 2]), x)
    task = learned()
    given, null = model(x, draw.t, draw.c), model(x, draw.t, torch.tensor([10, 10]))
    guided = task.predict(model, draw, guidance=2.0)
    torch.testing.assert_close(guided[:, :4], 3 * given[:, :4] - 2 * null[:, :4])
    assert torch.equal(guided[:, 4:], given[:, 4:])
    task.guided_channels = 3  # as published
    three = task.predict(model, draw, guidance=2.0)
    assert torch.equal(three[:, :3], guided[:, :3]) and torch.equal(three[:, 3:], given[:, 3:])


def test_divergence_is_of_eps_alone():
    task, p = learned(), torch.zeros(1, 2, 2, 2)
    q = torch.stack([torch.full((2, 2), 2.0), torch.full((2, 2), 9.0)])[None]  # v is far apart
    assert task.divergence(p, q).tolist() == [4.0]
    assert torch.equal(task.eps_of(q), q[:, :1])
