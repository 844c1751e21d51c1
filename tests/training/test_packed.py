"""Optimisers of masked-in weights alone move them as the same optimiser on all weights does, and keep less."""

import types

import cases
import pytest
import torch

from functions.errors import InputError
from functions.storage.artifacts import load_mask
from functions.training import packed
from functions.training.optim import make_optimizer
from functions.training.packed import LINE
from functions.training.update import Update

SHAPES = ((48, 32), (3, 16, 3, 3), (16,), (7, 5), (64,), (2, 16))  # one is no multiple of LINE
OPTIMIZERS = ("adam", "adamw", "sgd")


class Weights:
    """Weights of several shapes under a strict mask: of the last nothing may move, of the last but one everything."""

    def __init__(self, name, sparse, decay=0.1, momentum=0.9):
        g = torch.Generator().manual_seed(0)
        optim = types.SimpleNamespace(name=name, lr=1e-2, weight_decay=decay, momentum=momentum)
        self.params = [torch.nn.Parameter(torch.randn(s, generator=g)) for s in SHAPES]
        share = [0.5, 0.3, 0.5, 0.5, 1.0, 0.0]
        self.masks = [torch.rand(s, generator=g) < p for s, p in zip(SHAPES, share)]
        self.names = tuple(map(str, range(len(SHAPES))))
        self.mask = dict(zip(self.names, self.masks))
        self.before = [p.detach().clone() for p in self.params]
        self.optimizer = make_optimizer(self.params, optim, decay=False, masks=self.masks if sparse else None)
        self.update = Update(self.names, self.params, optim, strict=True, clip_first=False)

    def step(self, k, clip=None):
        g = torch.Generator().manual_seed(k)
        gradients = [torch.randn(s, generator=g) * 10 ** torch.randn(s, generator=g) for s in SHAPES]
        self.update(gradients, self.optimizer, self.mask, clip)

    def steps(self, n=5, **options):
        for k in range(n):
            self.step(k, **options)
        return self


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_bits_are_those_of_the_dense_strict_update(name, clip):
    """torch's fused kernels round the last numel % LINE values of a tensor differently: only there may they differ."""
    sparse, dense = (Weights(name, sparse).steps(clip=clip) for sparse in (True, False))
    for p, q, m, p_0 in zip(sparse.params, dense.params, sparse.masks, sparse.before):
        assert torch.equal(p[~m], p_0[~m]) and (m.sum() == 0 or not torch.equal(p[m], p_0[m]))
        whole = p.numel() // LINE * LINE
        assert torch.equal(p.flatten()[:whole], q.flatten()[:whole])
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)  # five steps, each half a unit of a value near 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_chunks_change_nothing(name, monkeypatch):
    whole = Weights(name, sparse=True).steps()
    monkeypatch.setattr(packed, "CHUNK", 100)
    parts = Weights(name, sparse=True)
    assert len(whole.optimizer.chunks) == 1 < len(parts.optimizer.chunks)
    for p, q in zip(parts.steps().params, whole.params):
        assert torch.equal(p, q)


def test_moments_are_as_many_as_weights_in_the_mask():
    w = Weights("adamw", sparse=True).steps(1)
    state = w.optimizer.state_dict()["state"]
    assert sorted(state) == [i for i, m in enumerate(w.masks) if m.any()] == [0, 1, 2, 3, 4]
    for i, of in state.items():
        kept = int(w.masks[i].sum())
        assert all(kept <= of[key].numel() < kept + LINE and of[key].ndim == 1 for key in ("exp_avg", "exp_avg_sq"))
    assert all(len(row.kept) == 0 and row.kept.grad is None for chunk in w.optimizer.chunks for row in chunk)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_optimizer_goes_on_with_the_same_bits(name, tmp_path):
    whole, half, rest = (Weights(name, sparse=True) for _ in range(3))
    whole.steps(6)
    half.steps(3)
    torch.save(half.optimizer.state_dict(), tmp_path / "state.pt")
    rest.optimizer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    with torch.no_grad():
        torch._foreach_copy_(rest.params, half.params)
    for k in range(3, 6):
        rest.step(k)
    for p, q in zip(rest.params, whole.params):
        assert torch.equal(p, q)


def test_weights_in_another_memory_format_keep_it():
    last, plain = Weights("adam", sparse=True), Weights("adam", sparse=True).steps()
    last.params[1].data = last.params[1].data.contiguous(memory_format=torch.channels_last)
    last.steps()
    assert last.params[1].is_contiguous(memory_format=torch.channels_last) and not last.params[1].is_contiguous()
    assert torch.equal(last.params[1], plain.params[1])


