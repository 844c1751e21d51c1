"""What Selective Amnesia's Fisher costs: all timesteps of an image as batches, beside batch 1 per timestep.

One image, 1000 timesteps, digits U-Net with random weights, everything in one process, in turn, the fastest of each:
  loop  for each timestep a forward and a backward pass of batch 1, gradients added up, the sum squared
  ours  `sweep` in `--n_chunks` chunks
Ratios: loop_over_ours (wanted: 8 or more; on a GPU 50), and difference (1e-5 or less), the largest over tensors of
|ours - loop| / max(|loop|, 1e-6 |largest loop|); some gradients are
zero but for rounding (the bias of attention's keys).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.measure import digits_task, digits_unet, fastest, report
from functions.config.cli import Parser, run_main
from functions.curvature.sweep import sweep
from functions.tasks import Denoising
from functions.training.distributed import choose_device
from models.unet import UNet

TIMESTEPS = 1000


def loop(model: UNet, task: Denoising, x: torch.Tensor, c: torch.Tensor) -> dict[str, torch.Tensor]:
    """The definition, one timestep at a time, from the same noise."""
    total = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for draw in task.sweep(x, c, TIMESTEPS, generator=generator(x.device)):
        gradients = torch.autograd.grad(task.losses(model, draw).sum(), list(model.parameters()))
        for sum_, g in zip(total.values(), gradients):
            sum_ += g
    return {n: t.square() for n, t in total.items()}


def ours(model: UNet, task: Denoising, x: torch.Tensor, c: torch.Tensor, n_chunks: int) -> dict[str, torch.Tensor]:
    """The same by `sweep`."""
    (total,) = sweep(model, task.losses, [task.sweep(x, c, n_chunks, generator=generator(x.device))])
    return total


def generator(device: torch.device) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(1)


def main(argv: list[str] | None = None) -> None:
    p = Parser(description=__doc__)
    p.add_argument("--repeats", type=int, default=5, help="of each")
    p.add_argument("--n_chunks", type=int, default=4)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--device", default="auto")
    args = p.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    model, task = digits_unet(device), digits_task(device)
    x, c = torch.rand(1, 1, 8, 8, device=device), torch.tensor([3], device=device)
    passes = {"ours": lambda: ours(model, task, x, c, args.n_chunks), "loop": lambda: loop(model, task, x, c)}
    best = fastest(passes, dict.fromkeys(passes, args.repeats), device)
    found = {name: run() for name, run in passes.items()}
    floor = 1e-6 * max(float(w.norm()) for w in found["loop"].values())
    difference = max(
        float((found["ours"][n] - w).norm()) / max(float(w.norm()), floor) for n, w in found["loop"].items()
    )
    print(", ".join(f"{name} {seconds:.3f} s an image" for name, seconds in best.items()))
    ratios = {"loop_over_ours": best["loop"] / best["ours"], "difference": difference}
    report("selective_amnesia", ratios, device)


if __name__ == "__main__":
    sys.exit(run_main(main))
