"""A small DiT in latent space forgets the stars of `shapes_upright`: autoencoder, DiT, judge, then seven methods.

All methods start from one original and take at most as many steps as each other (configs/dit/shapes_dit_s.yml); a model
retrained without the class stands beside them. OUT gets the table and before_after.png, samples from the same noise.
Every stage is a script of the toolkit, run once and recorded under OUT/stages; what was stopped goes on where it was.
--tune runs the trials by which the constants in that config were chosen instead, with a seed that is not the table's.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from functions.config.cli import Parser, a_path, run_main, whole
from functions.experiments import tables
from functions.files import write_atomic, write_json
from functions.places import check_folder_place
from scripts.compare_digits import TITLES, Pieces, Study, numbers_of

CONFIG = "shapes_dit_s.yml"
DATASET, LABEL = "shapes_upright", 8  # star
SEED, VALIDATION = 0, 100  # of the table and of the trials
VAE_STEPS = 2000
PER_CLASS, GUIDED = 50, "2.0"
GAMMA, REPLAY, JUDGE_EPOCHS = "1.0", 32, 3
TITLES = {**TITLES, "esd": "ESD", "erasediff": "EraseDiff"}
ORDER = ("pretrain", "retrain", "finetune", "ga", "esd", "erasediff", "sa", "salun", "sfron")
SIDES = ("pretrain", "sfron", "salun", "retrain")  # of the picture
ROWS, ROW = (LABEL, 9, 0, 3, 4, 7), 6  # and its rows: the star, what follows it, others; images in each

COLUMNS = [
    tables.Column("ua", "UA %", 1),
    tables.Column("kept", "kept accuracy %", 1),
    tables.Column("share", "of the original's, %", 1),
    tables.Column("fid", "FID[classifier] of the rest", 2),
    tables.Column("steps", "steps", 0),
    tables.Column("passes", "1000 images forward + backward", 1),
    tables.Column("seconds", "seconds", 0),
]


# overrides of the config, a few for each method
def trial(lr: str, n_iters: int = 300, **more: str) -> dict[str, object]:
    return {"optim.lr": lr, "training.n_iters": n_iters, **{key.replace("__", "."): v for key, v in more.items()}}


TRIALS: dict[str, list[dict[str, object]]] = {
    "sfron": [trial("5e-4"), trial("1e-3"), trial("2e-4")],
    "salun": [trial("5e-4", unlearn__remain_alpha=alpha) for alpha in ("0.1", "1")],
    "finetune": [trial("2e-3"), trial("5e-3")],
    "ga": [trial("3e-5", 35), trial("1e-4", 35)],
    "esd": [trial("2e-4"), trial("5e-4")],
    "erasediff": [trial("5e-4"), trial("2e-4")],
    "sa": [trial("5e-4"), trial("5e-4", sa__lmbda="10")],
}


def study(out: Path) -> Study:
    settings = (f"encoder.vae={out / 'vae'}", f"data.latents={out / 'latents'}")
    return Study(
        DATASET, lambda mode: CONFIG, {"guided": GUIDED}, JUDGE_EPOCHS, GAMMA, REPLAY, original=SEED, settings=settings
    )


def prepare(pieces: Pieces) -> None:
    """The autoencoder, and what it makes of the training images."""
    import encode_dataset
    import train_vae

    vae, latents = pieces.out / "vae", pieces.out / "latents"
    pieces.stages.run("vae", train_vae, "--dataset", DATASET, "--steps", VAE_STEPS, "--out", vae)
    pieces.stages.run(
        "latents", encode_dataset, "--config", CONFIG, "--set", f"encoder.vae={vae}", "--latents", latents
    )


def measured(pieces: Pieces, name: str, method: str, run: Path, seed: int) -> dict[str, float]:
    """A row's numbers, without what is relative to the original."""
    numbers = numbers_of(pieces.judged(name, run, LABEL, seed))
    if method == "pretrain":
        return numbers
    cost = pieces.spent(method, run, LABEL, seed)
    return {**numbers, **cost, "seconds": 60 * cost["minutes"]}


def row(labels: tuple[str, ...], found: dict[str, float], original: dict[str, float]) -> tables.Row:
    numbers = {**found, "share": 100 * found["kept"] / max(original["kept"], 1e-9)}
    return tables.Row(labels, {c.key: [numbers[c.key]] if c.key in numbers else [] for c in COLUMNS})


