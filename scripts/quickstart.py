"""Forget one digit: pretrain, Fisher, mask, SFR-on, samples before and after from the same noise, judge, table.

Every stage is a script of the toolkit, called through its `main(argv)` in one process; the commands are printed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from functions.config.cli import run_main
from functions.experiments.stages import Stages
from functions.files import read_json, version, write_json

ROW = 8  # images per class and side of the picture
GUIDED, UNGUIDED = "2.0", "0.0"
# 5 % of the weights; gamma 1 (23 %) forgets too, but hurts the other classes more (LOG.md)
GAMMA = "2.0"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--label_to_forget", type=int, default=0, choices=range(10), help="the digit to forget (0)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", default="results/quickstart", help="where everything goes")
    p.add_argument("--per_class", type=int, default=150, help="samples per class (150)")
    p.add_argument("--pretrain_steps", type=int, help="default: as configs/ddpm/digits_pretrain.yml says")
    p.add_argument("--unlearn_steps", type=int, help="default: as configs/ddpm/digits_sfron.yml says")
    p.add_argument("--judge_epochs", type=int, default=30, help="training of the judging classifier (30)")
    return p


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    began = time.perf_counter()
    import generate_fisher_mask
    import save_base_dataset
    import train
    import train_classifier

    out, label, stages = Path(args.out), args.label_to_forget, Stages()
    common = ["--set", f"results={out}/runs", "--seed", args.seed]
    steps = lambda n: [] if n is None else ["--set", f"training.n_iters={n}"]
    stages.seconds["import"] = round(time.perf_counter() - began, 1)

    before = stages.run(
        "pretrain", train, "--config", "digits_pretrain.yml", "--mode", "pretrain", *common, *steps(args.pretrain_steps)
    )
    origin = ["--ckpt_folder", before, "--label_to_forget", label]
    fishers = stages.run(
        "fisher", train, "--config", "digits_fisher.yml", "--mode", "generate_fisher", *origin, *common
    )
    (mask,) = stages.run("mask", generate_fisher_mask, "--ckpt_folder", fishers, "--threshold", GAMMA)
    after = stages.run(
        "sfron",
        train,
        "--config",
        "digits_sfron.yml",
        "--mode",
        "sfron",
        *origin,
        "--mask_path",
        mask,
        *common,
        *steps(args.unlearn_steps),
    )

    stages.run("classifier", train_classifier, "--dataset", "digits", "--out", out, "--epochs", args.judge_epochs)
    reference = out / f"digits_without_label_{label}"
    stages.run("reference", save_base_dataset, "--dataset", "digits", "--label_to_forget", label, "--out", reference)

    judge, results = out / "digits_cnn.pth", {}
    for name, run in (("before", before), ("after", after)):
        results[name] = judged(stages, name, run, label, args, judge, reference)
    draw_picture(out, before, after, label)
    seconds = {**stages.seconds, "total": round(time.perf_counter() - began, 1)}
    write_json(out / "metrics.json", summary(results, label, seconds))
    print_table(results, label, seconds)
    print(f"\nPicture: {out}/before_after.png   Numbers: {out}/metrics.json")


def judged(stages: Stages, name: str, run: Path, label: int, args, judge: Path, reference: Path) -> dict:
    """Samples of one model and what the judge says: {"classes": ..., "guided": ..., "unguided": ...}."""
    import classifier_evaluation
    import evaluator
    import sample

    base = [
        "--config",
        "digits_sample.yml",
        "--ckpt_folder",
        run,
        "--n_samples_per_class",
        args.per_class,
        "--seed",
        args.seed,
    ]
    folder = stages.run(f"sample {name}", sample, *base, "--mode", "sample_classes", "--cond_scale", GUIDED)
    stages.run(
        f"judge {name}",
        classifier_evaluation,
        "--sample_path",
        folder,
        "--dataset",
        "digits",
        "--label_of_forgotten_class",
        label,
        "--classifier",
        judge,
    )
    found = {"classes": read_json(folder / "metrics.json")["classifier_evaluation"]}
    for key, w in (("guided", GUIDED), ("unguided", UNGUIDED)):
        folder = stages.run(
            f"sample {name}",
            sample,
            *base,
            "--mode",
            "sample_fid",
            "--cond_scale",
            w,
            "--classes_to_generate",
            f"x{label}",
        )
        stages.run(f"judge {name}", evaluator, folder, reference, "--features", f"classifier:{judge}")
        found[key] = read_json(folder / "metrics.json")["evaluator"]
    return found


def kept_accuracy(found: dict) -> float:
    """Mean accuracy over the remaining classes."""
    rows = found["classes"]["kept"].values()
    return sum(row["accuracy"] for row in rows) / len(rows)


def summary(results: dict, label: int, seconds: dict) -> dict:
    """The content of metrics.json."""
    keys = ("n", "accuracy", "ua", "prob", "entropy", "interval")
    forgotten = {
        name: {"class": label, **{k: r["classes"]["forgotten"][k] for k in keys}} for name, r in results.items()
    }
    kept = {
        name: {
            "accuracy": kept_accuracy(r),
            **{k: r["guided"][k] for k in ("fid", "precision", "recall", "kid")},
            "fid_unguided": r["unguided"]["fid"],
            "classes": r["classes"]["kept"],
        }
        for name, r in results.items()
    }
    contracts = {name: {part: found["contract"] for part, found in r.items()} for name, r in results.items()}
    return {"forgotten": forgotten, "kept": kept, "seconds": seconds, "contract": contracts, "version": version()}


def print_table(results: dict, label: int, seconds: dict) -> None:
    """Before and after, line by line."""
    b, a = results["before"], results["after"]
    forgotten = [r["classes"]["forgotten"] for r in (b, a)]
    lines = [(f"class {label} (forgotten): accuracy", *(100 * f["accuracy"] for f in forgotten), "%")]
    lines += [(f"class {label} (forgotten): UA", *(100 * f["ua"] for f in forgotten), "%")]
    lines += [(f"class {label} (forgotten): {k}", *(f[k] for f in forgotten), "") for k in ("prob", "entropy")]
    lines += [
        (f"class {c}: accuracy", *(100 * r["classes"]["kept"][c]["accuracy"] for r in (b, a)), "%")
        for c in b["classes"]["kept"]
    ]
    lines += [("kept classes: mean accuracy", 100 * kept_accuracy(b), 100 * kept_accuracy(a), "%")]
    for part, w in (("guided", GUIDED), ("unguided", UNGUIDED)):
        for key, name in (("fid", "FID[classifier]"), ("precision", "precision"), ("recall", "recall")):
            lines.append((f"kept classes, w = {w}: {name}", b[part][key], a[part][key], ""))
    n = forgotten[0]["n"]
    print(f"\n{n} samples per class; class accuracies at guidance w = {GUIDED}\n{'':44}{'before':>10}{'after':>10}")
    for name, x, y, unit in lines:
        print(f"{name:<44}{x:>10.3f}{y:>10.3f} {unit}")
    print("seconds: " + ", ".join(f"{stage} {s}" for stage, s in seconds.items()))


def draw_picture(out: Path, before: Path, after: Path, label: int) -> None:
    """before_after.png from the class samples: the same noise on both sides."""
    from PIL import Image

    from functions.sampling import sheet

    def drawn(run: Path, c: int, k: int) -> Image.Image:
        with Image.open(run / "class_samples" / str(c) / f"{k}.png") as image:
            return image.convert("RGB")

    rows = [[[drawn(run, c, k) for k in range(ROW)] for c in range(10)] for run in (before, after)]
    named = sheet.rows_of(range(10), [str(c) for c in range(10)], [label])
    sheet.save(sheet.sheet(dict(zip(("before", "after"), rows)), named), out / "before_after.png")


if __name__ == "__main__":
    sys.exit(run_main(main))
