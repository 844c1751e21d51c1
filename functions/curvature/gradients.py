"""Gradients by parameter name: what Fishers and saliency scores share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from functions.errors import InputError

Params = dict[str, nn.Parameter]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[Params]:
    """The trainable parameters of the model in `eval()`, without gradients; everything is put back afterwards."""
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not params:
        raise InputError("no parameter of the model is trainable (requires_grad is False for all)")
    modes, grads = {m: m.training for m in model.modules()}, {name: p.grad for name, p in params.items()}
    model.eval()
    for p in params.values():
        p.grad = None
    try:
        with torch.enable_grad():
            yield params
    finally:
        for module, training in modes.items():
            module.training = training
        for name, p in params.items():
            p.requires_grad_(True)
            p.grad = grads[name]


# `reduce(sums, n)` makes sums over this process's items sums over all processes', in place, and returns how many items
# all have. A pass that splits its items calls it once, at its end.
Reduce = Callable[[Sequence[Tensor], int], int]


def alone(sums: Sequence[Tensor], n: int) -> int:
    """The `Reduce` of a pass over everything: the sums are whole."""
    return n


def at_least_float32(p: Tensor) -> torch.dtype:
    return torch.promote_types(p.dtype, torch.float32)


def zeros(params: Params) -> dict[str, Tensor]:
    """Where a sum over batches begins, in at least float32."""
    return {name: torch.zeros_like(p, dtype=at_least_float32(p)) for name, p in params.items()}


def gradients_of(loss: Tensor, params: Params) -> dict[str, Tensor]:
    """Gradients by name, zero where the loss does not use the parameter."""
    gradients = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(params.items(), gradients)}


def clip_scale(gradients: dict[str, Tensor], clip: float) -> Tensor:
    """() min(1, clip / norm of all gradients), as `clip_grad_norm_` scales."""
    norms = torch.stack(torch._foreach_norm(list(gradients.values())))
    return (clip / (torch.linalg.vector_norm(norms) + 1e-6)).clamp(max=1)


def add_(total: dict[str, Tensor], terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """total += terms, in place and at once for all names; returns total."""
    torch._foreach_add_(list(total.values()), [terms[name] for name in total])
    return total


def scaled(gradients: dict[str, Tensor], total: dict[str, Tensor], scale: Tensor | None) -> list[Tensor]:
    """The gradients in the order and the types of `total`, times `scale` where there is one.

    Not to be written to: autograd gives one tensor for two parameters where their gradients are equal.
    """
    typed = [gradients[name].to(t.dtype) for name, t in total.items()]
    return typed if scale is None else list(torch._foreach_mul(typed, scale))


def check_diagonal(tensors: dict[str, Tensor], what: str) -> None:
    """Raises InputError where a Fisher or a score is negative, NaN or infinite: the first five tensors by name."""
    if broken := [n for n, t in tensors.items() if not bool((t >= 0).all() and t.isfinite().all())]:
        raise InputError(f"{what}: negative, NaN or infinite values in {len(broken)} tensors: {', '.join(broken[:5])}")
