"""Encode a data set once: training then draws latents from what is kept, and needs neither images nor autoencoder."""

from __future__ import annotations

import sys

from functions.config import load as config
from functions.config.arguments import side
from functions.config.classes import labels
from functions.config.cli import Parser, a_batch, a_path, add_config_arguments, config_flags, run_main, say
from functions.places import check_folder_place

EPILOG = """example, the forget class and 20,000 of the other images of ImageNet:
  python encode_dataset.py --config dit_xl2_imagenet.yml --data_path IMAGENET --label_to_forget "golden retriever" \\
      --remain_pool 20000 --latents latents
  python train.py --config dit_xl2_imagenet.yml --mode sfron ... --remain_pool 20000 --latents latents

Without --remain_pool, every image. Of each image means and log variances of its posterior are kept in half precision,
and those of its mirror image. The same command goes on where it was stopped, and encodes anew what is damaged; with
another class or pool it adds what is not there yet."""

FLAGS = ["ckpt_folder", "label_to_forget", "remain_pool", "latents", "data_path", "image_size", "vae", "seed"]


def parser() -> Parser:
    p = Parser(description=__doc__, epilog=EPILOG)
    add_config_arguments(p)
    p.add_argument("--latents", type=a_path, required=True, metavar="FOLDER", help="the folder to write")
    p.add_argument(
        "--label_to_forget",
        "--forget_class",
        type=labels,
        metavar="C",
        help="the class to forget, by number or name; several: 0,2",
    )
    p.add_argument(
        "--remain_pool", type=int, metavar="N", help="of the images that remain only N, of each class its share"
    )
    p.add_argument(
        "--ckpt_folder", type=a_path, metavar="RUN", help="the model to forget from: its autoencoder and its images"
    )
    p.add_argument("--data_path", type=a_path, metavar="DIR", help="where the data set is")
    p.add_argument("--image_size", type=side, metavar="PIXELS", help="side of all images")
    p.add_argument(
        "--vae", type=a_path, metavar="ema|mse|FOLDER", help="the autoencoder: Stable Diffusion's, or a folder"
    )
    p.add_argument("--batch_size", type=a_batch, default=32, metavar="N", help="images encoded at once (default: 32)")
    return p


def main(argv: list[str] | None = None):
    """Returns the folder of the latents."""
    args = parser().parse_args(argv)
    cfg = config.load_config(args.config, "encode", args.overlay, args.set, config_flags(args, FLAGS))
    check_folder_place(args.latents, "--latents")
    if args.dry_run:
        say(config.dump_config(cfg))

    # torch and its friends: only now, so that --help comes at once
    from runners.passes.encode import Encoding

    encoding = Encoding.of(cfg)
    if args.dry_run:
        print(encoding.plan())
        return None
    return encoding.run(args.batch_size)


if __name__ == "__main__":
    sys.exit(run_main(main))
