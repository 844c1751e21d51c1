"""Train a small autoencoder for models of latents, and save it as a diffusers AutoencoderKL folder.

The folder is what `encoder: {name: latents, vae: FOLDER}` takes. In it: config.json, with scaling_factor = 1 / standard
deviation of the latents; the weights, and the hashes of both; vae.json, which says what it was trained on and how well
it reconstructs test images; reconstructions.png, images above what comes back.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from functions.config.cli import Parser, a_batch, a_path, a_seed, a_side, number, run_main, whole
from functions.config.schema import DATASETS
from functions.errors import InputError
from functions.files import sha256_file, umask, version, write_atomic, write_json
from functions.locks import writing_file
from functions.places import check_folder_place

WEIGHTS = "diffusion_pytorch_model.safetensors"
TESTED, MEASURED, SHOWN = 1000, 2000, 10  # images for the PSNR, for the latents' deviation, and in the picture


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--dataset", required=True, choices=DATASETS)
    parser.add_argument("--out", type=a_path, help="the new folder (default: vae_DATASET)")
    parser.add_argument("--data_path", type=a_path, default="data", help="where data sets are, or are downloaded to")
    parser.add_argument("--image_size", type=a_side, help="side of the images (default: their own; of a folder: auto)")
    parser.add_argument("--width", type=whole(1, 4096), default=32, help="channels at every resolution (32)")
    parser.add_argument(
        "--halvings", type=whole(0, 8), default=2, help="side of images over side of latents, as a power of 2 (2)"
    )
    parser.add_argument("--latent_channels", type=whole(1, 256), default=4)
    parser.add_argument("--steps", type=whole(1, 10**9), default=3600)
    parser.add_argument("--batch_size", type=a_batch, default=8)
    parser.add_argument("--lr", type=number(1e-30, 1e30), default=3e-3, help="peak rate (3e-3)")
    parser.add_argument(
        "--kl_weight", type=number(0, 1e30), default=1e-4, help="of the KL term, both terms summed over an image (1e-4)"
    )
    parser.add_argument("--seed", type=a_seed, default=0)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    args.out = Path(args.out or f"vae_{args.dataset}")
    if args.out.exists():
        raise InputError(f"--out {args.out}: exists; wanted a new name")
    check_folder_place(args.out, "--out")
    return args


def main(argv: list[str] | None = None) -> Path:
    """Returns the folder."""
    args = parse(argv)
    with writing_file(args.out), new_folder(args.out) as folder:
        make(args, folder)
    print(f"Saved {args.out}")
    return args.out


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into, which takes that name at the end and is gone after any error."""
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".partial"))
    try:
        yield temporary
        temporary.chmod(0o777 & ~umask())
        try:
            os.rename(temporary, out)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(out)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make(args: argparse.Namespace, folder: Path) -> None:
    """Train, measure and save the autoencoder."""
    import torch

    import datasets
    from datasets.images import Stream, ordered
    from functions.finite import check_finite
    from functions.training.autoencoding import fit, latent_std, psnr
    from functions.training.distributed import choose_device
    from models.vae import vae

    train, test = (
        datasets.load(args.dataset, args.data_path, split, args.image_size or "auto") for split in ("train", "test")
    )
    device = choose_device(args.device)
    torch.manual_seed(args.seed)
    model = vae(train.shape[0], train.shape[-1], args.width, args.halvings, args.latent_channels).to(device)
    train, test = train.to(device), test.to(device)
    stream = Stream(train, torch.arange(len(train)), min(args.batch_size, len(train)), args.seed, "vae", n_workers=2)
    fit(model, stream, args.steps, args.lr, args.kl_weight)

    inside = torch.linspace(0, len(train) - 1, min(len(train), MEASURED)).long()  # of all classes, however sorted
    outside = torch.linspace(0, len(test) - 1, min(len(test), TESTED)).long()
    std = latent_std(model, ordered(train, inside, 100, n_workers=2))
    decibels = psnr(model, ordered(test, outside, 100, n_workers=2))
    check_finite(f"{args.out}: not saved", model.state_dict(), "its training diverged (--lr)")
    model.register_to_config(scaling_factor=1 / std)
    model.save_pretrained(folder)
    for name in ("config.json", WEIGHTS):
        write_atomic(folder / f"{name}.sha256", f"{sha256_file(folder / name)}  {name}\n")
    draw(folder / "reconstructions.png", model, next(ordered(test, outside[:SHOWN], SHOWN))[0])
    write_json(folder / "vae.json", record(args, train, decibels, len(outside), std))
    print(f"Reconstruction of {len(outside)} test images: PSNR {decibels:.2f} dB; scaling_factor {1 / std:.4f}")


def draw(path: Path, model, x) -> None:
    """Images above their reconstructions."""
    from functions.sampling import sheet
    from functions.training.autoencoding import reconstruct

    both = [x, reconstruct(model, x)]
    rows = [[sheet.as_image(p.mul(255).round().byte().cpu().numpy()) for p in each] for each in both]
    sheet.save(sheet.sheet({"": rows}, [sheet.Row(0, "images"), sheet.Row(1, "reconstructed")]), path)


def record(args: argparse.Namespace, train, decibels: float, n_test: int, std: float) -> dict:
    """What vae.json says."""
    keys = ("width", "halvings", "latent_channels", "steps", "batch_size", "lr", "kl_weight", "seed")
    return {
        "dataset": args.dataset,
        "shape": list(train.shape),
        "psnr": decibels,
        "n_test": n_test,
        "latent_std": std,
        "training": {key: getattr(args, key) for key in keys},
        "version": version(),
    }


if __name__ == "__main__":
    sys.exit(run_main(main))
