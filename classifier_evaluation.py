"""Judge samples of the forgotten class by a classifier: entropy, probability, accuracy, confusion, with intervals."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from functions.config.classes import class_numbers, labels
from functions.config.cli import Parser, a_batch, a_path, run_main
from functions.config.schema import DATASETS
from functions.config.selection import classes_of, label_name
from functions.errors import InputError


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--sample_path", type=a_path, required=True, help="samples: F/0, F with a folder per class, or .npz"
    )
    parser.add_argument("--dataset", required=True, choices=DATASETS, help="what the classifier was trained on")
    parser.add_argument(
        "--label_of_forgotten_class", type=labels, required=True, metavar="C", help="by number or name; several: 0,2"
    )
    parser.add_argument(
        "--classifier", type=a_path, help="default: {dataset}_resnet34.pth or {dataset}_cnn.pth in this folder"
    )
    parser.add_argument("-b", "--batch_size", type=a_batch, default=256)
    parser.add_argument("--out", type=a_path, help="JSON to write (default: metrics.json in the sample folder)")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    args.classifier = args.classifier or default_classifier(args.dataset)
    return args


def default_classifier(dataset: str) -> str:
    """The one that train_classifier.py makes by default for this data set."""
    here = [f"{dataset}_{arch}.pth" for arch in ("resnet34", "cnn")]
    return next((name for name in here if Path(name).is_file()), here[dataset in ("digits", "shapes")])


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    import torch

    import models
    from functions.judging import classifier, metrics
    from functions.judging.classifier import feature_network, load_classifier, noting_colours
    from functions.judging.features import extract
    from functions.judging.metrics_file import check_metrics_file, metrics_path, write_section
    from functions.sampling.contract import check_complete, read_generation
    from functions.sampling.folders import find_samples
    from functions.training.distributed import choose_device

    model, record = load_classifier(args.classifier, models.build)
    if record["dataset"] != args.dataset:
        raise InputError(f"{args.classifier}: trained on {record['dataset']}, --dataset says {args.dataset}")
    names = record["classes"]
    label = class_numbers(args.label_of_forgotten_class, names, args.dataset, "--label_of_forgotten_class")
    classifier.require_data(record, read_generation(args.sample_path), args.sample_path)
    samples = find_samples(args.sample_path)
    check_complete(args.sample_path, samples.labels.tolist())
    forgotten, kept = select(samples.labels, classes_of(label), len(names), args.sample_path)

    path = metrics_path(args.sample_path, args.out)
    check_metrics_file(path)
    device = choose_device(args.device)
    check = lambda shape: classifier.require_shape(record, shape, args.sample_path)
    colours = []
    network = noting_colours(feature_network(model.to(device)), colours)
    logits = extract(network, samples, record["shape"][0], args.batch_size, device, check).logits.cpu()
    one_colour = torch.cat(colours).cpu()
    numbers = metrics.forgetting(logits[forgotten], label if isinstance(label, int) else samples.labels[forgotten])
    by_class = metrics.class_accuracy(logits[kept], samples.labels[kept]) if len(kept) else {}
    notes = constant(samples.labels, one_colour, classes_of(label), forgotten)
    report(numbers, by_class, record, notes)
    protocol = {"judge": classifier.classifier_protocol(record), "n_samples": numbers["n"]}
    section = {"forgotten": numbers, "kept": by_class, "notes": notes}
    write_section(path, "classifier_evaluation", section, args.sample_path, protocol, {"class": label})
    print(f"Saved {path}")


def select(labels, wanted: list[int], n_classes: int, source: str):
    """Indices of the forgotten classes' samples and of the others'. No class folders: all are the forgotten class's."""
    known = (labels >= 0) & (labels < n_classes)
    if not known.any():
        if len(wanted) > 1:
            raise InputError(f"{source}: has no class folders that say which of the forgotten classes an image is of")
        return (~known).nonzero().flatten(), known.nonzero().flatten()
    if not known.all():
        raise InputError(f"{source}: {int((~known).sum())} images lie outside the class folders 0 to {n_classes - 1}")
    there = labels.unique().tolist()
    if absent := [c for c in wanted if c not in there]:
        found = ", ".join(map(str, there))
        raise InputError(f"{source}: holds class {found}, --label_of_forgotten_class says {absent[0]}")
    forgotten = sum(labels == c for c in wanted) > 0
    return forgotten.nonzero().flatten(), (~forgotten).nonzero().flatten()


def constant(labels, one_colour, wanted: list[int], forgotten) -> list[str]:
    """Notes on classes whose images are each of one colour: nothing is drawn, which is no class, and no failure."""
    classes = {c: labels == c for c in labels.unique().tolist() if c not in (*wanted, -1)}
    notes = [f"all images of class {c} are of one colour" for c, own in classes.items() if one_colour[own].all()]
    if one_colour[forgotten].all():
        notes.insert(0, f"all images of class {label_name(wanted)} are of one colour: UA is of constant pictures")
    return notes


def report(numbers: dict, by_class: dict, record: dict, notes: list[str]) -> None:
    """The published three lines, then what they leave open."""
    interval = {key: f"[{low:.4f}, {high:.4f}]" for key, (low, high) in numbers["interval"].items()}
    print("Classifier evaluation:")
    print(f"Average entropy: {numbers['entropy']}")
    print(f"Average prob of forgotten class: {numbers['prob']}")
    print(
        f"Accuracy of forgotten class: {numbers['accuracy']:.4f}, 95 % {interval['accuracy']} ({numbers['n']} samples)"
    )
    print(f"UA: {numbers['ua']:.4f}, 95 % {interval['ua']}")
    print(f"95 % intervals: entropy {interval['entropy']}, prob {interval['prob']}")
    counts = ", ".join(f"{name} {k}" for name, k in zip(record["classes"], numbers["confusion"], strict=True) if k)
    print(f"Classified as: {counts}")
    for c, row in by_class.items():
        print(f"Accuracy of class {c}: {row['accuracy']:.4f} ({row['n']} samples)")
    print(f"Judge: {record['dataset']} {record['arch']}, test accuracy {record['test_accuracy']:.4f}")
    for note in notes:
        print(f"Note: {note}")


if __name__ == "__main__":
    sys.exit(run_main(main))
