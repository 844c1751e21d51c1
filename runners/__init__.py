"""Runners, by `--mode`. A test compares the keys with `functions.schema.MODES`, which argparse reads before torch."""

from runners.erasediff import EraseDiff
from runners.esd import ESD
from runners.finetune import Finetune
from runners.ga import GradientAscent
from runners.generate_fisher import GenerateFisher
from runners.generate_mask import GenerateMask
from runners.pretrain import Pretrain
from runners.retrain import Retrain
from runners.sa import SelectiveAmnesia
from runners.salun import SalUn
from runners.sfron import SFRon

MODES = {
    "pretrain": Pretrain,
    "retrain": Retrain,
    "finetune": Finetune,
    "ga": GradientAscent,
    "generate_fisher": GenerateFisher,
    "sfron": SFRon,
    "generate_mask": GenerateMask,
    "salun": SalUn,
    "sa": SelectiveAmnesia,
    "esd": ESD,
    "erasediff": EraseDiff,
}
