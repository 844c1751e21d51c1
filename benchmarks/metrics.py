"""What FID and precision/recall cost, beside their plain forms: scipy's matrix square root, and whole cdist matrices.

Random features of Inception's width, everything in one process, in turn, the fastest of each:
  sqrtm   |mu_1 - mu_2|^2 + tr(S_1 + S_2) - 2 tr scipy.linalg.sqrtm(S_1 S_2), float64
  fid     `metrics.fid` of the same statistics
  cdist   precision and recall from three whole N x N matrices of `torch.cdist` in float64, radii by `kthvalue`
  ours    `metrics.precision_recall` of the same float32 features
Ratios: fid_sqrtm_over_ours (wanted: 5 or more), fid_relative_difference (1e-6 or less), pr_cdist_over_ours (3 or more),
pr_extra_peak_gb (less than 1): what `ours` allocates at most beside its input, in 10^9 bytes (see fisher.py for how
that is counted), and pr_difference, of the shares.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import scipy.linalg
import torch
from torch import Tensor

from benchmarks.measure import fastest, peak_bytes, report
from functions.config.cli import Parser, run_main
from functions.judging import metrics
from functions.training.distributed import choose_device


def features(n: int, dims: int, seed: int, device: torch.device) -> Tensor:
    """(N,D) float32 with the decaying spectrum of real features: dimension i has standard deviation 1 / sqrt(i + 1).

    The second set lies a little apart, so that some points are inside the other's manifold and some are not.
    """
    generator = torch.Generator().manual_seed(seed)
    scales = torch.arange(1, dims + 1).rsqrt()
    return ((torch.randn(n, dims, generator=generator) + 0.1 * seed) * scales).to(device)


def plain_fid(mu_1: Tensor, sigma_1: Tensor, mu_2: Tensor, sigma_2: Tensor) -> float:
    """By the matrix square root of the product."""
    root = scipy.linalg.sqrtm((sigma_1 @ sigma_2).cpu().numpy())
    distance = (mu_1 - mu_2).square().sum() + sigma_1.trace() + sigma_2.trace()
    return distance.item() - 2 * root.trace().real


def plain_precision_recall(samples: Tensor, reference: Tensor, k: int = 3) -> tuple[float, float]:
    """By whole matrices of distances; column 0 of the sorted rows is the point itself."""
    samples, reference = samples.double(), reference.double()
    radii_s, radii_r = (torch.cdist(a, a).kthvalue(k + 1, dim=1).values for a in (samples, reference))
    d = torch.cdist(samples, reference)
    inside_s, inside_r = (d <= radii_r).any(1), (d <= radii_s[:, None]).any(0)
    return inside_s.double().mean().item(), inside_r.double().mean().item()


def ratios_of(n: int, dims: int, repeats: int, device: torch.device) -> dict[str, float]:
    """The ratios, with the seconds and numbers behind them on the way."""
    samples, reference = (features(n, dims, seed, device) for seed in (0, 1))
    statistics = (*metrics.statistics(samples), *metrics.statistics(reference))
    passes = {
        "sqrtm": lambda: plain_fid(*statistics),
        "fid": lambda: metrics.fid(*statistics),
        "cdist": lambda: plain_precision_recall(samples, reference),
        "ours": lambda: metrics.precision_recall(samples, reference),
    }
    found = {name: run() for name, run in passes.items()}
    best = fastest(passes, dict.fromkeys(passes, repeats), device)
    peak = peak_bytes(passes["ours"], device)
    print(f"{n} x {dims} features: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in best.items()))
    print(", ".join(f"{name} {value}" for name, value in found.items()))
    return {
        "fid_sqrtm_over_ours": best["sqrtm"] / best["fid"],
        "fid_relative_difference": abs(found["fid"] / found["sqrtm"] - 1),
        "pr_cdist_over_ours": best["cdist"] / best["ours"],
        "pr_extra_peak_gb": peak / 1e9,
        "pr_difference": max(abs(a - b) for a, b in zip(found["cdist"], found["ours"])),
    }


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--dims", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    ratios = ratios_of(args.images, args.dims, args.repeats, device)
    report("metrics", ratios, device)


if __name__ == "__main__":
    sys.exit(run_main(main))
