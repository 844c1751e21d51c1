"""Rewrites tests/golden/losses.json: four losses of every mode and variant on every world.

    PYTHONPATH=.:tests:tests/methods python tests/make_golden.py

Run it only when a change is meant to change these numbers, and say why in the commit.
"""

import json
import os
import tempfile
from pathlib import Path

import cases
import torch
from test_methods import GOLDEN, VARIANTS, arguments, losses, prepared


def main() -> None:
    torch.set_num_threads(1)
    golden = {}
    for world in cases.WORLDS:
        toy = cases.Toy(world, Path.cwd())
        run = toy.run
        retrained = cases.train.main(
            ["--mode", "retrain", "--config", *cases.WORLDS[world]["pretrain"], *cases.TOY, "--label_to_forget", "0"]
        )
        golden[world] = {"pretrain": losses(run), "retrain": losses(retrained)}
        parts = prepared(toy)
        for variant in VARIANTS:
            mode, *more = arguments(variant, parts)
            if mode not in cases.WORLDS[world]:
                continue
            golden[world][variant] = losses(cases.unlearn(world, mode, run, *more))
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        here = Path.cwd()
        os.chdir(folder)
        main()
        os.chdir(here)
