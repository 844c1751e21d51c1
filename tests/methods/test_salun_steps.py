"""SalUn's labels, order and weights, and SalUn-soft's threshold, step by step."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from steps import BATCH, build, known, stats, weights, words

import train
from functions.training import anchors
from runners.methods import salun_soft

# ---- SalUn


def test_split_is_a_pass_over_the_forget_set_and_then_one_over_the_rest(folder):
    """ceil(20 / 16) and ceil(80 / 16) steps."""
    run = train.main([*words(folder, "salun", "--order", "split"), "--save_dir", "out"])
    wanted = 2 * [["alpha", "forget", "step"]] + 5 * [["remain", "step"]]
    assert [sorted(s) for s in stats(run)] == wanted * 2


def spied(runner):
    """(image, label) of every example whose loss a step asks for."""
    seen, losses = [], runner.task.losses

    def spy(model, draw, guidance=0.0):
        seen.extend((x.numpy().tobytes(), int(c)) for x, c in zip(draw.x, draw.c))
        return losses(model, draw, guidance)

    runner.task.losses = spy
    return seen


@pytest.mark.parametrize("order", ["paired", "split", "joint"])
def test_labels_are_wrong_for_forget_images_and_their_own_for_the_rest(folder, order):
    """Twenty images of the forget set, about two a class, hundreds of draws: all nine other labels come up."""
    r = build(folder, "salun", "--order", order, "--epochs", "80")
    where, seen = known(r), spied(r)
    torch.manual_seed(0)
    for k in range(r.cfg.training.n_iters if order == "paired" else 300):
        r.step(k)
    drawn = {}
    for x, c in seen:
        true, is_f = where[x]
        assert (c != true) == is_f
        if is_f:
            drawn.setdefault(true, set()).add(c)
    assert {x for x, _ in seen} == set(where)
    assert all(labels == set(range(10)) - {true} for true, labels in drawn.items())


def test_joint_weighs_examples_by_their_set(folder):
    r = build(folder, "salun", "--order", "joint", "--forget_alpha", "3", "--remain_alpha", "0.5")
    where, seen = known(r), spied(r)
    r.step(0)
    (draw,) = r.draws
    assert draw.c.tolist() == [c for _, c in seen]  # labels are replaced before the draw
    w = torch.tensor([3.0 if where[x.numpy().tobytes()][1] else 0.5 for x in draw.x])
    assert 0 < (w == 3).sum() < BATCH
    wanted = (w * F.cross_entropy(r.plain(draw.x), draw.c, reduction="none")).sum() / BATCH
    assert r.losses[0].item() == pytest.approx(wanted.item(), rel=1e-5)


# ---- SalUn-soft


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.5, 0.99, 1.0])
def test_soft_threshold_is_sorting(share):
    rng = np.random.default_rng(0)
    shapes = [(3, 4), (7,), (2, 2, 2)]
    anchors_ = [rng.normal(size=s).astype(np.float32) for s in shapes]
    moves = [np.round(rng.normal(size=s), 1).astype(np.float32) for s in shapes]  # with ties, and zeros
    moves[1][:3] = 0
    params = [torch.tensor(a + m) for a, m in zip(anchors_, moves)]
    before = [p.clone() for p in params]
    d = np.concatenate([(p.numpy() - a).ravel() for p, a in zip(params, anchors_)])
    k = int(share * d.size)
    wanted = np.sort(np.abs(d))[k - 1] if k else 0.0
    tau = anchors.soft_threshold(params, [torch.tensor(a) for a in anchors_], share)
    assert tau.item() == wanted
    flat, a = torch.cat([p.flatten() for p in params]).numpy(), np.concatenate([x.ravel() for x in anchors_])
    if k == 0:
        assert all(torch.equal(p, b) for p, b in zip(params, before))
        return
    below = np.abs(d) <= wanted
    assert below.sum() >= k and np.array_equal(flat[below], a[below])  # theta_0 to the bit
    assert np.allclose((flat - a)[~below], np.sign(d[~below]) * (np.abs(d[~below]) - wanted), atol=1e-6)


def test_the_soft_mask_opens_and_its_last_step_pulls_nothing(folder, monkeypatch):
    shares, threshold = [], anchors.soft_threshold

    def spy(params, theta_0, share):
        before = [p.clone() for p in params]
        tau = threshold(params, theta_0, share)
        same = sum(int((p == a).sum()) for p, a in zip(params, theta_0))
        shares.append((share, same, all(torch.equal(p, b) for p, b in zip(params, before))))
        return tau

    monkeypatch.setattr(salun_soft, "soft_threshold", spy)
    run = train.main([*words(folder, "salun_soft", "--set", "salun_soft.ratio=0.8"), "--save_dir", "out"])
    total = sum(p.numel() for n, p in weights(run).items() if "running" not in n and n not in ("mean", "std"))
    n = len(stats(run))
    assert n == 14 and [s for s, _, _ in shares] == pytest.approx([0.8 * (1 - (k + 1) / n) for k in range(n)], abs=1e-9)
    assert all(same >= int(share * total * 0.99) for share, same, _ in shares)
    assert shares[-1][0] == 0 and shares[-1][2] and not any(untouched for *_, untouched in shares[:-1])
    taus = [s["tau"] for s in stats(run)]
    assert taus[-1] == 0 and min(taus[:-1]) > 0
