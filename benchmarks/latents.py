"""What latents that are kept save: a training step that reads them, beside one that encodes its images on the fly.

DiT-S/2 with learned variance, AdamW, on random images; an untrained autoencoder of Stable Diffusion's block layout
(four levels, two layers each, attention in the middle) at a quarter of its width: the published one is 16 times the
work. In one process, in turn, the fastest of each:
  on_the_fly  images from memory, flipped, encoded, a posterior sample drawn, forward, backward, step
  kept        moments from encode_dataset.py's shards, read and compared with their CRCs the first time, then the same
Ratio: on_the_fly_over_kept (wanted: 1.3 or more).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.utils import logging

import models
from benchmarks.measure import fastest, report
from datasets import ImageSet, Stream
from datasets.latents import LatentImages
from datasets.shards import Shards, identity_of
from functions.config.cli import Parser, run_main
from functions.config.load import load_config
from functions.config.schema import Config
from functions.tasks import denoising
from models.dit import DiT
from models.encoders import Latents
from runners.passes.encode import Encoding
from runners.setup import data_meta

N_CLASSES, LEVELS = 10, 4


def random_images(n: int, size: int) -> ImageSet:
    pixels = torch.randint(256, (n, 3, size, size), dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(n) % N_CLASSES, tuple("0123456789"), "random", "train")


def autoencoder(folder: Path, width: int) -> None:
    """An untrained AutoencoderKL in `folder`: `width` channels at the first level, as SD's 128, 256, 512, 512."""
    down, up = (("DownEncoderBlock2D",) * LEVELS, ("UpDecoderBlock2D",) * LEVELS)
    channels = (width, 2 * width, 4 * width, 4 * width)
    vae = AutoencoderKL(
        down_block_types=down, up_block_types=up, block_out_channels=channels, layers_per_block=2, latent_channels=4
    )
    vae.save_pretrained(folder)


def kept(cfg: Config, images: ImageSet, encoder: Latents, device: torch.device) -> LatentImages:
    """Their latents, written by encode_dataset.py's code and read by training's."""
    wanted = np.arange(len(images))
    folder = Encoding(cfg, images, data_meta(cfg, images), encoder, wanted, device).run(batch_size=8)
    return LatentImages.of(images, Shards(folder, identity_of(folder)))


def step_on(stream: Stream, task, model: DiT, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    def step() -> None:
        loss = task.losses(model, task.draw(*next(stream), drop=True)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main(argv: list[str] | None = None) -> None:
    p = Parser(description=__doc__)
    p.add_argument("--image_size", type=int, default=256)
    p.add_argument("--width", type=int, default=32, help="channels of the autoencoder's first level (published: 128)")
    p.add_argument("--batch_size", type=int, default=4)
    p.add_argument("--n", type=int, default=32, help="images")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--device", default="cpu")
    args = p.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    logging.set_verbosity_error()
    device, images = torch.device(args.device), random_images(args.n, args.image_size)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        autoencoder(folder / "vae", args.width)
        encoder = models.encoder(models.encoder_meta("latents", vae=str(folder / "vae"))).to(device)
        settings = ["data.dataset=shapes", f"data.latents={folder / 'kept'}", f"encoder.vae={folder / 'vae'}"]
        cfg = load_config("dit.yml", "encode", settings=settings)
        latents = kept(cfg, images, encoder, device)
        channels, side, _ = encoder.shape(images.shape)
        model = DiT(2, 384, 12, 6, channels, side, N_CLASSES, learned_variance=True).to(device)
        task = denoising(cfg.diffusion.model_dump(), encoder, N_CLASSES).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
        steps = {}
        for name, source in (("on_the_fly", images.to(device)), ("kept", latents.to(device))):
            stream = Stream(source, torch.arange(args.n), args.batch_size, 0, "remain", flip=True)
            steps[name] = step_on(stream, task, model, optimizer)
        best = fastest(steps, dict.fromkeys(steps, args.repeats), device)
    print(f"a step of {args.batch_size} images: " + ", ".join(f"{name} {s:.3f} s" for name, s in best.items()))
    report(
        "latents",
        {"on_the_fly_over_kept": best["on_the_fly"] / best["kept"]},
        device,
        image_size=args.image_size,
        width=args.width,
        batch_size=args.batch_size,
        seconds=best,
    )


if __name__ == "__main__":
    sys.exit(run_main(main))
