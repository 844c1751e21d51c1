"""Checkpoints of the published DDPM code into run folders of ours, and models out of them. Nothing in a file is run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from functions.config import load as config
from functions.config import schema
from functions.config.cli import Parser, a_path, run_main
from functions.errors import InputError
from functions.places import check_folder_place

EPILOG = """examples:
  python convert.py THEIRS/ckpts/ckpt.pth --config cifar10_pretrain.yml   -> results/cifar10/pretrain/<time>
  python convert.py RUN --export ddim                                     -> RUN/ckpts/ckpt.pth
  python convert.py RUN --export diffusers|weights             -> RUN/diffusers/{unet,scheduler}|RUN/weights.pth

ckpt.pth is torch.save([model, optimiser, step]), with the weights of the EMA as a fourth entry where there is one.
Into a run folder: the weights have to fit the config's model exactly; no data are read (cifar100 and folder: the class
names are). The optimiser's state is left behind: unlearning starts with a fresh one, and --resume is refused.
Back: raw weights, the state of the run's Adam (fresh where it has none), the step and, where there is one, the EMA.
diffusers: a UNet2DModel with the same outputs and a DDIMScheduler, for U-Nets of the published shape (ch 128, 256 ...).
weights: any model, for torch.load(..., weights_only=True). docs/use_the_model_elsewhere.md shows their use."""

# The mode of no command: the optimiser and the data positions to go on from are not there.
ORIGIN = {"mode": "import"}


def parser() -> Parser:
    p = Parser(description=__doc__, epilog=EPILOG)
    p.add_argument("source", type=a_path, metavar="CKPT|RUN", help="a published ckpt.pth; with --export, a run folder")
    p.add_argument(
        "--config", type=a_path, metavar="FILE", help="what CKPT is a model of: its model, data and diffusion sections"
    )
    p.add_argument("--set", action="append", metavar="KEY=VALUE", help="override any key: model.ch=64; repeatable")
    p.add_argument("--export", choices=tuple(EXPORTS), help="write RUN for others, as above")
    p.add_argument("--weights", choices=("auto", "ema", "raw"), default="auto", help="to export; auto: EMA if any")
    p.add_argument("--out", type=a_path, metavar="PATH", help="the run folder, or the file, to write, a new one")
    return p


def main(argv: list[str] | None = None) -> Path:
    """Returns the run folder, or the file, that was written."""
    args = parser().parse_args(argv)
    if args.out is not None:
        check_new(Path(args.out))
        check_folder_place(Path(args.out).parent, "--out")
    if args.export is None:
        return import_run(args)
    if args.config or args.set:
        raise InputError("--config, --set: have no meaning with --export: the run folder says what it is")
    return EXPORTS[args.export](args)


def check_new(out: Path) -> None:
    """Nothing is overwritten."""
    if out.exists():
        raise InputError(f"{out}: already exists; move it away or choose another (--out)")


# ---- into a run folder


def import_run(args: argparse.Namespace) -> Path:
    """A run folder with one snapshot, as pretraining with this config would have left it."""
    if args.config is None:
        raise InputError(
            f"{args.source}: --config: missing; it says what this is a model of (a run folder of ours: --export)"
        )
    cfg = config.load_config(args.config, "pretrain", settings=args.set)
    if cfg.world != "ddpm":
        raise InputError(f"--config {args.config}: world {cfg.world}; a published checkpoint is of world ddpm")

    # torch: only now, so that --help comes at once
    from functions.files import sha256_file
    from functions.storage import checkpoint, published
    from functions.storage.run import RunFolder, run_parent

    weights, step = published.load_list(args.source)
    meta = imported_meta(cfg, sha256_file(args.source))
    weights = check_weights(meta["model"], weights, args.source)
    if args.out is None:
        parent = run_parent(cfg.results, cfg.data.dataset, "pretrain", None)
        folder = RunFolder.create(parent, config.dump_config(cfg), ORIGIN)
    else:
        folder = RunFolder.create_at(Path(args.out), config.dump_config(cfg), ORIGIN)
    with folder.whole_or_absent():
        checkpoint.save(folder.path, step, weights, {"optimizers": []}, meta, keep=1)
        folder.say(f"{args.source}: {' and '.join(weights)} weights at step {step} -> {folder.path}")
    return folder.path


def imported_meta(cfg: schema.Config, source: str) -> dict:
    """What `meta.json` of a pretrained model says; `source` is the hash of the file that the weights come from."""
    import datasets
    from functions.storage.meta import PIXELS, model_meta, run_meta

    shape, classes = datasets.describe(cfg.data.dataset, cfg.data.path, cfg.data.image_size)
    data = {"dataset": cfg.data.dataset, "n_classes": len(classes), "shape": list(shape), "classes": list(classes)}
    model, diffusion = model_meta(cfg.model, data), cfg.diffusion.model_dump()
    return {**run_meta(cfg, "pretrain", data, model, PIXELS, diffusion, source, None), "pretrained": None}


def check_weights(model_meta: dict, weights: dict[str, dict], source: str) -> dict[str, dict]:
    """Raw and EMA weights as the model holds them. Raises InputError where they are not those of this model."""
    import models
    from functions.storage.checkpoint import load_into

    checked = {}
    for kind, tensors in weights.items():
        model = models.build(model_meta)
        load_into(model, tensors, f"{source} ({kind})")
        checked[kind] = model.state_dict()
    return checked


def export_ddim(args: argparse.Namespace) -> Path:
    """The newest snapshot as the list of the published code."""
    from functions.storage import checkpoint, published

    snapshot = checkpoint.Snapshot.open(args.source)
    out = Path(args.out or snapshot.path.parent / "ckpt.pth")
    check_new(out)
    print(f"{args.source}: {published.export(snapshot, args.source, out)} -> {out}")
    return out


def export_model(args: argparse.Namespace) -> Path:
    """The newest snapshot's model, for diffusers or as a plain file of tensors."""
    import models
    from functions.storage import exported
    from functions.storage.checkpoint import Snapshot

    snapshot, (name, save) = Snapshot.open(args.source), exported.FORMS[args.export]
    kind, out = snapshot.kind(args.weights), Path(args.out or snapshot.path.parent.parent / name)
    check_new(out)
    save(out, snapshot.model(kind, models.build), snapshot.meta)
    print(f"{args.source}: {kind} weights at step {snapshot.meta['step']} -> {out}")
    return out


EXPORTS = {"ddim": export_ddim, "diffusers": export_model, "weights": export_model}

if __name__ == "__main__":
    sys.exit(run_main(main))
