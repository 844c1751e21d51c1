"""Sampling beside the plain loop, on the digits U-Net: two passes per step and a host copy per step, against ours.

    python benchmarks/sampling.py                                        ratios of times, random weights
    python benchmarks/sampling.py --ckpt_folder RUN --classifier PATH    and class accuracy of 1000 steps and of 20

Every ratio is of the minimum over `--repeats` of each, in turn, in one process. The last line is JSON.
"""

from __future__ import annotations

import functools
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models
from functions.config.cli import Parser, run_main
from functions.config.load import load_config
from functions.config.schema import Sampling
from functions.judging.classifier import load_classifier
from functions.sampling.samplers import generate, generate_all
from functions.storage import checkpoint
from functions.tasks import Denoising, linear_alpha_bar
from functions.training.distributed import choose_device

SHAPE, N_CLASSES, W = (1, 8, 8), 10, 2.0
STEPS = 50  # of both loops; both take the same time for each step
ANCESTRAL = Sampling(sample_type="generalized", timesteps=1000, eta=1.0, cond_scale=W, batch_size=500)
SOLVER = Sampling(sample_type="dpm_solver", timesteps=20, cond_scale=W, batch_size=500)


def digits_unet() -> nn.Module:
    """The model of digits_pretrain.yml, untrained: time does not depend on the weights."""
    kwargs = load_config("digits_pretrain.yml", "pretrain").model.model_dump(exclude={"name"})
    sizes = {"image_size": SHAPE[-1], "in_channels": 1, "out_ch": 1, "n_classes": N_CLASSES}
    return models.build({"name": "unet", "kwargs": {**kwargs, **sizes}})


def digits_task() -> Denoising:
    d = load_config("digits_pretrain.yml", "pretrain").diffusion
    alpha_bar = linear_alpha_bar(d.timesteps, d.beta_start, d.beta_end)
    return Denoising(alpha_bar, models.Pixels(), N_CLASSES, d.p_uncond, d.reduction)


@torch.no_grad()
def plain(model: nn.Module, c: Tensor, alpha_bar: list[float], steps: int) -> Tensor:
    """Ancestral sampling written out: two passes per step, x of every step kept on the host."""
    x = torch.randn(len(c), *SHAPE, device=c.device)
    null, kept = torch.full_like(c, N_CLASSES), []
    for t in reversed(range(0, len(alpha_bar), len(alpha_bar) // steps)):
        a, s = alpha_bar[t], t - len(alpha_bar) // steps
        a_next = alpha_bar[s] if s >= 0 else 1.0
        now = torch.full_like(c, t)
        eps = (1 + W) * model(x, now, c) - W * model(x, now, null)
        x_0 = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
        sigma = math.sqrt((1 - a_next) / (1 - a) * (1 - a / a_next))
        x = math.sqrt(a_next) * x_0 + math.sqrt(1 - a_next - sigma**2) * eps + sigma * torch.randn_like(x)
        kept.append(x.cpu())
    return (kept[-1].clamp(-1, 1) + 1) / 2


def fastest(candidates: dict[str, Callable[[], Tensor]], repeats: int, device: torch.device) -> dict[str, float]:
    """Seconds, the minimum over `repeats` of each after one unmeasured call, in turn."""
    best = dict.fromkeys(candidates, math.inf)
    for r in range(repeats + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            best[name] = min(best[name], time.perf_counter() - start if r else math.inf)
    return best


def time_ratios(device: torch.device, repeats: int) -> dict[str, float]:
    model, task = digits_unet().to(device).eval(), digits_task().to(device)
    alpha_bar = linear_alpha_bar(1000, 1e-4, 0.02).tolist()
    ratios = {}
    few = ANCESTRAL.model_copy(update={"timesteps": STEPS})
    for n in (16, 128):
        c = torch.arange(n) % N_CLASSES
        best = fastest(
            {
                "plain": functools.partial(plain, model, c.to(device), alpha_bar, STEPS),
                "ours": functools.partial(generate, task, model, c, range(n), SHAPE, few, seed=0),
            },
            repeats,
            device,
        )
        print(f"batch {n}, {STEPS} steps: plain {best['plain']:.3f} s, ours {best['ours']:.3f} s", flush=True)
        ratios[f"plain_over_ours_batch_{n}"] = best["plain"] / best["ours"]
    c = torch.arange(16) % N_CLASSES
    best = fastest(
        {
            "ancestral": functools.partial(generate, task, model, c, range(16), SHAPE, ANCESTRAL, seed=0),
            "solver": functools.partial(generate, task, model, c, range(16), SHAPE, SOLVER, seed=0),
        },
        repeats,
        device,
    )
    print(f"batch 16: 1000 ancestral {best['ancestral']:.3f} s, 20 of the solver {best['solver']:.3f} s", flush=True)
    ratios["ancestral_1000_over_solver_20"] = best["ancestral"] / best["solver"]
    return ratios


def accuracies(run: str, classifier: str, n_per_class: int, device: torch.device) -> dict[str, float]:
    """Share of samples that the classifier takes for their class, in percent, by both samplers from the same noise."""
    snapshot = checkpoint.Snapshot.open(run)
    kind = snapshot.kind("auto")
    model = snapshot.model(kind, models.build)
    judge, record = load_classifier(classifier, models.build)
    task, model, judge = digits_task().to(device), model.to(device).eval(), judge.to(device)
    wanted = [(c, k) for c in range(N_CLASSES) for k in range(n_per_class)]
    found = {}
    for name, cfg in (("ancestral_1000", ANCESTRAL), ("solver_20", SOLVER)):
        hits = 0
        for pairs, images in generate_all(task, model, wanted, SHAPE, cfg, seed=0):
            labels = torch.tensor([c for c, _ in pairs], device=device)
            hits += int((judge(images).argmax(1) == labels).sum())
        found[name] = 100 * hits / len(wanted)
        print(
            f"{name}: class accuracy {found[name]:.2f} % of {len(wanted)} images ({kind} weights, w = {W}, "
            f"classifier {record['test_accuracy']} on {record['n_test']} test images)",
            flush=True,
        )
    return found


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--ckpt_folder", metavar="RUN", help="a run of digits_pretrain.yml, for the class accuracy")
    parser.add_argument("--classifier", metavar="PATH", help="of train_classifier.py --dataset digits")
    parser.add_argument("--n_per_class", type=int, default=50, help="images of each class for the accuracy")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    result = {"benchmark": "sampling", "ratios": time_ratios(device, args.repeats)}
    if args.ckpt_folder and args.classifier:
        result["accuracy"] = accuracies(args.ckpt_folder, args.classifier, args.n_per_class, device)
        result["n_per_class"] = args.n_per_class
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(json.dumps({**result, "device": name, "threads": args.threads, "torch": torch.__version__}))


if __name__ == "__main__":
    sys.exit(run_main(main))
