"""One step of each classifier baseline, against its formula."""

import math

import cases
import pytest
import torch
import torch.nn.functional as F
from steps import BATCH, assert_gradients, build, cross_entropy, gradient, known, perturb, stats, weights, words

import models
import train


def kl(p, q, t):
    """T^2 KL(softmax(p / T) || softmax(q / T)), one number at a time, in float64."""
    total = 0.0
    for a, b in zip(p.double().tolist(), q.double().tolist(), strict=True):
        ea, eb = [math.exp(v / t) for v in a], [math.exp(v / t) for v in b]
        for u, v in zip(ea, eb):
            total += u / sum(ea) * math.log((u / sum(ea)) / (v / sum(eb)))
    return t**2 * total / len(p)


# ---- SCRUB


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_scrubs_divergence_is_the_formula(folder, t):
    r = build(folder, "scrub", "--set", f"scrub.temperature={t}", "--bn_mode", "freeze")
    draw = r.task.draw(*next(r.forget))
    logits = 3 * torch.randn(BATCH, 10, generator=torch.Generator().manual_seed(0))
    assert r.divergence(draw, logits).item() == pytest.approx(kl(r.original(draw.x), logits, t), rel=1e-5)


def test_scrubs_steps_go_up_on_forget_and_down_on_remain_images(folder):
    r = build(folder, "scrub", "--set", "scrub.gamma=0.7", "--set", "scrub.alpha=0.3")
    where = known(r)
    perturb(r.plain)
    for k in range(7):
        r.step(k)
        sets = {where[x.numpy().tobytes()][1] for x in r.draws[-1].x}
        assert sets == {k < 2}  # the pass over the forget set first
    (draw_f, draw_r), t = (r.draws[0], r.draws[-1]), 4.0
    assert r.losses[0].item() == pytest.approx(-kl(r.original(draw_f.x), r.plain(draw_f.x), t), rel=1e-4)
    divergence = kl(r.original(draw_r.x), r.plain(draw_r.x), t)
    loss = cross_entropy(r.plain, draw_r).item()
    assert r.losses[-1].item() == pytest.approx(0.7 * loss + 0.3 * divergence, rel=1e-4)
    assert not r.original.training and not any(p.requires_grad for p in r.original.parameters())


def test_scrubs_first_step_moves_nothing(folder):
    """Where the student is the teacher both divergences have no gradient; with batch statistics it is not."""
    common = ["--lr", "1", "--weight_decay", "0", "--bn_mode", "freeze"]
    r = build(folder, "scrub", *common)
    r.step(0)
    assert max(float(g.abs().max()) for g in gradient(r, r.losses[0])) < 1e-7
    # one epoch of one step: the forget set in one batch
    run = train.main(
        [
            *words(folder, "scrub", *common, "--set", "scrub.gamma=0"),
            "--epochs",
            "1",
            "--batch_size",
            "128",
            "--save_dir",
            "out",
        ]
    )
    before, after = weights(folder / "origin"), weights(run)
    assert [sorted(s) for s in stats(run)] == [["forget", "step"], ["divergence", "remain", "step"]]
    assert all(torch.allclose(before[n], after[n], atol=1e-6) for n in before)


# ---- bad teacher


@pytest.mark.parametrize("t", [1.0, 3.0])
def test_bad_teachers_targets_are_the_originals_or_a_random_networks(folder, t):
    r = build(folder, "bad_teacher", "--set", f"bad_teacher.temperature={t}", "--bn_mode", "freeze")
    where, seen = known(r), []
    original = models.build(r.meta["model"])
    original.load_state_dict(weights(folder / "origin"))
    original.eval()
    divergence = r.task.divergence
    r.task.divergence = lambda p, q, temperature: (
        seen.append((p / temperature, q / temperature)) or divergence(p, q, temperature)
    )
    perturb(r.plain)
    r.step(0)
    (p, q), (draw,) = seen[0], r.draws
    is_f = torch.tensor([where[x.numpy().tobytes()][1] for x in draw.x])
    assert 0 < is_f.sum() < BATCH  # both in one batch
    assert draw.c.tolist() == [where[x.numpy().tobytes()][0] for x in draw.x]
    assert torch.allclose(p[~is_f] * t, original(draw.x)[~is_f], atol=1e-6)
    assert torch.allclose(p[is_f] * t, r.bad(draw.x)[is_f], atol=1e-6)
    assert torch.allclose(q * t, r.plain(draw.x), atol=1e-5)
    assert r.losses[0].item() == pytest.approx(kl(p, q, 1.0), rel=1e-4)
    assert all((a - b).abs().max() > 0.01 for a, b in zip(r.bad.parameters(), original.parameters()) if a.ndim > 1)
    assert not r.bad.training and not any(w.requires_grad for m in (r.good, r.bad) for w in m.parameters())


# ---- l1-sparse, NegGrad+


