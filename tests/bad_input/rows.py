"""What tired and hostile users type: (script and words, what the one line says). Files are those of `files.py`."""

from __future__ import annotations

from bad_input.commands import LONG, A, B, C, E, G, L, M, P, S, T, U, V
from bad_input.dit import DIT
from bad_input.judging import JUDGING
from bad_input.latents import LATENTS
from bad_input.readme_dit import README_DIT
from bad_input.settings import SETTINGS

# ---- flags of every script

FLAGS = [
    # missing
    ("train", "--mode: missing"),
    ("sample", "are required: --mode, --config"),
    ("fim", "are required: --config"),
    ("evaluate", "are required: RUN"),
    ("evaluator", "are required: samples, reference"),
    ("evaluator samples", "are required: reference"),
    ("classifier_evaluation", "are required: --dataset, --label_of_forgotten_class"),
    ("save_base_dataset", "are required: --dataset, --label_to_forget"),
    ("train_classifier", "are required: --dataset"),
    ("train_vae", "are required: --dataset"),
    ("convert", "are required: CKPT|RUN"),
    ("scripts/u_lira", "are required: --out, --config, --mode"),
    ("train --mode sfron --config digits_sfron.yml --ckpt_folder run", "forget: missing, and mode sfron needs it"),
    ("train --mode sfron --config digits_sfron.yml --label_to_forget 0", "ckpt_folder: missing"),
    ("sample --mode sample_fid --config digits_sample.yml", "ckpt_folder: missing"),
    ("fim --config digits_fim.yml", "ckpt_folder: missing"),
    # no such flag, and the one that was meant
    *(
        (f"{script} --lable_to_forget 3", "--lable_to_forget: no such flag")
        for script in (
            "train",
            "sample",
            "fim",
            "generate_fisher_mask",
            "evaluate",
            "evaluator",
            "convert",
            "scripts/u_lira",
        )
        + (
            "classifier_evaluation",
            "save_base_dataset",
            "train_classifier",
            "train_vae",
            "scripts/dit_shapes",
            "scripts/quickstart",
            "scripts/compare_digits",
        )
        + ("scripts/compare_classifiers",)
    ),
    (f"{P} --sede 3", "--sede: no such flag (did you mean '--seed'?)"),
    (f"{P} --dry", "--dry: no such flag (did you mean '--dry_run'?)"),
    (f"{S} --cond-scal 3", "(did you mean '--cond_scale'?)"),
    (f"{S} --n_samples 3", "(did you mean '--n_samples_per_class'?)"),
    (f"{T} --learning_rate 3", "--learning_rate: no such flag; see"),
    (f"{P} pretrain", "pretrain: one word too many"),
    (f"{V} more", "more: one word too many"),
    (f"{P} --seed", "--seed: wanted a value after it"),
    (f"{G} --threshold", "--threshold: wanted a value after it"),
    (f"{P} --compile=yes", "--compile: ignored explicit argument 'yes'"),
    # wrong type, out of bounds, not finite, huge
    *(
        (f"{command} --seed {value}", f"--seed: got '{value}'; wanted a whole number from 0")
        for command in (P, U, S, M, T, L, "scripts/quickstart")
        for value in ("x", "-1", "1.5", 2**70)
    ),
    *(
        (f"{command} --batch_size {value}", f"--batch_size: got '{value}'; wanted a whole number from 1")
        for command in (E, V, C, T, A)
        for value in ("0", "-3", "many", "1e3", 10**12)
    ),
    *(
        (f"{T} --lr {value}", f"--lr: got '{value}'; wanted a finite number")
        for value in ("0", "-1", "nan", "inf", "x")
    ),
    *(
        (f"{T} --{flag} {value}", f"--{flag}: got '{value}'")
        for flag in ("epochs", "width", "image_size")
        for value in (0, "x", 10**9)
    ),
    *(
        (f"{A} --{flag} {value}", f"--{flag}: got '{value}'")
        for flag in ("steps", "width", "latent_channels", "image_size")
        for value in (0, "x", 10**10)
    ),
    *((f"{A} --halvings {value}", f"--halvings: got '{value}'; wanted a whole number from 0") for value in (-1, 9)),
    (f"{A} --halvings 4", "--halvings: got 4; wanted what images of 8 pixels allow"),
    *((f"{A} --lr {value}", f"--lr: got '{value}'; wanted a finite number") for value in ("0", "-1", "nan", "x")),
    *((f"{A} --kl_weight {value}", f"--kl_weight: got '{value}'") for value in ("-1", "inf", "x")),
    (f"{T} --resize -1", "--resize: got '-1'"),
    (f"{T} --resize 100000", "--resize: got '100000'"),
    *(
        (f"{G} --threshold {value}", f"--threshold: got '{value}'; wanted a finite number, 0 or more")
        for value in ("-1", "nan", "inf", "x")
    ),
    (f"{G} --threshold 1 x", "--threshold: got 'x'"),
    *((f"{P} --lr {value}", f"got '{value}'") for value in ("nan", "inf", "x")),
    (f"{P} --lr 0", "--lr 0.0: optim.lr: got 0.0"),
    (f"{P} --lr 1e300", "optim.lr: got 1e+300"),
    (f"{P} --epochs 0", "training.epochs: got 0"),
    (f"{P} --batch_size 0", "training.batch_size: got 0"),
    (f"{P} --batch_size 100000000", "training.batch_size: got 100000000"),
    (f"{P} --decreasing_lr 1;2", "--decreasing_lr: got '1;2'; wanted epochs such as 91,136"),
    (f"{P} --momentum 2", "optim.momentum: got 2.0"),
    (f"{P} --weight_decay -1", "optim.weight_decay: got -1.0"),
    (f"{U} --label_to_forget -1", "forget.label: got -1"),
    (f"{U} --label_to_forget 10", "label"),
    (f"{U} --label_to_forget 1.5", "label"),
    (f"{U} --num_indexes_to_replace 0", "forget.count: got 0"),
    (f"{U} --num_indexes_to_replace 1000000", "forget.count: 1000000 is not in 1.."),
    (f"{U} --forget_fraction 0", "forget.fraction: got 0.0"),
    (f"{U} --forget_fraction 1.5", "forget.fraction: got 1.5"),
    (f"{U} --forget_alpha -1", "unlearn.forget_alpha: got -1.0"),
    (f"{U} --forget_alpha nan", "--forget_alpha: got 'nan'"),
    (f"{U} --remain_alpha 1e300", "unlearn.remain_alpha: got 1e+300"),
    (f"{S} --n_samples_per_class 0", "sampling.n_samples_per_class: got 0"),
    (f"{S} --n_samples_per_class 100000000000", "100000000000"),
    (f"{S} --timesteps 0", "sampling.timesteps: got 0"),
    (f"{S} --timesteps 100000", "timesteps"),
    (f"{S} --eta -1", "sampling.eta: got -1.0"),
    (f"{S} --eta nan", "--eta: got 'nan'"),
    (f"{S} --cond_scale -1", "sampling.cond_scale: got -1.0"),
    (f"{S} --cond_scale inf", "--cond_scale: got 'inf'"),
    (f"{S} --cond_scale 1e308", "sampling.cond_scale: got 1e+308"),
    (f"{M} --n_chunks 0", "fim.n_chunks: got 0"),
    (f"{M} --n_chunks x", "--n_chunks: got 'x'"),
    (f"{V} --n_workers 0", "--n_workers: got '0'"),
    (f"{V} --n_workers 100000", "--n_workers: got '100000'"),
    (f"{B} --per_class 0", "--per_class: got '0'"),
    (f"{B} --image_size 0", "--image_size: got '0'"),
    (f"{B} --image_size 1000000", "--image_size: got '1000000'"),
    (f"{C} --label_of_forgotten_class x", "--label_of_forgotten_class: x is not a class of digits"),
    (f"{C} --label_of_forgotten_class -1", "--label_of_forgotten_class: -1 is not a class of digits"),
    (f"{C} --label_of_forgotten_class 10", "--label_of_forgotten_class: 10 is not a class of digits"),
    (f"{L} --n_shadows 1", "--n_shadows: got '1'"),
    (f"{L} --n_candidates 2", "--n_candidates: got '2'"),
    (f"{L} --n_candidates 5000", "--n_candidates 5000: digits has"),
    ("scripts/quickstart --label_to_forget 10", "--label_to_forget: got 10; wanted 0, 1, 2"),
    ("scripts/quickstart --per_class 0", "--per_class: got '0'"),
    ("scripts/quickstart --pretrain_steps -1", "--pretrain_steps: got '-1'"),
    ("scripts/compare_digits --only_cases 0", "--only_cases: got '0'; wanted a whole number from 1 to 5"),
    ("scripts/compare_digits --methods sfrn", "--methods: got 'sfrn'"),
    ("scripts/compare_digits --per_class x", "--per_class: got 'x'"),
    ("scripts/dit_shapes --methods sfrn", "--methods: got 'sfrn'"),
    ("scripts/dit_shapes --per_class 0", "--per_class: got '0'"),
    ("scripts/compare_classifiers --models vit", "--models: got 'vit'"),
    ("scripts/compare_classifiers --n_seeds 0", "--n_seeds: got '0'"),
    ("scripts/compare_classifiers --models resnet18 --scenarios class", "no such case"),
    # choices
    ("train --mode pretrian", "--mode: got 'pretrian'"),
    ("train --mode RL", "--mode: got 'RL'"),
    ("train --unlearn salum", "--unlearn: got 'salum'"),
    ("train --mode ga --unlearn GA", "--unlearn: not allowed with argument --mode"),
    (f"{P} --dataset mnist", "--dataset: got 'mnist'"),
    (f"{U} --method rom", "--method: got 'rom'; wanted ron, joint (did you mean 'ron'?)"),
    (f"{U} --unlearn_loss kl", "--unlearn_loss: got 'kl'"),
    ("sample --mode sample --config digits_sample.yml", "--mode: got 'sample'; wanted sample_fid"),
    (f"{S} --sample_type ddim", "--sample_type: got 'ddim'"),
    (f"{S} --weights best", "--weights: got 'best'; wanted auto, ema, raw"),
    (f"{S} --skip_type log", "--skip_type: got 'log'"),
    (f"{E} --on train", "--on: got 'train'; wanted test, val"),
    (f"{V} --features clip", "--features: got 'clip'; wanted inception"),
    (f"{V} --features classifier:", "--features: got 'classifier:'"),
    (
        "classifier_evaluation --sample_path samples --dataset mnist --label_of_forgotten_class 0",
        "--dataset: got 'mnist'",
    ),
    ("save_base_dataset --dataset cifar1o --label_to_forget 0", "(did you mean 'cifar10'?)"),
    ("convert run --export onnx", "--export: got 'onnx'"),
    ("scripts/u_lira --out new --config digits_classifier.yml --mode pretrain", "--mode: got 'pretrain'"),
    # flags that contradict each other or have no meaning
    (f"{P} --label_to_forget 0", "has no meaning in mode pretrain"),
    (f"{P} --mask_path mask", "has no meaning in mode pretrain"),
    (f"{U} --order split", "has no meaning in mode sfron"),
    (f"{U} --label_to_forget 0 --class_to_replace 1", "both set forget.label, and differ"),
    (f"{U} --num_indexes_to_replace 3 --forget_fraction 0.1", "forget: got label and count and fraction"),
    (f"{U} --forget_idx indices.json", "forget: got label and index_file"),
    (f"{S} --sample_type ddpm_noisy --eta 0", "--eta 0.0: only sample_type generalized has one"),
    (f"{S} --cfg_scale 0.5", "--cfg_scale: got '0.5'"),
    (f"{S} --cfg_scale 4 --cond_scale 4", "--cfg_scale 4.0 and --cond_scale 4.0: differ"),
    (f"{S} --num_fid_samples 0", "--num_fid_samples: got '0'"),
    (f"{S} --per_proc_batch_size 0", "sampling.batch_size: got 0"),
    (f"{S} --sample_type learned_range", "learned_range wants a model that says its variance"),
    (f"{S} --guided_channels four", "--guided_channels: got 'four'"),
    (f"{S} --guided_channels three", "sampling.guided_channels: three, and the model draws 1"),
    (f"{S} --beside run", "--beside run: mode visualization alone draws several runs"),
    (f"{S} --vae nowhere", "nowhere: no config.json"),
    (f"{S} --image_size 0", "--image_size: got '0'"),
    (f"{S} --image_size 16", "data.image_size: the checkpoint draws 8x8 pixels"),
    (f"{S} --out a --sample_dir b", "--out a and --sample_dir b: wanted one of them"),
    (f"{S} --seed 1 --global_seed 2", "both set seeds.seed, and differ"),
    (f"{S} --out picture.png", "mode visualization writes a .png, the others a folder"),
    (
        "sample --mode visualization --config digits_sample.yml --ckpt_folder run --out folder",
        "mode visualization writes a .png",
    ),
    ("evaluate classifier classifier2 --out one.json", "one file for 2 runs; name a folder"),
    (f"{V} --inception_weights w.pth", "goes with --features inception or tensorflow"),
    ("evaluator samples samples --features classifier:digits_cnn.pth", "are the same images"),
    ("convert run --export ddim --config digits_pretrain.yml", "have no meaning with --export"),
    ("convert run", "--config: missing"),
]

