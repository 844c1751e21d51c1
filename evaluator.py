"""Compare SAMPLES with a REFERENCE: Inception Score, FID, sFID, precision, recall, KID."""

from __future__ import annotations

import argparse
import sys

from functions.config.cli import Parser, a_batch, a_path, run_main, whole
from functions.errors import InputError, shown

BATCH_SIZE = {"inception": 64, "tensorflow": 64, "classifier": 256, "lite0": 64}  # 64: ADM's
LINES = (
    ("Inception Score", "inception_score"),
    ("FID", "fid"),
    ("sFID", "sfid"),
    ("Precision", "precision"),
    ("Recall", "recall"),
)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("samples", type=a_path, help="folder of PNGs (walked recursively) or .npz: what the model drew")
    parser.add_argument(
        "reference",
        type=a_path,
        help="folder of PNGs or .npz: real images (save_base_dataset.py); mu and sigma in an .npz, as in ADM's "
        "reference batches, are what FID compares with",
    )
    parser.add_argument(
        "--features",
        type=features,
        default="inception",
        metavar="inception|tensorflow|lite0|classifier:PATH",
        help="the network that sees the images: InceptionV3 by torch-fidelity (default), ADM's TensorFlow graph of it, "
        "EfficientNet-Lite0 out of a package, for colour and without a network, or a classifier of train_classifier.py",
    )
    parser.add_argument(
        "--inception_weights",
        type=a_path,
        metavar="FILE",
        help="the published weights or graph (default: fetched into torch's cache folder)",
    )
    parser.add_argument("--classes", metavar="LIST", help="only these of SAMPLES (1,2,cat), or all but these (x0)")
    parser.add_argument("--batch_size", type=a_batch, help="images at once (default: 64, classifier 256)")
    parser.add_argument(
        "--n_workers", type=whole(1, 256), help="threads that decode PNGs (default: the CPUs, at most 16)"
    )
    parser.add_argument("--out", type=a_path, help="JSON to write (default: metrics.json in the sample folder)")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    args.kind, args.classifier = args.features
    if args.kind in ("classifier", "lite0") and args.inception_weights:
        raise InputError("--inception_weights: goes with --features inception or tensorflow")
    args.batch_size = BATCH_SIZE[args.kind] if args.batch_size is None else args.batch_size
    return args


def features(text: str) -> tuple[str, str]:
    """`classifier:PATH` -> ("classifier", "PATH"); the others have no path."""
    kind, _, path = text.partition(":")
    if kind not in BATCH_SIZE or (kind == "classifier") != bool(path):
        raise argparse.ArgumentTypeError(f"got {shown(text)}; wanted inception, tensorflow, lite0 or classifier:PATH")
    return kind, path and a_path(path)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    import models
    from functions.judging import metrics
    from functions.judging.contract import check_reference, reference_rule, require_same_data
    from functions.judging.features import of_both
    from functions.judging.metrics_file import check_metrics_file, metrics_path, write_section
    from functions.judging.moments import open_reference, usable
    from functions.judging.networks import NETWORKS
    from functions.sampling.contract import check_complete, read_generation
    from functions.sampling.folders import find_samples, same_images
    from functions.training.distributed import choose_device

    samples, (reference, moments) = find_samples(args.samples), open_reference(args.reference)
    if args.classes is not None:
        made = read_generation(args.samples)
        samples = samples.only(args.classes, made and made["record"].get("names"))
    check_complete(args.samples, samples.labels.tolist(), args.classes is not None)
    require_same_data(args.samples, args.reference)
    check_reference(args.reference, len(reference) if reference else 0)
    if reference and same_images(samples, reference):
        raise InputError(f"{args.samples}: the samples and the reference are the same images; wanted SAMPLES REFERENCE")
    path = metrics_path(args.samples, args.out)
    check_metrics_file(path)
    device = choose_device(args.device)
    network = NETWORKS[args.kind](args.classifier or args.inception_weights, models.build, device)
    moments, aside = usable(moments, network, args.reference, reference is not None, device)
    found, known, notes = of_both(network, samples, reference, args.batch_size, device, args.n_workers)
    spatial = None if found.spatial is None else (found.spatial, known and known.spatial)
    numbers = metrics.compare(found.pool, known and known.pool, found.logits, spatial, moments)
    numbers["notes"] += aside + notes
    report(numbers, f"[{args.kind}]" if args.kind in ("classifier", "lite0") else "")
    protocol = {
        "features": {"name": network.name, "sha256": network.sha256, **network.protocol},
        "reference": reference_rule(args.reference, reference and reference.fingerprint, moments and moments.sha256),
        "n_samples": numbers["n_samples"],
    }
    record = {
        "reference": args.reference,
        "n_reference": numbers["n_reference"],
        "classes": samples.labels.unique().tolist(),
    }
    write_section(path, "evaluator", {"features": network.name, **numbers}, args.samples, protocol, record)
    print(f"Saved {path}")


def report(numbers: dict, tag: str) -> None:
    """The README's lines in its order, those that exist for this network, then KID and notes; aligned on a terminal."""
    lines = [(f"{name}{tag}: ", numbers[key]) for name, key in LINES if numbers[key] is not None]
    if numbers["kid"] is not None:
        lines += [(f"KID{tag}: ", f"{numbers['kid']} (std over subsets {numbers['kid_std']:.2g})")]
    width = max(len(name) for name, _ in lines) if sys.stdout.isatty() else 0
    for name, value in lines:
        print(f"{name:{width}}{value}")
    print(f"Images: {numbers['n_samples']} samples, {numbers['n_reference'] or 'no'} reference")
    for note in numbers["notes"]:
        print(f"Note: {note}")


if __name__ == "__main__":
    sys.exit(run_main(main))
