"""Influence unlearning (IU, published as `wfisher`): theta += step * H^-1 v. Neither H nor the matrix below is stored.

    v = (1/N) sum_{D_f} grad l - n_f / (N n_r) sum_{D_r} grad l        N = n_f + n_r
    H = I + (1/K) G^T G                                                 G (K,P): gradients of K remain examples as rows
    H^-1 v = v - G^T (K I + G G^T)^-1 G v                               Woodbury: K equations instead of P

All take the plain model, `losses(model, draw) -> (N,)` with everything but these two bound, and the batches to draw
from. Vectors of P numbers are dicts by name of the trainable parameters (`requires_grad`), at least float32, on the
model's device. The model is in `eval()` during a pass; modes, flags and `.grad` are restored.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from functions.curvature.gradients import add_, at_least_float32, evaluating, gradients_of, scaled, zeros
from functions.errors import InputError
from functions.progress import Progress
from functions.tasks import Draw

Losses = Callable[[nn.Module, Draw], Tensor]
Vector = dict[str, Tensor]
CHUNK = 32  # examples in one pass: ResNet-18 on 32x32 images then peaks below half a gigabyte


def mean_gradient(model: nn.Module, losses: Losses, draws: Iterable[Draw]) -> Vector:
    """(1/N) sum_n grad l_n over all N examples of `draws`, whatever their batches. InputError without examples."""
    with evaluating(model) as params:
        total, n = zeros(params), 0
        for draw in draws:
            values = losses(model, draw)
            add_(total, gradients_of(values.sum(), params))
            n += len(values)
    if n == 0:
        raise InputError("influence: no examples to average over")
    torch._foreach_div_(list(total.values()), n)
    return total


def direction(v_f_mean: Vector, v_r_mean: Vector, n_f: int, n_r: int) -> Vector:
    """v = (1/N) sum_{D_f} grad l - n_f / (N n_r) sum_{D_r} grad l = n_f / N (mean_f - mean_r), N = n_f + n_r."""
    difference = torch._foreach_sub(list(v_f_mean.values()), [v_r_mean[name] for name in v_f_mean])
    torch._foreach_mul_(difference, n_f / (n_f + n_r))
    return dict(zip(v_f_mean, difference))


def inverse_fisher_product(
    model: nn.Module,
    losses: Losses,
    draws: Iterable[Draw],
    v: Vector,
    tol: float = 1e-6,
    max_iter: int = 200,
    chunk: int = CHUNK,
) -> Vector:
    """H^-1 v = v - G^T (K I + G G^T)^-1 G v, H = I + (1/K) G^T G, by conjugate gradients on the K x K system.

    `draws` are gone through twice per iteration and have to be the same examples each time: a list of draws with K
    rows together, or anything else that starts anew at each `for`. Memory beyond the model and v: three vectors of P
    numbers and what one pass over `chunk` examples keeps; `chunk` changes nothing else.

    Ends at a residual of `tol` times |G v|, or after `max_iter` iterations with a line on stderr; the relative error of
    the result is at most about `tol` times H's largest eigenvalue. Raises InputError for draws that can be read only
    once, for a v of other parameters, and for NaN and infinity.
    """
    if iter(draws) is draws:
        raise InputError("influence: the draws can be read only once; wanted a list of them")
    b = forward_product(model, losses, draws, v, chunk)  # (K,)

    def gram(q: Tensor) -> Tensor:
        """(K I + G G^T) q"""
        return len(q) * q + forward_product(
            model, losses, draws, backward_product(model, losses, draws, q, chunk), chunk
        )

    u = backward_product(model, losses, draws, _solve(gram, b, tol, max_iter), chunk)
    torch._foreach_neg_(list(u.values()))
    return add_(u, v)


def forward_product(model: nn.Module, losses: Losses, draws: Iterable[Draw], v: Vector, chunk: int = CHUNK) -> Tensor:
    """G v: the derivative of each example's loss along v, (K,), at one forward-mode pass."""
    found = []
    with evaluating(model) as params, torch.no_grad(), _forward_mode():
        if v.keys() != params.keys():
            wrong = sorted(v.keys() ^ params.keys())
            raise InputError(f"influence: a vector of other parameters than the model's: {', '.join(wrong[:5])}")
        loss = _Loss(model, losses)
        weights = {f"model.{name}": p.detach() for name, p in params.items()}
        tangents = {f"model.{name}": v[name].to(p.dtype) for name, p in params.items()}
        for part in _parts(draws, chunk):

            def of(weights: Vector, part: Draw = part) -> Tensor:
                return functional_call(loss, weights, (part,))

            found.append(jvp(of, (weights,), (tangents,))[1])
    if not found:
        raise InputError("influence: no remain examples")
    product = torch.cat(found)
    return product.to(at_least_float32(product))


