"""What an SFR-on step costs, beside its two forward+backward passes and two optimiser steps written out by hand.

The digits U-Net at batch 128 (configs/ddpm/digits_sfron.yml), everything in one process, in turn, the fastest of each:
  by_hand   two passes (loss, backward) on batches that lie ready, two Adam steps: no data, draws, mask, clip or checks
  ours      `SFRon`'s whole step in the loop: data stream, draws, adaptive weights, mask, clip, NaN latch
Ratio: ours_over_by_hand (wanted: 1.15 or less).
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import generate_fisher_mask
import train
from functions.config import load as config
from functions.config.cli import Parser, run_main
from runners.methods.sfron import SFRon
from runners.setup import prepare


def make_runner(folder: Path, device: str) -> SFRon:
    """An SFR-on runner with a real mask, from a digits U-Net of one training step."""
    common = ["--set", f"results={folder}", "--set", f"device={device}"]
    run = train.main(["--config", "digits_pretrain.yml", "--mode", "pretrain", "--set", "training.n_iters=1", *common])
    origin = ["--ckpt_folder", str(run), "--label_to_forget", "0"]
    fishers = train.main(
        ["--config", "digits_fisher.yml", "--mode", "generate_fisher", "--set", "fisher.draws=1", *origin, *common]
    )
    (mask,) = generate_fisher_mask.main(["--ckpt_folder", str(fishers), "--threshold", "1.0"])
    flags = {"ckpt_folder": str(run), "label_to_forget": 0, "mask_path": str(mask)}
    cfg = config.load_config("digits_sfron.yml", "sfron", settings=[f"device={device}"], flags=flags)
    runner = SFRon(cfg, prepare(cfg, "sfron", fresh=False))
    runner.plain.train()
    return runner


def by_hand(runner: SFRon):
    """A function that does the two passes and two steps on batches that were drawn before."""
    draws = [runner.task.draw(*next(stream)) for stream in (runner.forget, runner.remain)]
    optimizers = [torch.optim.Adam(runner.plain.parameters(), lr=1e-6, fused=True) for _ in draws]

    def step() -> None:
        for draw, optimizer, sign in zip(draws, optimizers, (-1, 1)):
            optimizer.zero_grad()
            loss = sign * (runner.plain(draw.x, draw.t, draw.c) - draw.eps).square().flatten(1).sum(1).mean()
            loss.backward()
            optimizer.step()

    return step


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        runner = make_runner(Path(folder), args.device)
    passes = {"by_hand": by_hand(runner), "ours": lambda: runner._one_step(0)}
    seconds = dict.fromkeys(passes, float("inf"))
    for i in range(args.repeats + 1):
        for name, step in passes.items():
            start = time.perf_counter()
            step()
            if args.device != "cpu":
                torch.cuda.synchronize()
            if i:  # the first is a warm-up
                seconds[name] = min(seconds[name], time.perf_counter() - start)
    for name, s in seconds.items():
        print(f"{name:<8} {s:.4f} s")
    ratios = {"ours_over_by_hand": round(seconds["ours"] / seconds["by_hand"], 3)}
    print(
        json.dumps({"benchmark": "step", "ratios": ratios, "device": args.device, "threads": torch.get_num_threads()})
    )


if __name__ == "__main__":
    sys.exit(run_main(main))
