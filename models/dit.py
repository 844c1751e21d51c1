"""The diffusion transformer DiT (arXiv 2212.09748, adaLN-Zero), with the parameter names of the published checkpoints.

Checked against numbers of the published code in tests/golden/dit_tiny.json.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from functions.errors import InputError

FREQUENCIES = 256  # size of the sines and cosines of t that the timestep's embedding begins with


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """[cos(t f_j), sin(t f_j)], f_j = 10000^(-j / (dim/2)). t (N,) -> (N, dim); in float32, as published."""
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * (-math.log(10000) / half))
    angles = t.float()[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def position_embedding(dim: int, side: int) -> Tensor:
    """(side^2, dim) of patches row by row: half of it says the column, half the row, each by dim/4 sines and cosines.

    float64 inside; the frequencies are 10000^(-j / (dim/4)).
    """
    frequencies = 10000 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    one = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, dim/2)
    column, row = one.repeat(side, 1), one.repeat_interleave(side, dim=0)
    return torch.cat([column, row], dim=1).float()


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (N, L, D) (1 + scale) + shift, both (N, D)."""
    return x * (1 + scale[:, None]) + shift[:, None]


class PatchEmbedding(nn.Module):
    """(N, C, H, W) -> (N, L, D): one token for each patch, row by row."""

    def __init__(self, patch_size: int, in_channels: int, hidden_size: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, hidden_size, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class TimestepEmbedding(nn.Module):
    """t (N,) -> (N, D)"""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(timestep_embedding(t, FREQUENCIES).to(self.mlp[0].weight.dtype))


class LabelEmbedding(nn.Module):
    """c (N,) in 0..n_classes -> (N, D); the last row is the null label."""

    def __init__(self, n_classes: int, hidden_size: int):
        super().__init__()
        self.embedding_table = nn.Embedding(n_classes + 1, hidden_size)

    def forward(self, c: Tensor) -> Tensor:
        return self.embedding_table(c)


class Attention(nn.Module):
    """Multi-head self-attention, fused."""

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        heads = self.qkv(x).view(n, length, 3, self.num_heads, width // self.num_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (N, heads, L, D / heads)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width))


class MLP(nn.Module):
    def __init__(self, hidden_size: int, mlp_ratio: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, mlp_ratio * hidden_size)
        self.fc2 = nn.Linear(mlp_ratio * hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def norm(hidden_size: int) -> nn.LayerNorm:
    """Without weights: adaLN's shift and scale are its weights."""
    return nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)


class Block(nn.Module):
    """x += gate attn(modulate(norm(x))), then the same with an MLP; shift, scale and gate come from the embedding."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: int):
        super().__init__()
        self.norm1, self.attn = norm(hidden_size), Attention(hidden_size, num_heads)
        self.norm2, self.mlp = norm(hidden_size), MLP(hidden_size, mlp_ratio)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x (N, L, D), emb (N, D)"""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(emb).chunk(6, dim=1)
        x = x + gate_a[:, None] * self.attn(modulate(self.norm1(x), shift_a, scale_a))
        return x + gate_m[:, None] * self.mlp(modulate(self.norm2(x), shift_m, scale_m))


class FinalLayer(nn.Module):
    """(N, L, D) -> (N, L, patch_size^2 out_channels)"""

    def __init__(self, hidden_size: int, numbers: int):
        super().__init__()
        self.norm_final = norm(hidden_size)
        self.linear = nn.Linear(hidden_size, numbers)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(emb).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class DiT(nn.Module):
    """eps-hat, and with `learned_variance` v after it, of latents x_t (N, C, H, H) at timesteps t (N,), labels c (N,).

    Args:
        image_size: H, of the latents; a multiple of `patch_size`.
        n_classes: labels are 0..n_classes - 1; `n_classes` itself is the null label. Which are dropped the task says.
    """

    blocks_to_recompute = (Block,)

    def __init__(
        self,
        patch_size: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        in_channels: int,
        image_size: int,
        n_classes: int,
        learned_variance: bool = True,
        mlp_ratio: int = 4,
    ):
        super().__init__()
        if image_size % patch_size:
            raise InputError(f"model.patch_size: got {patch_size}; wanted a divisor of the latents' side {image_size}")
        if hidden_size % num_heads or hidden_size % 4:
            raise InputError(
                f"model.hidden_size: got {hidden_size}; wanted a multiple of 4 and of num_heads {num_heads}"
            )
        self.patch_size, self.n_classes = patch_size, n_classes
        self.out_channels = in_channels * (1 + learned_variance)
        side = image_size // patch_size
        self.x_embedder = PatchEmbedding(patch_size, in_channels, hidden_size)
        self.t_embedder = TimestepEmbedding(hidden_size)
        self.y_embedder = LabelEmbedding(n_classes, hidden_size)
        # published as a parameter that is never trained
        self.pos_embed = nn.Parameter(position_embedding(hidden_size, side)[None], requires_grad=False)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, mlp_ratio) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * self.out_channels)
        self._initialise()

    def forward(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        emb = self.t_embedder(t) + self.y_embedder(c)
        tokens = self.x_embedder(x) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens, emb)
        return self._unpatched(self.final_layer(tokens, emb), x.shape)

    def _unpatched(self, tokens: Tensor, shape: torch.Size) -> Tensor:
        """(N, L, p p C') -> (N, C', H, W)"""
        (n, _, height, width), p = shape, self.patch_size
        patches = tokens.view(n, height // p, width // p, p, p, self.out_channels)
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(n, self.out_channels, height, width)

    def _initialise(self) -> None:
        """As published: every block begins as the identity (adaLN-Zero), and the output as zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        proj = self.x_embedder.proj
        nn.init.xavier_uniform_(proj.weight.view(len(proj.weight), -1))  # as a linear layer of the patch
        nn.init.zeros_(proj.bias)
        for weight in (self.y_embedder.embedding_table.weight, *(self.t_embedder.mlp[i].weight for i in (0, 2))):
            nn.init.normal_(weight, std=0.02)
        for layer in (*(block.adaLN_modulation[1] for block in self.blocks), self.final_layer.adaLN_modulation[1]):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.final_layer.linear.weight)
