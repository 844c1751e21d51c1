"""What `--dry_run` says of a run after its config."""

from __future__ import annotations

import torch

from runners.snapshots import parent


def of_run(run) -> str:
    """Steps, weights, memory and files of a Runner or a ClosedForm."""
    cfg, params, mask = run.cfg, run.params, run.mask
    weights, kept = sum(p.numel() for p in params), sum(int(m.sum()) for m in (mask or {}).values())
    masked = f", {kept:,} of them in the mask" if mask else ""
    states = sum(1 if isinstance(o, torch.optim.SGD) else 2 for o in run.optimizers)
    copies = 2 + states + (run.ema is not None) + run.copies  # 2: weights and gradients
    size = copies * sum(p.numel() * p.element_size() for p in params) + (weights if mask else 0)
    lines = [
        f"mode {run.mode} on {run.device}: {cfg.training.n_iters} steps of batch {cfg.training.batch_size}",
        f"trainable weights: {weights:,}{masked}",
        f"memory for weights, gradients, optimiser, EMA and mask: {size / 2**20:.1f} MiB (activations not counted)",
        f"would write: {cfg.save_dir or parent(run) / '<yyyy_mm_dd_hhmmss>'}/{{logs,ckpts}}",
    ]
    return "\n".join(lines)
