"""SalUn's score and masks: the gradient of the exact mean, exactly int(N q) weights, computed once."""

from pathlib import Path

import bounds
import cases
import numpy as np
import pytest
import torch

import models
from functions.config.load import load_config
from functions.curvature import saliency
from functions.curvature.saliency import gradient_score, top_share_mask
from functions.errors import InputError
from functions.storage.artifacts import load_mask, load_tensors
from functions.tasks import Classification, Draw
from runners.passes import generate_mask

EMPTY = "optim: {lr: 1e-3}\ntraining: {n_iters: 4, batch_size: 8, ema: false}\nunlearn: {}\n"


def double_argsort(score, share):
    """The published rule, with ties by place: rank of every weight among all, kept where it is below int(N share)."""
    flat = torch.cat([s.flatten() for s in score.values()])
    rank = flat.argsort(descending=True, stable=True).argsort()
    kept = rank < int(len(flat) * share)
    return dict(
        zip(score, (k.view(s.shape) for k, s in zip(kept.split([s.numel() for s in score.values()]), score.values())))
    )


@pytest.mark.parametrize("share", [0.01, 0.1, 1 / 3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("chunk", [5, 1 << 22])
def test_top_share_is_the_double_argsort(monkeypatch, share, chunk):
    monkeypatch.setattr(saliency, "CHUNK", chunk)
    g = torch.Generator().manual_seed(0)
    score = {
        "ties": torch.randint(0, 4, (3, 7), generator=g).float(),
        "spread": torch.rand(50, generator=g) ** 8,
        "zeros": torch.zeros(2, 2, 3),
        "extremes": torch.tensor([0.0, 1e-45, 1e-38, 3.4e38, 1.0, 1.0]),
    }
    found, wanted = top_share_mask(score, share), double_argsort(score, share)
    for name in score:
        assert found[name].dtype == torch.bool and torch.equal(found[name], wanted[name]), name


def test_too_small_a_share_keeps_nothing():
    assert not top_share_mask({"w": torch.rand(9)}, 0.1)["w"].any()  # int(0.9) = 0


def linear():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 2)).train()


def rounded_once(found, exact):
    """A score, float32, against its value in float64."""
    off = bounds.unit() * exact + bounds.TIGHT * exact.max()
    return found.dtype == torch.float32 and bool(((found - exact).abs() <= off).all())


def test_the_score_is_of_the_exact_mean_whatever_the_batches():
    """Batches of 4 and 1: a mean of batch means would count the last example four times."""
    model, task = linear().double(), Classification(2)
    x, c = torch.randn(5, 3).double(), torch.tensor([0, 1, 1, 0, 1])
    model.eval()
    loss = torch.nn.functional.cross_entropy(model(x), c)
    wanted = dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters()))))
    model.train()
    found = gradient_score(model, task.losses, [Draw(x[:4], c[:4]), Draw(x[4:], c[4:])])
    for name, g in wanted.items():
        assert rounded_once(found[name], g.abs()), name
    assert model.training and all(p.grad is None for p in model.parameters())


def test_the_published_score_sums_clipped_batch_means():
    model, task = linear().double(), Classification(2)
    x, c = 10 * torch.randn(4, 3).double(), torch.tensor([0, 1, 1, 0])
    model.eval()
    total = 0
    for part in (slice(0, 2), slice(2, 4)):
        loss = torch.nn.functional.cross_entropy(model(x[part]), c[part])
        g = torch.autograd.grad(loss, list(model.parameters()))
        norm = torch.cat([v.flatten() for v in g]).norm()
        total = total + g[0] * min(1, 0.1 / (norm + 1e-6))
    found = gradient_score(model, task.losses, [Draw(x[:2], c[:2]), Draw(x[2:], c[2:])], clip=0.1)
    assert rounded_once(found["0.weight"], total.abs())


@pytest.fixture(scope="module", params=["ddpm", "classifier"])
def original(request, originals):
    return request.param, originals[request.param].run


def test_an_empty_section_is_saluns_objective(original):
    """Not SFR-on's: random labels as each world understands them, to the bit what naming them gives."""
    world, run = original
    objective = {"ddpm": "match", "classifier": "relabel"}[world]
    Path("empty.yml").write_text(f"base: digits{'' if world == 'ddpm' else '_classifier'}.yml\n" + EMPTY)
    empty = ["--config", "empty.yml"]
    by = lambda *more: cases.weights(
        cases.train.main(["--mode", "salun", *empty, *cases.TOY, *cases.from_run(run, 0), *more])
    )
    assert cases.same(by(), by("--unlearn_loss", objective))
    assert not cases.same(by(), by("--unlearn_loss", "adaga"))


