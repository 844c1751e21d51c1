"""Membership inference, as pure functions of logits (N,K) and labels (N,): SVC-MIA, entropy-LR MIA and U-LiRA.

The first two answer in opposite directions: SVC-MIA's score is the share of the forget set called NON-member,
that of entropy-LR the share called MEMBER. For both the target is what the retrained model has, neither 0 nor 1.
U-LiRA tells models that unlearned an example from models that never saw it: higher leaks more, and chance is the
false positive rate.

A set is a pair (logits, labels). All is computed in float64. scikit-learn is imported at the first attack.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from functions.errors import InputError
from functions.progress import each
from functions.randomness import keyed_generator

Judged = tuple[Tensor, Tensor]  # logits (N,K), labels (N,)

BLOCK = 1 << 20  # numbers of one block of rows: 8 MB in float64
RESOLUTION = 2.0**-24  # the step of float32 below 1, where published float32 probabilities saturate
FEW = 32  # models per example and state below which U-LiRA pools variances
RESAMPLES = 1000
DRAW_SEED = 0  # of the non-members where the test set outnumbers the remain set

# What a contract says of each attack; the version of scikit-learn stands beside it.
_SVC = (
    "SVC(C=3, gamma=auto, kernel=rbf) per feature; {}; score: share of D_f called non-member; features rounded to 2^-24"
)
SVC_MIA = _SVC.format("members: the first |D_test| of D_r in index order, non-members: D_test")
SVC_MIA_DRAWN = _SVC.format(f"members: all of D_r, non-members: |D_r| of D_test drawn with seed {DRAW_SEED}")
ENTROPY_LR = (
    "LogisticRegression(class_weight=balanced) on entropy; members: all of D_r, non-members: D_test; "
    "score: share of D_f called member"
)
U_LIRA = (
    "log N(phi; unlearned) - log N(phi; out), leave one model out; threshold: conservative 99 % quantile "
    "of the out scores"
)


# ---- features of one example


def correctness(logits: Tensor, labels: Tensor) -> Tensor:
    """1 where argmax == label, else 0; (N,) float64."""
    return (logits.argmax(1) == labels).double()


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """p of the true label, (N,) float64."""
    return _log_p(logits).gather(1, labels[:, None])[:, 0].exp()


def entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-sum_c p_c log p_c in nats, (N,) float64. The labels are not used; they make the five features one kind."""
    return _in_blocks(lambda z, _: -(_log_p(z).exp() * _log_p(z)).sum(1), logits, labels)


