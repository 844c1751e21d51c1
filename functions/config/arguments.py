"""The flags of train.py, by the groups in which --help shows them. Torch-free."""

from __future__ import annotations

import argparse

from functions.config import schema, unlearning
from functions.config.classes import labels
from functions.config.cli import a_path, a_side
from functions.errors import shown

Group = argparse._ArgumentGroup

# those that set a key of the config, see `names`
FLAGS = [
    "label_to_forget",
    "ckpt_folder",
    "mask_path",
    "threshold",
    "method",
    "unlearn_loss",
    "forget_alpha",
    "decay_forget_alpha",
    "remain_alpha",
    "forget_clip",
    "cond_scale",
    "seed",
    "dataset",
    "data_path",
    "image_size",
    "test_fraction",
    "remain_pool",
    "latents",
    "n_classes",
    "n_workers",
    "arch",
    "vae",
    "save_dir",
    "results",
    "epochs",
    "n_iters",
    "log_freq",
    "snapshot_every",
    "batch_size",
    "lr",
    "momentum",
    "weight_decay",
    "decreasing_lr",
    "class_to_replace",
    "num_indexes_to_replace",
    "forget_fraction",
    "forget_idx",
    "alpha",
    "no_l1_epochs",
    "bn_mode",
    "order",
    "export",
    "compile",
    "bf16",
]


def add_arguments(p: argparse.ArgumentParser) -> None:
    """All groups."""
    add_forget_arguments(p.add_argument_group("what to forget, and from what"))
    add_unlearning_arguments(p.add_argument_group("how to unlearn"))
    add_data_arguments(p.add_argument_group("data and model"))
    add_training_arguments(p.add_argument_group("training"))


def add_forget_arguments(p: Group) -> None:
    p.add_argument(
        "--ckpt_folder",
        "--model_path",
        "--ckpt",
        type=a_path,
        metavar="RUN",
        help="the run folder whose newest checkpoint to start from; world dit: or a published file, or a folder of "
        "diffusers",
    )
    p.add_argument(
        "--label_to_forget",
        "--forget_class",
        type=labels,
        metavar="C",
        help="the class to forget, or to leave out, by number or name; several: 0,2 or cat,dog (number:3 and name:3 "
        "say which, where a number is another class's name)",
    )
    p.add_argument("--class_to_replace", type=labels, metavar="C", help="the same; -1: images of every class")
    p.add_argument(
        "--num_indexes_to_replace",
        type=int,
        metavar="N",
        help="forget N images, drawn with the seed from all classes or from the one above",
    )
    p.add_argument("--forget_fraction", type=float, metavar="Q", help="forget this share instead of a number")
    p.add_argument(
        "--forget_idx",
        type=a_path,
        metavar="FILE",
        help="forget these: a JSON list or .npy of indices into the training images; those that a run was trained on "
        "are in RUN/ckpts/*/indices.safetensors, and --print_indices RUN prints them",
    )
    p.add_argument(
        "--remain_pool",
        type=int,
        metavar="N",
        help="of the images that remain only N, of each class its share (data.pool_seed)",
    )
    p.add_argument("--save_dir", type=a_path, metavar="RUN", help="write here (default: results/<dataset>/.../<time>)")
    p.add_argument("--results", "--results_dir", type=a_path, metavar="DIR", help="in place of results/")