def backward_product(model: nn.Module, losses: Losses, draws: Iterable[Draw], q: Tensor, chunk: int = CHUNK) -> Vector:
    """G^T q = sum_i q_i grad l_i for q (K,): one backward pass of weighted losses."""
    with evaluating(model) as params:
        total, n = zeros(params), 0
        for part in _parts(draws, chunk):
            values, weights = losses(model, part), q[n : n + len(part.x)]
            n += len(values)
            if n > len(q):
                break
            add_(total, gradients_of((values * weights).sum(), params))
    if n != len(q):
        raise InputError(f"influence: the draws held {len(q)} examples at first and then another number of them")
    return total


def published_product(model: nn.Module, losses: Losses, draws: Iterable[Draw], v: Vector, n: int) -> Vector:
    """The published recursion in place of H^-1 v, with gradients g_i of single examples and n = 1000:

        k = v, o = g_1;   for i = 2 .. n + 2:   t = <o, g_i>,   k -= <k, g_i> / (n + t) o,   o *= n / (n + t)

    Not the inverse of anything: o is only rescaled and stays on g_1, so k - v is a multiple of g_1 whatever the other
    gradients are (WoodFisher's o_i would be a new direction each time). t can be negative, and n + t near 0. It reads
    n + 2 examples, as published, or all where there are fewer. Raises InputError for NaN and infinity.
    """
    k, o = {name: t.clone() for name, t in v.items()}, []
    found = list(k.values())
    with evaluating(model) as params:
        for one in islice(_parts(draws, 1), n + 2):
            g = scaled(gradients_of(losses(model, one).sum(), params), k, None)
            if not o:
                o = [t.clone() for t in g]
                continue
            t = _dot(o, g)
            s = _dot(found, g) / (n + t)
            torch._foreach_sub_(found, torch._foreach_mul(o, s))
            torch._foreach_mul_(o, n / (n + t))
    if not all(bool(t.isfinite().all()) for t in found):
        raise InputError("influence: NaN or infinity in the published recursion")
    return k


class _Loss(nn.Module):
    """The losses as a module that holds the model, so that `functional_call` can give the model other weights."""

    def __init__(self, model: nn.Module, losses: Losses):
        super().__init__()
        self.model, self.losses = model, losses

    def forward(self, draw: Draw) -> Tensor:
        return self.losses(self.model, draw)


@contextmanager
def _forward_mode() -> Iterator[None]:
    """Attention by plain products: fused kernels and MultiheadAttention's fast path have no forward-mode derivative.

    torch's first forward-mode pass warns of a decorator that torch itself still uses: not for our users.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated", category=FutureWarning)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _solve(apply: Callable[[Tensor], Tensor], b: Tensor, tol: float, max_iter: int) -> Tensor:
    """x with apply(x) = b, (K,), for a symmetric positive definite map: conjugate gradients from 0."""
    scale = b.abs().max()  # squares of small gradients' products would underflow
    _refuse_nan(scale)
    if scale == 0:
        return b
    r = b / scale
    x, p, start = torch.zeros_like(r), r, r.dot(r)
    rr, residual = start, 1.0
    with Progress("influence", max_iter, "steps at most") as bar:
        for _ in range(max_iter):
            image = apply(p)
            a = rr / p.dot(image)
            x, r = x + a * p, r - a * image
            before, rr = rr, r.dot(r)
            _refuse_nan(rr)
            residual = float((rr / start).sqrt())
            bar.show(f"residual {residual:.1e}")
            bar.update()
            if residual <= tol:
                return scale * x
            p = r + rr / before * p
    print(
        f"influence: conjugate gradients stopped after {max_iter} iterations at a relative residual of "
        f"{residual:.1e}, wanted {tol:.1e}",
        file=sys.stderr,
    )
    return scale * x


def _refuse_nan(value: Tensor) -> None:
    if not value.isfinite():
        raise InputError("influence: NaN or infinity in the losses, their gradients or v")


def _parts(draws: Iterable[Draw], chunk: int) -> Iterator[Draw]:
    """The same examples in draws of at most `chunk`."""
    for draw in draws:
        for start in range(0, len(draw.x), chunk):
            yield Draw(*(f if f is None else f[start : start + chunk] for f in draw))


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.stack([product.sum() for product in torch._foreach_mul(a, b)]).sum()
