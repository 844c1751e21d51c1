"""Draw images from a diffusion checkpoint: folders of PNGs to be judged, or one picture to look at."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from functions.config import load as config
from functions.config import sampling_arguments as flags
from functions.config.classes import classes_suffix, parse_classes
from functions.config.cli import Parser, add_config_arguments, run_main, say
from functions.config.schema import Config
from functions.places import check_file_place, check_folder_place

EPILOG = """modes and what they write (RUN is --ckpt_folder, w is --cond_scale):
  sample_fid      RUN/fid_samples_without_label_0_guidance_2.0/<class>/<k>.png   for evaluator.py
  sample_classes  RUN/class_samples/<class>/<k>.png                             for classifier_evaluation.py
  visualization   RUN/visualization_guidance_2.0.png                            a named row of 10 for each class

examples, on data that needs no download:
  python sample.py --config digits_sample.yml --ckpt_folder RUN --mode visualization
  python sample.py --config digits_sample.yml --ckpt_folder RUN --mode visualization --beside RUN2
  python sample.py --config digits_sample.yml --ckpt_folder RUN --mode sample_fid --classes_to_generate x0
  python sample.py --config digits_sample.yml --ckpt_folder RUN --mode sample_classes --classes_to_generate 0 \\
      --n_samples_per_class 500

Image k of class c depends on --seed, c and k alone, so two checkpoints draw from the same noise. A folder says in
samples.json how it was made: the same command again draws only what is missing, beside one that still runs too;
another one is refused."""

MANY = 20  # classes that a line names one by one
# mode -> the name of what it writes, by the classes that are there and the guidance
NAMES = {
    "sample_fid": lambda which, w: f"fid_samples{which}_guidance_{w}",
    "sample_classes": lambda which, w: "class_samples",
    "visualization": lambda which, w: f"visualization{which}_guidance_{w}.png",
}


def parser() -> Parser:
    p = Parser(description=__doc__, epilog=EPILOG)
    p.add_argument("--mode", required=True, choices=flags.MODES, help="what to write")
    add_config_arguments(p)
    flags.add_sampling_arguments(p)
    flags.add_published_arguments(p.add_argument_group("as DiT's sample.py and sample_ddp.py call it"))
    return p


def main(argv: list[str] | None = None) -> Path | None:
    """Returns the folder, or the picture, that was written."""
    args = parser().parse_args(argv)
    cfg = config.load_config(args.config, "sample", args.overlay, args.set, flags.flags_of(args))
    flags.check_flags(args, cfg)
    if args.dry_run:
        say(config.dump_config(cfg))

    # torch and its friends: only now, so that --help comes at once
    import datasets
    import models
    from functions.storage.imported import started_from
    from functions.training.distributed import processes

    with processes(), contextlib.ExitStack() as stack:
        runs = [cfg.model_copy(update={"ckpt_folder": folder}) for folder in (cfg.ckpt_folder, *args.beside)]
        return sample(args, [stack.enter_context(started_from(c, datasets, models, args.dry_run)) for c in runs])


def sample(args: argparse.Namespace, runs: list[Config]) -> Path | None:
    """What `main` does once the configs are known; of several processes each draws its share of the images."""
    import models
    from functions.sampling import contract, npz, source
    from functions.sampling.write import write_folder
    from functions.training import distributed

    cfg, sources = runs[0], [source.Source.open(c, models) for c in runs]
    source.check_beside(sources)
    data, picture = sources[0].meta["data"], args.mode == "visualization"
    classes = parse_classes(args.classes_to_generate, data.get("classes") or data["n_classes"])
    suffix = classes_suffix(classes, data["n_classes"])
    if picture and args.classes_to_generate is None:
        classes = source.shown_classes(sources)
    cfg = flags.with_number(args, cfg, classes)
    name = NAMES[args.mode](suffix, cfg.sampling.cond_scale)
    out = Path(args.out) if args.out else Path(args.sample_dir or cfg.ckpt_folder) / name
    made = sources[0].contract(cfg, classes)
    wanted = [(c, k) for c in classes for k in range(cfg.sampling.n_samples_per_class)]
    there = lambda pair: not picture and (out / str(pair[0]) / f"{pair[1]}.png").exists()
    (check_file_place if picture else check_folder_place)(out, "--out")
    if not picture:
        contract.check_folder(out, made)
        wanted = [pair for pair in wanted if not there(pair)]
    if args.npz:
        npz.check(npz.beside(out), made)
    if args.dry_run:
        return print(contract.plan(cfg, sources[0].meta, sources[0].kind, out, len(wanted) * len(sources)))
    named = f"class {', '.join(map(str, classes))}" if len(classes) <= MANY else f"{len(classes)} classes"
    print(f"{out}: {len(wanted) * len(sources)} images to draw of {named}", flush=True)
    # all have looked before one writes
    hashes = ", ".join(s.hash for s in sources)
    distributed.agree({"checkpoint": hashes, "number of images to draw": len(wanted)})
    if picture:
        source.draw_picture(out, wanted, sources, cfg, models)
    elif wanted:
        write_folder(out, wanted, sources[0].drawing(cfg, models, there), made, cfg.sampling)
    if args.npz:
        written = distributed.on_first(lambda: npz.write(out))
        print(f"{written}: all images of {out}", flush=True)
    return out


if __name__ == "__main__":
    sys.exit(run_main(main))
