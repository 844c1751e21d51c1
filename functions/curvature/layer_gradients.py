"""Per-example gradients of one layer from what it saw: its input x and the gradient g of the loss at its output.

A rule forms d l_n / d theta for the examples of one chunk, (c, *theta.shape), always in fresh memory. Every x and g it
gets is (c, m, ...): m rows of each of c examples (2 in a batched guided pass, several where windows or tokens were
flattened into the batch), which are summed over with the tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from functions.errors import InputError

# Floats of one chunk, gradients and patches together. On a CPU they stay in the cache from the matrix product to the
# sum of squares (digits U-Net, one and two threads: 2^20 and 2^21 are alike, 2^18 loses a quarter of the whole pass to
# dispatch, 2^22 a fifth to memory); elsewhere a few large kernels win over many small ones.
CHUNK = {"cpu": 1 << 20}
CHUNK_ELSEWHERE = 1 << 24


@dataclass
class Call:
    """One call of a layer in a forward pass of `rows` rows, row r of which belongs to example r mod N."""

    layer: nn.Module
    x: Tensor  # (R, ...) with R a multiple of `rows`: a row's windows or tokens may stand in the batch dimension
    rows: int
    uses: int  # parameters that still need x and g
    g: Tensor | None = None  # the shape of the output; None until the backward pass has been here


def linear_weight(layer: nn.Linear, x: Tensor, g: Tensor) -> Tensor:
    """sum_t g_t x_t^T. x (c, m, ..., i), g (c, m, ..., o) -> (c, o, i)."""
    return g.flatten(1, -2).transpose(1, 2) @ x.flatten(1, -2)


def conv_weight(layer: nn.Conv2d, x: Tensor, g: Tensor) -> Tensor:
    """sum over places p of g_p patch_p^T. x (c, m, i, H, W), g (c, m, o, h, w) -> (c, o, i / groups, kh, kw)."""
    c, o = len(g), layer.out_channels
    g = g.movedim(2, 1).flatten(2)  # (c, o, m h w)
    unpadded = layer.padding in ((0, 0), "valid", "same")
    if layer.kernel_size == (1, 1) == layer.stride and layer.groups == 1 and unpadded:
        return (g @ x.movedim(2, 1).flatten(2).transpose(1, 2)).view(c, *layer.weight.shape)
    patches = _patches(layer, x)  # (c groups, m h w, kh kw i / groups)
    product = g.reshape(c * layer.groups, o // layer.groups, -1) @ patches
    return product.view(c, o, *layer.kernel_size, -1).permute(0, 1, 4, 2, 3)


def _patches(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """What each output place sees, (c groups, m h w, kh kw i / groups).

    Copied out of a channels-last image, where a window's row is one run of kw i floats: 3-5x faster than `F.unfold`.
    """
    c, m = x.shape[:2]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x.flatten(0, 1), layer._reversed_padding_repeated_twice, mode).permute(0, 2, 3, 1).contiguous()
    size, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    h, w = ((x.shape[1 + a] - dilation[a] * (size[a] - 1) - 1) // stride[a] + 1 for a in (0, 1))
    row, sh, sw, _ = x.stride()
    strides = (row, sh * stride[0], sw * stride[1], sh * dilation[0], sw * dilation[1], 1)
    windows = x.as_strided((c * m, h, w, *size, x.shape[3]), strides)
    groups = windows.unflatten(0, (c, m)).unflatten(-1, (layer.groups, -1)).movedim(-2, 1)
    return groups.reshape(c * layer.groups, m * h * w, -1)


def embedding_weight(layer: nn.Embedding, x: Tensor, g: Tensor) -> Tensor:
    """Gradients of one row summed per example. x (c, m, ...) indices, g (c, m, ..., d) -> (c, n_embeddings, d)."""
    c, d = len(x), layer.embedding_dim
    g = g.reshape(c, -1, d)
    if layer.padding_idx is not None:
        g = g.masked_fill((x.reshape(c, -1, 1) == layer.padding_idx), 0)
    index = x.reshape(c, -1, 1).expand_as(g)
    return g.new_zeros(c, layer.num_embeddings, d).scatter_add_(1, index, g)


def group_norm_gain(layer: nn.GroupNorm, x: Tensor, g: Tensor) -> Tensor:
    """sum of g x-hat over places. x, g (c, m, C, ...) -> (c, C)."""
    x_hat = F.group_norm(x.flatten(0, 1), layer.num_groups, eps=layer.eps)
    return channel_sum(layer, x, g * x_hat.view_as(x))


def batch_norm_gain(layer: nn.BatchNorm2d, x: Tensor, g: Tensor) -> Tensor:
    """The same with the running moments, which eval mode uses."""
    x_hat = F.batch_norm(x.flatten(0, 1), layer.running_mean.to(x), layer.running_var.to(x), eps=layer.eps)
    return channel_sum(layer, x, g * x_hat.view_as(x))


def layer_norm_gain(layer: nn.LayerNorm, x: Tensor, g: Tensor) -> Tensor:
    """sum of g x-hat over tokens. x, g (c, m, ..., *normalized_shape) -> (c, *normalized_shape)."""
    return layer_norm_bias(layer, x, g * F.layer_norm(x, layer.normalized_shape, eps=layer.eps))


def layer_norm_bias(layer: nn.LayerNorm, x: Tensor, g: Tensor) -> Tensor:
    """sum of g over tokens. g (c, m, ..., *normalized_shape) -> (c, *normalized_shape)."""
    return g.flatten(1, -1 - len(layer.normalized_shape)).sum(1)


def linear_bias(layer: nn.Linear, x: Tensor, g: Tensor) -> Tensor:
    """sum of g over tokens. g (c, m, ..., o) -> (c, o)."""
    return g.flatten(1, -2).sum(1)


def channel_sum(layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
    """A bias per channel: sum of g over places. g (c, m, C, ...) -> (c, C)."""
    return g.transpose(1, 2).flatten(2).sum(2)


Rule = Callable[[nn.Module, Tensor, Tensor], Tensor]
_BATCH_NORM = {"weight": batch_norm_gain, "bias": channel_sum}
RULES: dict[type[nn.Module], dict[str, Rule]] = {
    nn.Linear: {"weight": linear_weight, "bias": linear_bias},
    nn.Conv2d: {"weight": conv_weight, "bias": channel_sum},
    nn.Embedding: {"weight": embedding_weight},
    nn.GroupNorm: {"weight": group_norm_gain, "bias": channel_sum},
    nn.LayerNorm: {"weight": layer_norm_gain, "bias": layer_norm_bias},
    nn.BatchNorm1d: _BATCH_NORM,
    nn.BatchNorm2d: _BATCH_NORM,
}


def rules_of(layer: nn.Module) -> dict[str, Rule]:
    """Rules by parameter name; none for a subclass that computes something else in a `forward` of its own."""
    for cls in type(layer).__mro__:
        if cls in RULES:
            return RULES[cls] if type(layer).forward is cls.forward else {}
    return {}


def refusal(layer: nn.Module) -> str | None:
    """Why no per-example gradient exists in this layer although a rule does, or None."""
    if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.training or layer.running_mean is None):
        return "normalises with the moments of the batch, so an example has no loss of its own"
    if isinstance(layer, nn.Embedding) and (layer.max_norm is not None or layer.scale_grad_by_freq):
        return "has max_norm or scale_grad_by_freq, which depend on the batch"
    return None


def sum_of_squares(calls: Sequence[Call], n: int, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """sum_n (sum over calls of d l_n / d theta)^2 for the parameter `name` of the calls' layers, (*shape).

    Never more than a chunk of per-example gradients exists at once. `shape` and `dtype` are those of the result.
    """
    x, g = calls[0].x, calls[0].g
    if len(calls) == 1 and x.dim() == 2 and len(x) == n and rules_of(calls[0].layer)[name] is linear_weight:
        return g.to(dtype).square().T @ x.to(dtype).square()  # one token: (g_a x_b)^2 = g_a^2 x_b^2
    total, chunk = None, _chunk(calls, n, shape)
    for start in range(0, n, chunk):
        gradient = _gradient(calls, n, name, slice(start, start + chunk), dtype)
        # As it lies in memory: to sum a permuted tensor over its first dimension is 7x slower.
        flat = gradient.as_strided((len(gradient), shape.numel()), (shape.numel(), 1))
        squares = flat.square_().sum(0)
        total = squares if total is None else total.add_(squares)
    return total.as_strided(shape, gradient.stride()[1:])


def _gradient(calls: Sequence[Call], n: int, name: str, chunk: slice, dtype: torch.dtype) -> Tensor:
    """d l_n / d theta of the examples in the chunk, (c, *shape): what all calls contribute, summed before squaring."""
    gradient = None
    for call in calls:
        x, g = (_examples(v, n, call.rows, chunk) for v in (call.x, call.g))
        x = x.to(dtype) if x.is_floating_point() else x
        part = rules_of(call.layer)[name](call.layer, x, g.to(dtype))
        gradient = part if gradient is None else gradient.add_(part)
    return gradient


def _examples(v: Tensor, n: int, rows: int, chunk: slice) -> Tensor:
    """(R, ...) -> (c, m, ...): the rows of each example of the chunk. Row r of the model's pass is example r mod n."""
    if rows % n or len(v) % rows:
        raise InputError(
            f"{len(v)} rows in a layer, {rows} in the model and {n} losses: "
            "cannot tell which row belongs to which example"
        )
    return v.unflatten(0, (rows // n, n, len(v) // rows))[:, chunk].transpose(0, 1).flatten(1, 2)


def _chunk(calls: Sequence[Call], n: int, shape: torch.Size) -> int:
    """Examples at once, so that gradients and unfolded inputs fit the budget of the device; at least one."""
    inputs = sum(call.x.numel() for call in calls) // n * math.prod(shape[2:])  # kh kw patches per place
    budget = CHUNK.get(calls[0].x.device.type, CHUNK_ELSEWHERE)
    return max(1, budget // (math.prod(shape) + inputs))