@pytest.mark.parametrize(
    "epochs, without, wanted",
    [(4, 0, [1, 3 / 4, 1 / 2, 1 / 4]), (4, 1, [1, 2 / 3, 1 / 3, 0]), (3, 2, [1, 0, 0]), (2, 2, [0, 0]), (2, 5, [0, 0])],
)
def test_the_l1_weight_falls_to_zero(folder, epochs, without, wanted):
    r = build(folder, "l1_sparse", "--alpha", "0.01", "--no_l1_epochs", f"{without}", "--epochs", f"{epochs}")
    steps = 5  # of an epoch: 80 / 16
    assert r.cfg.training.n_iters == steps * epochs
    found = [r.step(k)["weight"] for k in range(steps * epochs)]
    assert found == pytest.approx([0.01 * w for w in wanted for _ in range(steps)])


def test_the_l1_gradient_is_the_sign(folder):
    r = build(folder, "l1_sparse", "--alpha", "0.02", "--epochs", "2")
    with torch.no_grad():
        r.params[0][0, 0, 0, 0] = 0.0  # no sign
    k = 5  # epoch 1: half of the weight
    r.step(k)
    wanted = gradient(r, cross_entropy(r.plain, r.draws[0]))
    assert_gradients(gradient(r, r.losses[0]), [g + 0.01 * p.sign() for g, p in zip(wanted, r.params)])


def test_neggrads_gradient_is_the_weighted_difference(folder):
    r = build(folder, "neggrad", "--forget_alpha", "0.3", "--remain_alpha", "2")
    where = known(r)
    r.step(0)
    draw_f, draw_r = r.draws
    assert {where[x.numpy().tobytes()][1] for x in draw_f.x} == {True}
    assert {where[x.numpy().tobytes()][1] for x in draw_r.x} == {False}
    g_f, g_r = (gradient(r, cross_entropy(r.plain, d)) for d in (draw_f, draw_r))
    assert_gradients(gradient(r, r.losses[0]), [2 * b - 0.3 * a for a, b in zip(g_f, g_r)])


def test_neggrads_ascent_can_fade(folder):
    r = build(folder, "neggrad", "--forget_alpha", "0.3", "--decay_forget_alpha", "--set", "training.epochs=2")
    found = [r.step(k)["alpha"] for k in range(10)]
    assert found == pytest.approx([0.3 * (1 + math.cos(math.pi * k / 10)) / 2 for k in range(10)])


# ---- boundary unlearning


def test_the_shadow_class_is_one_more_logit_and_the_target(folder):
    r = build(folder, "boundary_expand", "--bn_mode", "freeze")
    r.plain.eval()
    x, c = next(r.forget)
    r.forget = iter([(x, c)])
    r.step(0)
    features, w, b = r.plain.features(x), r.extra.weight, r.extra.bias
    logits = torch.cat([r.plain(x), features @ w.T + b], 1)
    assert logits.shape == (BATCH, 11)
    wanted = (logits.exp().sum(1).log() - logits[:, 10]).mean()
    assert r.losses[0].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_the_shadow_class_is_trained_and_left_out_of_what_is_saved(folder):
    fresh = build(folder, "boundary_expand").extra.weight.detach().clone()
    run = train.main([*words(folder, "boundary_expand", "--lr", "0.1"), "--save_dir", "out"])
    assert weights(run).keys() == weights(folder / "origin").keys()
    assert weights(run)["head.weight"].shape == (10, 8)
    extra = cases.load_state(run)["extra"]
    assert extra["weight"].shape == (1, 8) and (extra["weight"] - fresh).abs().max() > 1e-3
    assert not torch.equal(weights(run)["body.0.weight"], weights(folder / "origin")["body.0.weight"])


@pytest.mark.parametrize("eps", [0.1, 0.5])
def test_the_nearest_class_is_that_of_a_loop_over_images(folder, eps):
    r = build(folder, "boundary_shrink", "--set", f"boundary.eps={eps}")
    original, seen = r.original, []
    draw = r.task.draw(*next(r.forget))
    hook = original.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    found = r.nearest(draw)
    hook.remove()
    assert seen[-1].min() >= 0 and seen[-1].max() <= 1 and (seen[-1] - draw.x).abs().max() <= eps + 1e-6
    wanted = []
    for x, c in zip(draw.x, draw.c.tolist(), strict=True):
        x = x[None].clone().requires_grad_()
        loss = -F.log_softmax(original(x), 1)[0, c]
        (g,) = torch.autograd.grad(loss, x)
        moved = (x + eps * g.sign()).detach().clamp(0, 1)
        logits = original(moved)[0].tolist()
        wanted.append(max((v, i) for i, v in enumerate(logits) if i != c)[1])
    assert found.tolist() == wanted and not (found == draw.c).any()


def test_boundary_shrink_trains_towards_the_nearest_class_of_the_original(folder):
    r = build(folder, "boundary_shrink")
    perturb(r.plain)
    r.step(0)
    (draw,) = r.draws
    target = r.nearest(draw)
    wanted = F.cross_entropy(r.plain(draw.x), target)
    assert_gradients(gradient(r, r.losses[0]), gradient(r, wanted))
    assert all(torch.equal(p, weights(folder / "origin")[n]) for n, p in r.original.named_parameters())