def compare(pieces: Pieces, methods: list[str]) -> list[tables.Row]:
    """All models, then all numbers, a row each; the first of `methods` is the original."""
    # what takes longest last: another process may be at it
    runs = {m: pieces.model(m, LABEL, SEED, {}) for m in sorted(methods, key="retrain".__eq__)}
    found = {m: measured(pieces, f"{m}_c{LABEL}_s{SEED}", m, run, SEED) for m, run in runs.items()}
    return [row((TITLES[m],), found[m], found["pretrain"]) for m in methods]


def tune(pieces: Pieces, methods: list[str]) -> list[tables.Row]:
    """Every trial of every method on the validation seed, a row each."""
    original = measured(pieces, f"pretrain_s{VALIDATION}", "pretrain", pieces.pretrained(VALIDATION), VALIDATION)
    rows = [row((TITLES["pretrain"], ""), original, original)]
    for method in (m for m in methods if m in TRIALS):
        for settings in TRIALS[method]:
            shown = ", ".join(f"{key.split('.')[1]} {value}" for key, value in settings.items())
            run = pieces.unlearned(method, LABEL, VALIDATION, f"_{shown.replace(', ', '_').replace(' ', '')}", settings)
            found = measured(pieces, pieces.name_of(run), method, run, VALIDATION)
            rows.append(row((TITLES[method], shown), found, original))
            print(f"\n{tables.shown(('method', 'trial'), COLUMNS, rows[:1] + rows[-1:])}", flush=True)
    return rows


def draw(pieces: Pieces, methods: list[str], path: Path) -> None:
    """Samples of the models beside one another, from the same noise; the forgotten class is framed."""
    from PIL import Image

    import datasets
    from functions.sampling import sheet

    def drawn(method: str, c: int, k: int) -> Image.Image:
        run = pieces.name_of(pieces.model(method, LABEL, SEED, {}))
        with Image.open(pieces.out / "samples" / f"{run}_guided" / str(c) / f"{k}.png") as image:
            return image.convert("RGB")

    n = min(ROW, pieces.per_class)
    sides = {TITLES[m]: [[drawn(m, c, k) for k in range(n)] for c in ROWS] for m in SIDES if m in methods}
    _, names = datasets.describe(DATASET)
    sheet.save(sheet.sheet(sides, sheet.rows_of(ROWS, names, [LABEL])), path)


def main(argv: list[str] | None = None) -> None:
    p = Parser(description=__doc__)
    p.add_argument("--out", type=a_path, default="results/dit_shapes", help="where everything goes")
    p.add_argument("--tune", action="store_true", help="run the trials of each method on the validation seed instead")
    p.add_argument(
        "--per_class", type=whole(1, 10**6), default=PER_CLASS, help=f"samples per class to judge ({PER_CLASS})"
    )
    p.add_argument(
        "--methods",
        nargs="+",
        choices=ORDER,
        default=list(ORDER),
        metavar="METHOD",
        help=f"only these rows, beside the original: {', '.join(ORDER)}",
    )
    p.add_argument("--prepare", action="store_true", help="only the autoencoder, the two DiTs, and the judge")
    args = p.parse_args(argv)
    check_folder_place(args.out, "--out")
    pieces = Pieces(Path(args.out), args.per_class, study(Path(args.out)))
    methods = [m for m in ORDER if m == "pretrain" or m in args.methods]
    prepare(pieces)
    if args.prepare:
        pieces.judge()
        for method in ("pretrain", "retrain"):
            pieces.model(method, LABEL, SEED, {})
        return
    labels = ("method", "trial") if args.tune else ("method",)
    rows = tune(pieces, methods) if args.tune else compare(pieces, methods)
    name = pieces.out / ("tuning" if args.tune else "comparison")
    write_atomic(name.with_suffix(".md"), tables.markdown(labels, COLUMNS, rows))
    write_atomic(name.with_suffix(".csv"), tables.to_csv(labels, COLUMNS, rows))
    write_json(name.with_suffix(".json"), [{"labels": r.labels, "values": r.values} for r in rows])
    if not args.tune:
        draw(pieces, methods, pieces.out / "before_after.png")
    print(f"\n{tables.shown(labels, COLUMNS, rows)}\n{name}.md, .csv, .json")


if __name__ == "__main__":
    sys.exit(run_main(main))
