"""U-LiRA on a budget: can an attack with shadow models tell what was forgotten from what was never trained on?

Shadow i of --n_shadows: of a fixed random set of candidate training images a random third is left out of training, a
random third is trained on and then forgotten, the rest stays. Each candidate's phi = log p_y - log(1 - p_y) under each
unlearned model goes into the attack of functions/judging/membership.py, every model in turn the target, the others its
shadows.
Higher leaks more; a TPR of 0.01 at 1 % false positives is chance, and --mode retrain shows what chance looks like.

Every stage is a command of train.py, run once and recorded under OUT/stages; what was stopped goes on where it was, and
more shadows later go on from those there are. Source: Hayes et al. 2024, arXiv 2403.01218.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from functions.config.cli import Parser, a_path, a_seed, run_main, whole
from functions.config.methods import MODES
from functions.errors import InputError
from functions.experiments.stages import Stages
from functions.files import version, write_json
from functions.places import check_folder_place

FPR = 0.01
METHODS = [mode for mode in MODES if mode not in ("pretrain", "generate_fisher", "generate_mask")]
SHARE, GAMMA = "0.5", "1.0"  # of the masks of SalUn and of SFR-on
UNSEEN = ["--set", "training.curves=false"]  # nobody looks at dozens of shadows
DIRECTION = "higher leaks more; 0.01 is chance"


def parse(argv: list[str] | None) -> argparse.Namespace:
    argv = sys.argv[1:] if argv is None else argv
    own, words = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    p = Parser(description=__doc__, epilog="words after -- go to the unlearning command, e.g. -- --lr 0.01")
    p.add_argument("--out", type=a_path, required=True, metavar="DIR", help="where everything goes")
    p.add_argument(
        "--config", type=a_path, required=True, metavar="FILE", help="of the classifier, e.g. digits_classifier.yml"
    )
    p.add_argument("--mode", required=True, choices=METHODS, metavar="MODE", help="the method, as train.py calls it")
    p.add_argument("--n_shadows", type=whole(2, 10**4), default=16, metavar="M")
    p.add_argument("--n_candidates", type=whole(3, 10**7), default=300, metavar="N")
    p.add_argument("--seed", type=a_seed, default=0, help="of the candidates, of their thirds, and of all models")
    p.add_argument(
        "--mask",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="salun, sfron: make the method's mask for each shadow (salun without one is RL)",
    )
    args = p.parse_args(own)
    check_folder_place(args.out, "--out")
    args.words = words
    return args


def main(argv: list[str] | None = None) -> Path:
    """Returns the path of OUT/u_lira_MODE.json; methods that share OUT share the models before unlearning."""
    args = parse(argv)
    import torch

    import datasets
    from functions.config.load import load_config
    from functions.judging.logits import fingerprint
    from functions.judging.membership import U_LIRA, phi, scorable, u_lira

    data = load_config(args.config, "pretrain").data
    rule = {"test_fraction": data.test_fraction, "fit": data.fit}
    images = datasets.load(data.dataset, data.path, "train", data.image_size, **rule)
    shadows = Shadows(args, images)
    states = [torch.stack(of) for of in zip(*map(shadows.states, range(args.n_shadows)))]  # (M,N) twice
    pairs = int((scorable(*states) & states[1]).sum())
    if pairs * FPR < 1:
        raise InputError(
            f"--n_shadows {args.n_shadows} --n_candidates {args.n_candidates}: give {pairs} out scores, wanted at "
            f"least {round(1 / FPR)} for a rate at {FPR:.0%} false positives"
        )
    runs = [shadows.unlearned(i) for i in range(args.n_shadows)]
    chosen, prints = shadows.candidates, fingerprint(images)
    logits = [logits_of_run(run, images, prints)[chosen] for run in runs]
    table = torch.stack([phi(z, images.labels[chosen]) for z in logits])  # (M,N)
    found = u_lira(table, *states, FPR, args.seed)
    made = {
        "mode": args.mode,
        "config": args.config,
        "mask": args.mask,
        "words": args.words,
        "seed": args.seed,
        "dataset": data.dataset,
        "images": prints,
        "n_train": len(images),
        "n_candidates": args.n_candidates,
        "attack": U_LIRA,
        "version": version(),
    }
    path = shadows.out / f"u_lira_{shadows.name}.json"
    write_json(path, {**found, "direction": DIRECTION, "contract": made})
    print(report(found, args.mode))
    print(f"Saved {path}")
    return path


class Shadows:
    """The shadow models below OUT. Files of indices are named after what they depend on."""

    def __init__(self, args: argparse.Namespace, images):
        import torch

        from functions.randomness import keyed_generator

        self.args, self.out, self.stages = args, Path(args.out), Stages(Path(args.out) / "stages")
        self.n = len(images)
        self.name = args.mode if args.mask or args.mode not in MASKS else f"{args.mode}_unmasked"
        if args.n_candidates >= self.n:
            raise InputError(f"--n_candidates {args.n_candidates}: {images.name} has {self.n} training images")
        order = torch.randperm(self.n, generator=keyed_generator(args.seed, "u-lira candidates"))
        self.candidates = order[: args.n_candidates].sort().values  # (N,) indices into the training images

    def states(self, i: int):
        """Bool (N,) twice: the candidates that shadow i unlearns, and those that it never sees."""
        import torch

        from functions.randomness import keyed_generator

        n = self.args.n_candidates
        rank = torch.randperm(n, generator=keyed_generator(self.args.seed, "u-lira states", n, i))
        return rank < n // 3, (n // 3 <= rank) & (rank < 2 * (n // 3))

    def index_files(self, i: int) -> tuple[Path, Path]:
        """JSON lists: what shadow i trains on, and what it then forgets."""
        import torch

        unlearned, out = self.states(i)
        trained = torch.ones(self.n, dtype=torch.bool)
        trained[self.candidates[out]] = False
        folder = self.out / "indices" / f"{self.args.n_candidates}_of_{self.n}_s{self.args.seed}"
        files = folder / f"shadow_{i:03d}_train.json", folder / f"shadow_{i:03d}_forget.json"
        write_json(files[0], trained.nonzero()[:, 0].tolist())
        write_json(files[1], self.candidates[unlearned].tolist())
        return files

    def train(self, name: str, mode: str, seed: int, *words: object, resumable: bool = True) -> Path:
        """A stage of train.py; a training run that was stopped is resumed."""
        import train

        folder = self.out / "runs" / name
        return self.stages.run(
            name,
            train,
            "--config",
            self.args.config,
            "--mode",
            mode,
            "--seed",
            seed,
            *words,
            *(UNSEEN if resumable else []),
            "--save_dir",
            folder,
            root=folder if resumable else None,
        )

    def unlearned(self, i: int) -> Path:
        """The run of shadow i, trained and then unlearned."""
        kept, forget = self.index_files(i)
        seed, mode = 1000 * self.args.seed + i, self.args.mode
        start = self.train(
            f"pretrain_{i:03d}", "pretrain", seed, "--set", f"data.indices={kept}", "--set", "data.val_fraction=0"
        )
        source = ["--model_path", start, "--forget_idx", forget]
        mask = MASKS[mode](self, i, seed, source) if self.args.mask and mode in MASKS else []
        return self.train(f"{self.name}_{i:03d}", mode, seed, *source, *mask, *self.args.words)

    def saliency_mask(self, i: int, seed: int, source: list[object]) -> list[object]:
        folder = self.train(f"saliency_{i:03d}", "generate_mask", seed, *source, resumable=False)
        return ["--mask_path", folder / f"with_{SHARE}.safetensors"]

    def fisher_mask(self, i: int, seed: int, source: list[object]) -> list[object]:
        import generate_fisher_mask

        folder = self.train(f"fisher_{i:03d}", "generate_fisher", seed, *source, resumable=False)
        (mask,) = self.stages.run(f"ratio_{i:03d}", generate_fisher_mask, "--ckpt_folder", folder, "--threshold", GAMMA)
        return ["--mask_path", mask]


MASKS: dict[str, Callable[[Shadows, int, int, list[object]], list[object]]] = {
    "salun": Shadows.saliency_mask,
    "sfron": Shadows.fisher_mask,
}


def logits_of_run(run: Path, images, prints: str):
    """The run's logits of all training images, from its cache or by one pass."""
    import datasets
    import models
    from functions.judging.logits import logits_of, read_run
    from functions.training.distributed import choose_device

    return logits_of(read_run(run), images, prints, models.build, datasets.ordered, device=choose_device("auto"))


def report(found: dict, mode: str) -> str:
    """What is printed."""
    interval = {key: f"[{low:.4f}, {high:.4f}]" for key, (low, high) in found["interval"].items()}
    lines = [
        f"U-LiRA of {mode}, {found['n_models']} models: {found['n_unlearned']} unlearned, {found['n_out']} out pairs",
        f"TPR@1%FPR: {found['tpr']:.4f}, 95 % {interval['tpr']} ({DIRECTION})",
        f"AUC: {found['auc']:.4f}, 95 % {interval['auc']} (0.5 is chance)",
        f"Balanced accuracy: {found['balanced_accuracy']:.4f}, 95 % {interval['balanced_accuracy']} (0.5 is chance)",
        f"Variances {found['variance']}; intervals by bootstrap over {found['bootstrap']}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_main(main))
