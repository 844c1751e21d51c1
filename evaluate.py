"""Judge classifier runs: UA, RA, TA, membership inference, divergence and gap to the retrained model, minutes."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

from functions.config.cli import run_main
from functions.errors import InputError
from functions.experiments import tables

EPILOG = """columns:
  UA, RA, TA, val     100 - accuracy on the forget set; accuracy on the remain, test and validation images
  TA forgotten        class forgetting: test accuracy of the forgotten class; TA, val and attacks are over the others
  SVC-MIA, LR-MIA     share of forgotten images called NON-member by an SVC on confidence, MEMBER by a logistic
                      regression on entropy: for both, the retrained model's value is the target
  KL, JS              on the forget set, from the retrained model to this one, in nats
  avg. gap            mean distance of UA, RA, TA and SVC-MIA to the retrained model's, in percentage points
  RTE                 minutes of unlearning, mask or Fisher included

One forward pass over each part of the data, kept in RUN/logits. The numbers go to section "classification" of
RUN/metrics.json (with --on val: "classification_val")."""

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
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("runs", nargs="+", metavar="RUN", help="run folders of classifiers")
    p.add_argument("--retrain", metavar="RUN", help="the model retrained without the forget set: the target")
    p.add_argument("--original", metavar="RUN", help="the model before unlearning, as one more row")
    p.add_argument(
        "--on",
        choices=("test", "val"),
        default="test",
        help="val: the validation part stands for the test part everywhere",
    )
    p.add_argument("--weights", choices=("auto", "raw", "ema"), default="auto", help="auto: EMA where there is one")
    p.add_argument("--data_path", metavar="P", help="where the data are, if not where the run found them")
    p.add_argument("-b", "--batch_size", type=int, default=256)
    p.add_argument("--device", default="auto")
    p.add_argument(
        "--out", metavar="DIR_OR_FILE", help="write metrics to this .json (one RUN), or to DIR/<mode>_<weights>.json"
    )
    p.add_argument("--latex", metavar="FILE", help="the table in LaTeX")
    p.add_argument("--csv", metavar="FILE", help="the table, unrounded")
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = p.parse_args(argv)
    if args.batch_size <= 0:
        raise InputError(f"--batch_size {args.batch_size}: wanted more than 0")
    if args.out and args.out.endswith(".json") and len(args.runs) > 1:
        raise InputError(f"--out {args.out}: one file for {len(args.runs)} runs; name a folder")
    return args


def main(argv: list[str] | None = None) -> list[Path]:
    """Returns the files written, one for each RUN."""
    args = parse(argv)
    from functions.files import write_atomic

    runs = chosen_runs(args)
    found = judged(runs, args)
    target = found.get(args.retrain)
    for one in found.values():
        one["numbers"] |= distances(one, target)
    written = [write(args, runs[path], found[path], target) for path in dict.fromkeys(args.runs)]
    table = ("model", "run"), COLUMNS, [row(runs[path], one["numbers"]) for path, one in found.items()]
    print(tables.markdown(*table))
    print("\n".join(explanation(args, found, target)))
    for path, form in ((args.latex, tables.latex), (args.csv, tables.to_csv)):
        if path:
            write_atomic(path, form(*table))
    print("Saved " + ", ".join(map(str, written)))
    return written


def chosen_runs(args: argparse.Namespace) -> dict:
    """All rows by the folder as named, original and retrained first, each with the forget set it is judged by."""
    from functions.judging.logits import read_run, require_same_forgetting

    named = [path for path in (args.original, args.retrain, *args.runs) if path]
    runs = {path: read_run(path, args.weights) for path in dict.fromkeys(named)}
    reference = runs.get(args.retrain)
    if reference and reference.meta["mode"] != "retrain":
        raise InputError(
            f"{args.retrain}: a run of mode {reference.meta['mode']}, wanted a retrained model (--retrain)"
        )
    for path, run in runs.items():
        if reference:
            runs[path] = require_same_forgetting(run, reference)
        elif "forget" not in run.indices:
            raise InputError(f"{path}: forgot nothing; --retrain names the run whose forget set it is judged by")
        if args.on == "val" and not len(run.indices["val"]):
            raise InputError(f"{path}: set no validation images aside, --on val has nothing to judge by")
    return runs


def judged(runs: dict, args: argparse.Namespace) -> dict[str, dict]:
    """By run: its numbers, its logits of the forget set, and the fingerprints of the images it was judged by."""
    import datasets
    import models
    from functions.judging.forgetting import forgetting_numbers
    from functions.judging.logits import fingerprint, logits_of
    from functions.training.distributed import choose_device

    device, found = choose_device(args.device), {}

    @functools.cache
    def load(name: str, path: str, part: str, size: int | None):
        images = datasets.load(name, path, part, size)
        return images, fingerprint(images)

    for path, run in runs.items():
        data, logits, labels, prints = run.meta["config"]["data"], {}, {}, {}
        for part in ("train", "test") if args.on == "test" else ("train",):
            where = args.data_path or data["path"]
            images, prints[part] = load(data["dataset"], where, part, data["image_size"])
            logits[part] = logits_of(run, images, prints[part], models.build, datasets.ordered, args.batch_size, device)
            labels[part] = images.labels.cpu()
        held_out = [of["test"] if args.on == "test" else of["train"][run.indices["val"]] for of in (logits, labels)]
        numbers = forgetting_numbers(logits["train"], labels["train"], run.indices, *held_out, run.forgotten_class)
        found[path] = {
            "numbers": numbers | {"RTE": run.minutes},
            "forget": logits["train"][run.indices["forget"]],
            "images": prints,
        }
    return found


def distances(found: dict, target: dict | None) -> dict:
    """KL, JS and average gap to the retrained model, and its own numbers; None without one."""
    from functions.judging.forgetting import GAPS, average_gap, divergences

    if target is None:
        return dict.fromkeys(("D_KL", "JS", "average_gap", "retrained"))
    if found["images"] != target["images"]:
        raise InputError("--retrain: was judged by other images than the runs; --data_path names one place for all")
    numbers, goal = found["numbers"], target["numbers"]
    same = {key: goal[key] for key in (*GAPS, "SVC_MIA_forget_efficacy", "entropy_lr_mia")}
    gap = average_gap(numbers, goal)
    return {**divergences(target["forget"], found["forget"]), "average_gap": gap, "retrained": same}


def write(args: argparse.Namespace, run, found: dict, target: dict | None) -> Path:
    """Replace section "classification" of the run's metrics.json, or of what --out says; the others stay."""
    import sklearn

    from functions.files import read_json, version, write_json
    from functions.judging import membership
    from functions.judging.contract import contract

    out = Path(args.out) if args.out else run.path / "metrics.json"
    if args.out and out.suffix != ".json":
        out = out / f"{run.meta['mode']}_{run.sha256[:8]}.json"
    sections = read_json(out) if out.is_file() else {}
    if not isinstance(sections, dict):
        raise InputError(f"{out}: not an object of sections; move it away or name another file (--out)")
    data, n = run.meta["data"], found["numbers"]["n"]
    attacks = {"SVC_MIA_forget_efficacy": membership.SVC_MIA, "entropy_lr_mia": membership.ENTROPY_LR}
    protocol = {
        "dataset": data["dataset"],
        "shape": data["shape"],
        "on": args.on,
        "weights": args.weights,
        "attacks": attacks,
    }
    record = {
        "run": str(run.path),
        "weights": run.kind,
        "sha256": run.sha256,
        "retrain": args.retrain,
        "forget": run.meta["forget"],
        "images": found["images"],
        "n": n,
        "scikit-learn": sklearn.__version__,
        "version": version(),
    }
    sections["classification" if args.on == "test" else "classification_val"] = {
        **found["numbers"],
        "contract": contract(protocol, record),
    }
    write_json(out, sections)
    return out


