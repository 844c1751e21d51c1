"""Save the training images of the remaining classes as PNGs: the reference of FID, precision and recall.

`./{dataset}_without_label_{c}/<class>/<k>.png`, and reference.json, which says what they are. A second run writes what
is missing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from functions.config.classes import class_numbers, labels
from functions.config.cli import Parser, a_path, a_side, number, run_main, whole
from functions.config.schema import DATASETS, FITS
from functions.config.selection import classes_of, label_name
from functions.errors import InputError
from functions.places import check_folder_place


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--dataset", required=True, choices=DATASETS)
    parser.add_argument(
        "--label_to_forget", type=labels, required=True, metavar="C", help="by number or name; several: 0,2"
    )
    parser.add_argument(
        "--per_class", type=whole(1), help="the first so many of each class, as published: 500 (default: all)"
    )
    parser.add_argument("--image_size", type=a_side, help="side of the images (default: their own; of a folder: auto)")
    parser.add_argument(
        "--test_fraction", type=number(0, 0.99), default=0.2, help="of a folder without a test part (default: 0.2)"
    )
    parser.add_argument("--fit", choices=FITS, default="middle", help="how images become squares (data.fit)")
    parser.add_argument("--data_path", type=a_path, default="data", help="where data sets are, or are downloaded to")
    parser.add_argument("--out", type=a_path, help="folder (default: ./{dataset}_without_label_{c})")
    args = parser.parse_args(argv)
    if args.out:
        check_folder_place(Path(args.out), "--out")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    import datasets
    from functions.locks import writing_folder

    size = args.image_size or "auto"
    train = datasets.load(args.dataset, args.data_path, "train", size, test_fraction=args.test_fraction, fit=args.fit)
    args.label_to_forget = class_numbers(args.label_to_forget, train.classes, args.dataset, "--label_to_forget")
    forgotten = classes_of(args.label_to_forget)
    args.out = Path(args.out or f"{args.dataset}_without_label_{'_'.join(map(str, forgotten))}")
    with writing_folder(args.out):
        save(args, train, forgotten)


def save(args: argparse.Namespace, train, forgotten: list[int]) -> None:
    """The reference, or what is missing of it."""
    from functions.pictures import find

    names, indices = plan(train.labels.tolist(), forgotten, args.per_class)
    claim(args.out, agreement(args, train, len(names)))
    written = save_missing(args.out, train, names, indices)
    extra = {p.relative_to(args.out).as_posix() for p in find(args.out)} - set(names)
    if extra:
        raise InputError(
            f"{args.out}: holds {len(extra)} pictures that are no part of the reference, e.g. {min(extra)}"
        )
    print(f"Saved {len(names)} images in {args.out} ({written} new)")


def plan(labels: list[int], forgotten: list[int], per_class: int | None) -> tuple[list[str], list[int]]:
    """File names `<class>/<k>.png` and data indices; k counts within the class, in the data set's order."""
    counts: dict[int, int] = {}
    names, indices = [], []
    for i, c in enumerate(labels):
        k = counts[c] = counts.get(c, -1) + 1
        if c not in forgotten and (per_class is None or k < per_class):
            names.append(f"{c}/{k}.png")
            indices.append(i)
    return names, indices


def agreement(args: argparse.Namespace, train, n: int) -> dict:
    """The reference's contract: the rule is protocol, the class left out is record."""
    from functions.files import version
    from functions.storage.contract import contract

    rule = "all" if args.per_class is None else f"first {args.per_class}"
    protocol = {"dataset": args.dataset, "split": "train", "per_class": rule, "shape": list(train.shape)}
    if args.fit != "middle":  # references of before have no such key
        protocol["fit"] = args.fit
    return contract(protocol, {"label": args.label_to_forget, "n": n, "version": version()})


def claim(folder: Path, agreed: dict) -> None:
    """Write reference.json before the first image; refuse a folder that holds something else."""
    from functions.files import write_json
    from functions.judging.contract import REFERENCE, read_reference
    from functions.pictures import any_below

    path = folder / REFERENCE
    if path.is_file():
        found = read_reference(path)
        label = found["record"]["label"]
        if found["hash"] != agreed["hash"] or label != agreed["record"]["label"]:
            raise InputError(
                f"{folder}: holds another reference, {found['protocol']} without class {label_name(label)} (--out)"
            )
    elif folder.is_dir() and any_below(folder):
        raise InputError(f"{folder}: holds pictures but no {REFERENCE} that says what they are (--out)")
    else:
        write_json(path, agreed)


def save_missing(folder: Path, train, names: list[str], indices: list[int]) -> int:
    """Write the images that are not there yet, each whole or absent; the number written."""
    import torch

    from datasets.images import ordered
    from functions.locks import remove_leftovers
    from functions.progress import each
    from functions.sampling.write import save_png

    missing = [j for j, name in enumerate(names) if not (folder / name).is_file()]
    for c in {names[j].split("/")[0] for j in missing}:
        (folder / c).mkdir(exist_ok=True)
        remove_leftovers(folder / c)
    chosen = torch.tensor([indices[j] for j in missing], dtype=torch.long)
    bar = each(missing, "saving images", len(missing), "images")
    for x, _ in ordered(train, chosen, 256, n_workers=2):
        for pixels in (x * 255).round().byte().cpu().numpy():
            save_png(folder / names[next(bar)], pixels)
    return len(missing)


if __name__ == "__main__":
    sys.exit(run_main(main))
