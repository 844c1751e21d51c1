"""What unlearning did to a classifier, as pure functions of logits (N,K) and labels (N,). Percent or nats."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from functions.errors import InputError
from functions.judging.membership import entropy_lr_mia, svc_mia
from functions.judging.metrics import wilson

GAPS = ("UA", "RA", "TA", "MIA")


def accuracy(logits: Tensor, labels: Tensor) -> float | None:
    """Share of argmax == label in percent; None of no images."""
    return 100 * (logits.argmax(1) == labels).double().mean().item() if len(labels) else None


def divergences(p: Tensor, q: Tensor) -> dict[str, float]:
    """Means over examples of KL(p || q) and JS(p, q) = (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2, in nats.

    `p` logits of the retrained model, `q` of the unlearned one, (N,K). From log-probabilities in float64: finite for
    saturated logits, and KL is not capped (published code adds 1e-20 inside logarithms). JS is in [0, ln 2].
    """
    log_p, log_q = (z.double().log_softmax(1) for z in (p, q))
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    kl = lambda log_a, log_b: (log_a.exp() * (log_a - log_b)).sum(1).mean().item()
    js = (kl(log_p, log_m) + kl(log_q, log_m)) / 2
    return {"D_KL": max(kl(log_p, log_q), 0.0), "JS": min(max(js, 0.0), math.log(2))}  # rounding


def average_gap(values: dict[str, float], retrained: dict[str, float]) -> float:
    """Mean of |UA - UA_R|, |RA - RA_R|, |TA - TA_R|, |MIA - MIA_R|, all in percent, in percentage points."""
    return sum(abs(values[key] - retrained[key]) for key in GAPS) / len(GAPS)


def forgetting_numbers(
    train: Tensor,
    train_labels: Tensor,
    indices: dict[str, Tensor],
    test: Tensor,
    test_labels: Tensor,
    forgotten: Sequence[int] = (),
) -> dict:
    """Accuracies and membership inference of one model.

    `train` logits of the whole training part, `indices` into it: `remain`, `forget`, `val`. `test` logits of what
    stands for the test set. `forgotten` in class forgetting, else none: then TA, the validation accuracy and both
    attacks are over the kept classes, and `TA_forgotten` is the test accuracy of the forgotten ones.
    Percent: UA = 100 - FA, RA, FA, TA, TA_forgotten, val, and MIA = 100 SVC-MIA confidence. Fractions:
    `SVC_MIA_forget_efficacy` (called non-member) and `entropy_lr_mia` (called member). `interval`: 95 %, Wilson.
    """
    part = lambda key: (train[indices[key]], train_labels[indices[key]])
    remain, forget, val, held_out = part("remain"), part("forget"), part("val"), (test, test_labels)
    of_forgotten = None
    if forgotten:
        gone = torch.tensor(forgotten)
        of_forgotten = accuracy(*_where(held_out, torch.isin(test_labels, gone)))
        held_out, val = (_where(judged, ~torch.isin(judged[1], gone)) for judged in (held_out, val))
    sets = {"retain": remain, "forget": forget, "val": val, "test": held_out}
    for key in ("retain", "forget", "test"):
        if not len(sets[key][1]):
            raise InputError(f"the {key} set has no images to judge by")
    shares = {key: accuracy(*judged) for key, judged in sets.items()}
    svc = svc_mia(remain, held_out, forget)
    numbers = {
        "UA": 100 - shares["forget"],
        "RA": shares["retain"],
        "TA": shares["test"],
        "MIA": 100 * svc["confidence"],
    }
    counts = {"UA": len(forget[1]), "RA": len(remain[1]), "TA": len(held_out[1]), "MIA": len(forget[1])}
    return {
        **numbers,
        "FA": shares["forget"],
        "TA_forgotten": of_forgotten,
        "val": shares["val"],
        "interval": {key: _interval(numbers[key], n) for key, n in counts.items()},
        "accuracy": shares,
        "SVC_MIA_forget_efficacy": svc,
        "entropy_lr_mia": entropy_lr_mia(remain, held_out, forget),
        "n": {key: len(labels) for key, (_, labels) in sets.items()},
    }


def _interval(percent: float, n: int) -> list[float]:
    return [100 * bound for bound in wilson(round(percent * n / 100), n)]


def _where(judged: tuple[Tensor, Tensor], chosen: Tensor) -> tuple[Tensor, Tensor]:
    return judged[0][chosen], judged[1][chosen]
