"""One of several processes: the commands of a JSON file, one after another. `torchrun` would set the environment.

python worker.py commands.json [die:RANK:STEP]
"""

import json
import os
import sys

import torch

import fim
import sample
import train
from functions.config.cli import run_main
from functions.training import distributed
from runners.base import Runner

SCRIPTS = {"train": train.main, "fim": fim.main, "sample": sample.main}


def die_at(rank: int, step: int) -> None:
    """This process ends without a word in the middle of a run, as if it had been killed."""
    one_step = Runner._one_step

    def until(self, k):
        if (distributed.rank(), k) == (rank, step):
            os._exit(9)
        return one_step(self, k)

    Runner._one_step = until


def main(_=None) -> None:
    torch.set_num_threads(1)
    with open(sys.argv[1]) as file:
        commands = json.load(file)
    for word in sys.argv[2:]:
        die_at(*map(int, word.split(":")[1:]))
    with distributed.processes():
        for script, *words in commands:
            SCRIPTS[script](words)


if __name__ == "__main__":
    sys.exit(run_main(main))