def m_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-(1 - p_y) log p_y - sum_{c != y} p_c log(1 - p_c), (N,) float64, finite for saturated p.

    Source: Song and Mittal 2021, arXiv 2003.10595.
    """
    return _in_blocks(_m_entropy, logits, labels)


def prob(logits: Tensor, labels: Tensor) -> Tensor:
    """The whole vector p, (N,K) float64. The labels are not used."""
    return _log_p(logits).exp()


FEATURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "correctness": correctness,
    "confidence": confidence,
    "entropy": entropy,
    "m_entropy": m_entropy,
    "prob": prob,
}


def _m_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    log_p, y = _log_p(logits), labels[:, None]
    log_rest = _log_rest(log_p)
    of_others = (log_p.exp() * log_rest).scatter(1, y, 0.0).sum(1)
    return -(log_rest.gather(1, y).exp() * log_p.gather(1, y))[:, 0] - of_others


def _log_p(logits: Tensor) -> Tensor:
    return logits.double().log_softmax(1)


def _log_rest(log_p: Tensor) -> Tensor:
    """log(1 - p_c) (N,K). Only the largest p can round to 1: its complement is summed from the others."""
    top = log_p.argmax(1, keepdim=True)
    rest = torch.log1p(-log_p.exp().scatter(1, top, 0.0))
    return rest.scatter(1, top, log_p.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True))


def _in_blocks(feature: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    """The feature (N,), a block of rows at a time: what it holds meanwhile does not grow with N."""
    rows = max(1, BLOCK // logits.shape[1])
    return torch.cat([feature(z, y) for z, y in zip(logits.split(rows), labels.split(rows))])


# ---- attacks on one model


def svc_mia(members: Judged, nonmembers: Judged, forget: Judged) -> dict[str, float]:
    """Share of the forget set that an SVC calls non-member, in [0, 1], by feature of `FEATURES`.

    `members`: the remain set in index order; its first |nonmembers| are the members (label 1), the cut is made here.
    `nonmembers`: the test set (label 0), or where fewer remain as many of it as remain, `drawn`. One
    `SVC(C=3, gamma="auto", kernel="rbf")` per feature. The target is the retrained model's value, not 1.
    Raises InputError where a set is empty.
    Source: Jia et al. 2023, arXiv 2304.04934; Fan et al. 2024, arXiv 2310.12508.
    """
    require_sets(members, nonmembers, forget)
    n, chosen = len(nonmembers[1]), drawn(len(members[1]), len(nonmembers[1]))
    members = (members[0][:n], members[1][:n])
    if chosen is not None:
        nonmembers = (nonmembers[0][chosen], nonmembers[1][chosen])
    scores = {}
    for name in each(FEATURES, "SVC-MIA", len(FEATURES), "features"):
        called = svc_calls(*(svc_feature(name, *part) for part in (members, nonmembers, forget)))
        scores[name] = float(1 - called.mean())
    return scores


def drawn(n_members: int, n_nonmembers: int) -> Tensor | None:
    """Ascending indices of the n_members non-members of SVC-MIA where there are more; None where all take part.

    An SVC without class weights leans to the larger side, so its sides are equal. The draw depends on the two numbers
    and `DRAW_SEED` alone: the same for all models that are compared.
    """
    if not 0 < n_members < n_nonmembers:
        return None
    generator = keyed_generator(DRAW_SEED, "svc-mia")
    return torch.randperm(n_nonmembers, generator=generator)[:n_members].sort().values


def svc_feature(name: str, logits: Tensor, labels: Tensor) -> np.ndarray:
    """A feature as rows (N,d) for the SVC, rounded to multiples of 2^-24.

    The SVC sees differences of features, within a tolerance of 1e-3: 2^-24 moves no kernel value by more than 1e-7, and
    what differs by less, the saturated examples, becomes exact duplicates.
    """
    values = FEATURES[name](logits, labels).div(RESOLUTION).round().mul(RESOLUTION)
    return values.reshape(len(labels), -1).cpu().numpy()


def svc_calls(members: np.ndarray, nonmembers: np.ndarray, forget: np.ndarray) -> np.ndarray:
    """1 where the SVC calls a row of `forget` a member, else 0; (n_f,).

    Duplicates of (row, label) are merged with their count as weight: m equal rows with 0 <= a_i <= C have the
    dual of one row with 0 <= a <= m C, so the predictions are the same, from a smaller problem.
    """
    from sklearn.svm import SVC

    labelled = np.concatenate([_labelled(members, 1.0), _labelled(nonmembers, 0.0)])
    rows, counts = np.unique(labelled, axis=0, return_counts=True)
    svc = SVC(C=3, gamma="auto", kernel="rbf").fit(rows[:, :-1], rows[:, -1], sample_weight=counts)
    asked, place = np.unique(forget, axis=0, return_inverse=True)
    return svc.predict(asked)[place.reshape(-1)]


def _labelled(rows: np.ndarray, label: float) -> np.ndarray:
    return np.concatenate([rows, np.full((len(rows), 1), label)], axis=1)


def entropy_lr_mia(members: Judged, nonmembers: Judged, forget: Judged) -> float:
    """Share of the forget set that a balanced logistic regression on entropy calls MEMBER, in [0, 1].

    `members`: all of the remain set (label 1), `nonmembers`: the test set (label 0), weighted to equal totals. The
    opposite direction of `svc_mia`; the target is the retrained model's value, not 0. Raises InputError for empty sets.
    """
    from sklearn.linear_model import LogisticRegression

    require_sets(members, nonmembers, forget)
    known, unknown, asked = (entropy(*part).cpu().numpy()[:, None] for part in (members, nonmembers, forget))
    truth = np.repeat([1.0, 0.0], [len(known), len(unknown)])
    attack = LogisticRegression(class_weight="balanced").fit(np.concatenate([known, unknown]), truth)
    return float(attack.predict(asked).mean())


def require_sets(members: Judged, nonmembers: Judged, forget: Judged) -> None:
    """Raises InputError where a set has no images."""
    for part, name in ((members, "remain set"), (nonmembers, "test set"), (forget, "forget set")):
        if not len(part[1]):
            raise InputError(f"membership inference: the {name} has no images")


# ---- U-LiRA, on many models


def phi(logits: Tensor, labels: Tensor) -> Tensor:
    """log p_y - log(1 - p_y) = z_y - logsumexp_{c != y} z_c, (N,) float64, finite for finite logits.

    Source: Carlini et al. 2022, arXiv 2112.03570.
    """
    z, y = logits.double(), labels[:, None]
    return (z.gather(1, y) - z.scatter(1, y, -torch.inf).logsumexp(1, keepdim=True))[:, 0]


def scorable(unlearned: Tensor, out: Tensor) -> Tensor:
    """Bool (M,N): the pairs of either state, where some other model has the example unlearned, and some other out."""
    others = [(state.sum(0) - state.long()) > 0 for state in (unlearned, out)]
    return (unlearned | out) & others[0] & others[1]


def lira_scores(phi: Tensor, unlearned: Tensor, out: Tensor) -> tuple[Tensor, str]:
    """log N(phi; unlearned) - log N(phi; out) of every (model, example), (M,N), and the rule of the variances.

    `phi` (M,N) of N examples under M models; bool (M,N): `unlearned` where the example was trained on and then
    forgotten, `out` where it was never trained on. Each model in turn is the target; both Gaussians of an example
    come from the other models. Means are per example. Variances are per example where every example has at least
    FEW = 32 other models of either state, otherwise one per state, of the deviations from the examples' means over
    all examples and models (LiRA pools where shadow models are few; the limit is ours). NaN where the pair is not
    `scorable`.
    Source: Hayes et al. 2024, arXiv 2403.01218; Carlini et al. 2022, arXiv 2112.03570.
    """
    fewest = min(int(state.sum(0).min()) for state in (unlearned, out)) - 1
    pooled = fewest < FEW
    scores = torch.full(phi.shape, torch.nan, dtype=torch.float64)
    for j in range(len(phi)):
        others = torch.arange(len(phi)) != j
        gaussians = [_gaussian(phi[others].double(), state[others], pooled) for state in (unlearned, out)]
        log_n = [-(phi[j].double() - mu).square() / (2 * var) - var.log() / 2 for mu, var in gaussians]
        scores[j] = torch.where(unlearned[j] | out[j], log_n[0] - log_n[1], torch.nan)
    return scores, "pooled" if pooled else "per example"


def _gaussian(phi: Tensor, state: Tensor, pooled: bool) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance (N,) of phi over the models in the state; NaN where there are too few.

    Pooled: the sum of squares over all examples / (number of values - number of means).
    """
    n = state.sum(0)
    mu = torch.where(state, phi, 0.0).sum(0) / n  # 0/0 is NaN
    squares = torch.where(state, (phi - mu).square(), 0.0).sum(0)
    freedom = n - 1
    if pooled:
        free = int(freedom.clamp(min=0).sum())
        if free == 0:
            raise InputError(
                "U-LiRA: no example has two other models of one state; train more shadow models (--n_shadows)"
            )
        return mu, torch.full_like(mu, float(squares.sum()) / free)
    return mu, squares / freedom


