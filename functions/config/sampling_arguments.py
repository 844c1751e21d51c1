"""The flags of sample.py, with those of DiT's published sample.py and sample_ddp.py. Torch-free."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from functions.config.cli import Parser, a_path, a_seed, a_side, config_flags, number, say, whole
from functions.config.schema import Config
from functions.errors import InputError

MODES = ("sample_fid", "sample_classes", "visualization")
GRID_COLUMNS = 10  # images per class of a visualization, unless asked
# those that set a key of the config, see `names`
FLAGS = ["ckpt_folder", "cond_scale", "guided_channels", "sample_type", "timesteps", "eta", "skip_type"]
FLAGS += ["n_samples_per_class", "weights", "minmax", "seed", "global_seed", "per_proc_batch_size", "vae", "image_size"]


def add_sampling_arguments(p: Parser) -> None:
    which = "the run folder whose newest checkpoint draws; world dit: or a published file, or a folder of diffusers"
    p.add_argument("--ckpt_folder", "--ckpt", type=a_path, metavar="RUN", help=which)
    p.add_argument("--classes_to_generate", metavar="LIST", help="0,2,cat: these; x0,xcat: all but these")
    p.add_argument("--n_samples_per_class", type=int, metavar="N", help="images of each class")
    p.add_argument("--cond_scale", type=float, metavar="W", help="guidance: (1 + W) eps_c - W eps_null; 0 is none")
    guided = "channels that guidance moves; three: of the four of latents, as published for DiT"
    p.add_argument("--guided_channels", choices=("all", "three"), help=guided)
    p.add_argument(
        "--sample_type",
        choices=("generalized", "ddpm_noisy", "dpm_solver", "learned_range"),
        help="generalized: DDIM to ancestral, by --eta; ddpm_noisy: DDPM with x_0 clipped; dpm_solver: DPM-Solver++, "
        "about 20 steps; learned_range: ancestral with the model's own variance, 250 steps as published for DiT",
    )
    p.add_argument("--timesteps", "--num_sampling_steps", type=int, metavar="S", help="steps of the sampler")
    p.add_argument("--eta", type=float, help="generalized: 0 is DDIM (deterministic), 1 is ancestral")
    p.add_argument("--skip_type", choices=("uniform", "quad"), help="generalized: how S steps lie among the model's")
    p.add_argument("--weights", choices=("auto", "ema", "raw"), help="auto: EMA where the checkpoint has one")
    stretch = "stretch each image by its own extremes (published); else clamp"
    p.add_argument("--minmax", action=argparse.BooleanOptionalAction, help=stretch)
    place = "the folder, or picture, to write (default: named as above, in RUN)"
    p.add_argument("--out", type=a_path, metavar="PATH", help=place)
    packed = "also the folder's images as one PATH.npz, as ADM's evaluator reads it, once all are there"
    p.add_argument("--npz", action=argparse.BooleanOptionalAction, default=False, help=packed)
    other = "visualization: this run's images beside RUN's, from the same noise; repeatable"
    p.add_argument("--beside", type=a_path, action="append", default=[], metavar="RUN2", help=other)
    p.add_argument("--vae", type=a_path, metavar="ema|mse|FOLDER", help="where the autoencoder of latents lies now")
    p.add_argument("--image_size", type=a_side, metavar="PIXELS", help="only checked: the checkpoint says it")


def add_published_arguments(p: argparse._ArgumentGroup) -> None:
    usual = "guidance on the usual scale, (1 - S) eps_null + S eps_c: --cond_scale S - 1"
    p.add_argument("--cfg_scale", type=number(1), metavar="S", help=usual)
    total = "images of all classes together, the same number of each"
    p.add_argument("--num_fid_samples", type=whole(1), metavar="N", help=total)
    p.add_argument("--per_proc_batch_size", type=int, metavar="B", help="images of one pass (sampling.batch_size)")
    p.add_argument("--sample_dir", type=a_path, metavar="DIR", help="the folder to write is put in here, not in RUN")
    p.add_argument("--global_seed", type=a_seed, help="--seed")


def flags_of(args: argparse.Namespace) -> dict[str, object]:
    """The values of flags that set keys; `--cfg_scale` becomes the guidance that it means, and a line says so."""
    flags = config_flags(args, FLAGS)
    if args.cfg_scale is None:
        return flags
    w = args.cfg_scale - 1
    if args.cond_scale not in (None, w):
        raise InputError(f"--cfg_scale {args.cfg_scale} and --cond_scale {args.cond_scale}: differ; wanted one of them")
    say(f"--cfg_scale {args.cfg_scale:g} means --cond_scale {w:g}")
    return {**flags, "cond_scale": w}


def check_flags(args: argparse.Namespace, cfg: Config) -> None:
    """Raises InputError for flags that have no meaning beside one another."""
    if args.eta is not None and cfg.sampling.sample_type != "generalized":
        raise InputError(f"--eta {args.eta}: only sample_type generalized has one, this is {cfg.sampling.sample_type}")
    if args.out and args.out.endswith(".png") != (args.mode == "visualization"):
        raise InputError(f"--out {args.out}: mode visualization writes a .png, the others a folder")
    if args.out and args.sample_dir:
        raise InputError(f"--out {args.out} and --sample_dir {args.sample_dir}: wanted one of them")
    if args.num_fid_samples and args.n_samples_per_class:
        raise InputError("--num_fid_samples and --n_samples_per_class: wanted one of them")
    for flag, given in (("npz", args.npz), ("num_fid_samples", args.num_fid_samples)):
        if given and args.mode == "visualization":
            raise InputError(f"--{flag}: is for folders of samples; mode visualization writes a picture")
    if args.beside and args.mode != "visualization":
        raise InputError(f"--beside {args.beside[0]}: mode visualization alone draws several runs, this is {args.mode}")


def with_number(args: argparse.Namespace, cfg: Config, classes: Sequence[int]) -> Config:
    """The config with so many images of each class as the flags ask for."""
    n = cfg.sampling.n_samples_per_class
    if args.mode == "visualization" and args.n_samples_per_class is None:
        n = min(GRID_COLUMNS, n)
    if (total := args.num_fid_samples) is not None:
        n = total // len(classes)
        if n * len(classes) != total:
            near = " or ".join(str(k * len(classes)) for k in (n, n + 1) if k)
            raise InputError(f"--num_fid_samples {total}: not the same number of {len(classes)} classes; {near} are")
    return cfg.model_copy(update={"sampling": cfg.sampling.model_copy(update={"n_samples_per_class": n})})
