"""What a second process gains: pretraining steps of the digits U-Net, batch 128, one thread a process, over gloo.

  one   a process with the whole batch
  two   two processes with half of it each: the same global batch, draws and weights
Both run in turn, several times; a run's figure is its fastest step after the first two. Ratio: one_over_two (wanted:
1.3 or more, on two idle cores).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from functions.config.cli import Parser, run_main


def step_seconds(n_steps: int) -> float:
    """The fastest step of a run of so many, in this process among those that torchrun's variables tell of."""
    import torch

    from functions.config.load import load_config
    from functions.training.distributed import processes
    from runners.methods.pretrain import Pretrain
    from runners.setup import prepare

    torch.set_num_threads(1)
    with processes():
        cfg = load_config("digits_pretrain.yml", "pretrain", settings=["device=cpu"])
        runner, fastest = Pretrain(cfg, prepare(cfg, "pretrain", fresh=True)), float("inf")
        runner.plain.train()
        for k in range(n_steps):
            start = time.perf_counter()
            runner._one_step(k)
            if k >= 2:
                fastest = min(fastest, time.perf_counter() - start)
    return fastest


def launch(n: int, steps: int) -> float:
    """Seconds a step with n processes: the slowest process's fastest."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common = {**os.environ, **address, "WORLD_SIZE": str(n), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, __file__, "--steps", str(steps), "--inside"]
    started = [
        subprocess.Popen(words, env={**common, "RANK": str(r), "LOCAL_RANK": str(r)}, stdout=subprocess.PIPE, text=True)
        for r in range(n)
    ]
    lines = [process.communicate()[0].splitlines() for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"a process ended with {[process.returncode for process in started]}")
    return max(float(line[-1]) for line in lines)


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.inside:
        seconds = step_seconds(args.steps)
        # past the silence of all processes but the first
        print(seconds, file=sys.__stdout__)
        return
    best = {1: float("inf"), 2: float("inf")}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for _ in range(args.repeats):
            for n in best:
                best[n] = min(best[n], launch(n, args.steps))
    print(f"one {best[1]:.4f} s, two {best[2]:.4f} s a step")
    ratios = {"one_over_two": round(best[1] / best[2], 3)}
    print(json.dumps({"benchmark": "processes", "ratios": ratios, "device": "cpu", "threads": 1}))


if __name__ == "__main__":
    sys.exit(run_main(main))
