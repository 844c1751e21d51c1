"""What a mask costs: from the scores of 100 million weights to exactly int(N q) of them, to a file, and in a step.

Everything in one process, in turn, the fastest of each:
  plain  argsort of all scores, argsort of that: every weight's rank (the published way, here with ties by place)
  ours   `top_share_mask`
and for ten masks, of shares 0.1 .. 1.0, of the scores of a ResNet-18 (11.17 million with ten classes):
  plain10  two argsorts for each share, as the published generate_mask.py does
  ours10   `top_share_masks`
Ratios: plain_over_ours and plain10_over_ours10 (wanted: 8 or more), masks10_differing (0), kept_minus_wanted (0),
ties_moved (0: weights on which the two differ), peak_over_scores (2 or less), file_bytes_over_n_eighth (1 and a
little), and mask_share_of_step (0.03 or less): time of masking all gradients over that of a training step of the digits
U-Net at batch 128.

The argsorts here are stable, so that masks can be compared weight by weight; ties are broken by place.
The peak is of bytes allocated by torch and not yet freed since the call began, its result included, plus the scores.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torchvision

from benchmarks.measure import digits_task, digits_unet, fastest, peak_bytes, report
from functions.config.cli import Parser, run_main
from functions.curvature.saliency import top_share_mask, top_share_masks
from functions.storage.artifacts import pack_bits, save_mask, unpack_bits

SHARE, TENSORS, BATCH = 0.5, 50, 128
SHARES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
Tensors = dict[str, torch.Tensor]


def plain(score: Tensors, share: float = SHARE) -> torch.Tensor:
    """Rank of every weight by two sorts; True for the first int(N q)."""
    flat = torch.cat([s.flatten() for s in score.values()])
    rank = flat.argsort(descending=True, stable=True).argsort()
    return rank < int(len(flat) * share)


def seconds_of(run: Callable[[], object], repeats: int) -> float:
    """The fastest of `repeats`."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def ten_masks(repeats: int) -> dict[str, float]:
    """plain10_over_ours10, and the number of weights on which any of the ten masks differs from its argsorts'."""
    model = torchvision.models.resnet18(num_classes=10)
    score = {name: torch.rand(p.shape) ** 4 for name, p in model.named_parameters()}
    masks = top_share_masks(score, SHARES)
    flat = {share: torch.cat([m.flatten() for m in mask.values()]) for share, mask in masks.items()}
    differing = sum(int((flat[share] != plain(score, share)).sum()) for share in SHARES)
    passes = {
        "ours10": lambda: top_share_masks(score, SHARES),
        "plain10": lambda: [plain(score, share) for share in SHARES],
    }
    best = fastest(passes, dict.fromkeys(passes, repeats), torch.device("cpu"))
    n = sum(s.numel() for s in score.values())
    print(f"{n:,} scores, ten masks: " + ", ".join(f"{name} {seconds:.3f} s" for name, seconds in best.items()))
    return {"plain10_over_ours10": best["plain10"] / best["ours10"], "masks10_differing": differing}


def share_of_step(repeats: int) -> float:
    """Seconds of masking all gradients, with a mask that came from packed bits, over those of a training step."""
    model, task = digits_unet(torch.device("cpu")).train(), digits_task(torch.device("cpu"))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    x, c = torch.rand(BATCH, 1, 8, 8), torch.arange(BATCH) % 10
    bits = [pack_bits(torch.rand_like(p) < SHARE) for p in model.parameters()]
    masks = [unpack_bits(b, p.shape).to(p.dtype) for b, p in zip(bits, model.parameters())]

    def step():
        optimizer.zero_grad()
        task.losses(model, task.draw(x, c)).mean().backward()
        optimizer.step()

    def mask():
        torch._foreach_mul_([p.grad for p in model.parameters()], masks)

    whole = seconds_of(step, 3 * repeats)
    step()
    return seconds_of(mask, 10 * repeats) / whole


def main(argv: list[str] | None = None) -> None:
    p = Parser(description=__doc__)
    p.add_argument("--n", type=int, default=100_000_000, help="number of scores")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    args = p.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    score = {str(i): torch.rand(args.n // TENSORS) ** 4 for i in range(TENSORS)}
    n = sum(s.numel() for s in score.values())
    mask, reference = top_share_mask(score, SHARE), plain(score)
    flat = torch.cat(list(mask.values()))
    with tempfile.TemporaryDirectory() as folder:
        save_mask(Path(folder) / "mask.safetensors", mask, {})
        size = (Path(folder) / "mask.safetensors").stat().st_size
    counts = {"kept_minus_wanted": int(flat.sum()) - int(n * SHARE), "ties_moved": int((flat != reference).sum())}
    del reference, flat, mask
    peak = (peak_bytes(lambda: top_share_mask(score, SHARE), cpu) + 4 * n) / (4 * n)
    passes = {"ours": lambda: top_share_mask(score, SHARE), "plain": lambda: plain(score)}
    best = fastest(passes, dict.fromkeys(passes, args.repeats), cpu)
    print(f"{n:,} scores: " + ", ".join(f"{name} {seconds:.3f} s" for name, seconds in best.items()))
    ratios = {
        "plain_over_ours": best["plain"] / best["ours"],
        **counts,
        "peak_over_scores": peak,
        "file_bytes_over_n_eighth": size / (n / 8),
        "mask_share_of_step": share_of_step(args.repeats),
        **ten_masks(args.repeats),
    }
    report("masks", ratios, cpu)


if __name__ == "__main__":
    sys.exit(run_main(main))
