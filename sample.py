"""Draw images from a diffusion checkpoint: folders of PNGs to be judged, or one picture to look at."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from functions.config import load as config
from functions.config.classes import classes_suffix, parse_classes
from functions.config.cli import Parser, a_path, add_config_arguments, config_flags, run_main, say
from functions.config.schema import Config
from functions.errors import InputError
from functions.places import check_file_place, check_folder_place

EPILOG = """modes and what they write (RUN is --ckpt_folder, w is --cond_scale):
  sample_fid      RUN/fid_samples_without_label_0_guidance_2.0/<class>/<k>.png   for evaluator.py
  sample_classes  RUN/class_samples/<class>/<k>.png                             for classifier_evaluation.py
  visualization   RUN/visualization_guidance_2.0.png                            a named row of 10 for each class

examples, on data that needs no download:
  python sample.py --config digits_sample.yml --ckpt_folder RUN --mode visualization
  python sample.py --config digits_sample.yml --ckpt_folder RUN --mode sample_fid --classes_to_generate x0
  python sample.py --config digits_sample.yml --ckpt_folder RUN --mode sample_classes --classes_to_generate 0 \\
      --n_samples_per_class 500

Image k of class c depends on --seed, c and k alone, so two checkpoints draw from the same noise. A folder says in
samples.json how it was made: the same command again draws only what is missing, beside one that still runs too;
another one is refused."""

FLAGS = ["ckpt_folder", "cond_scale", "sample_type", "timesteps", "eta", "skip_type", "n_samples_per_class", "weights"]
FLAGS += ["minmax", "seed"]
GRID_COLUMNS = 10  # images per class of a visualization, unless asked
# mode -> the name of what it writes, by the classes that are there and the guidance
NAMES = {
    "sample_fid": lambda which, w: f"fid_samples{which}_guidance_{w}",
    "sample_classes": lambda which, w: "class_samples",
    "visualization": lambda which, w: f"visualization{which}_guidance_{w}.png",
}


def parser() -> Parser:
    p = Parser(description=__doc__, epilog=EPILOG)
    p.add_argument("--mode", required=True, choices=tuple(NAMES), help="what to write")
    add_config_arguments(p)
    which = "the run folder whose newest checkpoint draws; world dit: or a published file, or a folder of diffusers"
    p.add_argument("--ckpt_folder", "--ckpt", type=a_path, metavar="RUN", help=which)
    p.add_argument("--classes_to_generate", metavar="LIST", help="0,2,cat: these; x0,xcat: all but these")
    p.add_argument("--n_samples_per_class", type=int, metavar="N", help="images of each class")
    p.add_argument("--cond_scale", type=float, metavar="W", help="guidance: (1 + W) eps_c - W eps_null; 0 is none")
    types = "generalized: DDIM to ancestral, by --eta; ddpm_noisy: DDPM with x_0 clipped; "
    types += "dpm_solver: DPM-Solver++, about 20 steps"
    p.add_argument("--sample_type", choices=("generalized", "ddpm_noisy", "dpm_solver"), help=types)
    p.add_argument("--timesteps", type=int, metavar="S", help="steps of the sampler")
    p.add_argument("--eta", type=float, help="generalized: 0 is DDIM (deterministic), 1 is ancestral")
    p.add_argument("--skip_type", choices=("uniform", "quad"), help="generalized: how S steps lie among the model's")
    p.add_argument("--weights", choices=("auto", "ema", "raw"), help="auto: EMA where the checkpoint has one")
    stretch = "stretch each image by its own extremes (published); else clamp"
    p.add_argument("--minmax", action=argparse.BooleanOptionalAction, help=stretch)
    place = "the folder, or picture, to write (default: named as above, in RUN)"
    p.add_argument("--out", type=a_path, metavar="PATH", help=place)
    return p


def main(argv: list[str] | None = None) -> Path | None:
    """Returns the folder, or the picture, that was written."""
    args = parser().parse_args(argv)
    cfg = config.load_config(args.config, "sample", args.overlay, args.set, config_flags(args, FLAGS))
    if args.eta is not None and cfg.sampling.sample_type != "generalized":
        raise InputError(f"--eta {args.eta}: only sample_type generalized has one, this is {cfg.sampling.sample_type}")
    if args.out and (Path(args.out).suffix == ".png") != (args.mode == "visualization"):
        raise InputError(f"--out {args.out}: mode visualization writes a .png, the others a folder")
    if args.mode == "visualization" and args.n_samples_per_class is None:
        n = min(GRID_COLUMNS, cfg.sampling.n_samples_per_class)
        cfg = cfg.model_copy(update={"sampling": cfg.sampling.model_copy(update={"n_samples_per_class": n})})
    if args.dry_run:
        say(config.dump_config(cfg))

    # torch and its friends: only now, so that --help comes at once
    import datasets
    import models
    from functions.storage.imported import started_from
    from functions.training.distributed import processes

    with processes(), started_from(cfg, datasets, models, args.dry_run) as cfg:
        return sample(args, cfg)


def sample(args: argparse.Namespace, cfg: Config) -> Path | None:
    """What `main` does once the config is known; of several processes each draws its share of the images."""
    from functions.sampling import contract, samplers
    from functions.sampling.write import write_folder, write_picture
    from functions.storage.checkpoint import Snapshot
    from functions.training import distributed

    snapshot = Snapshot.open(cfg.ckpt_folder)
    meta, kind = snapshot.meta, snapshot.kind(cfg.sampling.weights)
    contract.check_checkpoint(cfg, meta)
    samplers.check(cfg.sampling, meta["diffusion"]["timesteps"])
    n_classes = meta["data"]["n_classes"]
    classes = parse_classes(args.classes_to_generate, meta["data"].get("classes") or n_classes)
    name = NAMES[args.mode](classes_suffix(classes, n_classes), cfg.sampling.cond_scale)
    out = Path(args.out) if args.out else Path(cfg.ckpt_folder) / name
    made = contract.generation_contract(cfg, meta, kind, snapshot.hash(kind), classes)
    wanted = [(c, k) for c in classes for k in range(cfg.sampling.n_samples_per_class)]
    there = lambda pair: args.mode != "visualization" and (out / str(pair[0]) / f"{pair[1]}.png").exists()
    (check_file_place if args.mode == "visualization" else check_folder_place)(out, "--out")
    if args.mode != "visualization":
        contract.check_folder(out, made)
        wanted = [pair for pair in wanted if not there(pair)]
    if args.dry_run:
        print(contract.plan(cfg, meta, kind, out, len(wanted)))
        return None
    print(f"{out}: {len(wanted)} images to draw of class {', '.join(map(str, classes))}", flush=True)
    # all have looked before one writes
    distributed.agree({"checkpoint": snapshot.hash(kind), "number of images to draw": len(wanted)})
    if not wanted:
        return out
    task, model = load(cfg, snapshot, kind)
    shape = task.encoder.shape(meta["data"]["shape"])
    draw = lambda pairs: samplers.generate_all(task, model, pairs, shape, cfg.sampling, cfg.seeds.seed, there)
    if args.mode == "visualization":
        write_picture(out, wanted, draw, made, cfg.sampling, meta)
    else:
        write_folder(out, wanted, draw, made, cfg.sampling)
    return out


def load(cfg: Config, snapshot, kind: str):
    """Task and model of the checkpoint, on the device, in eval mode, no gradients; seeded for dropout that stays on."""
    import torch

    import models
    from functions.tasks import denoising
    from functions.training.distributed import choose_device

    device, meta = choose_device(cfg.device), snapshot.meta
    model = snapshot.model(kind, models.build)
    encoder = models.encoder(meta["encoder"])
    task = denoising(meta["diffusion"], encoder, meta["data"]["n_classes"])
    # dropout draws from torch's own generator: batches matter, runs don't
    if cfg.sampling.train_mode:
        torch.manual_seed(cfg.seeds.seed)
    return task.to(device), model.to(device).eval().requires_grad_(False)


if __name__ == "__main__":
    sys.exit(run_main(main))
