"""Train the classifier that judges samples: `{dataset}_{arch}.pth` and a JSON that says what it is."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from functions.config.cli import Parser, a_batch, a_path, a_seed, a_side, number, run_main, whole
from functions.config.schema import DATASETS
from functions.errors import InputError
from functions.places import check_folder_place

# sets that are made here and too small for a ResNet
OWN_ARCH = dict.fromkeys(("digits", "shapes", "shapes_upright"), "cnn")
# (random flips, random crops after padding by so many pixels): what keeps the class
AUGMENT = {
    "digits": (False, 1),
    **dict.fromkeys(("shapes", "shapes_upright"), (False, 2)),
    "cifar10": (True, 4),
    "cifar100": (True, 4),
    "svhn": (False, 4),
    "stl10": (True, 12),
    "tinyimagenet": (True, 8),
    "imagenet": (True, 0),
    "folder": (True, 0),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--dataset", required=True, choices=DATASETS)
    parser.add_argument(
        "--arch", help="cnn, a torchvision resnet or a timm name (default: resnet34; cnn for small sets)"
    )
    parser.add_argument(
        "--pretrained", action=argparse.BooleanOptionalAction, default=True, help="start from ImageNet (not for cnn)"
    )
    parser.add_argument(
        "--resize", type=whole(0, 4096), default=224, help="side that images are scaled to inside, 0: not (not for cnn)"
    )
    parser.add_argument("--width", type=whole(1, 4096), default=32, help="channels of the cnn at full resolution")
    parser.add_argument(
        "--epochs", type=whole(1, 10**7), help="default: 30 for cnn (shapes: 3) and from scratch, 10 from ImageNet"
    )
    parser.add_argument("--batch_size", type=a_batch, default=64)
    parser.add_argument(
        "--lr", type=number(1e-30, 1e30), help="peak rate; default: 3e-3 for cnn, 1e-3 from scratch, 1e-4 from ImageNet"
    )
    parser.add_argument("--image_size", type=a_side, help="side of the images (default: their own; of a folder: auto)")
    parser.add_argument(
        "--test_fraction", type=number(0, 0.99), default=0.2, help="of a folder without a test part (default: 0.2)"
    )
    parser.add_argument("--data_path", type=a_path, default="data", help="where data sets are, or are downloaded to")
    parser.add_argument("--seed", type=a_seed, default=0)
    parser.add_argument("--out", type=a_path, default=".", help="folder of {dataset}_{arch}.pth")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    check_folder_place(args.out, "--out")
    args.arch = args.arch or OWN_ARCH.get(args.dataset, "resnet34")
    args.pretrained = args.pretrained and args.arch != "cnn"
    cnn = (3 if args.dataset.startswith("shapes") else 30, 3e-3)  # shapes: 100 % after three
    own = cnn if args.arch == "cnn" else (10, 1e-4) if args.pretrained else (30, 1e-3)
    args.epochs, args.lr = (
        given if given is not None else default for given, default in zip((args.epochs, args.lr), own)
    )
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    from functions.judging.classifier import classifier_path
    from functions.locks import writing_file

    path = classifier_path(args.dataset, args.arch, args.out)
    with writing_file(path):
        make(args, path)


def make(args: argparse.Namespace, path: Path) -> None:
    """Train, test and save the classifier `path`."""
    import torch

    import datasets
    from datasets.images import Stream, ordered
    from functions.judging.classifier import save_classifier
    from functions.training.classifier_training import count_right, fit
    from functions.training.distributed import choose_device

    train, test = (
        datasets.load(args.dataset, args.data_path, split, args.image_size or "auto", test_fraction=args.test_fraction)
        for split in ("train", "test")
    )
    device = choose_device(args.device)
    torch.manual_seed(args.seed)
    meta, model = build(args, train)
    model.to(device)
    train, test = train.to(device), test.to(device)
    flip, crop = AUGMENT[args.dataset]
    indices = torch.arange(len(train))
    batch_size = min(args.batch_size, len(train))
    stream = Stream(train, indices, batch_size, args.seed, "judge", flip=flip, crop=crop, n_workers=2)
    fit(model, stream, n_steps=max(1, args.epochs * len(train) // batch_size), lr=args.lr)

    right, n = count_right(model, ordered(test, torch.arange(len(test)), 256, n_workers=2))
    save_classifier(path, model, record(args, meta, train, right / n, n))
    print(f"Test accuracy: {right / n:.4f} ({n} images)")
    print(f"Saved {path}")


def build(args: argparse.Namespace, train):
    """The model's description and the model, from ImageNet weights where they are wanted and can be had."""
    import models
    from models.classifiers import WeightsError, check_takes, describe, load_imagenet

    channels, size = train.shape[0], train.shape[-1]
    meta = describe(args.arch, train.n_classes, channels, size, width=args.width, resize=args.resize or None)
    model = models.build(meta)
    if meta["name"] == "timm":
        check_takes(model, train.shape)
    if args.pretrained:
        try:
            load_imagenet(model, args.arch)
        except WeightsError as error:
            raise InputError(f"{error}; --no-pretrained trains from random weights") from error
    return meta, model


def record(args: argparse.Namespace, meta: dict, train, accuracy: float, n: int) -> dict:
    """What the JSON beside the weights says."""
    from functions.files import version

    inside = meta["kwargs"].get("resize")
    return {
        "dataset": args.dataset,
        "arch": args.arch,
        "model": meta,
        "classes": list(train.classes),
        "shape": list(train.shape),
        "preprocessing": f"[0,1], {f'resized to {inside}, ' if inside else ''}normalised inside the model",
        "test_accuracy": accuracy,
        "n_test": n,
        "training": {key: getattr(args, key) for key in ("pretrained", "epochs", "batch_size", "lr", "seed")},
        "version": version(),
    }


if __name__ == "__main__":
    sys.exit(run_main(main))
