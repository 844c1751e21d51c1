"""Judge samples of the forgotten class by a classifier: entropy, probability, accuracy, confusion, with intervals.

Beside them kept accuracy: of all other classes that were sampled, of those of --kept, or of the forgotten class's
--neighbours, which --list_neighbours names.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from functions.config.classes import class_numbers, labels, parse_classes
from functions.config.cli import Parser, a_batch, a_path, run_main, whole
from functions.config.schema import DATASETS
from functions.config.selection import classes_of
from functions.errors import InputError


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--sample_path", type=a_path, help="samples: F/0, F with a folder per class, or .npz")
    what.add_argument(
        "--list_neighbours",
        type=whole(1, 999),
        metavar="N",
        help="name the N classes that the classifier holds most alike to the forgotten one, for sample.py to draw",
    )
    parser.add_argument("--dataset", required=True, choices=DATASETS, help="what the classifier was trained on")
    parser.add_argument(
        "--label_of_forgotten_class", type=labels, required=True, metavar="C", help="by number or name; several: 0,2"
    )
    parser.add_argument(
        "--classifier",
        type=a_classifier,
        metavar="FILE|lite0|timm:NAME",
        help="default: {dataset}_resnet34.pth or {dataset}_cnn.pth in this folder; for imagenet, without "
        "them, lite0: EfficientNet-Lite0 out of a package; timm:NAME has its weights from the hub",
    )
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument("--kept", metavar="LIST", help="kept accuracy is of these classes (1,2,cat), or all but (x5)")
    kept.add_argument("--neighbours", type=whole(1, 999), metavar="N", help="... of the N nearest, if sampled")
    parser.add_argument("-b", "--batch_size", type=a_batch, help="default: 256, of libraries' models 64")
    parser.add_argument("--out", type=a_path, help="JSON to write (default: metrics.json in the sample folder)")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    if args.list_neighbours and (lone := next((f for f in ("kept", "neighbours", "out") if getattr(args, f)), None)):
        raise InputError(f"--{lone}: has no meaning with --list_neighbours, which judges nothing")
    args.classifier = args.classifier or default_classifier(args.dataset)
    if of_a_library(args.classifier) and args.dataset != "imagenet":
        raise InputError(f"{args.classifier}: trained on imagenet, --dataset says {args.dataset}")
    return args


def a_classifier(text: str) -> str:
    """A path, `lite0` or `timm:NAME`."""
    return text if of_a_library(text) else a_path(text)


def of_a_library(classifier: str) -> bool:
    return classifier == "lite0" or classifier.startswith("timm:")


def default_classifier(dataset: str) -> str:
    """The one that train_classifier.py makes by default for this data set."""
    here = [f"{dataset}_{arch}.pth" for arch in ("resnet34", "cnn")]
    if dataset == "imagenet":
        here.append("lite0")
    missing = here[-1] if dataset in ("digits", "shapes", "shapes_upright", "imagenet") else here[0]
    return next((name for name in here if Path(name).is_file()), missing)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    import torch

    import models
    from functions.judging import asked, classifier, judges, lines, metrics
    from functions.judging.features import extract
    from functions.judging.metrics_file import check_metrics_file, metrics_path, write_section
    from functions.sampling.contract import check_complete, read_generation
    from functions.sampling.folders import find_samples
    from functions.training.distributed import choose_device
    from models.classifiers import pretrained

    device = choose_device(args.device)
    judge = judges.open_judge(args.classifier, models.build, pretrained, device)
    record, names = judge.record, judge.record["classes"]
    if record["dataset"] != args.dataset:
        raise InputError(f"{args.classifier}: trained on {record['dataset']}, --dataset says {args.dataset}")
    label = class_numbers(args.label_of_forgotten_class, names, args.dataset, "--label_of_forgotten_class")
    wanted, n_near = classes_of(label), args.neighbours or args.list_neighbours
    near = judges.neighbours(judge, wanted, n_near) if n_near else []
    if args.list_neighbours:
        return print(*lines.of_neighbours(judge, wanted, near), sep="\n")
    kept_classes = parse_classes(args.kept, names, "--kept") if args.kept else [c for c, _ in near] or None
    made = read_generation(args.sample_path)
    classifier.require_data(record, made, args.sample_path)
    judges.require_same_classes(judge, made, args.sample_path)
    samples = find_samples(args.sample_path)
    check_complete(args.sample_path, samples.labels.tolist())
    forgotten, kept = asked.select(samples.labels, wanted, len(names), args.sample_path)
    kept, notes = asked.among(samples.labels, kept, kept_classes, args.sample_path, judge.called)

    path = metrics_path(args.sample_path, args.out)
    check_metrics_file(path)
    colours = []
    network = classifier.noting_colours(judge.run, colours)
    check = lambda shape: judge.check(shape, args.sample_path)
    size = args.batch_size or judge.batch_size
    logits = extract(network, samples, record["shape"][0], size, device, check).logits.cpu()
    numbers = metrics.forgetting(logits[forgotten], label if isinstance(label, int) else samples.labels[forgotten])
    by_class = metrics.class_accuracy(logits[kept], samples.labels[kept]) if len(kept) else {}
    mean = metrics.mean_accuracy(by_class)
    notes += asked.constant(samples.labels, torch.cat(colours).cpu(), wanted, forgotten)
    print(*lines.of_classes(numbers, by_class, mean, judge, notes), sep="\n")
    protocol = {"judge": classifier.classifier_protocol(record), "n_samples": numbers["n"]}
    if args.neighbours:  # --kept names classes, as the forgotten one is named: beside the protocol
        protocol["neighbours"] = args.neighbours
    section = {"forgotten": numbers, "kept": by_class, "kept_mean": mean, "notes": notes}
    write_section(path, "classifier_evaluation", section, args.sample_path, protocol, {"class": label})
    print(f"Saved {path}")


if __name__ == "__main__":
    sys.exit(run_main(main))
