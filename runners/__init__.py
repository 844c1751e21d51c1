"""Runners, by `--mode`. A test holds the keys equal to `functions.config.methods.MODES`, read before torch is there."""

from runners.methods.bad_teacher import BadTeacher
from runners.methods.boundary_expand import BoundaryExpand
from runners.methods.boundary_shrink import BoundaryShrink
from runners.methods.erasediff import EraseDiff
from runners.methods.esd import ESD
from runners.methods.finetune import Finetune
from runners.methods.fisher_forget import FisherForget
from runners.methods.ga import GradientAscent
from runners.methods.iu import Influence
from runners.methods.l1_sparse import L1Sparse
from runners.methods.neggrad import NegGrad
from runners.methods.pretrain import Pretrain
from runners.methods.retrain import Retrain
from runners.methods.sa import SelectiveAmnesia
from runners.methods.salun import SalUn
from runners.methods.salun_soft import SalUnSoft
from runners.methods.scrub import Scrub
from runners.methods.sfron import SFRon
from runners.passes.generate_fisher import GenerateFisher
from runners.passes.generate_mask import GenerateMask

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
