"""What benchmarks share: a model, the fastest of several runs in turn, the peak of allocated memory, the last line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import nn
from torch.profiler import ProfilerActivity, profile

from functions.tasks import Denoising, linear_alpha_bar
from models.dit import DiT
from models.encoders import Pixels
from models.unet import UNet

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "ddpm" / "digits_pretrain.yml"
SHAPE, N_CLASSES = (1, 8, 8), 10


def digits_unet(device: torch.device) -> UNet:
    """The U-Net of configs/ddpm/digits_pretrain.yml, weights random but the same in every run."""
    kwargs = {k: v for k, v in yaml.safe_load(CONFIG.read_text())["model"].items() if k != "name"}
    torch.manual_seed(0)
    model = UNet(**kwargs, image_size=SHAPE[-1], in_channels=SHAPE[0], out_ch=SHAPE[0], n_classes=N_CLASSES)
    return model.to(device).eval()


def digits_task(device: torch.device) -> Denoising:
    """What that U-Net learns: 1000 timesteps, ten classes."""
    return Denoising(linear_alpha_bar(1000, 1e-4, 0.02), Pixels(), N_CLASSES, 0.1, "sum").to(device)


def small_dit(device: torch.device, hidden_size: int, depth: int, image_size: int, n_classes: int = 10) -> DiT:
    """A DiT of latents (4, H, H), patches of 2, heads of 32; all weights random, where a new one has zeros."""
    torch.manual_seed(0)
    model = DiT(2, hidden_size, depth, hidden_size // 32, 4, image_size, n_classes)
    for p in model.parameters():
        if p.requires_grad:
            nn.init.normal_(p, std=0.05)
    return model.to(device).eval()


def dit_task(device: torch.device) -> Denoising:
    """What that DiT learns: noise and its variance, of latents that lie ready."""
    return Denoising(linear_alpha_bar(1000, 1e-4, 0.02), Pixels(), N_CLASSES, 0.1, "mean", learned_variance=True).to(
        device
    )


def fastest(passes: dict[str, Callable[[], object]], repeats: dict[str, int], device: torch.device) -> dict[str, float]:
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


def peak_host_bytes(run: Callable[[], object]) -> int:
    """By how much this process's resident memory grows at its peak during the run, whoever allocates it. Linux."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far becomes what is resident now
    before = _resident_bytes("VmRSS")
    run()
    return _resident_bytes("VmHWM") - before


def _resident_bytes(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return 1024 * int(line.split()[1])


def report(benchmark: str, ratios: dict[str, float], device: torch.device, **more: object) -> None:
    """The last line that a benchmark prints: its ratios as JSON, with the device and torch's version."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(
        json.dumps(
            {
                "benchmark": benchmark,
                "ratios": ratios,
                "device": name,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                **more,
            }
        )
    )
