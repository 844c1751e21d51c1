"""Encoders: images in [0, 1] to the space a model works in, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from functions.errors import InputError
from functions.files import check_exported, sha256_file
from models.budget import MOST, Budget

Normal = Callable[[Sequence[int]], Tensor]  # shape -> standard normal numbers

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"  # of a diffusers AutoencoderKL
# Facts of the published ones that are asked for by name: then shapes are known before anything is fetched
SD_VAE = {"in_channels": 3, "channels": 4, "factor": 8, "scale": 0.18215}
# and their architecture, for those who need its size alone
SD_VAE_CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "sample_size": 256,
}
PUBLISHED = {"stabilityai/sd-vae-ft-ema": SD_VAE, "stabilityai/sd-vae-ft-mse": SD_VAE}


class Pixels:
    """The identity up to scale: [0, 1] <-> [-1, 1]."""

    def encode(self, x: Tensor, normal: Normal | None = None) -> Tensor:
        """x in [0, 1] -> 2x - 1 in [-1, 1]. Draws nothing."""
        return 2 * x - 1

    def decode(self, z: Tensor) -> Tensor:
        """z -> (clamp(z, -1, 1) + 1) / 2 in [0, 1]."""
        return (z.clamp(-1, 1) + 1) / 2

    def shape(self, data_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, H, W) of images -> (C, H, W) of what the model sees."""
        return data_shape

    def to(self, device: torch.device | str) -> Pixels:
        return self


class Latents:
    """The latent space of a variational autoencoder, diffusers' AutoencoderKL: z = scale (mean + sigma n), n ~ N(0, I).

    Mean and sigma are the posterior's for an image; a data set may keep them in place of its images. The autoencoder is
    read when it is first used, and is never trained here.

    Args:
        vae: the folder of a diffusers AutoencoderKL, or the name of a published one.
        sha256: of its weights; None where they have not been seen yet.
        in_channels, channels: of images and of latents.
        factor: side of images / side of latents.
        scale: what makes latents of about unit variance.
    """

    def __init__(self, vae: str, sha256: str | None, in_channels: int, channels: int, factor: int, scale: float):
        self.place, self.sha256 = vae, sha256
        self.in_channels, self.channels, self.factor, self.scale = in_channels, channels, factor, scale
        self.device: torch.device | str = "cpu"

    @cached_property
    def vae(self) -> nn.Module:
        """On the encoder's device, in eval mode, without gradients."""
        return load_vae(local_folder(self.place), self.sha256).to(self.device)

    @property
    def identity(self) -> str:
        """SHA-256 of the autoencoder's weights, which are fetched where they have not been seen yet."""
        return self.sha256 or sha256_file(local_folder(self.place) / WEIGHTS)

    def architecture(self) -> nn.Module:
        """The autoencoder with random weights: what it is, not what it has learned. Nothing is fetched."""
        from diffusers import AutoencoderKL

        published = self.place in PUBLISHED and not Path(self.place).is_dir()
        return AutoencoderKL.from_config(SD_VAE_CONFIG if published else read_config(Path(self.place)))

    def to(self, device: torch.device | str) -> Latents:
        """In place."""
        self.device = device
        if "vae" in vars(self):
            self.vae.to(device)
        return self

    def shape(self, data_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of images (C, H, W), or of what is kept of them (2 Cz, h, w) -> (Cz, h, w).

        Raises InputError for images that the autoencoder does not take.
        """
        channels, height, width = data_shape
        if channels == 2 * self.channels:
            return (self.channels, height, width)
        if channels != self.in_channels or height % self.factor or width % self.factor:
            raise InputError(
                f"{self.place}: takes {self.in_channels}-channel images, sides multiples of {self.factor}; the data "
                f"have {channels}x{height}x{width} (encoder.vae, data.image_size)"
            )
        return (self.channels, height // self.factor, width // self.factor)

    @torch.no_grad()
    def moments(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] -> mean and log variance of their posteriors (N, 2 Cz, h, w), unscaled."""
        posterior = self.vae.encode(2 * x - 1).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], dim=1)

    def encode(self, x: Tensor, normal: Normal) -> Tensor:
        """Images, or the `moments` of images, -> a draw of each posterior, scaled, (N, Cz, h, w)."""
        mean, log_variance = (x if x.shape[1] == 2 * self.channels else self.moments(x)).chunk(2, dim=1)
        return self.scale * (mean + (log_variance / 2).exp() * normal(mean.shape))

    def decode(self, z: Tensor) -> Tensor:
        """z (N, Cz, h, w) -> images in [0, 1]."""
        return (self.vae.decode(z / self.scale).sample.clamp(-1, 1) + 1) / 2


