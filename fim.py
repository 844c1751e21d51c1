"""Selective Amnesia's Fisher: per sample of the model, gradients summed over all timesteps, then squared."""

from __future__ import annotations

import sys

from functions.config import load as config
from functions.config.cli import Parser, a_path, add_config_arguments, config_flags, run_main, say
from functions.places import check_folder_place

EPILOG = """example, on data that needs no download:
  python sample.py --config digits_sample.yml --ckpt_folder RUN --mode sample_classes --n_samples_per_class 20
  python fim.py --config digits_fim.yml --ckpt_folder RUN --n_chunks 4
  python train.py --config digits_baselines.yml --ckpt_folder RUN --label_to_forget 0 --mode sa

reads RUN/class_samples/<class>/ and writes RUN/fisher_dict.safetensors and, as the published scripts name it,
RUN/fisher_dict.pkl. The same command goes on where it was stopped."""

FLAGS = ["ckpt_folder", "n_chunks", "seed"]


def parser() -> Parser:
    p = Parser(description=__doc__, epilog=EPILOG)
    add_config_arguments(p)
    which = "the run folder with the checkpoint and its class_samples; world dit: or the file that they were drawn from"
    p.add_argument("--ckpt_folder", "--ckpt", type=a_path, metavar="RUN", help=which)
    p.add_argument(
        "--n_chunks",
        type=int,
        metavar="N",
        help="batches that the sum over timesteps is cut into: more of them need less memory",
    )
    return p


def main(argv: list[str] | None = None):
    """Returns the path of the Fisher."""
    args = parser().parse_args(argv)
    cfg = config.load_config(args.config, "fim", args.overlay, args.set, config_flags(args, FLAGS))
    if args.dry_run:
        say(config.dump_config(cfg))

    # torch and its friends: only now, so that --help comes at once
    import datasets
    import models
    from functions.storage.imported import started_from
    from functions.training.distributed import processes
    from runners.passes.fim import SweepFisher
    from runners.setup import prepare

    with processes(), started_from(cfg, datasets, models, args.dry_run) as cfg:
        materials = prepare(cfg, SweepFisher.mode, SweepFisher.fresh)
        check_folder_place(cfg.ckpt_folder, "--ckpt_folder")
        runner = SweepFisher(materials.cfg, materials)
        if args.dry_run:
            print(runner.plan())
            return None
        return runner.run()


if __name__ == "__main__":
    sys.exit(run_main(main))
