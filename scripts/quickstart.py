"""Forget one digit: pretrain, Fisher, mask, SFR-on, samples before and after from the same noise, judge, table.

Every stage is a script of the toolkit, called through its `main(argv)` in one process; the commands are printed, and
what is done is recorded under OUT/stages. Stopped and started again it goes on where it was; another digit starts from
the model that is there. The exit code is 1 where the digit was not forgotten or the other digits suffered.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from functions.config.cli import Parser, a_path, a_seed, run_main, whole
from functions.config.load import load_config
from functions.experiments.stages import Stages
from functions.files import read_json, version, write_json
from functions.locks import writing_folder
from functions.places import check_folder_place

ROW = 8  # images per class and side of the picture
WHEN = ("before", "after")
GUIDED, UNGUIDED = "2.0", "0.0"
# 5 % of the weights; gamma 1 (23 %) forgets too, but hurts the other classes more (LOG.md)
GAMMA = "2.0"
PER_CLASS, JUDGE_EPOCHS = 150, 30
CLASSES, TRAINED_ON = 10, 1437  # digits, and their training images
# An image passed there over one in training, and a comparison with the reference in images passed
FISHER_COST, JUDGE_COST, COMPARISON_COST = 1.8, 0.15, 2000
# What a success is: shares of samples before and after, and unguided FID after over before.
LEAST_BEFORE, LEAST_UA, LEAST_KEPT, MOST_FID = 0.9, 0.9, 0.95, 3.0


def parser() -> Parser:
    p = Parser(description=__doc__)
    p.add_argument("--label_to_forget", type=int, default=0, choices=range(CLASSES), help="the digit to forget (0)")
    p.add_argument("--seed", type=a_seed, default=0)
    p.add_argument("--out", type=a_path, default="results/quickstart", help="where everything goes")
    sizes = p.add_argument_group("sizes: a run of other sizes ends with exit code 0 whatever it shows")
    sizes.add_argument("--per_class", type=whole(1, 10**6), help=f"samples per class ({PER_CLASS})")
    sizes.add_argument("--pretrain_steps", type=whole(1, 10**9), help=f"default: as {config_of('pretrain')} says")
    sizes.add_argument("--unlearn_steps", type=whole(1, 10**9), help=f"default: as {config_of('sfron')} says")
    sizes.add_argument(
        "--judge_epochs", type=whole(1, 10**6), help=f"training of the judging classifier ({JUDGE_EPOCHS})"
    )
    return p


def config_of(mode: str) -> str:
    """The quickstart's own settings, over those of the README's commands: less of everything."""
    return f"digits_quickstart_{'fisher' if mode == 'generate_fisher' else mode}.yml"


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    check_folder_place(args.out, "--out")
    label, out = args.label_to_forget, Path(args.out)
    print(f"A diffusion model learns ten digits, then forgets {label}. Everything goes to {out}.", flush=True)
    run = Quickstart(args)
    with writing_folder(out):
        results = run.results()
        run.draw_picture()
        write_json(out / "metrics.json", summary(results, label, run.seconds()))
    print_table(results, label, run.seconds())
    wrong = shortcomings(results, label)
    for line in wrong:
        print(f"Not as wanted: {line}")
    shows = "is gone" if not wrong else "should be gone"
    print(f"\nNumbers: {out}/metrics.json")
    print(
        f"Picture: {out}/before_after.png shows samples of each digit before (left) and after (right), from the same "
        f"noise: {label}, framed, {shows}; the other nine stay."
    )
    given = (args.per_class, args.pretrain_steps, args.unlearn_steps, args.judge_epochs)
    if wrong and given == (None,) * len(given):
        raise SystemExit(1)


class Quickstart:
    """The stages below OUT: what is done is kept, what is left runs; each says how much time is left."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.label, self.seed, self.out = args.label_to_forget, args.seed, Path(args.out)
        self.per_class, self.judge_epochs = args.per_class or PER_CLASS, args.judge_epochs or JUDGE_EPOCHS
        steps = {"pretrain": args.pretrain_steps, "sfron": args.unlearn_steps}
        self.settings = {part: [] if n is None else [f"training.n_iters={n}"] for part, n in steps.items()}
        self.stages, self.judge = Stages(self.out / "stages"), self.out / "digits_cnn.pth"

    def results(self) -> dict:
        """What the judge found `before` and `after`, all stages run."""
        import generate_fisher_mask
        import save_base_dataset
        import train_classifier

        self.foresee()
        self.before = before = self.train("pretrain")
        start = ["--ckpt_folder", before, "--label_to_forget", self.label]
        fishers = self.train("generate_fisher", *start)
        (mask,) = self.stage("mask", generate_fisher_mask, "--ckpt_folder", fishers, "--threshold", GAMMA)
        self.after = self.train("sfron", *start, "--mask_path", mask)
        self.stage("judge", train_classifier, "--dataset", "digits", "--out", self.out, "--epochs", self.judge_epochs)
        forgotten = ["--dataset", "digits", "--label_to_forget", self.label]
        self.stage("reference", save_base_dataset, *forgotten, "--out", self.reference)
        return {when: self.judged(when, run) for when, run in zip(WHEN, (before, self.after))}

    @property
    def reference(self) -> Path:
        return self.out / f"digits_without_label_{self.label}"

    # ---- a stage

    def name(self, part: str) -> str:
        """Of the record: what does not depend on the digit to forget serves every digit."""
        shared = part in ("pretrain", "judge", "sample_before_guided")
        return f"{part}_s{self.seed}" if shared else f"{part}_c{self.label}_s{self.seed}"

    def stage(self, part: str, script, *argv: object, root: Path | None = None):
        if not self.stages.done(self.name(part)):
            print(f"\n{part}: {self.forecast()}", flush=True)
        return self.stages.run(self.name(part), script, *argv, root=root)

    def train(self, mode: str, *more: object) -> Path:
        """A run of train.py with a results folder of its own, so that one that was stopped is found again."""
        import train

        root = self.out / "runs" / self.name(mode)
        sets = [word for setting in (f"results={root}", *self.settings.get(mode, [])) for word in ("--set", setting)]
        argv = ["--config", config_of(mode), "--mode", mode, *more, "--seed", self.seed, *sets]
        return self.stage(mode, train, *argv, root=None if mode == "generate_fisher" else root)

    def judged(self, when: str, run: Path) -> dict:
        """Samples of one model and what the judge says: guided of all classes, unguided of the kept ones."""
        import classifier_evaluation
        import evaluator
        import sample

        found, features = {}, ["--features", f"classifier:{self.judge}", "--classes", f"x{self.label}"]
        base = ["--config", config_of("sample"), "--ckpt_folder", run, "--n_samples_per_class", self.per_class]
        for part, mode, w, classes in (
            ("guided", "sample_classes", GUIDED, []),
            ("unguided", "sample_fid", UNGUIDED, ["--classes_to_generate", f"x{self.label}"]),
        ):
            name, numbers = f"{when}_{part}", self.out / "metrics" / f"{when}_{part}_c{self.label}_s{self.seed}.json"
            drawn = [*base, "--mode", mode, "--cond_scale", w, "--seed", self.seed, *classes]
            folder = self.stage(f"sample_{name}", sample, *drawn)
            self.stage(f"evaluate_{name}", evaluator, folder, self.reference, *features, "--out", numbers)
            if part == "guided":
                asked = ["--dataset", "digits", "--label_of_forgotten_class", self.label, "--classifier", self.judge]
                self.stage(f"classify_{name}", classifier_evaluation, "--sample_path", folder, *asked, "--out", numbers)
            found[part] = read_json(numbers)
        return {
            "classes": found["guided"]["classifier_evaluation"],
            "guided": found["guided"]["evaluator"],
            "unguided": found["unguided"]["evaluator"],
        }

    # ---- how long it takes

    def foresee(self) -> None:
        """Times training steps here, takes the number of threads that is fastest, says how long the rest will take."""
        from functions.training.threads import choose_threads

        self.expected, work = 0.0, self.work()
        work = {part: images for part, images in work.items() if not self.stages.done(self.name(part))}
        if work:
            step, batch_size = training_step()
            threads = choose_threads(step)
            self.expected = sum(work.values()) * threads.step / batch_size
            print(f"{threads}. From here on it takes about {in_words(self.expected)}.", flush=True)
        self.began = time.perf_counter()

    def forecast(self) -> str:
        """`3 min so far, about 2 min left`"""
        gone = time.perf_counter() - self.began
        left = f", about {in_words(self.expected - gone)} left" if gone < self.expected else ""
        return f"{in_words(gone)} so far{left}"

    def work(self) -> dict[str, float]:
        """What the stages cost, in images passed forward and backward: forward alone is a third of that."""
        run = {"ckpt_folder": "RUN"}
        start = {**run, "label_to_forget": self.label}
        pretrain, sfron = self.config("pretrain").training, self.config("sfron", start).training
        fisher, sampling = self.config("generate_fisher", start).fisher, self.config("sample", run).sampling
        drawn = lambda n_classes, rows: n_classes * self.per_class * sampling.timesteps * rows / 3
        samples = {"guided": drawn(CLASSES, 2), "unguided": drawn(CLASSES - 1, 1)}
        return {
            "pretrain": pretrain.n_iters * pretrain.batch_size,
            "generate_fisher": FISHER_COST * fisher.draws * TRAINED_ON,
            "sfron": 2 * sfron.n_iters * sfron.batch_size,
            "judge": JUDGE_COST * self.judge_epochs * TRAINED_ON,
            **{f"sample_{when}_{part}": n for when in WHEN for part, n in samples.items()},
            **{f"evaluate_{when}_{part}": COMPARISON_COST for when in WHEN for part in samples},
        }

    def config(self, mode: str, flags: dict | None = None):
        return load_config(config_of(mode), mode, settings=self.settings.get(mode, ()), flags=flags)

    def seconds(self) -> dict[str, float]:
        """By stage, whenever it was run."""
        return {**self.stages.seconds, "total": round(sum(self.stages.seconds.values()), 1)}

    def draw_picture(self) -> None:
        """before_after.png from the class samples: the same noise on both sides."""
        from PIL import Image

        from functions.sampling import sheet

        def drawn(run: Path, c: int, k: int) -> Image.Image:
            with Image.open(run / "class_samples" / str(c) / f"{k}.png") as image:
                return image.convert("RGB")

        rows = [[[drawn(run, c, k) for k in range(ROW)] for c in range(CLASSES)] for run in (self.before, self.after)]
        named = sheet.rows_of(range(CLASSES), [str(c) for c in range(CLASSES)], [self.label])
        sheet.save(sheet.sheet(dict(zip(WHEN, rows)), named), self.out / "before_after.png")


