"""One of several processes: commands, one after another. `torchrun` would set the environment."""

import os

import torch

import fim
import sample
import train
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


def signal_at(rank: int, step: int, number: int) -> None:
    """This process gets a signal in the middle of a step."""
    one_step = Runner._one_step

    def until(self, k):
        if (distributed.rank(), k) == (rank, step):
            os.kill(os.getpid(), number)
        return one_step(self, k)

    Runner._one_step = until


def main(commands: list, die: tuple[int, int] | None = None, told: tuple[int, int, int] | None = None) -> None:
    """`[script, *words]` each; `die`: the process and the step where it ends; `told`: and which signal it gets."""
    torch.set_num_threads(1)
    if die:
        die_at(*die)
    if told:
        signal_at(*told)
    with distributed.processes():
        for script, *words in commands:
            SCRIPTS[script](words)
