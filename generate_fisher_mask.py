"""Saliency masks from the Fishers of the forget and the remain set: m = [ F_f / F_r >= gamma ]. No model, no GPU."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from functions import imagenet
from functions.config.classes import Label, class_numbers, labels
from functions.config.cli import Parser, a_path, number, run_main
from functions.config.selection import label_name
from functions.errors import InputError
from functions.places import check_folder_place

EPILOG = """examples:
  python generate_fisher_mask.py --ckpt_folder RUN/mask_0 --threshold 0.5 1.0 3
  python generate_fisher_mask.py --mask_path mask --forget_class 207 "tench" --thresholds "0.5 1 3 5 10"

reads RUN/mask_0/{forget,remain}_fisher.safetensors, or those in mask/207 and mask/0 (train.py --mode generate_fisher),
and writes fisher_0.5.safetensors and so on beside them: packed bits, 1 where a weight may move."""

MASKS = "mask"  # published: where --mask_path is when nobody says so
THRESHOLDS = [0.5, 1.0, 3.0, 5.0, 10.0]  # published


def parser() -> Parser:
    p = Parser(description=__doc__, epilog=EPILOG)
    where = p.add_mutually_exclusive_group()
    where.add_argument("--ckpt_folder", type=a_path, metavar="FOLDER", help="mask_<class> inside a run folder")
    where.add_argument("--mask_path", type=a_path, metavar="DIR", help=f"folder of <class>/ (default: {MASKS})")
    p.add_argument(
        "--forget_class",
        "--label_to_forget",
        type=labels,
        nargs="+",
        metavar="C",
        help="the folders in it, by number, or by ImageNet's name of the class; 0,2 is the one of both (0+2)",
    )
    p.add_argument(
        "--threshold",
        "--thresholds",
        type=numbers,
        default=[THRESHOLDS],
        nargs="+",
        metavar="GAMMA",
        help=f"one mask for each (default: {' '.join(f'{gamma:g}' for gamma in THRESHOLDS)})",
    )
    p.add_argument(
        "--zero_ratio_salient",
        action=argparse.BooleanOptionalAction,
        help="weights whose Fishers are both 0 count as ratio 1 (published; default: as the config of "
        "generate_fisher said, which is no)",
    )
    return p


def numbers(text: str) -> list[float]:
    """`0.5 1 3` -> [0.5, 1, 3]: a list may come in quotes."""
    return [number(0)(word) for word in text.split() or [text]]


def main(argv: list[str] | None = None) -> list[Path]:
    """Returns the masks' paths."""
    args = parser().parse_args(argv)
    from functions.locks import SHORT, writing_folder

    folders, written = fisher_folders(args.ckpt_folder, args.mask_path, args.forget_class), []
    thresholds = list(dict.fromkeys(gamma for words in args.threshold for gamma in words))
    for folder, flag in folders.items():
        check_folder_place(folder, flag)
    for folder in folders:
        with writing_folder(folder, SHORT):
            written += write_masks(folder, thresholds, args.zero_ratio_salient)
    return written


def fisher_folders(ckpt_folder: str | None, mask_path: str | None, classes: list[Label] | None) -> dict[Path, str]:
    """The folders with the Fishers, and the flag that named each. Raises InputError where one is not there."""
    if ckpt_folder is not None:
        if classes is not None:
            raise InputError("--forget_class: goes with --mask_path; --ckpt_folder is the folder of one class")
        if not Path(ckpt_folder).is_dir():
            raise InputError(f"--ckpt_folder {ckpt_folder}: no such folder; train.py --mode generate_fisher makes it")
        return {Path(ckpt_folder): "--ckpt_folder"}
    root = Path(MASKS if mask_path is None else mask_path)
    there = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    offer = f"there are {', '.join(there)}" if there else "train.py --mode generate_fisher makes it"
    if classes is None:
        also = "--ckpt_folder, or " if mask_path is None else ""
        raise InputError(f"--forget_class: missing; wanted {also}the classes whose Fishers lie in {root}; {offer}")
    found = {root / folder_name(label, there): "--mask_path" for label in classes}
    for folder in found:
        if folder.name not in there:
            raise InputError(f"--mask_path {root}: {folder.name}: no such folder there (--forget_class); {offer}")
    return found


def folder_name(label: Label, there: list[str]) -> str:
    """A folder that is there by its name, and else what a class, or several, is called."""
    if str(label) in there or isinstance(label, int):
        return str(label)
    if isinstance(label, list) and all(isinstance(word, int) for word in label):
        return label_name(sorted(set(label)))
    return label_name(class_numbers(label, imagenet.wnids(), "imagenet", "--forget_class"))


def write_masks(folder: Path, thresholds: list[float], zero_ratio_salient: bool | None) -> list[Path]:
    """One mask for each threshold, from the Fishers in `folder`."""
    from functions.curvature.saliency import kept_share, ratio_mask
    from functions.storage.artifacts import load_fishers, save_mask
    from functions.storage.cost import total
    from functions.storage.provenance import inherited

    fisher_f, fisher_r, made_f, made_r = load_fishers(folder)
    zero = made_f["zero_ratio_salient"] if zero_ratio_salient is None else zero_ratio_salient
    cost, written = total([made_f["cost"], made_r["cost"]]), []
    for gamma in thresholds:
        mask = ratio_mask(fisher_f, fisher_r, gamma, zero)
        share, groups = kept_share(mask)
        path = folder / f"fisher_{gamma}.safetensors"
        made = {"threshold": gamma, "zero_ratio_salient": zero, "kept_share": share, "cost": cost}
        save_mask(path, mask, {**inherited(made_f), **made})
        print(f"gamma {gamma}: {share:.2%} of the weights are salient -> {path}")
        for group, (kept, n) in groups.items():
            print(f"  {group:<16} {kept / n:7.2%} of {n:>10,}")
        written.append(path)
    return written


if __name__ == "__main__":
    sys.exit(run_main(main))
