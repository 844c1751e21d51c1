"""Runners, by `--mode`. A test compares the keys with `functions.schema.MODES`, which argparse reads before torch."""

from runners.bad_teacher import BadTeacher
from runners.boundary_expand import BoundaryExpand
from runners.boundary_shrink import BoundaryShrink
from runners.erasediff import EraseDiff
from runners.esd import ESD
from runners.finetune import Finetune
from runners.fisher_forget import FisherForget
from runners.ga import GradientAscent
from runners.generate_fisher import GenerateFisher
from runners.generate_mask import GenerateMask
from runners.iu import Influence
from runners.l1_sparse import L1Sparse
from runners.neggrad import NegGrad
from runners.pretrain import Pretrain
from runners.retrain import Retrain
from runners.sa import SelectiveAmnesia
from runners.salun import SalUn
from runners.salun_soft import SalUnSoft
from runners.scrub import Scrub
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
    "neggrad": NegGrad,
    "l1_sparse": L1Sparse,
    "salun_soft": SalUnSoft,
    "scrub": Scrub,
    "bad_teacher": BadTeacher,
    "boundary_expand": BoundaryExpand,
    "boundary_shrink": BoundaryShrink,
    "iu": Influence,
    "fisher_forget": FisherForget,
}
