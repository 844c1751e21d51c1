"""What influence unlearning costs: one iteration of its conjugate gradients, and how exact the result is.

ResNet-18 with a 3x3 stem (11.17 M weights, random) on K random 32x32 images; one iteration is q -> K q + G (G^T q) by
`backward_product` and `forward_product`. Beside it the dense definition in float64 on a small CNN.
Ratios: peak_gigabytes (wanted: 0.5 or less), 10^9 bytes of what an iteration allocates beyond the model and the
images, plus v; seconds_per_iteration, of the fastest run that no profiler watched; dense_relative_difference (1e-4 or
less), |ours - dense| / |dense|.

On a CPU the peak is of torch's allocator, without what oneDNN takes from the system itself.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torchvision
from torch import Tensor, nn

from benchmarks.measure import peak_bytes, report
from functions.config.cli import Parser, run_main
from functions.curvature import influence
from functions.curvature.fisher import Losses
from functions.curvature.gradients import evaluating
from functions.tasks import Classification, Draw
from functions.training.distributed import choose_device
from models.classifiers import SmallCNN

CLASSES = 10


def small_stem_resnet() -> nn.Module:
    """torchvision's ResNet-18 as it is used on 32x32 images: the stem keeps all pixels."""
    model = torchvision.models.resnet18(num_classes=CLASSES)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return model


def random_draws(n: int, channels: int, size: int, device: torch.device) -> list[Draw]:
    return [Draw(torch.rand(n, channels, size, size, device=device), torch.arange(n, device=device) % CLASSES)]


def iteration_cost(k: int, chunk: int, repeats: int, device: torch.device) -> dict[str, float]:
    """Peak in gigabytes and seconds of q -> K q + G (G^T q)."""
    model, losses = small_stem_resnet().to(device).eval(), Classification(CLASSES).losses
    draws, q, seconds = random_draws(k, 3, 32, device), torch.rand(k, device=device), []

    def iteration() -> Tensor:
        start = time.perf_counter()
        u = influence.backward_product(model, losses, draws, q, chunk)
        image = k * q + influence.forward_product(model, losses, draws, u, chunk)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
        return image

    for _ in range(repeats - 1):
        iteration()
    peak = peak_bytes(iteration, device)  # runs it twice, the second time watched
    n = sum(p.numel() for p in model.parameters())
    print(
        f"ResNet-18 of {n:,} weights, K = {k}, chunk {chunk}: iterations of "
        f"{', '.join(f'{s:.2f}' for s in seconds[:-1])} s"
    )
    return {"peak_gigabytes": (peak + 4 * n) / 1e9, "seconds_per_iteration": min(seconds[:-1])}


def dense(model: nn.Module, losses: Losses, draws: list[Draw], v: dict[str, Tensor]) -> Tensor:
    """H^-1 v by definition: a backward pass per example, then G, H and one solve in float64 on the CPU; (P,)."""
    rows = []
    with evaluating(model) as params:
        for draw in draws:
            for loss in losses(model, draw):
                found = torch.autograd.grad(loss, list(params.values()), retain_graph=True)
                rows.append(flat(dict(zip(params, found))))
    g = torch.stack(rows)  # (K,P)
    h = torch.eye(g.shape[1], dtype=g.dtype) + g.T @ g / len(g)
    return torch.linalg.solve(h, flat(v))


def flat(vector: dict[str, Tensor]) -> Tensor:
    return torch.cat([t.detach().double().cpu().flatten() for t in vector.values()])


def dense_difference(device: torch.device) -> float:
    """|ours - dense| / |dense| on a small CNN with BatchNorm, K = 64, v a mean gradient of other examples.

    The losses are ten times the cross entropy, so that H is far from the identity.
    """
    model, task = SmallCNN(1, CLASSES, 8, width=2).to(device), Classification(CLASSES)

    def losses(model: nn.Module, draw: Draw) -> Tensor:
        return 10 * task.losses(model, draw)

    draws, others = (random_draws(n, 1, 8, device) for n in (64, 20))
    v = influence.mean_gradient(model, losses, others)
    ours = flat(influence.inverse_fisher_product(model, losses, draws, v, chunk=10))
    wanted = dense(model, losses, draws, v)
    print(f"small CNN of {len(wanted)} weights: |H^-1 v| = {float(wanted.norm() / flat(v).norm()):.3f} |v|")
    return float((ours - wanted).norm() / wanted.norm())


def main(argv: list[str] | None = None) -> None:
    p = Parser(description=__doc__)
    p.add_argument("--k", type=int, default=1000, help="remain examples")
    p.add_argument("--chunk", type=int, default=influence.CHUNK, help="examples in one pass")
    p.add_argument("--repeats", type=int, default=1, help="timed iterations")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--device", default="auto")
    args = p.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = choose_device(args.device)
    difference = dense_difference(device)
    ratios = iteration_cost(args.k, args.chunk, args.repeats, device)
    report("influence", {**ratios, "dense_relative_difference": difference}, device, k=args.k, chunk=args.chunk)


if __name__ == "__main__":
    sys.exit(run_main(main))
