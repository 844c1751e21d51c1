"""The only update of weights by gradients in the project: zero, backward, reduce, mask, clip, decay, step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from functions.training import distributed
from functions.training.optim import DECOUPLED, Optimizer

Mask = dict[str, Tensor]  # parameter name -> bool, True = may move
Tensors = Sequence[Tensor]


class Update:
    """What a step does with a loss, for weights `params` called `names`.

    With a `strict` mask weight decay is masked too: folded into the clipped gradient as torch's optimisers do,
    g = m (g + wd theta), or AdamW's by hand, theta -= lr wd m theta; the optimiser itself decays nothing. Moments of
    masked weights stay zero, the weights bit-identical. `clip_first` is the published SalUn: clip, then mask.

    Args:
        optim: the config's section; `weight_decay` and `name` are read.
    """

    def __init__(self, names: Sequence[str], params: Sequence[nn.Parameter], optim, strict: bool, clip_first: bool):
        self.names, self.params, self.strict, self.clip_first = names, params, strict, clip_first
        self.decay, self.decoupled = optim.weight_decay, optim.name in DECOUPLED

    def __call__(
        self, loss: Tensor | Tensors, optimizer: Optimizer, mask: Mask | None = None, clip: float | None = None
    ) -> None:
        """`loss` is a scalar, or the gradients of all weights where a method has combined them itself."""
        optimizer.zero_grad()
        if isinstance(loss, Tensor):
            loss.backward()
            distributed.mean_(
                [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            )
        else:
            for p, g in zip(self.params, loss, strict=True):
                p.grad = g
        if clip is not None and mask is not None and self.clip_first:
            nn.utils.clip_grad_norm_(self.params, clip)
        params, gradients, masks = self._rows(mask)
        if mask is not None:
            torch._foreach_mul_(gradients, masks)
        if clip is not None:
            nn.utils.clip_grad_norm_(self.params, clip)
        if mask is not None and self.strict and self.decay:
            if self.decoupled:
                decay_weights(params, masks, optimizer.param_groups[0]["lr"] * self.decay)
            else:
                decay_gradients(params, gradients, masks, self.decay)
        optimizer.step()
        optimizer.zero_grad()  # at once: they would take memory beside the next step's activations

    def _rows(self, mask: Mask | None) -> tuple[Tensors, Tensors, Tensors]:
        """Weights that have a gradient, their gradients and their masks."""
        found = [(p, p.grad, mask and mask[n]) for n, p in zip(self.names, self.params) if p.grad is not None]
        return tuple(zip(*found))


@torch.no_grad()
def decay_gradients(params: Tensors, gradients: Tensors, masks: Tensors, rate: float) -> None:
    """g += rate m theta, in place."""
    torch._foreach_add_(gradients, torch._foreach_mul(params, masks), alpha=rate)


@torch.no_grad()
def decay_weights(params: Tensors, masks: Tensors, rate: float) -> None:
    """theta -= rate m theta, in place."""
    torch._foreach_add_(params, torch._foreach_mul(params, masks), alpha=-rate)


@torch.no_grad()
def add_to_weights(params: Tensors, delta: Tensors, masks: Tensors | None) -> None:
    """theta += delta, in the mask where there is one: how closed forms change the weights."""
    if masks is None:
        torch._foreach_add_(params, delta)
        return
    for p, d, m in zip(params, delta, masks, strict=True):
        p.copy_(torch.where(m, p + d, p))