def u_lira(phi: Tensor, unlearned: Tensor, out: Tensor, fpr: float = 0.01, seed: int = 0) -> dict:
    """TPR at `fpr`, AUC and balanced accuracy of U-LiRA over all (target, example) pairs, with 95 % intervals.

    Arguments as in `lira_scores`. Positives are the unlearned pairs: higher leaks more, chance is `fpr`. Balanced
    accuracy is at score 0, where both hypotheses are equally likely. Intervals: bootstrap over target models, over
    pairs where there is one; the Gaussians are not fitted anew. Raises InputError where fewer than 1/fpr out scores
    leave no room for one false positive, or where there is no unlearned score.
    """
    scores, variance = lira_scores(phi, unlearned, out)
    fine = scorable(unlearned, out)
    if lost := int((fine & ~scores.isfinite()).sum()):
        raise InputError(
            f"U-LiRA: {lost} of {int(fine.sum())} scores are NaN or infinite: the other models of an example agree to "
            "the last digit, or phi is not finite"
        )
    pairs = [(s[f & u], s[f & o]) for s, f, u, o in zip(scores, fine, unlearned, out)]
    pairs = [(positive, negative) for positive, negative in pairs if len(positive) + len(negative)]
    positive, negative = (torch.cat(list(part)) for part in zip(*pairs)) if pairs else (scores[:0, 0],) * 2
    if len(positive) == 0 or fpr * len(negative) < 1:
        raise InputError(
            f"U-LiRA: {len(positive)} unlearned and {len(negative)} out scores; a rate at {fpr:.0%} false "
            f"positives needs 1 and {round(1 / fpr)}: more shadow models or candidates"
        )
    numbers = rates(positive, negative, fpr)
    resampled = _resampled(pairs, fpr, seed)
    quantiles = torch.tensor([0.025, 0.975], dtype=torch.float64)
    interval = {key: torch.tensor([r[key] for r in resampled]).double().quantile(quantiles).tolist() for key in numbers}
    return {
        **numbers,
        "interval": interval,
        "bootstrap": "target models" if len(pairs) > 1 else "pairs",
        "variance": variance,
        "fpr": fpr,
        "n_models": len(pairs),
        "n_unlearned": len(positive),
        "n_out": len(negative),
    }


