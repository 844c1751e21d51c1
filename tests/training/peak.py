"""Run by test_footprint.py in a process of its own: what `--dry_run` predicts of a run, and what its steps then take.

Prints both as JSON, in bytes. What is taken is by how much the process's resident memory grows, at its peak, from
before the model is built; whoever asks the system for it, torch's kernels and their libraries too.
"""

import json
import sys

import torch

import train
from benchmarks.measure import peak_host_bytes
from functions.config import load as config
from functions.config.arguments import FLAGS
from functions.config.cli import config_flags
from runners import MODES
from runners.memory import of_step
from runners.setup import prepare


def main(words):
    torch.set_num_threads(1)
    args = train.parser().parse_args(words)
    cfg = config.load_config(args.config, args.mode, args.overlay, args.set, config_flags(args, FLAGS))
    mode = MODES[args.mode]
    outline = prepare(cfg, args.mode, mode.fresh, dry=True)
    predicted = of_step(mode, outline.cfg, outline)
    small = torch.nn.Linear(8, 8)  # libraries take their share at their first call
    torch.optim.AdamW(small.parameters(), fused=True)
    small(torch.ones(8, 8)).sum().backward()

    def steps():
        torch.manual_seed(0)
        materials = prepare(cfg, args.mode, mode.fresh)
        runner = mode(materials.cfg, materials)
        runner.plain.train()
        for _ in range(2):
            runner._one_step(0)

    print(json.dumps({"predicted": predicted.peak, "taken": peak_host_bytes(steps), "parts": predicted.parts}))


if __name__ == "__main__":
    main(sys.argv[1:])
