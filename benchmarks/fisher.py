"""What the exact per-example Fisher costs, beside one backward pass per example and beside an ordinary training pass.

One batch of the digits U-Net (random weights, guidance 0), everything in one process, in turn, the fastest of each:
  loop      `fisher.reference`: a forward and a backward pass of batch 1 for each example of the batch
  ordinary  forward and backward of the mean loss of the whole batch, in eval mode, gradients of all weights
  ours      `fisher.per_example` on the same batch
Ratios: loop_over_ours (wanted: 5 or more), ours_over_forward_backward (2.0 or less), and peak_extra_over_bound (1.0 or
less) = (peak of ours - peak of ordinary) / (batch x largest parameter x 2 floats); below 0 where ours peaks lower.

Peaks are of bytes allocated and not yet freed since the pass began, its results included: on a CPU every event of
torch's allocator as its profiler reports it (buffers inside kernels too, but not what oneDNN and MKL take from the
system themselves), on CUDA the caching allocator's own maximum.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import nn

from benchmarks.measure import N_CLASSES, SHAPE, digits_task, digits_unet, fastest, peak_bytes, report
from functions.config.cli import Parser, run_main
from functions.curvature import fisher
from functions.training.distributed import choose_device


def ratios_of(model: nn.Module, device: torch.device, batch: int, repeats: int) -> dict[str, float]:
    """The three ratios, with the seconds and bytes behind them on the way."""
    task = digits_task(device)
    generator = torch.Generator(device=device).manual_seed(0)
    x = torch.rand(batch, *SHAPE, device=device, generator=generator)
    draw = task.draw(x, torch.arange(batch, device=device) % N_CLASSES, generator=generator)

    def ordinary():
        loss = task.losses(model, draw).mean()
        return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)

    passes = {
        "ordinary": ordinary,
        "ours": lambda: fisher.per_example(model, task.losses, [draw]),
        "loop": lambda: fisher.reference(model, task.losses, [draw]),
    }
    best = fastest(passes, {"ordinary": 3 * repeats, "ours": 3 * repeats, "loop": repeats}, device)
    peak = {name: peak_bytes(passes[name], device) for name in ("ordinary", "ours")}
    largest = max(p.numel() for p in model.parameters())
    bound = batch * largest * 2 * 4
    print(f"U-Net of {sum(p.numel() for p in model.parameters()):,} weights, batch {batch}")
    print(", ".join(f"{name} {seconds:.3f} s" for name, seconds in best.items()))
    print(", ".join(f"{k} {v / 2**20:.1f} MiB" for k, v in {**peak, "bound of the difference": bound}.items()))
    return {
        "loop_over_ours": best["loop"] / best["ours"],
        "ours_over_forward_backward": best["ours"] / best["ordinary"],
        "peak_extra_over_bound": (peak["ours"] - peak["ordinary"]) / bound,
    }


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="of the loop; of the others three times as many")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    ratios = ratios_of(digits_unet(device), device, args.batch_size, args.repeats)
    report("fisher", ratios, device)


if __name__ == "__main__":
    sys.exit(run_main(main))