ENCODERS = {"pixels": Pixels, "latents": Latents}


def encoder_meta(name: str, **kwargs) -> dict:
    """`{"name", "kwargs"}` of the encoder that a config names, for `meta.json`; an autoencoder with its facts."""
    return {"name": name, "kwargs": facts_of(**kwargs) if name == "latents" else kwargs}


def facts_of(vae: str) -> dict:
    """The arguments of `Latents` for a folder or a published name."""
    folder = Path(vae)
    if vae in PUBLISHED and not folder.is_dir():
        return {"vae": vae, "sha256": None, **PUBLISHED[vae]}
    config = read_config(folder)
    return {
        "vae": vae,
        "sha256": sha256_file(folder / WEIGHTS),
        "in_channels": config["in_channels"],
        "channels": config["latent_channels"],
        "factor": 2 ** (len(config["block_out_channels"]) - 1),
        "scale": config["scaling_factor"],
    }


def read_config(folder: Path) -> dict:
    """config.json of an AutoencoderKL. Raises InputError where the folder holds none, or one that is damaged."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: no {name}; wanted the folder of a diffusers AutoencoderKL (encoder.vae)")
        check_exported(folder / name)  # train_vae.py writes their hashes beside them
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        sizes = [config[key] for key in ("in_channels", "latent_channels", "scaling_factor")]
        blocks = config["block_out_channels"]
        fine = all(type(n) in (int, float) and 0 < n < 2**16 for n in (*sizes, *blocks)) and 0 < len(blocks) < 10
    except (ValueError, KeyError, TypeError):
        fine = False
    if not fine or config.get("_class_name") != "AutoencoderKL":
        raise InputError(f"{folder / CONFIG}: damaged, or not of an AutoencoderKL (encoder.vae)")
    return config


def local_folder(vae: str) -> Path:
    """The folder itself, or where the hub's library keeps the published one, fetched if it is not there yet."""
    if Path(vae).is_dir() or vae not in PUBLISHED:
        return Path(vae)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(vae, allow_patterns=[CONFIG, WEIGHTS]))
    except OSError as error:  # what the hub's library raises for no network, no such file, no answer, all of them
        what = f"could not be fetched ({type(error).__name__}); give its folder: --vae FOLDER (encoder.vae)"
        raise InputError(f"{vae}: {what}") from None


def load_vae(folder: Path, sha256: str | None) -> nn.Module:
    """The AutoencoderKL in `folder`, in eval mode, without gradients.

    Raises InputError where it is missing, damaged or another one than `sha256` says.
    """
    import safetensors.torch
    from diffusers import AutoencoderKL

    config = read_config(folder)
    if sha256 is not None and sha256_file(folder / WEIGHTS) != sha256:
        raise InputError(
            f"{folder / WEIGHTS}: another autoencoder than the one that the model was trained with (--vae)"
        )
    try:
        # random weights come first: read in the middle of a step, it must not shift what the step draws
        with Budget(MOST), torch.random.fork_rng(devices=[]):
            vae = AutoencoderKL.from_config(config)
        vae.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    except (safetensors.SafetensorError, RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"{folder}: damaged: {str(error).splitlines()[0]} (encoder.vae)") from None
    return vae.eval().requires_grad_(False)