def training_step() -> tuple[Callable[[], None], int]:
    """A forward and backward pass of the model that is going to be trained, and how many images it sees."""
    import datasets
    import models
    from functions.storage.meta import PIXELS, model_meta
    from functions.tasks import denoising

    cfg = load_config(config_of("pretrain"), "pretrain")
    images = datasets.load("digits", cfg.data.path, "train", image_size=None, seed=0)
    model = models.build(model_meta(cfg.model, {"shape": images.shape, "n_classes": images.n_classes}))
    task = denoising(cfg.diffusion.model_dump(), models.encoder(PIXELS), images.n_classes)
    x, c = images.gather(images.labels.new_tensor(range(cfg.training.batch_size)))
    return lambda: task.losses(model, task.draw(x, c)).mean().backward(), len(x)


def in_words(seconds: float) -> str:
    """`40 s`, `7 min`: as exact as a forecast is."""
    return f"{10 * round(seconds / 10)} s" if seconds < 90 else f"{round(seconds / 60)} min"


def kept_accuracy(found: dict) -> float:
    """Mean accuracy over the remaining classes."""
    rows = found["classes"]["kept"].values()
    return sum(row["accuracy"] for row in rows) / len(rows)


def shortcomings(results: dict, label: int) -> list[str]:
    """What a success would not have, a line each."""
    before, after = results["before"], results["after"]
    drew, ua, kept = (
        before["classes"]["forgotten"]["accuracy"],
        after["classes"]["forgotten"]["ua"],
        kept_accuracy(after),
    )
    times = after["unguided"]["fid"] / before["unguided"]["fid"]
    found = {
        f"before, {drew:.0%} of the samples of {label} show it; wanted {LEAST_BEFORE:.0%}": drew < LEAST_BEFORE,
        f"after, {ua:.0%} of the samples of {label} do not show it (UA); wanted {LEAST_UA:.0%}": ua < LEAST_UA,
        f"after, {kept:.0%} of the other digits' samples show them; wanted {LEAST_KEPT:.0%}": kept < LEAST_KEPT,
        f"the unguided FID of the other digits is {times:.1f} times what it was; at most {MOST_FID}": times > MOST_FID,
    }
    return [line for line, missed in found.items() if missed]


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


if __name__ == "__main__":
    sys.exit(run_main(main))