def test_the_rate_is_read_at_each_step_and_weights_without_a_gradient_stay():
    w = Weights("sgd", sparse=True, decay=0.0)
    w.optimizer.param_groups[0]["lr"] = 0.5
    w.optimizer.zero_grad()
    w.params[0].grad = torch.ones(SHAPES[0])
    w.optimizer.step()
    assert torch.equal(w.params[0], w.before[0] - 0.5 * w.masks[0].float())
    assert all(torch.equal(p, q) for p, q in zip(w.params[1:], w.before[1:]))
    w.optimizer.zero_grad()
    assert w.params[0].grad is None


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.0, 0.0)])
def test_weights_without_a_mask_move_once_a_step(shares, monkeypatch):
    monkeypatch.setattr(packed, "CHUNK", 1)
    masked = [torch.nn.Parameter(torch.zeros(4)) for _ in shares]
    masks = [torch.arange(4) < 4 * share for share in shares]
    optimizer = packed.Packed(masked, masks, lambda params: torch.optim.SGD(params, lr=1.0))
    extra = torch.nn.Parameter(torch.zeros(3))
    optimizer.add_param_group({"params": [extra]})
    for p in (*masked, extra):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(extra.detach(), -torch.ones(3)) and all(
        torch.equal(p.detach(), -m.float()) for p, m in zip(masked, masks)
    )


# ---- in runs


def run(toy, mode, *more):
    more = [
        "--mask_path",
        str(toy.mask),
        "--set",
        "optim.weight_decay=0.1",
        "--set",
        "optim.lr=1e-3",
        "--set",
        "optim.lr_schedule=constant",
        *more,
    ]
    return cases.unlearn(toy.world, mode, toy.run, *more)


@pytest.mark.parametrize(
    ("world", "mode", "more"),
    [
        (
            "ddpm",
            "sfron",
            ["unlearn.mask_mode=strict", "unlearn.optimizer_state=separate", "unlearn.decay_forget_alpha=false"],
        ),
        ("ddpm", "erasediff", ["optim.name=adamw"]),
        ("classifier", "boundary_expand", ["optim.name=adam"]),
        ("classifier", "scrub", ["optim.name=sgd", "optim.momentum=0.9"]),
    ],
)
def test_a_run_has_the_weights_of_a_dense_one_and_resumes_to_the_same_bits(originals, world, mode, more):
    toy, settings = originals[world], [w for s in more for w in ("--set", s)]
    dense = cases.weights(run(toy, mode, *settings))
    settings += ["--set", "optim.sparse_moments=true"]
    whole = run(toy, mode, *settings, "--save_dir", "whole")
    run(toy, mode, *settings, "--save_dir", "half", "--set", "training.n_iters=2")
    half = cases.train.main(["--resume", "half", "--set", "training.n_iters=4"])
    sparse = cases.weights(whole)
    assert cases.same(cases.weights(half), sparse)
    before = cases.weights(toy.run, "ema" if world == "ddpm" else "raw")
    for n, m in load_mask(toy.mask, None, None).items():
        assert torch.equal(sparse[n][~m], before[n][~m])
        # a move is of 4e-3 at most, and rounding of one tensor's last values reaches the others
        torch.testing.assert_close(sparse[n], dense[n], rtol=1e-4, atol=4e-5)
    sizes = [
        sum(t.numel() for of in o["state"].values() for t in of.values()) for o in cases.load_state(whole)["optimizers"]
    ]
    assert max(sizes) < 2 * sum(t.numel() for t in before.values())


def test_infinite_moments_are_not_saved(originals, monkeypatch):
    make = torch.optim.Adam.step

    def step(self):
        make(self)
        next(iter(self.state.values()))["exp_avg_sq"][0] = torch.inf

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    with pytest.raises(InputError, match="exp_avg_sq of weight 1 is NaN or infinite at step 2"):
        run(originals["ddpm"], "salun", "--set", "optim.sparse_moments=true", "--set", "optim.name=adam")


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_waits_for_no_device(name):
    p, m = torch.nn.Parameter(torch.randn(64, 32, device="cuda")), torch.rand(64, 32, device="cuda") < 0.5
    optim = types.SimpleNamespace(name=name, lr=1e-2, weight_decay=0.0, momentum=0.9)
    optimizer = make_optimizer([p], optim, masks=[m])
    for mode in ("default", "error"):  # what is made in the first step may wait
        torch.cuda.set_sync_debug_mode(mode)
        try:
            p.grad = torch.ones_like(p)
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