def rates(positive: Tensor, negative: Tensor, fpr: float) -> dict[str, float]:
    """`tpr` at false positive rate `fpr`, `auc`, `balanced_accuracy` of two sets of scores.

    A pair is called positive where its score is ABOVE the threshold, the (k+1)-th largest negative with
    k = floor(fpr n): under ties fewer than k negatives pass, never more. AUC counts ties half.
    """
    negative = negative.sort().values
    n = len(negative)
    threshold = negative[n - 1 - int(fpr * n + 1e-9)]
    below, not_above = (torch.searchsorted(negative, positive, right=right).double() for right in (False, True))
    return {
        "tpr": (positive > threshold).double().mean().item(),
        "auc": ((below + not_above) / (2 * n)).mean().item(),
        "balanced_accuracy": (((positive > 0).double().mean() + (negative <= 0).double().mean()) / 2).item(),
    }


def _resampled(pairs: list[tuple[Tensor, Tensor]], fpr: float, seed: int) -> list[dict[str, float]]:
    """`rates` of bootstrap samples: of target models with all their pairs, or of the pairs of the only one."""
    generator, found = keyed_generator(seed, "u-lira"), []
    draw = lambda n: torch.randint(n, (n,), generator=generator)
    for _ in range(RESAMPLES):
        if len(pairs) > 1:
            chosen = [pairs[i] for i in draw(len(pairs)).tolist()]
            positive, negative = (torch.cat(part) for part in zip(*chosen))
        else:
            positive, negative = (part[draw(len(part))] for part in pairs[0])
        if len(positive) and len(negative):
            found.append(rates(positive, negative, fpr))
    return found
