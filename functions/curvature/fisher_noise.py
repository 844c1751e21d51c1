"""Fisher forgetting (FF, arXiv 1911.04933): noise on every weight, the less the more the remain set needs it."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from functions.curvature.gradients import at_least_float32, check_diagonal
from functions.errors import InputError


def noise(
    fisher_r: dict[str, Tensor],
    alpha: float,
    cap: float,
    head_factor: float,
    head: Collection[str],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """What is added to theta: sqrt(s) N(0, 1) with s = min(alpha / (F_r + 1e-8), cap), in the head head_factor s.

    F_r is the diagonal Fisher of the remain set per example, by parameter name; `head` are names, of
    `head_parameters`. The normal numbers are drawn on the generator's device in the order of the sorted names, so that
    neither the device nor the order of the dict changes them. Raises InputError for a Fisher that is negative, NaN or
    infinite, and for a name in `head` without a Fisher.
    """
    check_diagonal(fisher_r, "Fisher forgetting")
    if unknown := sorted(set(head) - fisher_r.keys()):
        raise InputError(f"Fisher forgetting: no Fisher of the last layer's {', '.join(unknown)}")
    found = {}
    for name, f in sorted(fisher_r.items()):
        variance = (alpha / (f + 1e-8)).clamp(max=cap) * (head_factor if name in head else 1.0)
        kind = {"dtype": at_least_float32(f), "device": generator.device}
        found[name] = variance.sqrt() * torch.randn(f.shape, generator=generator, **kind).to(f.device)
    return found


def head_parameters(model: nn.Module) -> list[str]:
    """Names of all parameters of the module that owns the model's last one: the last layer, by place, not by shape."""
    names = {p: name for name, p in model.named_parameters()}  # a tied parameter has one name and several owners
    if not names:
        raise InputError("the model has no parameters")
    owner = model.get_submodule(list(names.values())[-1].rpartition(".")[0])
    return [names[p] for p in owner.parameters(recurse=False)]