def make_masks(world, run, *more):
    return cases.train.main(
        ["--mode", "generate_mask", "--config", *cases.WORLDS[world]["saliency"], *cases.from_run(run, 0), *more]
    )


def test_masks_lie_where_the_readme_says_and_hold_exactly_their_share(original, capsys):
    world, run = original
    folder = make_masks(world, run, "--set", "saliency.shares=[0.5, 0.1]")
    assert folder == Path("results/digits/mask/0")
    n = sum(p.numel() for p in models.build(cases.load_meta(run)["model"]).parameters())
    for share in (0.5, 0.1):
        mask = load_mask(folder / f"with_{share}.safetensors", None, None)
        assert sum(m.numel() for m in mask.values()) == n
        assert sum(int(m.sum()) for m in mask.values()) == int(n * share)
    score, _ = load_tensors(folder / "score.safetensors")
    assert all(s.dtype == torch.float32 for s in score.values())
    assert all(torch.equal(m, double_argsort(score, 0.1)[name]) for name, m in mask.items())
    packed, _ = load_tensors(folder / "with_0.5.safetensors")
    assert sum(p.numel() for p in packed.values()) <= n / 8 + len(packed)
    assert f"share 0.5: {int(n * 0.5):,} of {n:,} weights are salient" in capsys.readouterr().out


def test_the_score_is_computed_once(original, monkeypatch, capsys):
    world, run = original
    make_masks(world, run)
    with monkeypatch.context() as patch:
        patch.setattr(generate_mask, "gradient_score", lambda *a: pytest.fail("computed again"))
        folder = make_masks(world, run, "--set", "saliency.shares=[0.3]")
    assert (
        folder / "with_0.3.safetensors"
    ).is_file() and "using results/digits/mask/0/score" in capsys.readouterr().out
    before, _ = load_tensors(folder / "score.safetensors")
    make_masks(world, cases.pretrain(world, "--seed", "3"))
    after, _ = load_tensors(folder / "score.safetensors")
    assert any(not torch.equal(before[n], after[n]) for n in before)
    assert "made from another checkpoint" in capsys.readouterr().out


def test_a_score_that_is_not_a_number_is_refused_before_a_mask_is_made(original, monkeypatch):
    world, run = original
    nan = lambda model, *a: {n: torch.full_like(p, torch.nan) for n, p in model.named_parameters()}
    monkeypatch.setattr(generate_mask, "gradient_score", nan)
    with pytest.raises(InputError, match="saliency score: negative, NaN or infinite values in"):
        make_masks(world, run)
    assert not Path("results/digits/mask").exists()


def test_the_guided_score_is_another_one(original):
    world, run = original
    if world == "classifier":
        with pytest.raises(InputError, match="saliency: guidance and draws are for diffusion"):
            make_masks(world, run, "--cond_scale", "2.0")
        return
    guided, _ = load_tensors(make_masks(world, run, "--cond_scale", "2.0") / "score.safetensors")
    plain, made = load_tensors(make_masks(world, run, "--cond_scale", "0.0") / "score.safetensors")
    assert made["guidance"] == 0.0
    assert not np.allclose(guided["conv_in.weight"], plain["conv_in.weight"])


def test_published_hyper_parameters():
    flags = {"label_to_forget": 0, "ckpt_folder": "x"}
    c = load_config("cifar10_saliency_unlearn.yml", "salun", flags=flags)
    assert (c.optim.name, c.optim.lr, c.training.n_iters, c.training.batch_size) == ("adam", 1e-4, 1000, 128)
    assert (c.unlearn.loss, c.unlearn.remain_alpha, c.saliency.guidance, c.saliency.shares) == (
        "match",
        1e-3,
        2.0,
        [0.5],
    )
    published = load_config("cifar10_saliency_unlearn.yml", "salun", overlays=["as_published.yml"], flags=flags)
    assert (published.unlearn.mask_mode, published.unlearn.clip_first) == ("gradient", True)
    mask = load_config("cifar10_saliency_unlearn.yml", "generate_mask", overlays=["as_published.yml"], flags=flags)
    assert (mask.saliency.clip, mask.saliency.average) == (1.0, "batches")
    with pytest.raises(InputError, match=r"--method: has no meaning in mode salun"):
        load_config("cifar10_saliency_unlearn.yml", "salun", flags={**flags, "method": "joint"})
