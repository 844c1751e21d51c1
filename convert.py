"""Checkpoints of published code, DDPM or DiT, into run folders, and models out of them. Nothing in a file is run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from functions.config import load as config
from functions.config.cli import Parser, a_path, run_main
from functions.config.worlds import WORLDS, worlds_with
from functions.errors import InputError
from functions.places import check_folder_place

EPILOG = """examples:
  python convert.py THEIRS/ckpts/ckpt.pth --config cifar10_pretrain.yml   -> results/cifar10/pretrain/<time>
  python convert.py DiT-XL-2-256x256.pt --config dit_xl2_imagenet.yml     -> results/imagenet/pretrain/<time>
  python convert.py RUN --export ddim|dit                                 -> RUN/ckpts/ckpt.pth|dit.pt
  python convert.py RUN --export diffusers|weights             -> RUN/diffusers/|RUN/weights.pth

ckpt.pth is torch.save([model, optimiser, step]), with the weights of the EMA as a fourth entry where there is one. A
DiT is a state dict, {"model": ..., "ema": ...}, .safetensors or a folder of diffusers (a DiTPipeline, a transformer).
Into a run folder: the weights have to fit the config's model exactly; no data are read (cifar100 and folder: the class
names are). The optimiser's state is left behind: unlearning starts with a fresh one, and --resume is refused.
Back: raw weights, the state of the run's Adam (fresh where it has none), the step and, where there is one, the EMA.
diffusers: with the same outputs, a UNet2DModel (ch 128, 256 ...) or a DiTTransformer2DModel, and a DDIMScheduler.
weights: any model, for torch.load(..., weights_only=True). docs/use_the_model_elsewhere.md shows their use."""


def parser() -> Parser:
    p = Parser(description=__doc__, epilog=EPILOG)
    p.add_argument(
        "source", type=a_path, metavar="CKPT|RUN", help="a published file or folder; with --export, a run folder"
    )
    p.add_argument(
        "--config", type=a_path, metavar="FILE", help="what CKPT is a model of: its model, data and diffusion sections"
    )
    p.add_argument("--set", action="append", metavar="KEY=VALUE", help="override any key: model.ch=64; repeatable")
    p.add_argument("--export", choices=tuple(EXPORTS), help="write RUN for others, as above")
    which = ("auto", "ema", "raw", "both")
    p.add_argument("--weights", choices=which, default="auto", help="to export; auto: EMA if any; both: dit alone")
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
    if args.weights == "both" and args.export != "dit":
        raise InputError(f"--weights both: --export {args.export} holds one set of weights; only dit's file has both")
    return EXPORTS[args.export](args)


def check_new(out: Path) -> None:
    """Nothing is overwritten."""
    if out.exists():
        raise InputError(f"{out}: already exists; move it away or choose another (--out)")


def import_run(args: argparse.Namespace) -> Path:
    """A run folder with one snapshot, as pretraining with this config would have left it."""
    if args.config is None:
        raise InputError(
            f"{args.source}: --config: missing; it says what this is a model of (a run folder of ours: --export)"
        )
    cfg = config.load_config(args.config, "pretrain", settings=args.set)
    if not WORLDS[cfg.world].samples:
        wanted = f"a published checkpoint is of world {worlds_with('samples')}"
        raise InputError(f"--config {args.config}: world {cfg.world}; {wanted}")

    # torch: only now, so that --help comes at once
    import datasets
    import models
    from functions.storage import imported

    return imported.import_run(cfg, args.source, datasets, models, args.out)


# ---- for others


def export_ddim(args: argparse.Namespace) -> Path:
    """The newest snapshot as the list of the published code."""
    from functions.storage import published
    from functions.storage.checkpoint import Snapshot

    snapshot = Snapshot.open(args.source)
    out = Path(args.out or snapshot.path.parent / "ckpt.pth")
    check_new(out)
    print(f"{args.source}: {published.export(snapshot, args.source, out)} -> {out}")
    return out


def export_dit(args: argparse.Namespace) -> Path:
    """The newest snapshot as the file of the published code."""
    from functions.storage import exported_dit
    from functions.storage.checkpoint import Snapshot

    snapshot = Snapshot.open(args.source)
    out = Path(args.out or snapshot.path.parent / "dit.pt")
    check_new(out)
    print(f"{args.source}: {exported_dit.export(snapshot, args.source, out, args.weights)} -> {out}")
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


EXPORTS = {"ddim": export_ddim, "dit": export_dit, "diffusers": export_model, "weights": export_model}

if __name__ == "__main__":
    sys.exit(run_main(main))