# ---- paths

PATHS = [
    *(
        (f"{command} --{flag} ''", f"--{flag}: got an empty name")
        for command, flag in (
            *(
                (P, "save_dir"),
                (P, "config"),
                (P, "overlay"),
                (P, "resume"),
                (U, "mask_path"),
                (U, "ckpt_folder"),
                (P, "data_path"),
            ),
            *(
                (S, "out"),
                (E, "csv"),
                (E, "latex"),
                (E, "out"),
                (V, "out"),
                (C, "out"),
                (C, "classifier"),
                (B, "out"),
                (T, "out"),
            ),
            *(("convert run --export ddim", "out"), ("scripts/quickstart", "out"), ("scripts/compare_digits", "out")),
        )
    ),
    *(
        (f"{command} --{flag} {LONG}", f"--{flag}: got 'xxx")
        for command, flag in (
            (P, "save_dir"),
            (P, "config"),
            (U, "mask_path"),
            (S, "out"),
            (E, "csv"),
            (V, "out"),
            (C, "classifier"),
            (B, "out"),
        )
    ),
    *(
        (f"{command} --{flag} nul\0name", f"--{flag}: got 'nul\\x00name'; wanted a path, which has no NUL in it")
        for command, flag in (
            (P, "save_dir"),
            (P, "config"),
            (P, "overlay"),
            (U, "mask_path"),
            (U, "ckpt_folder"),
            (S, "out"),
            (E, "csv"),
            (V, "out"),
            (C, "classifier"),
            (B, "out"),
            (T, "out"),
        )
    ),
    # missing, a folder, a file of another kind, empty, damaged, a link to itself
    ("train --mode pretrain --config nowhere.yml", "--config nowhere.yml: no such file, here or in configs/"),
    ("train --mode pretrain --config digits_pretrian.yml", "(did you mean 'digits_pretrain.yml'?)"),
    ("train --mode pretrain --config run", "--config run: is a folder; wanted a YAML file"),
    ("train --mode pretrain --config loop", "loop"),
    (f"{P} --overlay nowhere.yml", "--overlay nowhere.yml: no such file"),
    (f"{P} --overlay run", "--overlay run: is a folder"),
    (f"{P} --overlay empty", "empty: wanted keys and values, got nothing"),
    (f"{P} --overlay classifier.only.yml", "no block for world 'ddpm'"),
    (f"{P} --resume nowhere", "--resume nowhere"),
    (f"{P} --resume empty", "--resume empty"),
    (f"{P} --resume samples", "--resume samples"),
    (f"{P} --save_dir file.txt", "file.txt"),
    (f"{P} --save_dir file.txt/deeper", "file.txt"),
    (f"{P} --save_dir samples", "--save_dir samples: is not empty"),
    (f"{P} --save_dir /proc/palimpsest", "/proc"),
    (f"{P} --save_dir loop", "loop"),
    *(
        (f"train --mode sfron --config digits_sfron.yml --label_to_forget 0 --ckpt_folder {folder}", folder)
        for folder in ("nowhere", "samples", "file.txt", "loop", "half", "empty")
    ),
    *(
        (f"{U} --mask_path {path}", path)
        for path in (
            "nowhere",
            "samples",
            "empty",
            "file.txt",
            "loop",
            "cut.safetensors",
            "run/mask_0/forget_fisher.safetensors",
            "indices.json",
            "evil.pt",
        )
    ),
    *((f"{U} --mask_path other.safetensors --label_to_forget 1", "label") for _ in range(1)),
    *(
        (f"train --mode finetune --config digits_baselines.yml --ckpt_folder run --forget_idx {path}", path)
        for path in (
            "nowhere",
            "samples",
            "empty",
            "file.txt",
            "far.json",
            "words.json",
            "twice.json",
            "none.json",
            "evil.npy",
            "negative.json",
        )
    ),
    *(
        (f"sample --mode sample_fid --config digits_sample.yml --ckpt_folder {folder}", folder)
        for folder in ("nowhere", "samples", "file.txt", "half", "classifier")
    ),
    (f"{S} --out file.txt/deeper", "file.txt is a file"),
    (f"{S} --out reference", "reference"),
    (f"{S} --out /proc/new", "/proc"),
    (
        "sample --mode visualization --config digits_sample.yml --ckpt_folder run --out file.txt/a.png",
        "file.txt is a file",
    ),
    ("fim --config digits_fim.yml --ckpt_folder nowhere", "nowhere"),
    ("fim --config digits_fim.yml --ckpt_folder classifier", "classifier"),
    ("fim --config digits_fim.yml --ckpt_folder run", "class_samples"),
    *(
        (f"generate_fisher_mask --threshold 1 --ckpt_folder {folder}", folder)
        for folder in ("nowhere", "file.txt", "run", "samples", "mask_cut", "mask_two")
    ),
    *((f"evaluate {run}", run) for run in ("nowhere", "file.txt", "samples", "run", "half")),
    ("evaluate classifier --retrain nowhere", "nowhere"),
    ("evaluate classifier --retrain run", "run"),
    ("evaluate classifier --original file.txt", "file.txt"),
    ("evaluate classifier --csv samples", "--csv samples: is a folder"),
    ("evaluate classifier --latex file.txt/t.tex", "--latex file.txt/t.tex: file.txt is a file"),
    ("evaluate classifier --csv /proc/t.csv", "--csv /proc/t.csv: cannot write in /proc"),
    ("evaluate classifier --out file.txt/x", "file.txt is a file"),
    ("evaluate classifier --out list.json", "list.json"),
    *(
        (f"evaluator {folder} reference --features classifier:digits_cnn.pth", folder)
        for folder in ("nowhere", "file.txt", "void", "loop", "broken", "cut.npz", "words.npz")
    ),
    *(
        (f"evaluator samples {folder} --features classifier:digits_cnn.pth", folder)
        for folder in ("nowhere", "file.txt", "void", "loop", "broken", "cut.npz")
    ),
    *(
        (f"evaluator samples reference --features classifier:{path}", path.partition(".")[0])
        for path in ("nowhere.pth", "samples", "file.txt", "cut.pth", "alone.pth", "evil.pth")
    ),
    (f"{V} --out samples", "--out samples: is a folder"),
    (f"{V} --out list.json", "list.json: got a list; wanted an object"),
    (f"{V} --out file.txt", "file.txt: not valid JSON"),
    (f"{V} --out file.txt/m.json", "file.txt is a file"),
    (f"{V} --out /proc/m.json", "cannot write in /proc"),
    (f"{V} --classes 11", "no class 11"),
    (f"{V} --classes a", "a"),
    *(
        (
            f"classifier_evaluation --sample_path {folder} --dataset digits --label_of_forgotten_class 0 --classifier digits_cnn.pth",
            folder,
        )
        for folder in ("nowhere", "file.txt", "void", "broken", "cut.npz", "words.npz", "large")
    ),
    *(
        (f"{C} --classifier {path}", path.partition(".")[0])
        for path in ("nowhere.pth", "samples", "cut.pth", "alone.pth", "evil.pth")
    ),
    (
        "classifier_evaluation --sample_path samples --dataset cifar10 --label_of_forgotten_class 0 --classifier digits_cnn.pth",
        "trained on digits, --dataset says cifar10",
    ),
    (f"{C} --classifier digits_cnn.pth --out list.json", "list.json: got a list; wanted an object"),
    (f"{C} --classifier digits_cnn.pth --out samples", "--out samples: is a folder"),
    (f"{B} --out file.txt", "file.txt is a file"),
    (f"{B} --out samples", "samples"),
    (f"{B} --out /proc/new", "cannot write in /proc"),
    ("save_base_dataset --dataset digits --label_to_forget 10 --out new", "10 is not a class of digits"),
    ("save_base_dataset --dataset digits --label_to_forget -1 --out new", "label"),
    ("save_base_dataset --dataset folder --label_to_forget 0 --data_path nowhere --out new", "nowhere"),
    ("save_base_dataset --dataset folder --label_to_forget 0 --data_path void --out new", "void"),
    ("save_base_dataset --dataset tinyimagenet --label_to_forget 0 --data_path void --out new", "void"),
    (f"{T} --out file.txt", "file.txt is a file"),
    ("train_vae --dataset digits --out file.txt", "--out file.txt: exists; wanted a new name"),
    ("train_vae --dataset digits --out run", "--out run: exists; wanted a new name"),
    ("train_vae --dataset digits --out file.txt/deeper", "file.txt is a file"),
    ("train_vae --dataset digits --out /proc/new", "cannot write in /proc"),
    ("train_vae --dataset digit", "--dataset: got 'digit'"),
    (f"{A} --device cuda:99", "device: cuda:99"),
    (f"{T} --out /proc/new", "cannot write in /proc"),
    (f"{T} --arch resnet99", "resnet99"),
    (f"{T} --device foo", "device: foo"),
    (f"{T} --device meta", "device: meta"),
    (f"{T} --device cuda:99", "device: cuda:99"),
    (f"{E} --device foo", "device: foo"),
    (f"{V} --device ''", "device"),
    (f"{C} --classifier digits_cnn.pth --device meta", "device: meta"),
    *(
        (f"convert {path} --config digits_pretrain.yml --out new", path)
        for path in ("nowhere.pth", "samples", "file.txt", "empty", "cut.pth", "digits_cnn.pth", "evil.pth")
    ),
    ("convert run --export ddim --out file.txt", "file.txt: already exists"),
    ("convert run --export ddim --out file.txt/x.pth", "file.txt is a file"),
    ("convert classifier --export ddim --out new.pth", "classifier"),
    ("convert nowhere --export ddim --out new.pth", "nowhere"),
    ("convert digits_cnn.pth --config digits_classifier.yml --out new", "a published checkpoint is of world ddpm"),
    ("scripts/quickstart --out file.txt", "file.txt is a file"),
    ("scripts/compare_digits --out file.txt/deeper", "file.txt is a file"),
    ("scripts/dit_shapes --out file.txt", "file.txt is a file"),
    ("scripts/compare_classifiers --out file.txt", "file.txt is a file"),
    ("scripts/u_lira --out file.txt --config digits_classifier.yml --mode ga", "file.txt is a file"),
    ("scripts/u_lira --out new --config nowhere.yml --mode ga", "--config nowhere.yml: no such file"),
]

ROWS = [*DIT, *README_DIT, *FLAGS, *PATHS, *SETTINGS, *LATENTS, *JUDGING]
