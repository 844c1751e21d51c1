"""What SVC-MIA costs on as many members as non-members: every image by itself, or exact duplicates merged.

Logits are simulated as those of an overfitted net with ten classes: the true class leads the best of the others, all
of them N(0, 1), by N(20, 6^2) for members and by N(12, 6^2) for non-members; the forget set, a quarter as large, by
N(16, 6^2). So 37 % of the confidences are exactly 1 in float32. In one process, in turn, the fastest:
  plain  five SVCs, on features in float32, unmerged (the published way)
  ours   `svc_calls` of `svc_feature` for the same five features
Ratios: plain_over_ours (wanted: 2 or more), predictions_differing (0: forget images that the plain SVC on our features
calls otherwise), moved_by_rounding (0: that the plain SVC on float32 features calls otherwise).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from sklearn.svm import SVC
from tqdm import tqdm

from benchmarks.measure import fastest, report
from functions.config.cli import Parser, run_main
from functions.judging.membership import FEATURES, Judged, confidence, svc_calls, svc_feature

CLASSES, SPREAD = 10, 6.0
LEADS = {"members": 20.0, "nonmembers": 12.0, "forget": 16.0}


def overfitted(n: int, lead: float, generator: torch.Generator) -> Judged:
    """Logits (n,10) and labels whose class leads by N(lead, 6^2)."""
    labels = torch.randint(CLASSES, (n, 1), generator=generator)
    others = torch.randn(n, CLASSES, generator=generator).scatter(1, labels, -torch.inf)
    leads = lead + SPREAD * torch.randn(n, 1, generator=generator)
    return others.scatter(1, labels, others.amax(1, keepdim=True) + leads), labels[:, 0]


def published_feature(name: str, logits: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Rows (N,d) in float32, not rounded further."""
    return FEATURES[name](logits, labels).float().reshape(len(labels), -1).numpy()


def plain(members: np.ndarray, nonmembers: np.ndarray, forget: np.ndarray) -> np.ndarray:
    """1 where one SVC on all rows calls a row of `forget` a member."""
    truth = np.repeat([1.0, 0.0], [len(members), len(nonmembers)])
    svc = SVC(C=3, gamma="auto", kernel="rbf").fit(np.concatenate([members, nonmembers]), truth)
    return svc.predict(forget)


def all_calls(attack, feature, sets: list[Judged]) -> np.ndarray:
    """What `attack` calls the forget set by each of the five features, (5,n_f)."""
    names = tqdm(FEATURES, desc=f"{attack.__name__} {feature.__name__}", disable=None, leave=False)
    return np.stack([attack(*(feature(name, *part) for part in sets)) for name in names])


def main(argv: list[str] | None = None) -> None:
    p = Parser(description=__doc__)
    p.add_argument("--n", type=int, default=10_000, help="number of members, and of non-members")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--threads", type=int, default=1)
    args = p.parse_args(argv)
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    sizes = {**dict.fromkeys(LEADS, args.n), "forget": max(1, args.n // 4)}
    sets = [overfitted(sizes[name], lead, generator) for name, lead in LEADS.items()]
    saturated = float(torch.cat([confidence(*part).float() for part in sets[:2]]).eq(1).double().mean())
    found = {}
    passes = {
        "ours": lambda: found.update(ours=all_calls(svc_calls, svc_feature, sets)),
        "plain": lambda: found.update(plain=all_calls(plain, published_feature, sets)),
    }
    best = fastest(passes, dict.fromkeys(passes, args.repeats), torch.device("cpu"))
    same_features = all_calls(plain, svc_feature, sets)
    print(
        f"{args.n:,} members, {args.n:,} non-members, {saturated:.0%} of their confidences are 1 in float32: "
        + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in best.items())
    )
    ratios = {
        "plain_over_ours": best["plain"] / best["ours"],
        "predictions_differing": int((found["ours"] != same_features).sum()),
        "moved_by_rounding": int((found["plain"] != same_features).sum()),
    }
    report("membership", ratios, torch.device("cpu"), n=args.n, repeats=args.repeats, predictions=found["ours"].size)


if __name__ == "__main__":
    sys.exit(run_main(main))
