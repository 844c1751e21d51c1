"""Compare unlearning methods on digits: class 0 with three seeds, classes 3 and 8 with one; one table.

Every stage is a script of the toolkit, run once and recorded under OUT/stages; a list that was stopped goes on where it was.
A seed is a whole repetition: pretraining, unlearning and the noise of the samples that are judged.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from functions.cli import run_main
from functions.stages import Stages

CASES = [(0, 0), (0, 1), (0, 2), (3, 0), (8, 0)]  # (class to forget, seed)


class Pieces:
    """The stages of the comparison below OUT; each method returns what later ones need."""

    def __init__(self, out: Path):
        self.out, self.stages = out, Stages(out / "stages")

    def train(self, name: str, config: str, mode: str, seed: int, *more: object) -> Path:
        """A run of train.py with a results folder of its own, so that a killed one is found again."""
        import train

        root = self.out / "runs" / name
        return self.stages.run(name, train, "--config", config, "--mode", mode, "--seed", seed, *more,
                               "--set", f"results={root}", root=root)  # fmt: skip

    def pretrained(self, seed: int) -> Path:
        return self.train(f"pretrain_s{seed}", "digits_pretrain.yml", "pretrain", seed)

    def retrained(self, label: int, seed: int) -> Path:
        return self.train(f"retrain_c{label}_s{seed}", "digits_pretrain.yml", "retrain", seed,
                          "--label_to_forget", label)  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", default="results/comparison")
    args = p.parse_args(argv)
    pieces = Pieces(Path(args.out))
    for seed in sorted({s for _, s in CASES}):
        pieces.pretrained(seed)
    for label, seed in CASES:
        pieces.retrained(label, seed)


if __name__ == "__main__":
    sys.exit(run_main(main))
