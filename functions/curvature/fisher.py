"""Diagonal Fishers of a model's losses, by name of estimator. theta weights, l_n the loss of example n, N examples.

    per_example   F_i = 1/N sum_n (d l_n / d theta_i)^2                        exact, one streaming pass
    batch         F_i = 1/K sum_k (d mean_{n in batch k} l_n / d theta_i)^2    published; E = mu^2 + sigma^2 / B

All take the plain model, `losses(model, draw) -> (N,)` with everything but these two bound, and the batches to draw
from; they return F in at least float32 on the model's device, keyed by parameter name, for the trainable parameters
(`requires_grad`). The model is in `eval()` during the pass; modes, flags and `.grad` are restored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from functions.curvature.gradients import Params, Reduce, alone, clip_scale, evaluating, gradients_of, scaled, zeros
from functions.curvature.layer_gradients import Call, refusal, rules_of, sum_of_squares
from functions.errors import InputError
from functions.tasks import Draw

Losses = Callable[[nn.Module, Draw], Tensor]
Layers = dict[nn.Module, list[tuple[str, str]]]  # the layer's name of each parameter, and its full name
FREE_CHUNK = 16  # examples at once where a parameter without a layer goes through vmap


def per_example(model: nn.Module, losses: Losses, draws: Iterable[Draw], reduce: Reduce = alone) -> dict[str, Tensor]:
    """F_i = 1/N sum_n (d l_n / d theta_i)^2, exact, in one pass over the batches of `draws`.

    Forward hooks keep each layer's input, hooks on its output get the gradient; together they give that layer's
    per-example gradients, which are squared, added and discarded chunk by chunk. Gradients of weights are never formed
    by autograd. Extra memory: what `layer_gradients.CHUNK` says, and less than batch x the largest layer.

    Weights used several times in one loss (guidance, weight sharing) are summed before squaring. Parameters without a
    layer: those in `model.broadcast_parameters` become one copy per row, others go through `vmap(grad)`.
    Raises InputError, with the name, for a trainable parameter that none of this covers.
    """
    with evaluating(model) as params:
        layers, copied, free = _cover(model, params)
        total = zeros(params)
        for p in free.values():
            p.requires_grad_(False)
        n = 0
        for draw in draws:
            n += _add_layers(model, losses, draw, layers, copied, total)
            if free:
                _add_free(model, losses, draw, free, total)
        return _mean(total, n, reduce)


def batch(
    model: nn.Module, losses: Losses, draws: Iterable[Draw], clip: float | None = None, reduce: Reduce = alone
) -> dict[str, Tensor]:
    """F_i = 1/K sum_k (d mean_{n in batch k} l_n / d theta_i)^2 over the K batches, as published by SFR-on.

    With `clip`, the gradient of each batch is scaled down to that norm before it is squared.
    """
    with evaluating(model) as params:
        total, k = zeros(params), 0
        for draw in draws:
            gradients = gradients_of(losses(model, draw).mean(), params)
            terms = scaled(gradients, total, None if clip is None else clip_scale(gradients, clip))
            torch._foreach_add_(list(total.values()), torch._foreach_mul(terms, terms))
            k += 1
        return _mean(total, k, reduce)


def reference(model: nn.Module, losses: Losses, draws: Iterable[Draw]) -> dict[str, Tensor]:
    """What `per_example` computes, by one forward and backward pass per example: for tests and benchmarks."""
    with evaluating(model) as params:
        total, n = zeros(params), 0
        for draw in draws:
            for i in range(len(draw.x)):
                one = Draw(*(v if v is None else v[i : i + 1] for v in draw))
                for name, g in gradients_of(losses(model, one).sum(), params).items():
                    total[name] += g.to(total[name].dtype).square()
            n += len(draw.x)
        return _mean(total, n)


ESTIMATORS = {"per_example": per_example, "batch": batch}


def _mean(total: dict[str, Tensor], n: int, reduce: Reduce = alone) -> dict[str, Tensor]:
    n = reduce(list(total.values()), n)
    if n == 0:
        raise InputError("Fisher: no examples to average over")
    return {name: t / n for name, t in total.items()}


def _cover(model: nn.Module, params: Params) -> tuple[Layers, Params, Params]:
    """Who forms which gradient: rules of layers, copies per row, vmap. Raises where nobody does."""
    layers, copied, free = {}, {}, {}
    names = {p: name for name, p in params.items()}  # a tied parameter has one name and several owners
    for module in model.modules():
        for own, p in module.named_parameters(recurse=False):
            if p not in names:
                continue
            if own in rules_of(module):
                if reason := refusal(module):
                    raise InputError(f"Fisher: {names[p]}: {type(module).__name__} {reason}")
                layers.setdefault(module, []).append((own, names[p]))
            elif names[p] in getattr(model, "broadcast_parameters", ()):
                copied[names[p]] = p
            elif type(module).__module__.startswith("torch.nn."):
                raise InputError(
                    f"Fisher: {names[p]}: no rule for the parameter {own!r} of {type(module).__name__} "
                    "(functions/curvature/layer_gradients.py, RULES)"
                )
            else:
                free[names[p]] = p
    if twice := {name for owned in layers.values() for _, name in owned} & {*copied, *free}:
        raise InputError(f"Fisher: {min(twice)}: shared between a layer and something that is none")
    return layers, copied, free


class _Replaced:
    """The model with some parameters replaced at each call; everything else is the model's own."""

    def __init__(self, model: nn.Module, replacement: Callable[[int], dict[str, Tensor]]):
        self._model, self._replacement = model, replacement

    def __call__(self, *args, **kwargs) -> Tensor:
        rows = len((*args, *kwargs.values())[0])
        return functional_call(self._model, self._replacement(rows), args, kwargs)

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)


