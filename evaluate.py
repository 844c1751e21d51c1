"""Judge classifier runs: UA, RA, TA, membership inference, divergence and gap to the retrained model, minutes."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

from functions.config.cli import Parser, a_batch, a_path, run_main
from functions.errors import InputError
from functions.experiments import tables
from functions.places import check_file_place

EPILOG = """columns:
  UA, RA, TA, val     100 - accuracy on the forget set; accuracy on the remain, test and validation images
  TA forgotten        class forgetting: test accuracy of the forgotten class; TA, val and attacks are over the others
  SVC-MIA, LR-MIA     share of forgotten images called NON-member by an SVC on confidence, MEMBER by a logistic
                      regression on entropy: for both, the retrained model's value is the target
                      (where more test than remain images are there, the SVC sees a recorded draw of as many)
  KL, JS              on the forget set, from the retrained model to this one, in nats
  avg. gap            mean distance of UA, RA, TA and SVC-MIA to the retrained model's, in percentage points
  RTE                 minutes of unlearning, mask or Fisher included

One forward pass over each part of the data, kept in RUN/logits. The numbers go to section "classification" of
RUN/metrics.json (with --on val: "classification_val"). Numbers of no images are blank, a note says why."""

COLUMNS = [
    tables.Column("UA", "UA %", 2),
    tables.Column("RA", "RA %", 2),
    tables.Column("TA", "TA %", 2),
    tables.Column("TA_forgotten", "TA forgotten %", 2),
    tables.Column("val", "val %", 2),
    tables.Column("MIA", "SVC-MIA %", 2),
    tables.Column("entropy_lr", "LR-MIA %", 2),
    tables.Column("D_KL", "KL", 4),
    tables.Column("JS", "JS", 4),
    tables.Column("average_gap", "avg. gap", 2),
    tables.Column("RTE", "RTE min", 2),
]


def parse(argv: list[str] | None) -> argparse.Namespace:
    p = Parser(description=__doc__, epilog=EPILOG)
    p.add_argument("runs", type=a_path, nargs="+", metavar="RUN", help="run folders of classifiers")
    p.add_argument("--retrain", type=a_path, metavar="RUN", help="the target: retrained without the forget set")
    p.add_argument("--original", type=a_path, metavar="RUN", help="the model before unlearning, as one more row")
    p.add_argument(
        "--on",
        choices=("test", "val"),
        default="test",
        help="val: the validation part stands for the test part everywhere",
    )
    p.add_argument("--weights", choices=("auto", "raw", "ema"), default="auto", help="auto: EMA where there is one")
    p.add_argument("--data_path", type=a_path, metavar="P", help="where the data are, if not where the run found them")
    p.add_argument("-b", "--batch_size", type=a_batch, default=256)
    p.add_argument("--device", default="auto")
    p.add_argument(
        "--out",
        type=a_path,
        metavar="DIR_OR_FILE",
        help="write metrics to this .json (one RUN), or to DIR/<mode>_<weights>.json",
    )
    p.add_argument(
        "--markdown",
        type=a_path,
        metavar="FILE",
        help="the table in Markdown, as it is printed where there is no terminal",
    )
    p.add_argument("--latex", type=a_path, metavar="FILE", help="the table in LaTeX")
    p.add_argument("--csv", type=a_path, metavar="FILE", help="the table, unrounded")
    args = p.parse_args(argv)
    if args.out and args.out.endswith(".json") and len(args.runs) > 1:
        raise InputError(f"--out {args.out}: one file for {len(args.runs)} runs; name a folder")
    for flag in ("csv", "latex", "markdown"):
        if getattr(args, flag):
            check_file_place(getattr(args, flag), f"--{flag}")
    return args


def main(argv: list[str] | None = None) -> list[Path]:
    """Returns the files written, one for each RUN."""
    args = parse(argv)
    from functions.files import write_atomic
    from functions.judging.comparison import comparable_runs, distances, explanation, write_classification
    from functions.judging.metrics_file import check_metrics_file

    runs = comparable_runs(args.runs, args.original, args.retrain, args.weights, args.on)
    written = {path: destination(args.out, runs[path]) for path in dict.fromkeys(args.runs)}
    for out in written.values():
        check_metrics_file(out)
    found = judged(runs, args)
    target = found.get(args.retrain)
    for one in found.values():
        one.numbers.update(distances(one, target))
    for path, out in written.items():
        write_classification(out, runs[path], found[path], args.on, args.weights, args.retrain)
    numbers = {path: one.numbers for path, one in found.items()}
    table = ("model", "run"), COLUMNS, [row(runs[path], of) for path, of in numbers.items()]
    print(tables.shown(*table))
    print("\n".join(explanation(numbers, target and target.numbers, args.on)))
    for path, form in ((args.markdown, tables.markdown), (args.latex, tables.latex), (args.csv, tables.to_csv)):
        if path:
            write_atomic(path, form(*table))
    print("Saved " + ", ".join(map(str, written.values())))
    return list(written.values())


def judged(runs: dict, args: argparse.Namespace) -> dict:
    """What is found of each run; data sets that several share are read once."""
    import datasets
    import models
    from functions.judging.comparison import judge
    from functions.judging.logits import fingerprint
    from functions.training.distributed import choose_device

    device, found = choose_device(args.device), {}

    @functools.cache
    def load(name: str, path: str, part: str, size: int | str | None, share: float | None, fit: str):
        images = datasets.load(name, path, part, size, test_fraction=share, fit=fit)
        return images, fingerprint(images)

    for path, run in runs.items():
        data, names = run.meta["config"]["data"], ("train", "test") if args.on == "test" else ("train",)
        place = args.data_path or data["path"]
        rule = data["image_size"], data.get("test_fraction"), data.get("fit", "middle")  # older runs lack the last two
        parts = {part: load(data["dataset"], place, part, *rule) for part in names}
        found[path] = judge(run, parts, models.build, datasets.ordered, args.batch_size, device)
    return found


def destination(out: str | None, run) -> Path:
    """metrics.json of the run, or what --out says."""
    if not out:
        return run.path / "metrics.json"
    return Path(out) if out.endswith(".json") else Path(out, f"{run.meta['mode']}_{run.sha256[:8]}.json")


def row(run, numbers: dict) -> tables.Row:
    """A row of the table; what does not exist is blank."""
    entropy_lr = numbers["entropy_lr_mia"]
    shown = {**numbers, "entropy_lr": None if entropy_lr is None else 100 * entropy_lr}
    values = {c.key: [] if shown[c.key] is None else [shown[c.key]] for c in COLUMNS}
    return tables.Row((run.meta["mode"], str(run.path)), values)


if __name__ == "__main__":
    sys.exit(run_main(main))
