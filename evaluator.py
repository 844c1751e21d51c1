"""Compare SAMPLES with a REFERENCE: Inception Score, FID, sFID, precision, recall, KID."""

from __future__ import annotations

import argparse
import sys

from functions.config.cli import run_main
from functions.errors import InputError

BATCH_SIZE = {"inception": 64, "tensorflow": 64, "classifier": 256}  # 64: ADM's
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
    parser.add_argument(
        "--features",
        default="inception",
        metavar="inception|tensorflow|classifier:PATH",
        help="the network that sees the images: InceptionV3 by torch-fidelity (default), ADM's "
        "TensorFlow graph of it, or a classifier of train_classifier.py",
    )
    parser.add_argument(
        "--inception_weights",
        metavar="FILE",
        help="the published weights or graph (default: fetched into torch's cache folder)",
    )
    parser.add_argument("--classes", metavar="LIST", help="only these of SAMPLES (1,2), or all but these (x0)")
    parser.add_argument("--batch_size", type=int, help="images at once (default: 64, classifier 256)")
    parser.add_argument("--n_workers", type=int, help="threads that decode PNGs (default: the CPUs, at most 16)")
    parser.add_argument("--out", help="JSON to write (default: metrics.json in the sample folder)")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    kind, _, args.classifier = args.features.partition(":")
    if kind not in BATCH_SIZE or (kind == "classifier") != bool(args.classifier):
        raise InputError(f"--features {args.features}: wanted inception, tensorflow or classifier:PATH")
    if kind == "classifier" and args.inception_weights:
        raise InputError("--inception_weights: goes with --features inception or tensorflow")
    args.kind = kind
    args.batch_size = BATCH_SIZE[kind] if args.batch_size is None else args.batch_size
    for flag in ("batch_size", "n_workers"):
        if getattr(args, flag) is not None and getattr(args, flag) <= 0:
            raise InputError(f"--{flag} {getattr(args, flag)}: wanted more than 0")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    from functions.judging import metrics
    from functions.judging.contract import reference_rule
    from functions.judging.metrics_file import metrics_path, write_section
    from functions.sampling.folders import find_samples, same_images
    from functions.training.distributed import choose_device

    samples, reference = find_samples(args.samples), find_samples(args.reference)
    if args.classes is not None:
        samples = samples.only(args.classes)
    if same_images(samples, reference):
        raise InputError(f"{args.samples}: the samples and the reference are the same images; wanted SAMPLES REFERENCE")
    device = choose_device(args.device)
    network = NETWORKS[args.kind](args, device)
    found, known, notes = both(samples, reference, network, args, device)
    spatial = None if found.spatial is None else (found.spatial, known.spatial)
    numbers = metrics.compare(found.pool, known.pool, found.logits, spatial)
    numbers["notes"] += notes
    report(numbers, "[classifier]" if args.kind == "classifier" else "")
    protocol = {
        "features": {"name": network.name, "sha256": network.sha256, **network.protocol},
        "reference": reference_rule(args.reference, reference.fingerprint),
        "n_samples": numbers["n_samples"],
    }
    path = metrics_path(args.samples, args.out)
    record = {
        "reference": args.reference,
        "n_reference": numbers["n_reference"],
        "classes": samples.labels.unique().tolist(),
    }
    write_section(path, "evaluator", {"features": network.name, **numbers}, args.samples, protocol, record)
    print(f"Saved {path}")


def inception(args: argparse.Namespace, device):
    """torch-fidelity's InceptionV3, its weights checked or fetched."""
    from functions.judging.features import Network
    from functions.judging.inception import TORCH_WEIGHTS, torch_network
    from functions.storage.fetch import locate

    path = locate(TORCH_WEIGHTS, args.inception_weights, "--inception_weights", "--features inception")
    return Network("inception", TORCH_WEIGHTS.sha256, torch_network(path, device), 3, {})


def tensorflow(args: argparse.Namespace, device):
    """ADM's frozen graph, checked or fetched."""
    from functions.judging.features import Network
    from functions.judging.inception import TENSORFLOW_GRAPH, tensorflow_network
    from functions.storage.fetch import locate

    path = locate(TENSORFLOW_GRAPH, args.inception_weights, "--inception_weights", "--features tensorflow")
    return Network("tensorflow", TENSORFLOW_GRAPH.sha256, tensorflow_network(path, device), 3, {})


def classifier(args: argparse.Namespace, device):
    """The penultimate features of a classifier made by train_classifier.py."""
    import models
    from functions.judging.classifier import feature_network, judge_protocol, load_judge, require_shape
    from functions.judging.features import Network

    model, judge = load_judge(args.classifier, models.build)
    check = lambda shape, source: require_shape(judge, shape, source)
    run = feature_network(model.to(device))
    return Network("classifier", judge["sha256"], run, judge["shape"][0], judge_protocol(judge), check)


NETWORKS = {"inception": inception, "tensorflow": tensorflow, "classifier": classifier}


def both(samples, reference, network, args: argparse.Namespace, device):
    """Features of the samples and of the reference (kept beside it), and notes."""
    from functions.judging.features import cache_path, extract, load_cached, save_cached

    def features(of):
        check = network.check and (lambda shape: network.check(shape, of.source))
        return extract(network.run, of, network.channels, args.batch_size, device, check, args.n_workers)

    found, notes = features(samples), []
    path = cache_path(reference.source, f"{network.name}-{network.sha256[:8]}")
    key = f"{network.sha256} {reference.fingerprint()}"
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
