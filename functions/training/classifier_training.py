"""Training a judging classifier: cross entropy, AdamW, warm-up and cosine decay. Data and model come as arguments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from functions.errors import InputError
from functions.progress import Progress
from functions.training.finite import Latch
from functions.training.schedules import cosine_decay


def fit(
    model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], n_steps: int, lr: float, weight_decay: float = 0.01
) -> None:
    """`n_steps` of cross entropy on batches (x in [0,1], c). bfloat16 on CUDA; a bar, or ten plain lines.

    Raises InputError where the loss or a weight is not finite, at the next of those lines.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    warmup = max(1, n_steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min(1.0, (k + 1) / warmup) * cosine_decay(1.0, k, n_steps)
    )
    model.train()
    latch = Latch(device)
    with Progress("training the classifier", n_steps, "steps") as progress:
        for step in range(1, n_steps + 1):
            x, c = next(batches)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = F.cross_entropy(model(x).float(), c)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.update()
            latch.watch(step, [loss.detach()])
            if step % max(1, n_steps // 10) == 0:
                _check(latch, step, model, lr)
                _say(progress, loss.item(), schedule.get_last_lr()[0])
    _check(latch, n_steps, model, lr)
    model.eval()


def _check(latch: Latch, step: int, model: nn.Module, lr: float) -> None:
    if complaint := latch.complaint(step, model):
        raise InputError(f"{complaint}: nothing is saved (a smaller --lr than {lr:g} may help)")


def _say(progress: Progress, loss: float, lr: float) -> None:
    text = f"loss {loss:.4f}  lr {lr:.3g}"
    progress.show(text)
    if progress.plain:
        print(f"step {progress.done}/{progress.total} {text}  {progress.left()}", flush=True)
        progress.spoken()


def count_right(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[int, int]:
    """(right, n) over batches (x, c), in eval mode."""
    model.eval()
    right, n = [], 0
    with torch.inference_mode():
        for x, c in batches:
            right.append((model(x).argmax(1) == c).sum())
            n += len(c)
    return int(torch.stack(right).sum()), n
