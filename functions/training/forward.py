"""How training steps call a model: compiled, in another precision, channels last, in parts, activations recomputed.

Weights and names stay the plain model's.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from functions.config.schema import Training
from functions.errors import InputError
from functions.training.batchnorm import batch_norms
from functions.training.distributed import parallel
from functions.training.shared_batch import share_batch

recomputed = functools.partial(checkpoint, use_reentrant=False)


class Forward(nn.Module):
    """`model(x, ...)` under autocast, in the memory format asked for and in `parts`; the prediction is float32.

    Of several parts only one has its activations in memory at a time: each is computed again in the backward pass.
    """

    def __init__(self, model: nn.Module, training: Training) -> None:
        super().__init__()
        self.model, self.bf16, self.parts = model, training.precision == "bf16", training.accumulate
        self.format = torch.channels_last if training.channels_last else torch.preserve_format

    def forward(self, x: Tensor, *args: Tensor) -> Tensor:
        if self.parts == 1 or not torch.is_grad_enabled():
            return self._call(x, *args)
        parts = zip(*(a.tensor_split(self.parts) for a in (x, *args)))
        return torch.cat([recomputed(self._call, *part) for part in parts if len(part[0])])

    def _call(self, x: Tensor, *args: Tensor) -> Tensor:
        if self.format is torch.channels_last:
            x = x.contiguous(memory_format=self.format)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model(x, *args).float()


def counted(model: nn.Module) -> nn.Module:
    """The module whose calls are forward passes, one a batch: what is called, or the plain model inside a `Forward`.

    Of a batch in parts the plain model sees every part twice.
    """
    return model.model if isinstance(model, Forward) and model.parts == 1 else model


def training_forward(model: nn.Module, device: torch.device, training: Training | None) -> nn.Module:
    """What a runner calls in place of `model`. With `channels_last` the weights change their format, in place.

    Raises InputError where the model cannot do what `training` asks: `checkpointing` and `accumulate` compute
    activations twice, which would count every batch twice in BatchNorm's statistics.
    """
    if training is None:
        return model
    if training.checkpointing or training.accumulate > 1:
        _refuse_batch_norm(model, "checkpointing" if training.checkpointing else "accumulate")
    if training.checkpointing:
        checkpoint_blocks(model)
    share_batch(model, training.accumulate)
    if training.channels_last:
        model.to(memory_format=torch.channels_last)
    called = torch.compile(model) if training.compile else model
    if training.precision == "bf16" or training.channels_last or training.accumulate > 1:
        called = Forward(called, training)
    return parallel(called, device, [key for key in ("compile", "checkpointing") if getattr(training, key)])


def set_float32(precision: str) -> None:
    """Whether CUDA may round the factors of float32 products to 10 bits (`tf32`); nothing changes on a CPU."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def checkpoint_blocks(model: nn.Module) -> None:
    """Blocks forget what is inside them and compute it again in the backward pass: those that the model names.

    A model of ours names their classes in `blocks`; timm's have a switch. Raises InputError for others.
    """
    if hasattr(model, "blocks_to_recompute"):
        for block in model.modules():
            # a frozen copy of a model that recomputes has this already
            if isinstance(block, model.blocks_to_recompute) and "forward" not in vars(block):
                block.forward = functools.partial(recomputed, block.forward)
    elif hasattr(model, "set_grad_checkpointing"):
        model.set_grad_checkpointing(True)
    else:
        raise InputError(f"training.checkpointing: {type(model).__name__} does not say what its blocks are")


def _refuse_batch_norm(model: nn.Module, key: str) -> None:
    if batch_norms(model):
        raise InputError(
            f"training.{key}: computes activations twice, and this model's BatchNorm would count each batch twice; "
            "wanted a model without BatchNorm"
        )
