"""What saving a checkpoint costs in memory and time: a model of 200 million float32 weights (800 MB), in channels_last.

Everything in one process, after a small save as a warm-up, for three runs:
  raw   the weights alone, as a classifier's under plain SGD
  ema   and an EMA of them
  adam  and Adam's two moments of each
  in_memory  each file's bytes put together in memory, then written and hashed: as it was before files were streamed
  ours       `checkpoint.save`
Ratios: peak_over_file_raw, _ema, _adam (wanted: under 1.2), in_memory_over_file_... (for comparison), and
in_memory_over_ours_seconds of the last.

The peak is of the process's resident memory, beyond what it held before the save: the model, its EMA and the optimiser.
Files are as large as their tensors; the ratios are to the largest of the run's files.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import safetensors.torch
import torch
from torch import Tensor

from benchmarks.measure import peak_host_bytes, report
from functions.config.cli import Parser, run_main
from functions.files import sha256_bytes, write_atomic
from functions.storage import checkpoint

TENSORS = 50
Weights = dict[str, dict[str, Tensor]]


def filled(n: int) -> dict[str, Tensor]:
    """About n weights of equal 3 x 3 convolutions, written to so that they take real memory."""
    width = round((n / TENSORS / 9) ** 0.5)
    weights = (torch.full((width, 3, 3, width), float(i)).permute(0, 3, 1, 2) for i in range(TENSORS))
    return {f"layer.{i}.weight": w for i, w in enumerate(weights)}


def ours(folder: Path, weights: Weights, state: dict) -> None:
    checkpoint.save(folder, 1, weights, state, {}, keep=1)


def in_memory(folder: Path, weights: Weights, state: dict) -> None:
    for kind, tensors in weights.items():
        data = safetensors.torch.save({name: t.contiguous() for name, t in tensors.items()})
        write_atomic(folder / checkpoint.FILES[kind], data)
        sha256_bytes(data)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(folder / checkpoint.STATE, buffer.getvalue())
    sha256_bytes(buffer.getvalue())


def measured(save: Callable, weights: Weights, state: dict) -> tuple[float, float]:
    """(peak / largest file, seconds)"""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        peak = peak_host_bytes(lambda: save(Path(folder), weights, state))
        seconds = time.perf_counter() - start
        return peak / max(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file()), seconds


def main(argv: list[str] | None = None) -> None:
    p = Parser(description=__doc__)
    p.add_argument("--n", type=int, default=200_000_000, help="number of weights")
    args = p.parse_args(argv)
    small = {"raw": {"w": torch.zeros(10)}}, {"optimizers": []}
    measured(ours, *small)
    measured(in_memory, *small)
    ratios, weights, state = {}, {}, {"optimizers": []}
    for name in ("raw", "ema", "adam"):
        if name == "adam":
            state = {"optimizers": [{"state": {k: filled(args.n) for k in ("exp_avg", "exp_avg_sq")}}]}
        else:
            weights[name] = filled(args.n)
        (ratio, seconds), (ratio_before, seconds_before) = (measured(s, weights, state) for s in (ours, in_memory))
        print(f"{name:<4}  ours {ratio:.4f} x {seconds:.2f} s   in_memory {ratio_before:.3f} x {seconds_before:.2f} s")
        ratios |= {f"peak_over_file_{name}": round(ratio, 4), f"in_memory_over_file_{name}": round(ratio_before, 3)}
    ratios["in_memory_over_ours_seconds"] = round(seconds_before / seconds, 3)
    report("checkpoint", ratios, torch.device("cpu"))


if __name__ == "__main__":
    sys.exit(run_main(main))
