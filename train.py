"""Train, unlearn, or prepare unlearning: one script, a runner per --mode."""

from __future__ import annotations

import argparse
import sys

from functions import config, schema
from functions.cli import add_config_arguments, config_flags, run_main

EPILOG = """the main job, on data that needs no download:
  python train.py --config digits_pretrain.yml --mode pretrain
  python train.py --config digits_fisher.yml --mode generate_fisher --ckpt_folder RUN --label_to_forget 0
  python generate_fisher_mask.py --ckpt_folder RUN/mask_0 --threshold 1.0
  python train.py --config digits_sfron.yml --mode sfron --ckpt_folder RUN --label_to_forget 0 \\
      --mask_path RUN/mask_0/fisher_1.0.safetensors

baselines, from the same RUN:
  SalUn     --mode generate_mask, then --mode salun --mask_path results/digits/mask/0/with_0.5.safetensors
            (both with --config digits_saliency_unlearn.yml)
  SA        sample.py --mode sample_classes, fim.py, then --config digits_sa.yml --mode sa
  the rest  --config digits_MODE.yml --mode MODE for finetune, ga, esd, erasediff

A run writes results/<dataset>/.../<time>/ with logs/, ckpts/ and previews/. The same command with --resume RUN
continues it, on the CPU to the same bits."""

FLAGS = ["label_to_forget", "ckpt_folder", "mask_path", "method", "unlearn_loss", "forget_alpha",
         "decay_forget_alpha", "remain_alpha", "cond_scale", "seed"]  # fmt: skip


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--mode", required=True, choices=schema.MODES, help="what to do")
    add_config_arguments(p)
    p.add_argument(
        "--ckpt_folder", metavar="RUN", help="the run folder whose newest checkpoint to start from"
    )
    p.add_argument("--label_to_forget", type=int, metavar="C", help="the class to forget, or to leave out")
    p.add_argument(
        "--mask_path",
        metavar="FILE",
        help="saliency mask of generate_fisher_mask.py or of --mode generate_mask",
    )
    p.add_argument(
        "--method", choices=("ron", "joint"), help="sfron: forget and remain steps in turn, or their sum"
    )
    p.add_argument("--unlearn_loss", choices=(*schema.FORGET_LOSSES, "rl"),
                   help="adaga: adaptive ascent; ga: ascent; match: follow another label's prediction; "
                        "relabel: train towards a wrong label; rl: match (ddpm) or relabel (classifier)")  # fmt: skip
    p.add_argument("--forget_alpha", type=float, help="weight of the forget loss")
    p.add_argument(
        "--decay_forget_alpha", action=argparse.BooleanOptionalAction, help="cosine decay of that weight"
    )
    p.add_argument("--remain_alpha", type=float, help="weight of the remain loss")
    p.add_argument(
        "--cond_scale",
        type=float,
        help="generate_fisher, generate_mask: guidance w of the differentiated prediction",
    )
    p.add_argument("--resume", metavar="RUN", help="continue this run, given the command that began it")
    return p


def main(argv: list[str] | None = None):
    """Returns the folder that was written."""
    args = parser().parse_args(argv)
    cfg = config.load_config(args.config, args.mode, args.overlay, args.set, config_flags(args, FLAGS))
    if args.dry_run:
        print(config.dump_config(cfg))

    from runners import (
        MODES,
    )  # torch and its friends: only now, so that --help and config errors come at once
    from runners.setup import prepare

    mode = MODES[args.mode]
    runner = mode(cfg, prepare(cfg, args.mode, mode.fresh), args.resume)
    if args.dry_run:
        print(runner.plan())
        return None
    return runner.run()


if __name__ == "__main__":
    sys.exit(run_main(main))
