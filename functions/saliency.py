"""Saliency: which weights may move. A mask is `dict[parameter name, bool tensor]`; True = may move."""

from __future__ import annotations

import torch
from torch import Tensor

Mask = dict[str, Tensor]


def ratio_mask(
    fisher_f: dict[str, Tensor], fisher_r: dict[str, Tensor], gamma: float, zero_ratio_salient: bool = False
) -> Mask:
    """m = [ F_f / F_r >= gamma ] and F_f > 0, by name (SFR-on, METHODS). No division: F_f >= gamma F_r.

    Where both Fishers are 0 a weight is never salient; `zero_ratio_salient` is the published reading, ratio 1 there.
    """
    mask = {}
    for name, f in fisher_f.items():
        r = fisher_r[name]
        mask[name] = (f >= gamma * r) & (f > 0)
        if zero_ratio_salient and gamma <= 1:
            mask[name] |= (f == 0) & (r == 0)
    return mask


def kept_share(mask: Mask, depth: int = 2) -> tuple[float, dict[str, tuple[int, int]]]:
    """The share of salient weights, and (salient, all) per group of names that agree in their first `depth` parts."""
    groups: dict[str, tuple[int, int]] = {}
    for name, m in mask.items():
        group = ".".join(name.split(".")[:depth])
        kept, total = groups.get(group, (0, 0))
        groups[group] = (kept + int(m.sum()), total + m.numel())
    return sum(k for k, _ in groups.values()) / sum(n for _, n in groups.values()), groups


def pack_bits(m: Tensor) -> Tensor:
    """Bool tensor -> ceil(N / 8) bytes, first weight in the highest bit."""
    flat = m.flatten().to(torch.uint8)
    flat = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).view(-1, 8)
    return (flat << torch.arange(7, -1, -1, dtype=torch.uint8, device=m.device)).sum(1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The inverse of `pack_bits` for a tensor of `shape`."""
    bits = (packed[:, None] >> torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)) & 1
    return bits.flatten()[: torch.Size(shape).numel()].bool().view(shape)
