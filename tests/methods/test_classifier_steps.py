"""One step of each classifier baseline, against its formula; and runs that stop and go on to the same bits."""

import json
import math

import bounds
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import datasets
import models
import train
from functions.config import load as config
from functions.config.cli import config_flags
from functions.config.schema import Unlearn
from functions.storage import checkpoint
from functions.storage.artifacts import load_mask
from functions.training import anchors
from functions.training.batchnorm import freeze_statistics
from runners import MODES
from runners.methods import orders, salun_soft
from runners.setup import prepare

BATCH = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A toy original on a hundred digits, all of them for training, in origin/; SalUn's mask in mask/."""
    folder = tmp_path_factory.mktemp("steps")
    (folder / "hundred.json").write_text(json.dumps(list(range(0, 1500, 15))))
    train.main(
        [
            "--mode",
            "pretrain",
            "--dataset",
            "digits",
            "--set",
            "model={name: cnn, width: 4}",
            "--epochs",
            "4",
            "--batch_size",
            "16",
            "--set",
            f"data.indices={folder / 'hundred.json'}",
            "--lr",
            "0.01",
            "--set",
            "data.val_fraction=0",
            "--save_dir",
            str(folder / "origin"),
        ]
    )
    train.main(["--mode", "generate_mask", *start(folder), "--save_dir", str(folder / "mask")])
    return folder


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
    return [json.loads(line) for line in (run / "logs" / "stats.jsonl").read_text().splitlines()]


def weights(run):
    return checkpoint.load_weights(run, "raw")


def known(runner):
    """Pixels -> (true label, whether it is to be forgotten) of the hundred images."""
    images = datasets.load("digits", split="train")
    found = {}
    for name in ("forget", "remain"):
        for x, c in datasets.ordered(images, runner.indices[name], 1):
            found[x.numpy().tobytes()] = (int(c), name == "forget")
    assert len(found) == 100
    return found


# ---- SCRUB


def kl(p, q, t):
    """T^2 KL(softmax(p / T) || softmax(q / T)), one number at a time, in float64."""
    total = 0.0
    for a, b in zip(p.double().tolist(), q.double().tolist(), strict=True):
        ea, eb = [math.exp(v / t) for v in a], [math.exp(v / t) for v in b]
        for u, v in zip(ea, eb):
            total += u / sum(ea) * math.log((u / sum(ea)) / (v / sum(eb)))
    return t**2 * total / len(p)


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_scrubs_divergence_is_the_formula(folder, t):
    r = build(folder, "scrub", "--set", f"scrub.temperature={t}", "--bn_mode", "freeze")
    draw = r.task.draw(*next(r.forget))
    logits = 3 * torch.randn(BATCH, 10, generator=torch.Generator().manual_seed(0))
    assert r.divergence(draw, logits).item() == pytest.approx(kl(r.teacher(draw.x), logits, t), rel=1e-5)


def test_scrubs_steps_go_up_on_forget_and_down_on_remain_images(folder):
    r = build(folder, "scrub", "--set", "scrub.gamma=0.7", "--set", "scrub.alpha=0.3")
    where = known(r)
    perturb(r.plain)
    for k in range(7):
        r.step(k)
        sets = {where[x.numpy().tobytes()][1] for x in r.draws[-1].x}
        assert sets == {k < 2}  # the pass over the forget set first
    (draw_f, draw_r), t = (r.draws[0], r.draws[-1]), 4.0
    assert r.losses[0].item() == pytest.approx(-kl(r.teacher(draw_f.x), r.plain(draw_f.x), t), rel=1e-4)
    divergence = kl(r.teacher(draw_r.x), r.plain(draw_r.x), t)
    loss = cross_entropy(r.plain, draw_r).item()
    assert r.losses[-1].item() == pytest.approx(0.7 * loss + 0.3 * divergence, rel=1e-4)
    assert not r.teacher.training and not any(p.requires_grad for p in r.teacher.parameters())


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
    r.task.divergence = lambda p, q: seen.append((p, q)) or divergence(p, q)
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
    extra = checkpoint.load_state(run)["extra"]
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


# ---- SFR-on, IU, FF


@pytest.mark.parametrize("mask_mode, stays", [("strict", True), ("gradient", False), ("null", False)])
def test_sfron_keeps_masked_weights_only_where_asked(folder, mask_mode, stays):
    """Its remain steps move all weights; without a word about it, too. Not by their decay alone: that is 0 there."""
    path = folder / "mask" / "with_0.5.safetensors"
    run = train.main(
        [
            *words(
                folder,
                "sfron",
                "--mask_path",
                str(path),
                "--set",
                f"unlearn.mask_mode={mask_mode}",
                "--set",
                "unlearn.forget_every=2",
                "--weight_decay",
                "5e-4" if stays else "0",
            ),
            "--save_dir",
            "out",
        ]
    )
    before, after = weights(folder / "origin"), weights(run)
    mask = load_mask(path, None, None)
    kept = [torch.equal(after[n][~m], before[n][~m]) for n, m in mask.items() if (~m).any()]
    assert len(kept) > 5 and (all(kept) if stays else not any(kept))
    assert any(not torch.equal(after[n][m], before[n][m]) for n, m in mask.items())


