"""Which sections and keys a mode reads, and which key a flag of the published commands sets. Torch-free."""

from __future__ import annotations

from functions.config.schema import Unlearn

UNLEARNING = ("optim", "training", "unlearn", "forget", "ckpt_folder")
ONE_STEP = ("training", "unlearn", "forget", "ckpt_folder")  # closed forms: no optimiser, and of training no length
# The sections that a mode reads, beyond those that every config has.
NEEDS = {
    "pretrain": ("model", "optim", "training"),
    "retrain": ("optim", "training", "forget"),
    "finetune": UNLEARNING,
    "ga": UNLEARNING,
    "sfron": UNLEARNING,
    "salun": UNLEARNING,
    "sa": (*UNLEARNING, "sa"),
    "esd": (*UNLEARNING, "esd"),
    "erasediff": (*UNLEARNING, "erasediff"),
    "neggrad": UNLEARNING,
    "l1_sparse": (*UNLEARNING, "l1"),
    "salun_soft": (*UNLEARNING, "salun_soft"),
    "scrub": (*UNLEARNING, "scrub"),
    "bad_teacher": (*UNLEARNING, "bad_teacher"),
    "boundary_expand": UNLEARNING,
    "boundary_shrink": (*UNLEARNING, "boundary"),
    "iu": (*ONE_STEP, "iu"),
    "fisher_forget": (*ONE_STEP, "fisher_forget", "fisher"),
    "generate_fisher": ("fisher", "forget", "ckpt_folder"),
    "generate_mask": ("saliency", "forget", "ckpt_folder"),
    "fim": ("fim", "ckpt_folder"),
    "sample": ("sampling", "ckpt_folder"),
}
# Sections that a mode may have. Retraining takes architecture and split of an original, or makes its own.
OPTIONAL = {"retrain": ("model", "ckpt_folder")}
FLAG_OF = {
    "forget": "--label_to_forget, --num_indexes_to_replace, --forget_fraction or --forget_idx",
    "ckpt_folder": "--ckpt_folder",
}

# Flags of the published commands: short for --set of these keys.
FLAGS = {
    "label_to_forget": "forget.label",
    "class_to_replace": "forget.label",
    "num_indexes_to_replace": "forget.count",
    "forget_fraction": "forget.fraction",
    "forget_idx": "forget.index_file",
    "dataset": "data.dataset",
    "data_path": "data.path",
    "arch": "model",
    "save_dir": "save_dir",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "lr": "optim.lr",
    "momentum": "optim.momentum",
    "weight_decay": "optim.weight_decay",
    "decreasing_lr": "optim.decreasing_lr",
    "no_l1_epochs": "l1.no_l1_epochs",
    "bn_mode": "unlearn.bn_mode",
    "order": "unlearn.order",
    "export": "saliency.export",
    "compile": "training.compile",
    "bf16": "training.bf16",
    "ckpt_folder": "ckpt_folder",
    "mask_path": "unlearn.mask_path",
    "method": "unlearn.method",
    "unlearn_loss": "unlearn.loss",
    "forget_alpha": "unlearn.forget_alpha",
    "decay_forget_alpha": "unlearn.decay_forget_alpha",
    "remain_alpha": "unlearn.remain_alpha",
    "seed": "seeds.seed",
    "n_chunks": "fim.n_chunks",
    "sample_type": "sampling.sample_type",
    "timesteps": "sampling.timesteps",
    "eta": "sampling.eta",
    "skip_type": "sampling.skip_type",
    "n_samples_per_class": "sampling.n_samples_per_class",
    "weights": "sampling.weights",
    "minmax": "sampling.minmax",
}
# The keys of `unlearn` that a mode reads; sfron reads nearly all, and modes without it need no section.
MASKED = ("mask_path", "mask_mode", "clip_first", "dropout", "bn_mode")
SALUN = (*MASKED, "order", "loss", "lambd", "forget_alpha", "decay_forget_alpha", "remain_alpha")
READS = {
    "ga": (*MASKED, "forget_alpha", "decay_forget_alpha", "forget_clip"),
    "neggrad": (*MASKED, "forget_alpha", "decay_forget_alpha", "remain_alpha"),
    **dict.fromkeys(("salun", "salun_soft"), SALUN),
    **dict.fromkeys(
        (
            "finetune",
            "sa",
            "esd",
            "erasediff",
            "l1_sparse",
            "scrub",
            "bad_teacher",
            "boundary_expand",
            "boundary_shrink",
        ),
        MASKED,
    ),
    **dict.fromkeys(("iu", "fisher_forget"), ("mask_path",)),
    "sfron": tuple(k for k in Unlearn.model_fields if k not in ("clip_first", "order")),
}
# Flags whose key depends on the mode
COND_SCALE = {
    "generate_fisher": "fisher.guidance",
    "generate_mask": "saliency.guidance",
    "sample": "sampling.cond_scale",
}
ALPHA = {"l1_sparse": "l1.weight", "iu": "iu.step", "fisher_forget": "fisher_forget.alpha"}
# The published names of --unlearn
UNLEARN_ALIAS = {
    "RL": "salun",
    "FT": "finetune",
    "GA": "ga",
    "FT_l1": "l1_sparse",
    "FT_prune": "l1_sparse",
    "wfisher": "iu",
    "fisher_new": "fisher_forget",
    "RL_proximal": "salun_soft",
    "boundary_expanding": "boundary_expand",
}