class _Root(torch.autograd.Function):
    """Makes the output of the first frozen layer part of the graph, in place, so that it receives a gradient."""

    @staticmethod
    def forward(ctx, out: Tensor, root: Tensor) -> Tensor:
        ctx.mark_dirty(out)
        return out

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[None, None]:
        return None, None


class _Recorder:
    """Adds the squared per-example gradients of one batch to `total` while its backward pass runs.

    A layer's weights are frozen while it is called, and only then: autograd forms no gradient for them there, and one
    that arrives nevertheless betrays a use of the weight outside its layer.
    """

    def __init__(self, layers: Layers, copied: Params, total: dict[str, Tensor], n: int):
        self.layers, self.copied, self.total = layers, copied, total
        self.n = self.rows = n  # losses, and rows of the model's pass: 2 n with batched guidance
        self.waiting: dict[str, list[Call]] = defaultdict(list)  # full name -> calls not yet added
        self.copies: dict[str, list[Tensor]] = defaultdict(list)
        self.root = next(iter(total.values())).new_zeros((), requires_grad=True)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        handles = []
        for layer in self.layers:
            handles.append(layer.register_forward_pre_hook(self._enter))
            handles.append(layer.register_forward_hook(self._leave, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def replacement(self, rows: int) -> dict[str, Tensor]:
        """One copy per row of each parameter in `copied`; its gradient rows are per-row gradients."""
        self.rows = rows
        new = {name: p.detach().expand(rows, *p.shape).clone() for name, p in self.copied.items()}
        for name, copy in new.items():
            self.copies[name].append(copy.requires_grad_())
        return new

    def _enter(self, layer: nn.Module, args: tuple) -> None:
        for own, _ in self.layers[layer]:
            getattr(layer, own).requires_grad_(False)

    def _leave(self, layer: nn.Module, args: tuple, kwargs: dict, out: Tensor) -> Tensor:
        for own, _ in self.layers[layer]:
            getattr(layer, own).requires_grad_(True)
        if not out.requires_grad:
            out = _Root.apply(out, self.root)
        call = Call(layer, (*args, *kwargs.values())[0].detach(), self.rows, uses=len(self.layers[layer]))
        for _, name in self.layers[layer]:
            self.waiting[name].append(call)
        out.register_hook(partial(self._arrived, call))
        return out

    def _arrived(self, call: Call, g: Tensor) -> None:
        call.g = g.detach()
        for own, name in self.layers[call.layer]:
            if all(c.g is not None for c in self.waiting[name]):
                self._add(own, name)

    def _add(self, own: str, name: str) -> None:
        calls = [c for c in self.waiting.pop(name) if c.g is not None]
        if calls:
            total = self.total[name]
            total += sum_of_squares(calls, self.n, own, total.shape, total.dtype)
        for call in calls:
            call.uses -= 1
            if call.uses == 0:  # the graph keeps the call until its end, but not what it holds
                call.x = call.g = None

    def finish(self) -> None:
        """After the backward pass: layers with an unused output, copies, and the search for weights used elsewhere."""
        for layer, names in self.layers.items():
            for own, name in names:
                p = getattr(layer, own)
                if p.grad is not None:
                    raise InputError(f"Fisher: {name}: used outside the call of its {type(layer).__name__}")
                if name in self.waiting:
                    self._add(own, name)
        for name, copies in self.copies.items():
            grads = [c.grad.unflatten(0, (-1, self.n)).sum(0) for c in copies if c.grad is not None]
            if grads:
                self.total[name] += sum(grads).to(self.total[name].dtype).square().sum(0)


def _add_layers(
    model: nn.Module, losses: Losses, draw: Draw, layers: Layers, copied: Params, total: dict[str, Tensor]
) -> int:
    """Add one batch's sums of squares for parameters of layers and for copied ones; the number of its examples."""
    recorder = _Recorder(layers, copied, total, len(draw.x))
    with recorder.hooked():
        values = losses(_Replaced(model, recorder.replacement), draw)
        if len(values) != len(draw.x):
            raise InputError(f"Fisher: {len(values)} losses for {len(draw.x)} examples")
        if values.requires_grad:
            values.sum().backward()
    recorder.finish()
    return len(values)


def _add_free(model: nn.Module, losses: Losses, draw: Draw, free: Params, total: dict[str, Tensor]) -> None:
    """Add one batch's sums of squares for parameters without a layer, by `vmap(grad)` over chunks of examples."""
    fields = {k: v for k, v in draw._asdict().items() if v is not None}
    values = {name: p.detach() for name, p in free.items()}

    def loss(values: dict[str, Tensor], fields: dict[str, Tensor]) -> Tensor:
        one = draw._replace(**{k: v[None] for k, v in fields.items()})
        return losses(_Replaced(model, lambda rows: values), one)[0]

    # functorch's grad ignores no_grad, nothing outside is recorded. Fused attention has no batching rule: torch would
    # go through the examples one by one, and warn of it.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        for start in range(0, len(draw.x), FREE_CHUNK):
            chunk = {k: v[start : start + FREE_CHUNK] for k, v in fields.items()}
            for name, g in vmap(grad(loss), in_dims=(None, 0))(values, chunk).items():
                total[name] += g.to(total[name].dtype).square().sum(0)