def moved(folder, mode, name, *more):
    run = train.main([*words(folder, mode, *more), "--save_dir", name])
    before, after = weights(folder / "origin"), weights(run)
    names = [n for n in before if "running" not in n and "tracked" not in n and n not in ("mean", "std")]
    return {n: (after[n] - before[n]).double() for n in names}, stats(run)


def test_ius_alpha_scales_the_move(folder):
    common = ["--set", "iu.k=10"]
    one, logged = moved(folder, "iu", "one", *common, "--alpha", "1")
    norm = math.sqrt(sum(float(d.square().sum()) for d in one.values()))
    assert norm > 1e-3 and logged[0]["moved"] == pytest.approx(norm, rel=1e-3)
    for alpha in (3.0, -2.0):
        other, _ = moved(folder, "iu", f"{alpha}", *common, f"--alpha={alpha}")
        assert all(torch.allclose(other[n], alpha * d, rtol=1e-3, atol=1e-6) for n, d in one.items())


def test_ffs_noise_follows_alpha_its_cap_and_the_head(folder):
    big = ["--set", "fisher_forget.cap=1e9", "--set", "fisher_forget.head_factor=1"]
    one, _ = moved(folder, "fisher_forget", "one", *big, "--alpha", "1e-6")
    other, _ = moved(folder, "fisher_forget", "other", *big, "--alpha", "4e-6")
    assert all(torch.allclose(other[n], 2 * d, rtol=1e-3, atol=1e-6) for n, d in one.items())
    flat = ["--set", "fisher_forget.cap=1e-4", "--alpha", "1e3"]  # the cap everywhere: plain noise of std 0.01
    capped, _ = moved(folder, "fisher_forget", "capped", *flat, "--set", "fisher_forget.head_factor=1")
    everything = torch.cat([d.flatten() for d in capped.values()])
    assert everything.std().item() == pytest.approx(0.01, rel=0.05) and abs(everything.mean()) < 1e-3
    head, _ = moved(folder, "fisher_forget", "head", *flat, "--set", "fisher_forget.head_factor=9")
    for n, d in capped.items():
        factor = 3 if n in ("head.weight", "head.bias") else 1
        assert torch.allclose(head[n], factor * d, rtol=1e-3, atol=1e-6), n


# ---- resume


RESUMED = {
    "salun split": ["salun", "--order", "split"],
    "salun joint": ["salun", "--order", "joint"],
    "salun_soft": ["salun_soft"],
    "scrub": ["scrub"],
    "bad_teacher": ["bad_teacher"],
    "boundary_expand": ["boundary_expand", "--epochs", "4"],
}


@pytest.mark.parametrize("case", RESUMED.values(), ids=RESUMED)
def test_a_stopped_run_goes_on_to_the_same_bits(folder, monkeypatch, case):
    mode, *more = case
    more = [*more, "--lr", "0.01", "--set", "training.snapshot_freq=3"]
    whole = train.main([*words(folder, mode, *more), "--save_dir", "whole"])
    step = MODES[mode].step

    def stop(self, k):
        if k == 5:
            raise KeyboardInterrupt
        return step(self, k)

    monkeypatch.setattr(MODES[mode], "step", stop)
    with pytest.raises(KeyboardInterrupt):
        train.main([*words(folder, mode, *more), "--save_dir", "half"])
    assert checkpoint.load_meta("half")["step"] == 3
    monkeypatch.setattr(MODES[mode], "step", step)
    half = train.main([*words(folder, mode, *more), "--save_dir", "half", "--resume", "half"])
    one, two = weights(whole), weights(half)
    assert len(stats(whole)) > 5 and all(torch.equal(one[n], two[n]) for n in one)
    assert stats(half) == stats(whole)
    ours, theirs = (checkpoint.load_state(r) for r in (half, whole))
    assert ours["positions"] == theirs["positions"]
    if mode == "boundary_expand":
        assert all(torch.equal(ours["extra"][n], theirs["extra"][n]) for n in ours["extra"])


def test_orders_are_those_of_the_command_line():
    assert set(orders.STEPS) == set(orders.PASSES) == set(Unlearn.model_fields["order"].annotation.__args__)
