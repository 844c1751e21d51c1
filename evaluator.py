"""Compare SAMPLES with a REFERENCE: Inception Score, FID, sFID, precision, recall, KID."""

from __future__ import annotations

import argparse
import sys

from functions.cli import run_main
from functions.errors import InputError

NEXT = ("inception", "tensorflow")
LINES = (
    ("Inception Score", "inception_score"),
    ("FID", "fid"),
    ("sFID", "sfid"),
    ("Precision", "precision"),
    ("Recall", "recall"),
)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("samples", help="folder of PNGs (walked recursively) or .npz: what the model drew")
    parser.add_argument("reference", help="folder of PNGs or .npz: real images (save_base_dataset.py)")
    parser.add_argument("--features", default="inception", metavar="inception|tensorflow|classifier:PATH")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--out", help="JSON to write (default: metrics.json in the sample folder)")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    if args.batch_size <= 0:
        raise InputError(f"--batch_size {args.batch_size}: wanted more than 0")
    kind, _, path = args.features.partition(":")
    if args.features in NEXT:
        raise InputError(
            f"--features {kind}: its weights cannot be read by this version; use --features classifier:PATH"
        )
    if kind != "classifier" or not path:
        raise InputError(f"--features {args.features}: wanted inception, tensorflow or classifier:PATH")
    args.classifier = path
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    import models
    from functions import metrics
    from functions.contract import reference_rule
    from functions.distributed import choose_device
    from functions.judge import judge_protocol, load_judge
    from functions.metrics_file import metrics_path, write_section
    from functions.sample_folders import find_samples

    samples, reference = find_samples(args.samples), find_samples(args.reference)
    if samples.source.resolve() == reference.source.resolve():
        raise InputError(
            f"{args.samples}: the samples and the reference are the same; wanted SAMPLES REFERENCE"
        )
    model, judge = load_judge(args.classifier, models.build)
    device = choose_device(args.device)
    found, known, notes = both(samples, reference, model.to(device), judge, args.batch_size, device)
    numbers = metrics.compare(found.pool, known.pool, found.logits)
    numbers["notes"] += notes
    report(numbers, "[classifier]")
    protocol = {
        "features": {"name": "classifier", **judge_protocol(judge)},
        "reference": reference_rule(args.reference, reference.fingerprint),
        "n_samples": numbers["n_samples"],
    }
    path = metrics_path(args.samples, args.out)
    record = {"reference": args.reference, "n_reference": numbers["n_reference"]}
    write_section(path, "evaluator", {"features": "classifier", **numbers}, args.samples, protocol, record)
    print(f"Saved {path}")


def both(samples, reference, model, judge: dict, batch_size: int, device):
    """Features of the samples and of the reference (kept beside it), and notes."""
    from functions.features import cache_path, extract, load_cached, save_cached
    from functions.judge import feature_network, require_shape

    network, channels, notes = feature_network(model), judge["shape"][0], []

    def features(of):
        return extract(
            network, of, channels, batch_size, device, lambda shape: require_shape(judge, shape, of.source)
        )

    found = features(samples)
    path, key = (
        cache_path(reference.source, f"classifier-{judge['sha256'][:8]}"),
        f"{judge['sha256']} {reference.fingerprint()}",
    )
    known = load_cached(path, key, device)
    if known is None:
        known = features(reference)
        try:
            save_cached(path, key, known)
        except OSError as error:  # a read-only place: the next run pays for the pass again, nothing else
            notes.append(f"the reference's features are not kept: {path}: {error.strerror}")
    return found, known, notes


def report(numbers: dict, tag: str) -> None:
    """The README's lines in its order, those that exist for this network, then KID and notes."""
    for name, key in LINES:
        if numbers[key] is not None:
            print(f"{name}{tag}: {numbers[key]}")
    print(f"KID{tag}: {numbers['kid']} (std over subsets {numbers['kid_std']:.2g})")
    print(f"Images: {numbers['n_samples']} samples, {numbers['n_reference']} reference")
    for note in numbers["notes"]:
        print(f"Note: {note}")


if __name__ == "__main__":
    sys.exit(run_main(main))
