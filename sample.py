"""Draw images from a diffusion checkpoint: folders of PNGs to be judged, or one picture to look at."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from functions.config import load as config
from functions.config.classes import parse_classes, selection
from functions.config.cli import add_config_arguments, config_flags, run_main
from functions.config.schema import Config
from functions.errors import InputError
from functions.files import version, write_json
from functions.judging.contract import GENERATION, contract, read_generation

EPILOG = """modes and what they write (RUN is --ckpt_folder, w is --cond_scale):
  sample_fid      RUN/fid_samples_without_label_0_guidance_2.0/<class>/<k>.png   for evaluator.py
  sample_classes  RUN/class_samples/<class>/<k>.png                             for classifier_evaluation.py
  visualization   RUN/visualization_guidance_2.0.png                            rows are classes, 10 images each

examples, on data that needs no download:
  python sample.py --config digits_sample.yml --ckpt_folder RUN --mode visualization
  python sample.py --config digits_sample.yml --ckpt_folder RUN --mode sample_fid --classes_to_generate x0
  python sample.py --config digits_sample.yml --ckpt_folder RUN --mode sample_classes --classes_to_generate 0 \\
      --n_samples_per_class 500

Image k of class c depends on --seed, c and k alone, so two checkpoints draw from the same noise. A folder says in
samples.json how it was made: the same command again draws only what is missing, another one is refused."""

FLAGS = [
    "ckpt_folder",
    "cond_scale",
    "sample_type",
    "timesteps",
    "eta",
    "skip_type",
    "n_samples_per_class",
    "weights",
    "minmax",
    "seed",
]
GRID_COLUMNS = 10  # images per class of a visualization, unless asked


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=raw)
    p.add_argument("--mode", required=True, choices=tuple(NAMES), help="what to write")
    add_config_arguments(p)
    p.add_argument("--ckpt_folder", metavar="RUN", help="the run folder whose newest checkpoint draws")
    p.add_argument("--classes_to_generate", metavar="LIST", help="1,2,3: these; x0,x1: all but these (default: all)")
    p.add_argument("--n_samples_per_class", type=int, metavar="N", help="images of each class")
    p.add_argument("--cond_scale", type=float, metavar="W", help="guidance: (1 + W) eps_c - W eps_null; 0 is none")
    p.add_argument(
        "--sample_type",
        choices=("generalized", "ddpm_noisy", "dpm_solver"),
        help="generalized: DDIM to ancestral, by --eta; ddpm_noisy: DDPM with x_0 clipped; "
        "dpm_solver: DPM-Solver++, about 20 steps",
    )
    p.add_argument("--timesteps", type=int, metavar="S", help="steps of the sampler")
    p.add_argument("--eta", type=float, help="generalized: 0 is DDIM (deterministic), 1 is ancestral")
    p.add_argument("--skip_type", choices=("uniform", "quad"), help="generalized: how S steps lie among the model's")
    p.add_argument("--weights", choices=("auto", "ema", "raw"), help="auto: EMA where the checkpoint has one")
    p.add_argument(
        "--minmax",
        action=argparse.BooleanOptionalAction,
        help="stretch each image to 0..255 by its own extremes (published); else clamp",
    )
    p.add_argument("--out", metavar="PATH", help="the folder, or picture, to write (default: named as above, in RUN)")
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
        print(config.dump_config(cfg))

    from functions.sampling import samplers  # torch: only now, so that --help comes at once
    from functions.storage import checkpoint

    meta = checkpoint.load_meta(cfg.ckpt_folder)
    check_meta(cfg, meta)
    samplers.check(cfg.sampling, meta["diffusion"]["timesteps"])
    n_classes = meta["data"]["n_classes"]
    classes = parse_classes(args.classes_to_generate, n_classes)
    name = NAMES[args.mode](selection(classes, n_classes), cfg.sampling.cond_scale)
    out = Path(args.out) if args.out else Path(cfg.ckpt_folder) / name
    made = generation_contract(cfg, meta, classes)
    wanted = [(c, k) for c in classes for k in range(cfg.sampling.n_samples_per_class)]
    if args.mode != "visualization":
        made["record"]["classes"] = check_folder(out, made)
        wanted = [(c, k) for c, k in wanted if not (out / str(c) / f"{k}.png").exists()]
    if args.dry_run:
        print(plan(cfg, meta, out, len(wanted)))
        return None
    print(f"{out}: {len(wanted)} images to draw of class {', '.join(map(str, classes))}", flush=True)
    if wanted:
        draw(cfg, meta, out, made, wanted)
    return out


# ---- what is asked for


NAMES = {
    "sample_fid": lambda which, w: f"fid_samples{which}_guidance_{w}",
    "sample_classes": lambda which, w: "class_samples",
    "visualization": lambda which, w: f"visualization{which}_guidance_{w}.png",
}


def check_meta(cfg: Config, meta: dict) -> None:
    """The checkpoint decides what is drawn; a config made for something else is refused."""
    found = {"world": meta["world"], "data.dataset": meta["data"]["dataset"], "diffusion": meta["diffusion"]}
    diffusion = cfg.diffusion and cfg.diffusion.model_dump()
    asked = {"world": cfg.world, "data.dataset": cfg.data.dataset, "diffusion": diffusion}
    if meta["world"] != "ddpm":
        raise InputError(f"{cfg.ckpt_folder}: a checkpoint of world {meta['world']}; only ddpm models draw")
    for key, value in found.items():
        if asked[key] != value:
            raise InputError(f"{cfg.ckpt_folder}: {key}: the checkpoint has {value}, the config {asked[key]}")


# ---- the contract of a folder


def generation_contract(cfg: Config, meta: dict, classes: list[int]) -> dict:
    """How these images are made. Settings that their sampler does not read are null, so that they part nothing."""
    from functions.storage.checkpoint import choose_kind, weights_hash

    s, kind = cfg.sampling, choose_kind(cfg.ckpt_folder, cfg.sampling.weights)
    general = s.sample_type == "generalized"
    protocol = {
        "sampler": s.sample_type,
        "steps": s.timesteps,
        "eta": s.eta if general else None,
        "skip_type": s.skip_type if general else None,
        "guidance": s.cond_scale,
        "weights": s.weights,
        "n_per_class": s.n_samples_per_class,
        "range": "minmax" if s.minmax else "clamp",
        "train_mode": s.train_mode,
    }
    record = {
        "seed": cfg.seeds.seed,
        "weights": kind,
        "checkpoint": weights_hash(cfg.ckpt_folder, kind),
        "step": meta["step"],
        "dataset": meta["data"]["dataset"],
        "classes": classes,
        "version": version(),
    }
    return contract(protocol, record)


def check_folder(folder: Path, wanted: dict) -> list[int]:
    """All classes that the folder will hold. Raises InputError where its images were made another way."""
    if not (folder / GENERATION).is_file():
        if next(folder.rglob("*.png"), None):
            raise InputError(f"{folder}: holds images but no {GENERATION}: move it away")
        return wanted["record"]["classes"]
    found = read_generation(folder)
    for part, keys in (("protocol", wanted["protocol"]), ("record", ("seed", "weights", "checkpoint"))):
        for key in keys:
            old, new = found[part].get(key), wanted[part][key]
            if old != new:
                raise InputError(
                    f"{folder}: holds images made with {key} {old}, this command asks for {key} {new}: "
                    "move the folder away, or ask for the same"
                )
    return sorted({*found["record"]["classes"], *wanted["record"]["classes"]})


def plan(cfg: Config, meta: dict, out: Path, n_images: int) -> str:
    """What --dry_run prints after the config."""
    from functions.storage.checkpoint import choose_kind

    s, kind = cfg.sampling, choose_kind(cfg.ckpt_folder, cfg.sampling.weights)
    calls = -(-n_images // s.batch_size) * s.timesteps
    lines = [
        f"{cfg.ckpt_folder} at step {meta['step']}: {meta['model']['name']}, {kind} weights",
        f"{s.timesteps} steps of {s.sample_type}, guidance {s.cond_scale}, {calls} in all in batches of {s.batch_size}",
        f"would write: {n_images} images of {'x'.join(map(str, meta['data']['shape']))} to {out}",
    ]
    return "\n".join(lines)


# ---- drawing


def draw(cfg: Config, meta: dict, out: Path, made: dict, wanted: list[tuple[int, int]]) -> None:
    """Load the model and write the wanted images: into the folder `out`, or onto the picture `out`."""
    import torch

    from functions.sampling.samplers import generate_all
    from functions.sampling.write import grid, save_png, to_uint8, write_images

    task, model = load(cfg, meta)
    if cfg.sampling.train_mode:  # dropout draws from torch's own generator: batches matter, runs don't
        torch.manual_seed(cfg.seeds.seed)
    batches = generate_all(task, model, wanted, meta["data"]["shape"], cfg.sampling, cfg.seeds.seed)
    if out.suffix == ".png":  # visualization
        pixels = torch.cat([to_uint8(images, cfg.sampling.minmax) for _, images in batches])
        save_png(out, grid(pixels, cfg.sampling.n_samples_per_class).numpy())
        write_json(out.with_suffix(".json"), made)
        return
    write_json(out / GENERATION, made)
    write_images(out, batches, cfg.sampling.minmax)


def load(cfg: Config, meta: dict):
    """Task and model of the checkpoint, on the device, in eval mode, without gradients."""
    import models
    from functions.storage import checkpoint
    from functions.tasks import denoising
    from functions.training.distributed import choose_device

    device, kind = choose_device(cfg.device), checkpoint.choose_kind(cfg.ckpt_folder, cfg.sampling.weights)
    model = models.build(meta["model"])
    checkpoint.load_into(model, checkpoint.load_weights(cfg.ckpt_folder, kind), cfg.ckpt_folder)
    encoder = models.ENCODERS[meta["encoder"]["name"]](**meta["encoder"]["kwargs"])
    task = denoising(meta["diffusion"], encoder, meta["data"]["n_classes"])
    return task.to(device), model.to(device).eval().requires_grad_(False)


if __name__ == "__main__":
    sys.exit(run_main(main))
