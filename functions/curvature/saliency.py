"""Saliency: which weights may move. A mask is `dict[parameter name, bool tensor]`; True = may move."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from functions.curvature.gradients import Reduce, alone, clip_scale, evaluating, gradients_of, scaled, zeros
from functions.errors import InputError
from functions.tasks import Draw

Mask = dict[str, Tensor]
Losses = Callable[[nn.Module, Draw], Tensor]
HALF = 16  # bits of a float32 that one histogram looks at
CHUNK = 1 << 22  # scores looked at at once: what is extra stays small beside them


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


# ---- SalUn's


def gradient_score(
    model: nn.Module,
    losses: Losses,
    draws: Iterable[Draw],
    clip: float | None = None,
    reduce: Reduce = alone,
    by_batch: bool = False,
) -> dict[str, Tensor]:
    """S = | d/dtheta mean_n l_n | over all examples of `draws`, float32, by name (SalUn, METHODS). In `eval()`.

    With `by_batch`, as published: | sum_B d/dtheta mean_{n in B} l_n | over batches B, which masks alike where batches
    are alike in size. With `clip` too, and the gradient of each batch is scaled down to that norm before.
    Raises InputError where there is no example.
    """
    by_batch = by_batch or clip is not None
    with evaluating(model) as params:
        total, n = zeros(params), 0
        for draw in draws:
            values = losses(model, draw)
            loss = values.mean() if by_batch else values.sum()
            gradients = gradients_of(loss, params)
            terms = scaled(gradients, total, None if clip is None else clip_scale(gradients, clip))
            torch._foreach_add_(list(total.values()), terms)
            n += len(values)
    n = reduce(list(total.values()), n)
    if n == 0:
        raise InputError("saliency: no examples to forget")
    return {name: (t if by_batch else t / n).abs().float() for name, t in total.items()}


def top_share_mask(score: dict[str, Tensor], share: float) -> Mask:
    """True for exactly int(N share) largest of all N scores, ranked together; ties by place, first names first."""
    return top_share_masks(score, [share])[share]


def top_share_masks(score: dict[str, Tensor], shares: Iterable[float]) -> dict[float, Mask]:
    """`top_share_mask` for several shares; they are nested. int(N share) is the published expression, rounding and all.

    Scores are float32 >= 0, whose bits order like the numbers: two histograms of 2^16 bins, of the upper and then the
    lower half of the bits, find the smallest score that is kept, without sorting and without a copy of all scores. All
    shares read theirs from the same two passes.
    """
    bits = {name: s.contiguous().view(torch.int32).flatten() for name, s in score.items()}
    n = sum(b.numel() for b in bits.values())
    kept = {share: int(n * share) for share in shares}
    found = _of_ranks(bits, {keep for keep in kept.values() if keep})
    masks = {}
    for share, keep in kept.items():
        if keep == 0:
            masks[share] = {name: torch.zeros_like(s, dtype=torch.bool) for name, s in score.items()}
            continue
        threshold, left = found[keep]
        masks[share] = {}
        for name, s in score.items():
            m = bits[name] > threshold
            left -= _keep_ties(m, bits[name], threshold, left)
            masks[share][name] = m.view(s.shape)
    return masks


def _of_ranks(bits: dict[str, Tensor], ranks: set[int]) -> dict[int, tuple[int, int]]:
    """For each rank from 1, largest first: (threshold, left), so that all > threshold and `left` equal to it are kept.

    `left` is 0 where no tie has to be broken.
    """
    parts = [c for b in bits.values() for c in b.split(CHUNK)]
    upper = sum(torch.bincount(part >> HALF, minlength=2**HALF) for part in parts)
    places = {rank: _bin_of_rank(upper, rank) for rank in ranks}
    lower = {found: torch.zeros_like(upper) for found, _ in places.values()}
    for part in parts:
        high = part >> HALF
        for found, counts in lower.items():
            counts += torch.bincount(part[high == found] & (2**HALF - 1), minlength=2**HALF)
    thresholds = {}
    for rank, (found, within) in places.items():
        low, left = _bin_of_rank(lower[found], within)
        threshold, ties = (found << HALF) + low, int(lower[found][low])
        thresholds[rank] = (threshold - 1, 0) if left == ties else (threshold, left)
    return thresholds


def _bin_of_rank(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bin that holds the `rank`-th largest, and that number's rank within the bin, from 1."""
    at_least = counts.flip(0).cumsum(0).flip(0)  # numbers in this bin or above
    found = int((at_least >= rank).sum()) - 1
    return found, rank - int(at_least[found] - counts[found])


def _keep_ties(mask: Tensor, bits: Tensor, threshold: int, left: int) -> int:
    """Set the first `left` places where bits == threshold, in place; how many there were."""
    done = 0
    for m, b in zip(mask.split(CHUNK), bits.split(CHUNK)):
        if done == left:
            break
        ties = (b == threshold).nonzero()[: left - done, 0]
        m[ties] = True
        done += len(ties)
    return done
