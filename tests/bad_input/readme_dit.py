"""Rows of the second README's flags."""

from __future__ import annotations

from bad_input.commands import F, G, P, U

SETTINGS = "--config dit_xl2_imagenet.yml"
R = f"train --mode sfron {SETTINGS} --ckpt run"
README_DIT = [
    # where to start, and which model
    (f"train --mode sfron {SETTINGS} --forget-class 207", "ckpt_folder: missing, and mode sfron needs it; set --ckpt"),
    (f"train --mode generate_fisher {SETTINGS} --forget-class 207", "ckpt_folder: missing"),
    (f"{R} --forget-class 207 --model DiT-XL/3", "--model DiT-XL/3: no such DiT; wanted DiT-XL/2, DiT-XL/4"),
    (f"{R} --forget-class 207 --model dit-b/2", "(did you mean 'DiT-B/2'?)"),
    (f"{R} --forget-class 207 --model resnet18", "--model resnet18: no such DiT"),
    ("train --mode pretrain --config digits_classifier.yml --model DiT-S/2", "model.name: dit is no classifier model"),
    # the data and the class
    (f"{R} --forget-class 207 --data-path void", "imagenet is not there: void and void/imagenet lack the folder train"),
    (f"{R} --forget-class 207 --data-path strangers", "dog is no wnid of ImageNet's 1000 classes"),
    (f"{R} --forget-class 207 --data-path dogs --num-workers -1", "data.n_workers: got -1"),
    (f"{U} --label_to_forget 0 --forget-class 1", "--label_to_forget and --forget_class: two names of one flag"),
    # masks
    *((f"{G} --thresholds {text}", "wanted a finite number, 0 or more") for text in ("'1 x'", "''", "1,2", "'1 -1'")),
    ("generate_fisher_mask", "--forget_class: missing; wanted --ckpt_folder, or the classes whose Fishers lie in mask"),
    ("generate_fisher_mask --mask_path run", "--forget_class: missing; wanted the classes whose Fishers lie in run; there"),
    ("generate_fisher_mask --mask_path nowhere --forget-class 0", "--mask_path nowhere: 0: no such folder there"),
    ("generate_fisher_mask --mask_path file.txt --forget-class 0", "--mask_path file.txt: 0: no such folder there"),
    ("generate_fisher_mask --mask_path run --forget-class retriever", "--forget_class: retriever is not a class of imagenet"),
    ("generate_fisher_mask --mask_path . --forget-class mask_cut", "mask_cut"),
    (f"{G} --forget-class 0", "--forget_class: goes with --mask_path"),
    (f"{G} --mask_path run", "not allowed with argument --ckpt_folder"),
    (f"{U} --mask-path run/mask_0 --threshold 77", "run/mask_0/fisher_77.0.safetensors: no such file (--mask_path run/mask_0"),
    (f"{U} --threshold 2", "unlearn.threshold: chooses a mask from a folder; set --mask_path"),
    (f"{U} --mask-path other.safetensors --threshold 1", "--threshold 1.0: chooses a mask from a folder"),
    (f"{F} --mask-path file.txt", "file.txt"),
    # how much of it
    *((f"{F} --n-iters {n}", f"fisher.n_iters: got {n}") for n in (0, -3, 10**12)),
    (f"{F} --n-iters x", "--n_iters: got 'x'; wanted a whole number"),
    (f"{F} --n-iters 3 --set fisher.draws=2", "fisher.n_iters: each batch is drawn once; fisher.draws must be 1, it is 2"),
    (f"{F} --epochs 1", "--epochs: has no meaning in mode generate_fisher"),
    (f"{F} --log-every 1", "--log_freq: has no meaning in mode generate_fisher"),
    (f"{U} --n-iters 3 --epochs 2", "both say how long the run is"),
    (f"{U} --grad-clip 0", "unlearn.forget_clip: got 0.0"),
    (f"{U} --log-every 0", "training.log_freq: got 0"),
    (f"{U} --snapshot-every 0", "training.preview_freq: got 0"),
    (f"{P} --grad-clip 1", "--forget_clip: has no meaning in mode pretrain"),
    (f"{P} --results-dir ''", "--results_dir: got an empty name"),
    (f"{U} --vae vae", "run: encoder: the checkpoint has ('pixels', {})"),
]  # fmt: skip
