"""What the exact per-example Fisher of a DiT costs, beside one backward pass per example.

One batch of latents for a small DiT (random weights, learned variance, both terms of the loss), everything in one
process, in turn, the fastest of each:
  loop      `fisher.reference`: a forward and a backward pass of batch 1 for each example of the batch
  ours      `fisher.per_example` on the same batch
  ordinary  forward and backward of the mean loss of the whole batch, gradients of all weights
Ratios: loop_over_ours (wanted: 4 or more), ours_over_forward_backward, and largest_difference, of ours from the loop in
any weight, by that tensor's largest value (wanted: 1e-5 or less). On CUDA also waits_for_host: how often torch's sync
debug mode says that a pass of ours over one batch waits (wanted: 0).
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.measure import dit_task, fastest, report, small_dit
from functions.config.cli import Parser, run_main
from functions.curvature import fisher
from functions.training.distributed import choose_device


def ratios_of(device: torch.device, batch: int, repeats: int, **sizes: int) -> dict[str, float]:
    """The ratios, with the seconds behind them on the way."""
    task, model = dit_task(device), small_dit(device, **sizes)
    generator = torch.Generator(device=device).manual_seed(0)
    x = torch.rand(batch, model.x_embedder.proj.in_channels, sizes["image_size"], sizes["image_size"], device=device)
    draw = task.draw(x, torch.arange(batch, device=device) % model.n_classes, generator=generator)
    trainable = [p for p in model.parameters() if p.requires_grad]
    passes = {
        "ordinary": lambda: torch.autograd.grad(task.losses(model, draw).mean(), trainable),
        "ours": lambda: fisher.per_example(model, task.losses, [draw]),
        "loop": lambda: fisher.reference(model, task.losses, [draw]),
    }
    ours, loop = passes["ours"](), passes["loop"]()
    difference = max(float((ours[n] - loop[n]).abs().max() / loop[n].max()) for n in loop if loop[n].max() > 0)
    waits = {"waits_for_host": waits_of(passes["ours"])} if device.type == "cuda" else {}
    best = fastest(passes, {"ordinary": 3 * repeats, "ours": 3 * repeats, "loop": repeats}, device)
    print(f"DiT of {sum(p.numel() for p in trainable):,} trainable weights, batch {batch}")
    print(", ".join(f"{name} {seconds:.3f} s" for name, seconds in best.items()))
    return {
        "loop_over_ours": best["loop"] / best["ours"],
        "ours_over_forward_backward": best["ours"] / best["ordinary"],
        "largest_difference": difference,
        **waits,
    }


def waits_of(run) -> int:
    """How often a run waits for the device, by torch's warnings."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        run()
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(w.message) for w in found)


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="of the loop; of the others three times as many")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--hidden_size", type=int, default=128)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--image_size", type=int, default=8, help="side of the latents")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    sizes = {"hidden_size": args.hidden_size, "depth": args.depth, "image_size": args.image_size}
    report("dit_fisher", ratios_of(device, args.batch_size, args.repeats, **sizes), device, batch=args.batch_size)


if __name__ == "__main__":
    sys.exit(run_main(main))
