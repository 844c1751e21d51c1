"""Train, unlearn, or prepare unlearning: one script, a runner per --mode."""

from __future__ import annotations

import argparse
import sys

from functions.config import load as config
from functions.config import methods
from functions.config import names as keys
from functions.config.arguments import FLAGS, add_arguments
from functions.config.cli import Parser, a_path, add_config_arguments, config_flags, run_main, say
from functions.errors import InputError
from functions.storage.run import own_config, own_mode

EPILOG = """the main job, on data that needs no download:
  python train.py --config digits_pretrain.yml --mode pretrain
  python train.py --config digits_fisher.yml --mode generate_fisher --ckpt_folder RUN --label_to_forget 0
  python generate_fisher_mask.py --ckpt_folder RUN/mask_0 --threshold 1.0
  python train.py --config digits_sfron.yml --mode sfron --ckpt_folder RUN --label_to_forget 0 \\
      --mask_path RUN/mask_0/fisher_1.0.safetensors

baselines, from the same RUN:
  SalUn     --mode generate_mask, then --mode salun --mask_path results/digits/mask/0/with_0.5.safetensors
            (both with --config digits_saliency_unlearn.yml)
  SA        sample.py --mode sample_classes, fim.py, then --config digits_baselines.yml --mode sa
  the rest  --config digits_baselines.yml --mode MODE for finetune, ga, esd, erasediff and those of classifiers

classifiers, on CIFAR-10 (--config DATASET_classifier.yml is what --dataset stands for):
  python train.py --mode pretrain --dataset cifar10 --arch resnet18 --lr 0.1 --epochs 182 --save_dir ORIGIN
  python train.py --mode generate_mask --model_path ORIGIN --num_indexes_to_replace 4500 --save_dir MASKS
  python train.py --unlearn RL --model_path ORIGIN --num_indexes_to_replace 4500 --unlearn_epochs 10 \\
      --unlearn_lr 0.013 --mask_path MASKS/with_0.5.safetensors --save_dir SALUN
  python train.py --unlearn retrain --model_path ORIGIN --num_indexes_to_replace 4500 --save_dir RETRAIN
  python evaluate.py SALUN --retrain RETRAIN --original ORIGIN

a class of ImageNet from DiT-XL/2 (mask/207/ is where the second reads, and writes):
  python train.py --config dit_xl2_imagenet.yml --mode generate_fisher --ckpt DiT-XL-2-256x256.pt \\
      --data-path IMAGENET --forget-class "golden retriever"
  python generate_fisher_mask.py --mask-path mask --forget-class 207
  python train.py --config dit_xl2_imagenet.yml --mode sfron --ckpt DiT-XL-2-256x256.pt --data-path IMAGENET \\
      --forget-class 207 --mask-path mask

A run writes results/<dataset>/.../<time>/ with logs/, ckpts/, previews/ and curves.png. train.py --resume RUN continues
it, on the CPU to the same bits; flags beside it are checked, and may make it longer (--set training.n_iters=N).
Ctrl-C, SIGTERM and SIGHUP end a run after its step, saved; a second one ends it at once."""


def parser() -> Parser:
    p = Parser(description=__doc__, epilog=EPILOG)
    modes = p.add_mutually_exclusive_group()
    modes.add_argument("--mode", choices=methods.MODES, metavar="MODE", help="what to do: " + ", ".join(methods.MODES))
    modes.add_argument(
        "--unlearn",
        choices=(*methods.MODES, *keys.UNLEARN_ALIAS),
        metavar="METHOD",
        help=f"the same by its published name too: {', '.join(keys.UNLEARN_ALIAS)}",
    )
    modes.add_argument(
        "--print_indices", metavar="RUN", help="print the images that RUN was trained on, as --forget_idx reads them"
    )
    add_config_arguments(p, required=False)
    p.add_argument("--resume", type=a_path, metavar="RUN", help="continue this run; it knows its command")
    add_arguments(p)
    return p


def config_name(args: argparse.Namespace) -> str:
    """--config, the run's own, or DATASET_classifier.yml: of --dataset, of the model to start from, or of CIFAR-10."""
    if args.config is not None:
        return args.config
    if args.resume is not None:
        return str(own_config(args.resume))
    if args.dataset is None and args.ckpt_folder is not None:
        from functions.storage.checkpoint import Snapshot

        meta = Snapshot.open(args.ckpt_folder).meta
        if meta["world"] != "classifier":
            raise InputError(f"--config: missing; {args.ckpt_folder} is a {meta['world']} model")
        args.dataset = meta["data"]["dataset"]
        args.data_path = args.data_path or meta.get("config", {}).get("data", {}).get("path")
    return f"{args.dataset or 'cifar10'}_classifier.yml"


def main(argv: list[str] | None = None):
    """Returns the folder that was written."""
    args = parser().parse_args(argv)
    if args.print_indices is not None:
        from runners.original import printed_indices

        return print(printed_indices(args.print_indices))
    if args.unlearn is not None:
        args.mode = keys.UNLEARN_ALIAS.get(args.unlearn, args.unlearn)
        say(f"--unlearn {args.unlearn} means --mode {args.mode}")
    if args.mode is None:
        args.mode = own_mode(args.resume)
    name = config_name(args)
    cfg = config.load_config(name, args.mode, args.overlay, args.set, config_flags(args, FLAGS))
    if args.dry_run:
        say(config.dump_config(cfg))

    import datasets
    import models
    from functions.storage.imported import started_from
    from functions.training.distributed import processes
    from runners import MODES  # torch and its friends: only now, so that --help and config errors come at once
    from runners.setup import prepare

    mode = MODES[args.mode]
    with processes(), started_from(cfg, datasets, models, args.dry_run) as cfg:
        materials = prepare(cfg, args.mode, mode.fresh, args.dry_run)
        runner = mode(materials.cfg, materials, args.resume)
        if args.dry_run:
            print(runner.plan())
            return None
        return runner.run()


if __name__ == "__main__":
    sys.exit(run_main(main))
