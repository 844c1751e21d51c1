"""A small AutoencoderKL of diffusers, from plain arguments: images in [-1, 1] <-> latents."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn

from functions.errors import InputError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

QUIET = -6.0  # log variance of the posterior at the start: at 0 the noise hides the image from the decoder


def vae(channels: int, size: int, width: int, halvings: int, latent_channels: int) -> AutoencoderKL:
    """(N, channels, size, size) <-> (N, latent_channels, size / 2^halvings, size / 2^halvings).

    Lean: one width, no residual block on the way down, one at each resolution on the way up, no attention. It starts as
    a chain of convolutions with next to no noise (residual branches at zero, as in arXiv 1706.02677, 5.1): with the
    library's own start the first epoch goes by before it tells one colour from another. Raises InputError where the
    side cannot be halved that often.
    """
    if size % 2**halvings:
        raise InputError(f"--halvings: got {halvings}; wanted what images of {size} pixels allow: each halves the side")
    from diffusers import AutoencoderKL  # seconds, and --help needs none of it

    levels = halvings + 1
    model = AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        sample_size=size,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(width,) * levels,
        layers_per_block=0,
        latent_channels=latent_channels,
        norm_num_groups=math.gcd(4, width),
        mid_block_add_attention=False,
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and name.endswith(".conv2"):
            nn.init.zeros_(module.weight)
        elif isinstance(module, nn.Conv2d) and ("sampler" in name or name.endswith(".conv_in")):
            nn.init.orthogonal_(module.weight)
    nn.init.constant_(model.quant_conv.bias[latent_channels:].data, QUIET)
    return model
