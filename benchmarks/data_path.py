"""What training data costs: an epoch of shuffled, cropped and flipped batches of small images, no training step.

On random 3x32x32 images, in one process, in turn, the fastest of each:
  plain  a torch DataLoader without workers over PIL images: RandomCrop(32, padding=4), RandomHorizontalFlip, ToTensor,
         as the published code does
  ours   `Stream` over an `ImageSet`: uint8 images on the device, crop and flip as one gather per batch
Both hand out float images in [0, 1] and labels; that they draw from one distribution
is tests/datasets/test_augmentation.py.
Ratio: plain_over_ours (wanted: 4 or more). With --device cuda, plain includes its copies to the device.
Measure with as many free cores as threads: ours is many short parallel operations, whose threads wait for one another
where something else runs on a core. --threads 1 hardly minds.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.measure import fastest, report
from datasets import ImageSet, Stream
from datasets.images import to_pil
from functions.config.cli import Parser, run_main

SIZE, CROP, N_CLASSES = 32, 4, 10


class PILImages(Dataset):
    """Item i: image i through torchvision's transforms, (3, 32, 32) float32 in [0, 1], and its label."""

    def __init__(self, images: ImageSet) -> None:
        self.images = [to_pil(x) for x in images.images]
        self.labels = images.labels.tolist()
        self.transform = transforms.Compose(
            [transforms.RandomCrop(SIZE, padding=CROP), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[i]), self.labels[i]


def plain_epoch(images: ImageSet, batch_size: int, device: torch.device) -> Callable[[], None]:
    loader = DataLoader(PILImages(images), batch_size, shuffle=True)

    def run() -> None:
        for x, c in loader:
            x.to(device), c.to(device)

    return run


def our_epoch(images: ImageSet, batch_size: int, device: torch.device) -> Callable[[], None]:
    n = len(images)
    stream = Stream(images.to(device), torch.arange(n), batch_size, 0, "remain", flip=True, crop=CROP)

    def run() -> None:
        for _ in range(math.ceil(n / batch_size)):
            next(stream)

    return run


def main(argv: list[str] | None = None) -> None:
    p = Parser(description=__doc__)
    p.add_argument("--n", type=int, default=50_000, help="images of an epoch")
    p.add_argument("--batch_size", type=int, default=256)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--device", default="cpu")
    args = p.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    pixels = torch.randint(256, (args.n, 3, SIZE, SIZE), dtype=torch.uint8)
    classes = tuple(str(c) for c in range(N_CLASSES))
    images = ImageSet(pixels, torch.arange(args.n) % N_CLASSES, classes, "random", "train")
    passes = {"plain": plain_epoch(images, args.batch_size, device), "ours": our_epoch(images, args.batch_size, device)}
    best = fastest(passes, dict.fromkeys(passes, args.repeats), device)
    print(f"{args.n:,} images: " + ", ".join(f"{name} {seconds:.3f} s" for name, seconds in best.items()))
    report(
        "data_path",
        {"plain_over_ours": best["plain"] / best["ours"]},
        device,
        images=args.n,
        batch_size=args.batch_size,
        seconds=best,
    )


if __name__ == "__main__":
    sys.exit(run_main(main))
