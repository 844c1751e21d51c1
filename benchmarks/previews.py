"""What previews cost with `training.preview: auto`: predicted at the settings of DiT's README, measured on a small DiT.

Predicted, on the meta device: multiplications of one pass of DiT-XL/2 and of decoding one 256 x 256 picture by the
published autoencoder; the grid that 600 iterations of SFR-on at batch 1 pay for with one every 50, and its share of the
passes. Measured: `train.py --mode finetune` of a DiT on `shapes` at batch 1, in seconds, a grid every --every steps.
Last line: decoding_passes, predicted_share, counted_share, measured_share (wanted: below 0.1).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from diffusers import AutoencoderKL

import models
import train
from benchmarks.measure import report
from functions.config.cli import Parser, run_main, whole
from functions.storage.checkpoint import Snapshot
from functions.storage.meta import DIT_SIZES
from functions.tasks import Denoising, linear_alpha_bar
from models.encoders import SD_VAE, Latents
from runners import previews, snapshots

README = {"n_iters": 600, "every": 50, "passes": 2 * 3}  # an iteration: two images forward, and backward twice as dear
SMALL = "model={name: dit, hidden_size: 384, depth: 6, num_heads: 6}"


def autoencoder(*widths: int) -> AutoencoderKL:
    """The published architecture at these widths, weights random."""
    n = len(widths)
    down, up = ("DownEncoderBlock2D",) * n, ("UpDecoderBlock2D",) * n
    sizes = {"block_out_channels": widths, "layers_per_block": 2, "latent_channels": 4, "norm_num_groups": 8}
    return AutoencoderKL(down_block_types=down, up_block_types=up, **sizes)


def predicted() -> tuple[float, float]:
    """(passes of decoding a picture, share of the README's run that its previews take)."""
    with torch.device("meta"):
        kwargs = {"patch_size": 2, "in_channels": 4, "image_size": 32, "n_classes": 1000, "learned_variance": True}
        dit = models.build({"name": "dit", "kwargs": {**kwargs, **DIT_SIZES["XL"]}})
        encoder = Latents("", None, **SD_VAE)
        encoder.vae = autoencoder(128, 256, 512, 512)
        task = Denoising(linear_alpha_bar(1000, 1e-4, 0.02), encoder, 1000, 0.1, "mean", learned_variance=True)
        decoding = previews.decoding_passes(task, (4, 32, 32), dit)
    passes = README["every"] * README["passes"]
    grid = previews.affordable(previews.SHARE * passes, decoding, 1000)
    print(f"DiT-XL/2: decoding is {decoding:.2f} passes; {grid} of {passes} passes")
    return decoding, grid.passes(decoding) / passes


def measured(n_iters: int, every: int) -> tuple[float, float]:
    """(share of the passes that the previews counted, share of the seconds that they took) of a real run."""
    autoencoder(16, 32, 32).save_pretrained("vae")
    base = ["--config", "dit.yml", "--set", "data={dataset: shapes}", "--vae", "vae", "--set", "training.curves=false"]
    run = train.main(["--mode", "pretrain", *base, "--set", SMALL, *training(1, 1, "off")])
    spent, passes, drawn = [], [], snapshots._drawn

    def timed(run, done):
        start = time.perf_counter()
        found = drawn(run, done)
        spent.append(time.perf_counter() - start)
        passes.append(found.passes)
        return found

    snapshots._drawn = timed
    words = ["--ckpt_folder", str(run), "--label_to_forget", "0", "--snapshot-every", str(every)]
    cost = Snapshot.open(train.main(["--mode", "finetune", *base, *words, *training(n_iters, 1, "auto")])).meta["cost"]
    # the first one loads the sampler's library too, once for the whole program
    seconds = spent[1:] and sum(spent[1:]) * len(spent) / len(spent[1:])
    return sum(passes) / (cost["forward"] + 2 * cost["backward"]), seconds / (seconds + cost["seconds"])


def training(n_iters: int, batch_size: int, preview: str) -> list[str]:
    settings = {"n_iters": n_iters, "batch_size": batch_size, "preview": preview, "ema": "false", "log_freq": 50}
    return [word for key, value in settings.items() for word in ("--set", f"training.{key}={value}")]


def main(argv: list[str] | None = None) -> None:
    p = Parser(description=__doc__)
    p.add_argument("--n_iters", type=whole(2), default=400)
    p.add_argument("--every", type=whole(1), default=100)
    args = p.parse_args(argv)
    decoding, share = predicted()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        counted, seconds = measured(args.n_iters, args.every)
    ratios = {"decoding_passes": decoding, "predicted_share": share}
    ratios |= {"counted_share": counted, "measured_share": seconds}
    report("previews", {name: round(value, 4) for name, value in ratios.items()}, torch.device("cpu"))


if __name__ == "__main__":
    sys.exit(run_main(main))
