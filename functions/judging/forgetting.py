"""What unlearning did to a classifier, as pure functions of logits (N,K) and labels (N,). Percent or nats."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from functions.errors import InputError
from functions.judging import membership
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


def gaps(values: dict[str, float | None]) -> list[str]:
    """Those of UA, RA, TA and MIA that exist."""
    return [key for key in GAPS if values[key] is not None]


def average_gap(values: dict[str, float | None], retrained: dict[str, float | None]) -> float:
    """Mean of |UA - UA_R|, |RA - RA_R|, |TA - TA_R|, |MIA - MIA_R|, all in percent, in percentage points.

    What does not exist, of no images, is left out for both; UA always exists.
    """
    keys = gaps(values)
    return sum(abs(values[key] - retrained[key]) for key in keys) / len(keys)


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
    Numbers of no images are None; `notes` says why an attack is, and whom SVC-MIA drew where more test images than
    remain images are there. Raises InputError where the forget set is empty.
    """
    part = lambda key: (train[indices[key]], train_labels[indices[key]])
    remain, forget, val, held_out = part("remain"), part("forget"), part("val"), (test, test_labels)
    of_forgotten = None
    if forgotten:
        gone = torch.tensor(forgotten)
        of_forgotten = accuracy(*_where(held_out, torch.isin(test_labels, gone)))
        held_out, val = (_where(judged, ~torch.isin(judged[1], gone)) for judged in (held_out, val))
    sets = {"retain": remain, "forget": forget, "val": val, "test": held_out}
    if not len(forget[1]):
        raise InputError("the forget set has no images to judge by")
    shares = {key: accuracy(*judged) for key, judged in sets.items()}
    attacked = len(remain[1]) and len(held_out[1])
    svc = membership.svc_mia(remain, held_out, forget) if attacked else None
    numbers = {
        "UA": 100 - shares["forget"],
        "RA": shares["retain"],
        "TA": shares["test"],
        "MIA": 100 * svc["confidence"] if svc else None,
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
        "entropy_lr_mia": membership.entropy_lr_mia(remain, held_out, forget) if attacked else None,
        "n": {key: len(labels) for key, (_, labels) in sets.items()},
        "notes": _notes(len(remain[1]), len(held_out[1])),
    }


def _notes(n_remain: int, n_test: int) -> list[str]:
    """What is to be known of the attacks: why there are none, or that SVC-MIA saw a part of the test set."""
    if not (n_remain and n_test):
        empty = "test set has no images of kept classes" if n_remain else "remain set has no images"
        return [f"SVC-MIA and LR-MIA are blank: the {empty}"]
    if membership.drawn(n_remain, n_test) is None:
        return []
    return [
        f"SVC-MIA: the test set outnumbers the remain set, {n_remain} of {n_test} test images are set against "
        f"{n_remain} remain images (seed {membership.DRAW_SEED}); LR-MIA weights all of both"
    ]


def _interval(percent: float | None, n: int) -> list[float] | None:
    return None if percent is None else [100 * bound for bound in wilson(round(percent * n / 100), n)]


def _where(judged: tuple[Tensor, Tensor], chosen: Tensor) -> tuple[Tensor, Tensor]:
    return judged[0][chosen], judged[1][chosen]