def add_unlearning_arguments(p: Group) -> None:
    p.add_argument(
        "--mask_path",
        type=a_path,
        metavar="FILE|DIR",
        help="saliency mask of generate_fisher_mask.py or of --mode generate_mask, or a published .pt; or a folder of "
        "masks: generate_fisher and generate_mask write to DIR/<class>/, the others read fisher_<threshold> there",
    )
    p.add_argument("--threshold", type=float, metavar="GAMMA", help="of the mask to take from that folder (default: 1)")
    p.add_argument("--method", choices=("ron", "joint"), help="sfron: forget and remain steps in turn, or their sum")
    p.add_argument(
        "--unlearn_loss",
        choices=unlearning.PUBLISHED_LOSSES,
        help="adaga: adaptive ascent; ga: ascent; match: follow another label's prediction; "
        "relabel: train towards a wrong label; rl: match (ddpm) or relabel (dit, classifier)",
    )
    p.add_argument("--forget_alpha", type=float, help="weight of the forget loss")
    p.add_argument("--decay_forget_alpha", action=argparse.BooleanOptionalAction, help="cosine decay of that weight")
    p.add_argument("--remain_alpha", type=float, help="weight of the remain loss")
    p.add_argument(
        "--forget_clip",
        "--grad_clip",
        type=float,
        metavar="NORM",
        help="sfron, ga: largest norm of the forget step's masked gradient (other steps: --set optim.grad_clip=NORM)",
    )
    p.add_argument(
        "--alpha", type=float, help="l1_sparse: weight of the norm; iu: step; fisher_forget: scale of the noise"
    )
    p.add_argument("--no_l1_epochs", type=int, metavar="E", help="l1_sparse: the last E epochs without the norm")
    p.add_argument(
        "--order",
        choices=("paired", "split", "joint"),
        help="salun: a forget and a remain batch a step; a pass over each an epoch; both mixed",
    )
    p.add_argument("--bn_mode", choices=("update", "freeze", "recalibrate"), help="BatchNorm's running statistics")
    p.add_argument(
        "--cond_scale", type=float, help="generate_fisher, generate_mask: guidance w of the differentiated prediction"
    )
    p.add_argument(
        "--export",
        action=argparse.BooleanOptionalAction,
        help="generate_mask: also with_<q>.pt, which the published classification scripts read",
    )


def add_data_arguments(p: Group) -> None:
    p.add_argument(
        "--dataset",
        choices=schema.DATASETS,
        help="without --config: its DATASET_classifier.yml (default: the model's, or cifar10)",
    )
    p.add_argument(
        "--data_path",
        "--data",
        "--data_dir",
        type=a_path,
        metavar="DIR",
        help="where data sets are, or go (default: data; without --config that of RUN)",
    )
    p.add_argument(
        "--latents", type=a_path, metavar="FOLDER", help="read what encode_dataset.py wrote there, not the images"
    )
    p.add_argument("--image_size", type=side, metavar="PIXELS", help="side of all images; auto: chosen (folder)")
    p.add_argument("--test_fraction", type=float, metavar="Q", help="test part of a folder that has none (data.path)")
    p.add_argument(
        "--arch",
        "--model",
        help="a classifier: cnn, " + ", ".join(schema.CIFAR_ARCHS) + ", or any name of timm; or DiT-XL/2: "
        f"{', '.join(schema.DIT_SIZES)} by 2, 4 or 8. Where a run starts from a checkpoint it must be the model there",
    )
    p.add_argument(
        "--vae",
        type=a_path,
        metavar="ema|mse|FOLDER",
        help="the autoencoder of a DiT's latents: stabilityai/sd-vae-ft-ema or -mse, or a folder of diffusers",
    )
    p.add_argument("--n_classes", "--num_classes", type=int, metavar="K", help="check that the data set has so many")
    p.add_argument(
        "--n_workers", "--num_workers", type=int, metavar="N", help="processes that decode folders of images"
    )


def add_training_arguments(p: Group) -> None:
    p.add_argument(
        "--n_iters",
        type=int,
        metavar="N",
        help="steps; generate_fisher and generate_mask: batches of each set, shuffled (default there: the whole set)",
    )
    p.add_argument("--epochs", "--unlearn_epochs", type=int, help="passes over what the method trains on")
    p.add_argument("--lr", "--unlearn_lr", type=float, help="learning rate")
    p.add_argument("--batch_size", type=int)
    p.add_argument("--snapshot_every", type=int, metavar="N", help="steps from one grid of samples to the next")
    p.add_argument(
        "--log_freq", "--log_every", type=int, metavar="N", help="steps from one line of the log to the next"
    )
    p.add_argument("--compile", action=argparse.BooleanOptionalAction, help="torch.compile the model that steps call")
    p.add_argument("--bf16", action=argparse.BooleanOptionalAction, help="forward passes of training in bfloat16")
    p.add_argument("--momentum", type=float)
    p.add_argument("--weight_decay", type=float)
    p.add_argument("--decreasing_lr", type=epochs, metavar="E,E", help="divide the rate by ten from these epochs on")


def side(text: str) -> int | str:
    """Pixels, or `auto`."""
    return text if text == "auto" else a_side(text)


def epochs(text: str) -> list[int]:
    """`91,136` -> [91, 136]"""
    try:
        return [int(e) for e in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {shown(text)}; wanted epochs such as 91,136") from None
