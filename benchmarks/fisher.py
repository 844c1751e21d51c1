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

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import yaml
from torch import nn
from torch.profiler import ProfilerActivity, profile

from functions import fisher
from functions.cli import run_main
from functions.distributed import choose_device
from functions.schedules import linear_alpha_bar
from functions.tasks import Denoising
from models.encoders import Pixels
from models.unet import UNet

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "digits_pretrain.yml"
SHAPE, N_CLASSES = (1, 8, 8), 10


def digits_unet(device: torch.device) -> UNet:
    """The U-Net of configs/digits_pretrain.yml, weights random but the same in every run."""
    kwargs = {k: v for k, v in yaml.safe_load(CONFIG.read_text())["model"].items() if k != "name"}
    torch.manual_seed(0)
    model = UNet(**kwargs, image_size=SHAPE[-1], in_channels=SHAPE[0], out_ch=SHAPE[0], n_classes=N_CLASSES)
    return model.to(device).eval()


def fastest(
    passes: dict[str, Callable[[], object]], repeats: dict[str, int], device: torch.device
) -> dict[str, float]:
    """Seconds of the fastest run of each after a warm-up, in turn, so that a slow phase of the machine hits all."""
    best = {}
    for i in range(max(repeats.values()) + 1):
        for name, run in passes.items():
            if i > repeats[name]:
                continue
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if i > 0:
                best[name] = min(best.get(name, float("inf")), time.perf_counter() - start)
    return best


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The largest number of bytes allocated and not yet freed at any time during the run."""
    run()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        results = run()  # kept until the end
    del results
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def ratios_of(model: nn.Module, device: torch.device, batch: int, repeats: int) -> dict[str, float]:
    """The three ratios, with the seconds and bytes behind them on the way."""
    task = Denoising(linear_alpha_bar(1000, 1e-4, 0.02), Pixels(), N_CLASSES, 0.1, "sum").to(device)
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
    print(
        ", ".join(f"{k} {v / 2**20:.1f} MiB" for k, v in {**peak, "bound of the difference": bound}.items())
    )
    return {
        "loop_over_ours": best["loop"] / best["ours"],
        "ours_over_forward_backward": best["ours"] / best["ordinary"],
        "peak_extra_over_bound": (peak["ours"] - peak["ordinary"]) / bound,
    }


def main(argv: list[str] | None = None) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument(
        "--repeats", type=int, default=5, help="of the loop; of the others three times as many"
    )
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    ratios = ratios_of(digits_unet(device), device, args.batch_size, args.repeats)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(json.dumps({"benchmark": "fisher", "ratios": ratios, "device": name, "threads": args.threads,
                      "torch": torch.__version__}))  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_main(main))