def row(run, numbers: dict) -> tables.Row:
    """A row of the table; what does not exist is blank."""
    shown = {**numbers, "entropy_lr": 100 * numbers["entropy_lr_mia"]}
    values = {c.key: [] if shown[c.key] is None else [shown[c.key]] for c in COLUMNS}
    return tables.Row((run.meta["mode"], str(run.path)), values)


def explanation(args: argparse.Namespace, found: dict[str, dict], target: dict | None) -> list[str]:
    """What the attacks' numbers mean, and all of them with the retrained model's beside them."""
    lines = ["Judged on the VALIDATION part in place of the test part."] if args.on == "val" else []
    svc = {path: one["numbers"]["SVC_MIA_forget_efficacy"] for path, one in found.items()}
    entropy = {path: {"entropy-LR": one["numbers"]["entropy_lr_mia"]} for path, one in found.items()}
    goal = target and target["numbers"]
    lines += attack(
        "SVC-MIA: share of forgotten images called non-member",
        svc,
        goal and goal["SVC_MIA_forget_efficacy"],
        "confidence",
        wrong_target=1,
    )
    lines += attack(
        "Entropy-LR MIA, the opposite direction: share of forgotten images called member",
        entropy,
        goal and {"entropy-LR": goal["entropy_lr_mia"]},
        "entropy-LR",
        wrong_target=0,
    )
    return lines


def attack(title: str, scores: dict[str, dict], goal: dict | None, key: str, wrong_target: int) -> list[str]:
    """An attack's direction and target, then each run's scores with the retrained model's beside them."""
    known = "no --retrain: no target is known"
    if goal:
        known = f"the retrained model has {goal[key]:.4f} ({key}), that is the target, not {wrong_target}"
    lines = [f"{title}; {known}"]
    for path, of in scores.items():
        cells = [f"{k} {v:.4f}" + (f" (retrained {goal[k]:.4f})" if goal else "") for k, v in of.items()]
        lines.append(f"  {path}: {', '.join(cells)}")
    return lines


if __name__ == "__main__":
    sys.exit(run_main(main))
