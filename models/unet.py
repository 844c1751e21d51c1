"""The class-conditional DDPM U-Net, with the parameter names and the numbers of the published implementation.

Source: Ho et al. 2020 (arXiv 2006.11239), appendix B, with a label embedding beside the time embedding as in
Selective Amnesia and SFR-on. Checked against numbers of the published code in tests/golden/ddpm_unet_small.json.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from functions.errors import InputError


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """[sin(t f_j), cos(t f_j)], f_j = 10000^(-j / (dim/2 - 1)). t (N,) -> (N, dim); in float32, as published."""
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * -(math.log(10000) / (half - 1)))
    angles = t.float()[:, None] * frequencies[None]
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, dim % 2))


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups, as published, from 128 channels on; fewer below, so that a group keeps at least four channels.

    With one channel per group the norm would subtract every embedding that is added before it, and the model could
    not be conditioned there at all.
    """
    return nn.GroupNorm(math.gcd(32, channels, max(1, channels // 4)), channels, eps=1e-6)


class Embedding(nn.Module):
    """Two dense layers with a SiLU between them: (N, ch) -> (N, 4 ch). Used for the timestep and for the label."""

    def __init__(self, ch: int):
        super().__init__()
        self.dense = nn.ModuleList([nn.Linear(ch, 4 * ch), nn.Linear(4 * ch, 4 * ch)])

    def forward(self, emb: Tensor) -> Tensor:
        return self.dense[1](F.silu(self.dense[0](emb)))


class Downsample(nn.Module):
    """Halve the resolution by a strided convolution (padded right and below, as published) or by average pooling."""

    def __init__(self, channels: int, with_conv: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2) if self.conv is None else self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the resolution by nearest neighbours, then (optionally) a convolution."""

    def __init__(self, channels: int, with_conv: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return x if self.conv is None else self.conv(x)


class ResnetBlock(nn.Module):
    """norm, SiLU, conv; add the projected embedding; norm, SiLU, dropout, conv; add the shortcut."""

    def __init__(self, in_channels: int, out_channels: int, emb_channels: int, dropout: float):
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.temb_cemb_proj = nn.Linear(emb_channels, out_channels)
        self.norm2 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.temb_cemb_proj(emb)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    """Single-head self-attention over the pixels, added to its input."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (f(h).flatten(2).transpose(1, 2)[:, None] for f in (self.q, self.k, self.v))  # (N, 1, HW, C)
        h = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(h)


class Level(nn.Module):
    """One resolution of either path: `block`, `attn` (empty without attention) and, if not the last, a resampler."""

    def __init__(self, blocks: Sequence[nn.Module], attns: Sequence[nn.Module]):
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.attn = nn.ModuleList(attns)

    def apply_block(self, i: int, h: Tensor, emb: Tensor) -> Tensor:
        h = self.block[i](h, emb)
        return self.attn[i](h) if len(self.attn) else h


class UNet(nn.Module):
    """eps-hat(x_t, t, c): noise prediction for labels 0..n_classes-1, or unconditional for label `n_classes`.

    Args:
        ch, ch_mult: channels at full resolution and their multiples on the way down.
        num_res_blocks: residual blocks per level down (one more on the way up).
        attn_resolutions: resolutions (in pixels) whose blocks are followed by attention.
        image_size, in_channels, out_ch, n_classes, dropout: as they say.
        resamp_with_conv: learned resampling (published) or plain pooling and nearest neighbours.

    Raises InputError where the image size cannot be halved `len(ch_mult) - 1` times.
    """

    # May be replaced by one copy per row of the batch without changing the result (per-example gradients use it).
    broadcast_parameters = ("null_classes_emb",)
    # What `training.checkpointing` computes again in the backward pass instead of keeping its activations.
    blocks_to_recompute = (ResnetBlock, AttnBlock)

    def __init__(
        self,
        ch: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        attn_resolutions: Sequence[int],
        image_size: int,
        in_channels: int,
        out_ch: int,
        n_classes: int,
        dropout: float = 0.1,
        resamp_with_conv: bool = True,
    ):
        super().__init__()
        if image_size % 2 ** (len(ch_mult) - 1):
            raise InputError(f"data.image_size: {image_size} cannot be halved {len(ch_mult) - 1} times (ch_mult)")
        self.ch, self.n_classes = ch, n_classes
        # the time and label embeddings, 4 ch each, side by side
        emb, levels = 8 * ch, len(ch_mult)
        widths = [ch * m for m in ch_mult]

        self.null_classes_emb = nn.Parameter(torch.randn(ch))
        self.temb = Embedding(ch)
        self.classes_emb = nn.Embedding(n_classes, ch)
        self.cemb = Embedding(ch)
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)

        def level(sizes: list[tuple[int, int]], resolution: int) -> Level:
            attns = [AttnBlock(out) for _, out in sizes] if resolution in attn_resolutions else []
            return Level([ResnetBlock(i, out, emb, dropout) for i, out in sizes], attns)

        skips, width = [ch], ch  # channels of every tensor handed across
        self.down = nn.ModuleList()
        for i, out in enumerate(widths):
            sizes = [(width if j == 0 else out, out) for j in range(num_res_blocks)]
            self.down.append(level(sizes, image_size >> i))
            skips += [out] * num_res_blocks
            if i < levels - 1:
                self.down[i].downsample = Downsample(out, resamp_with_conv)
                skips.append(out)
            width = out

        self.mid = nn.Module()
        self.mid.block_1 = ResnetBlock(width, width, emb, dropout)
        self.mid.attn_1 = AttnBlock(width)
        self.mid.block_2 = ResnetBlock(width, width, emb, dropout)

        up = []
        for i, out in reversed(list(enumerate(widths))):
            sizes = []
            for _ in range(num_res_blocks + 1):
                sizes.append((width + skips.pop(), out))
                width = out
            up.append(level(sizes, image_size >> i))
            if i > 0:
                up[-1].upsample = Upsample(out, resamp_with_conv)
        self.up = nn.ModuleList(reversed(up))

        self.norm_out = group_norm(width)
        self.conv_out = nn.Conv2d(width, out_ch, 3, padding=1)

    def embed(self, t: Tensor, c: Tensor) -> Tensor:
        """SiLU of the time and label embeddings side by side, (N, 8 ch); label `n_classes` is the null condition."""
        temb = self.temb(timestep_embedding(t, self.ch).to(self.null_classes_emb.dtype))
        null = (c == self.n_classes)[:, None]
        emb_c = torch.where(null, self.null_classes_emb, self.classes_emb(c.clamp(max=self.n_classes - 1)))
        return F.silu(torch.cat([temb, self.cemb(emb_c)], dim=1))

    def forward(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """x (N, in_channels, S, S), t (N,) in 0..T-1, c (N,) in 0..n_classes -> (N, out_ch, S, S)."""
        emb = self.embed(t, c)
        h = self.conv_in(x)
        skips = [h]
        for level in self.down:
            for i in range(len(level.block)):
                h = level.apply_block(i, h, emb)
                skips.append(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
                skips.append(h)
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h, emb)), emb)
        for level in reversed(self.up):
            for i in range(len(level.block)):
                h = level.apply_block(i, torch.cat([h, skips.pop()], dim=1), emb)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        return self.conv_out(F.silu(self.norm_out(h)))
