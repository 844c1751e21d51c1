"""Runners, by `--mode`. A test compares the keys with `functions.config.MODES`, which argparse reads before torch."""

from runners.finetune import Finetune
from runners.ga import GradientAscent
from runners.generate_fisher import GenerateFisher
from runners.pretrain import Pretrain
from runners.retrain import Retrain
from runners.sfron import SFRon

MODES = {
    "pretrain": Pretrain,
    "retrain": Retrain,
    "finetune": Finetune,
    "ga": GradientAscent,
    "generate_fisher": GenerateFisher,
    "sfron": SFRon,
}
