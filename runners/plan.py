"""What `--dry_run` says of a run after its config."""

from __future__ import annotations

from collections.abc import Iterator

from runners.memory import changes, of_step
from runners.snapshots import parent


def of_run(run) -> str:
    """Steps, weights, memory and files of a Runner or a ClosedForm."""
    cfg, params, mask = run.cfg, run.params, run.mask
    weights, kept = sum(p.numel() for p in params), sum(int(m.sum()) for m in (mask or {}).values())
    masked = f", {kept:,} of them in the mask" if mask else ""
    lines = [
        f"mode {run.mode} on {run.device}: {cfg.training.n_iters} steps of batch {cfg.training.batch_size}",
        f"trainable weights: {weights:,}{masked}",
        *(_memory(run) if run.optimizers else ()),
        f"would write: {cfg.save_dir or parent(run) / '<yyyy_mm_dd_hhmmss>'}/{{logs,ckpts}}",
    ]
    return "\n".join(lines)


def _memory(run) -> Iterator[str]:
    """A table: the parts, the peak of a step, and how other settings would move that."""
    found = of_step(type(run), run.cfg, run.materials)
    yield "memory on the device, predicted (tensors; kernels and allocators take some more):"
    yield from (_row(name, n) for name, n in found.parts.items() if n)
    yield _row("most at once (gradients come as activations go)", found.peak)
    yield "what other settings would change of that:"
    yield from (_row(name, n, "+") for name, n in changes(run, found))


def _row(name: str, n: int, sign: str = "") -> str:
    size = f"{n / 2**30:{sign}.2f} GiB" if abs(n) >= 2**30 / 10 else f"{n / 2**20:{sign}.1f} MiB"
    return f"  {name:<48} {size:>12}"
