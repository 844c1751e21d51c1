"""Rows about judges out of libraries, and about classes that were to be kept."""

from __future__ import annotations

from bad_input.commands import C

FORGOTTEN = "--label_of_forgotten_class 0"
N = f"classifier_evaluation --sample_path samples --dataset imagenet {FORGOTTEN}"

JUDGING = [
    (f"classifier_evaluation --dataset digits {FORGOTTEN}", "one of the arguments --sample_path --list_neighbours is"),
    (f"classifier_evaluation --dataset digits {FORGOTTEN} --list_neighbours 0", "--list_neighbours: got '0'"),
    (
        f"classifier_evaluation --dataset digits {FORGOTTEN} --list_neighbours 3 --out m.json",
        "--out: has no meaning with",
    ),
    (f"classifier_evaluation --dataset digits {FORGOTTEN} --list_neighbours 3 --kept 2", "--kept: has no meaning with"),
    (f"{C} --list_neighbours 3", "--list_neighbours: not allowed with argument --sample_path"),
    (f"{C} --neighbours 0", "--neighbours: got '0'"),
    (f"{C} --neighbours x", "--neighbours: got 'x'"),
    (f"{C} --neighbours 3 --kept 1", "--kept: not allowed with argument --neighbours"),
    (f"{C} --classifier digits_cnn.pth --kept 11", "--kept 11: no class 11, there are 0 to 9"),
    (f"{C} --classifier digits_cnn.pth --kept 5", "samples: no samples of the kept classes: wanted some of class 5"),
    (f"{C} --classifier digits_cnn.pth --kept 0", "only the forgotten class is asked for"),
    (f"{C} --classifier lite0", "lite0: trained on imagenet, --dataset says digits"),
    (f"{C} --classifier timm:resnet18", "timm:resnet18: trained on imagenet, --dataset says digits"),
    (f"{N} --classifier timm:resnet81", "'resnet81' is no model of timm's (did you mean 'resnet18'?)"),
    (f"{N} --classifier timm:", "'' is no model of timm's"),
    (f"{N} --classifier timm:resnet18.foo", "weights of resnet18.foo cannot be had: timm has resnet18.a1_in1k"),
    (f"{N} --classifier timm:vit_base_patch16_224.augreg_in21k", "has 21843 outputs; wanted those of ImageNet's 1000"),
    (f"{N} --classifier lite1", "lite1: no such classifier (did you mean 'lite0'?)"),
    (f"{N} --classifier lite0 --label_of_forgotten_class 1000", "1000 is not a class of imagenet"),
    (f"{N} --classifier lite0 --label_of_forgotten_class crane", "crane"),
    ("evaluator samples reference --features lite0:x", "--features: got 'lite0:x'"),
    ("evaluator samples reference --features lite0 --inception_weights w.pth", "goes with --features inception or"),
    ("evaluator samples nowhere --features lite0", "nowhere: no such folder"),
]
