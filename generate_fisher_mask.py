"""Saliency masks from the Fishers of the forget and the remain set: m = [ F_f / F_r >= gamma ]. No model, no GPU."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from functions.config.cli import Parser, a_path, number, run_main
from functions.errors import InputError
from functions.places import check_folder_place

EPILOG = """example:
  python generate_fisher_mask.py --ckpt_folder RUN/mask_0 --threshold 0.5 1.0 3

reads RUN/mask_0/{forget,remain}_fisher.safetensors (train.py --mode generate_fisher) and writes
RUN/mask_0/fisher_0.5.safetensors and so on: packed bits, 1 where a weight may move."""


def parser() -> Parser:
    p = Parser(description=__doc__, epilog=EPILOG)
    p.add_argument(
        "--ckpt_folder", type=a_path, required=True, metavar="FOLDER", help="mask_<class> inside a run folder"
    )
    p.add_argument("--threshold", required=True, type=number(0), nargs="+", metavar="GAMMA", help="one mask for each")
    p.add_argument(
        "--zero_ratio_salient",
        action=argparse.BooleanOptionalAction,
        help="weights whose Fishers are both 0 count as ratio 1 (published; default: as the config of "
        "generate_fisher said, which is no)",
    )
    return p


def main(argv: list[str] | None = None) -> list[Path]:
    """Returns the masks' paths."""
    args = parser().parse_args(argv)
    from functions.locks import SHORT, writing_folder

    folder = Path(args.ckpt_folder)
    if not folder.is_dir():
        raise InputError(f"--ckpt_folder {folder}: no such folder; train.py --mode generate_fisher makes it")
    check_folder_place(folder, "--ckpt_folder")
    with writing_folder(folder, SHORT):
        return write_masks(folder, args.threshold, args.zero_ratio_salient)


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
