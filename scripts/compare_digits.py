"""Compare unlearning methods on digits: class 0 with three seeds, classes 3 and 8 with one; one table.

Every stage is a script of the toolkit, run once and recorded under OUT/stages; what was stopped goes on where it was.
A seed is a whole repetition: pretraining, unlearning and the noise of the samples that are judged. --tune runs the
trials by which each method's constants in configs/digits_*.yml were chosen instead, all methods on the same budget.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from functions.config.cli import Parser, a_path, run_main, whole
from functions.experiments import plot, tables
from functions.experiments.stages import Stages
from functions.files import read_json, write_atomic, write_json
from functions.places import check_folder_place

CASES = [(0, 0), (0, 1), (0, 2), (3, 0), (8, 0)]  # (class to forget, seed)
PER_CLASS, GUIDED, UNGUIDED = 100, "2.0", "0.0"
# added to the seed: samples that are judged never share noise with replayed ones
SEED_OF_SAMPLES = 1000
REPLAY = 20  # samples per class for Selective Amnesia
GAMMA, SHARE = "2.0", "0.5"  # of the masks of SFR-on and SalUn

VALIDATION = (0, 100)  # class and seed of the trials


OWN_CONFIG = {"sfron": "digits_sfron.yml", "salun": "digits_saliency_unlearn.yml"}  # the others share a file


# Six trials for each method, at most 350 steps each: overrides of the method's config. The last two were chosen
# after the first four had been seen: fewer steps where the class was forgotten, more force where it was not.
def trial(lr: str, n_iters: int = 350, **more: str) -> dict[str, object]:
    return {"optim.lr": lr, "training.n_iters": n_iters, **{key.replace("__", "."): v for key, v in more.items()}}


TRIALS = {
    "finetune": [trial(lr) for lr in ("2e-4", "5e-4", "1e-3", "2e-3", "5e-3", "1e-2")],
    "ga": [*(trial(lr, n) for lr in ("1e-4", "3e-5") for n in (25, 50)), trial("3e-5", 35), trial("2e-5", 50)],
    "sa": [
        *(trial(lr, sa__lmbda=lmbda) for lr in ("5e-4", "2e-4") for lmbda in ("10", "0.1")),
        *(trial("5e-4", n, sa__lmbda="0.1") for n in (200, 100)),
    ],
    "salun": [
        *(trial(lr, unlearn__remain_alpha=alpha) for lr in ("1e-3", "5e-4") for alpha in ("1e-3", "1e-2")),
        *(trial("1e-3", n, unlearn__remain_alpha="1e-2") for n in (200, 100)),
    ],
    "sfron": [
        trial(lr, n)
        for lr, n in (("5e-4", 200), ("5e-4", 350), ("1e-3", 200), ("1e-3", 350), ("5e-4", 100), ("1e-3", 100))
    ],
}

# What the comparison runs: the trial that the rule in the README chose.
CHOSEN = {"finetune": 4, "ga": 4, "sa": 4, "salun": 1, "sfron": 0}

COLUMNS = [
    tables.Column("ua", "UA %", 1),
    tables.Column("prob", "prob", 3),
    tables.Column("entropy", "entropy", 3),
    tables.Column("kept", "kept accuracy %", 1),
    tables.Column("fid", "FID[classifier]", 2),
    tables.Column("precision", "precision", 2),
    tables.Column("recall", "recall", 2),
    tables.Column("fid_unguided", "FID[classifier], w = 0", 2),
    tables.Column("steps", "steps", 0),
    tables.Column("minutes", "minutes", 2),
    tables.Column("passes", "1000 images forward + backward", 0),
]


class Study(NamedTuple):
    """What a comparison is of. `config(mode)` names a mode's config; `parts` are the guidances of what is judged."""

    dataset: str
    config: Callable[[str], str]
    parts: dict[str, str]
    judge_epochs: int
    gamma: str = GAMMA  # of SFR-on's mask
    replay: int = REPLAY
    original: int | None = None  # the seed of the one original that all seeds start from; None: each has its own
    settings: tuple[str, ...] = ()  # further --set of every run


def digits_config(mode: str) -> str:
    """The file of the digits' configs that has a mode."""
    if mode in ("pretrain", "retrain"):
        return "digits_pretrain.yml"
    own = {"generate_fisher": "digits_fisher.yml", "generate_mask": OWN_CONFIG["salun"], **OWN_CONFIG}
    own |= {"fim": "digits_fim.yml", "sample": "digits_sample.yml"}
    return own.get(mode, "digits_baselines.yml")  # the others share a file


DIGITS = Study("digits", digits_config, {"guided": GUIDED, "unguided": UNGUIDED}, judge_epochs=30)


class Pieces:
    """The stages of a comparison below OUT. Each method returns what later ones need, and what that cost."""

    def __init__(self, out: Path, per_class: int, study: Study = DIGITS):
        self.out, self.per_class, self.study = out, per_class, study
        self.stages = Stages(out / "stages")

    def start(self, seed: int) -> int:
        """The seed of the original that repetition `seed` starts from, and of its masks."""
        return seed if self.study.original is None else self.study.original

    @property
    def settings(self) -> list[str]:
        """The study's own, as words of a command."""
        return [word for setting in self.study.settings for word in ("--set", setting)]

    # ---- models

    def train(self, name: str, mode: str, seed: int, *more: object) -> Path:
        """A run of train.py with a results folder of its own, so that a killed one is found again."""
        import train

        root = self.out / "runs" / name
        more = (*more, *self.settings)
        return self.stages.run(
            name,
            train,
            "--config",
            self.study.config(mode),
            "--mode",
            mode,
            "--seed",
            seed,
            *more,
            "--set",
            f"results={root}",
            root=root,
        )

    def pretrained(self, seed: int) -> Path:
        seed = self.start(seed)
        return self.train(f"pretrain_s{seed}", "pretrain", seed)

    def retrained(self, label: int, seed: int) -> Path:
        seed = self.start(seed)
        return self.train(f"retrain_c{label}_s{seed}", "retrain", seed, "--label_to_forget", label)

    def model(self, method: str, label: int, seed: int, settings: dict | None = None) -> Path:
        """The run of any row of the table; with `settings` in place of the trial that was chosen."""
        if method == "pretrain":
            return self.pretrained(seed)
        if method == "retrain":
            return self.retrained(label, seed)
        settings = TRIALS[method][CHOSEN[method]] if settings is None else settings
        return self.unlearned(method, label, seed, settings=settings)

    def unlearned(self, method: str, label: int, seed: int, trial: str = "", settings: dict | None = None) -> Path:
        """A run of `method` from the pretrained model of this seed, with its mask, Fisher or replay made first."""
        start = ["--ckpt_folder", self.pretrained(seed), "--label_to_forget", label]
        sets = [word for key, value in (settings or {}).items() for word in ("--set", f"{key}={value}")]
        prepared = PREPARE.get(method, lambda *_: [])(self, label, seed)
        return self.train(f"{method}{trial}_c{label}_s{seed}", method, seed, *start, *prepared, *sets)

    # ---- what methods need first: the arguments that name it

    def fisher_mask(self, label: int, seed: int) -> list[object]:
        import generate_fisher_mask
        import train

        run, seed = self.pretrained(seed), self.start(seed)
        name = f"fisher_c{label}_s{seed}"
        folder = self.stages.run(
            name,
            train,
            "--config",
            self.study.config("generate_fisher"),
            "--mode",
            "generate_fisher",
            "--seed",
            seed,
            "--ckpt_folder",
            run,
            "--label_to_forget",
            label,
            *self.settings,
        )
        (mask,) = self.stages.run(
            f"mask_c{label}_s{seed}", generate_fisher_mask, "--ckpt_folder", folder, "--threshold", self.study.gamma
        )
        return ["--mask_path", mask]

    def saliency_mask(self, label: int, seed: int) -> list[object]:
        import train

        run, seed = self.pretrained(seed), self.start(seed)
        name = f"saliency_c{label}_s{seed}"
        folder = self.stages.run(
            name,
            train,
            "--config",
            self.study.config("generate_mask"),
            "--mode",
            "generate_mask",
            "--seed",
            seed,
            "--ckpt_folder",
            run,
            "--label_to_forget",
            label,
            *self.settings,
            "--set",
            f"results={self.out}/runs/{name}",
        )
        return ["--mask_path", folder / f"with_{SHARE}.safetensors"]

    def replay(self, label: int, seed: int) -> list[object]:
        import fim
        import sample

        run, seed = self.pretrained(seed), self.start(seed)
        start = ["--ckpt_folder", run, "--seed", seed]
        self.stages.run(
            f"replay_s{seed}",
            sample,
            "--config",
            self.study.config("sample"),
            "--mode",
            "sample_classes",
            *start,
            "--n_samples_per_class",
            self.study.replay,
            *self.settings,
        )
        self.stages.run(f"fim_s{seed}", fim, "--config", self.study.config("fim"), *start, *self.settings)
        return []

    # ---- numbers

    def name_of(self, run: Path) -> str:
        """What `train` was told to call a run: OUT/runs/<name>/<dataset>/..."""
        return run.relative_to(self.out / "runs").parts[0]

    def judged(self, name: str, run: Path, label: int, seed: int) -> dict:
        """What the judge says of a model's samples: guided of all classes, unguided for the second FID."""
        import classifier_evaluation
        import evaluator
        import sample

        judge, reference = self.judge(), self.reference(label)
        features = ["--features", f"classifier:{judge}", "--classes", f"x{label}"]
        found = {}
        drawn = self.name_of(run) + ("" if self.start(seed) == seed else f"_for_s{seed}")
        for part, w in self.study.parts.items():
            images = self.out / "samples" / f"{drawn}_{part}"
            numbers = self.out / "metrics" / f"{name}_{part}.json"
            self.stages.run(
                f"sample_{drawn}_{part}",
                sample,
                "--config",
                self.study.config("sample"),
                "--mode",
                "sample_classes",
                "--ckpt_folder",
                run,
                "--n_samples_per_class",
                self.per_class,
                "--cond_scale",
                w,
                "--seed",
                SEED_OF_SAMPLES + seed,
                "--out",
                images,
                *self.settings,
            )
            self.stages.run(f"evaluate_{name}_{part}", evaluator, images, reference, *features, "--out", numbers)
            self.stages.run(
                f"classify_{name}_{part}",
                classifier_evaluation,
                "--sample_path",
                images,
                "--dataset",
                self.study.dataset,
                "--label_of_forgotten_class",
                label,
                "--classifier",
                judge,
                "--out",
                numbers,
            )
            found[part] = read_json(numbers)
        return found

    def judge(self) -> Path:
        import train_classifier

        dataset, epochs = self.study.dataset, self.study.judge_epochs
        self.stages.run("judge", train_classifier, "--dataset", dataset, "--out", self.out, "--epochs", epochs)
        return self.out / f"{dataset}_cnn.pth"

    def reference(self, label: int) -> Path:
        import save_base_dataset

        dataset = self.study.dataset
        folder = self.out / f"{dataset}_without_label_{label}"
        self.stages.run(
            f"reference_c{label}", save_base_dataset, "--dataset", dataset, "--label_to_forget", label, "--out", folder
        )
        return folder

    def spent(self, method: str, run: Path, label: int, seed: int) -> dict[str, float]:
        """Steps, minutes and images passed of unlearning: masks, Fishers and replay samples included."""
        from functions.storage.artifacts import load_tensors
        from functions.storage.checkpoint import Snapshot

        meta, start, seed = Snapshot.open(run).meta, self.pretrained(seed), self.start(seed)
        costs = [meta["cost"]]
        if method == "sfron":
            costs += [
                load_tensors(start / f"mask_{label}" / f"{side}_fisher.safetensors")[1]["cost"]
                for side in ("forget", "remain")
            ]
            costs.append({"seconds": self.stages.took(f"mask_c{label}_s{seed}"), "forward": 0, "backward": 0})
        if method == "salun":
            costs.append(
                load_tensors(Path(self.saliency_mask(label, seed)[1]).with_name("score.safetensors"))[1]["cost"]
            )
        if method == "sa":
            made = read_json(start / "class_samples" / "samples.json")["protocol"]
            drawn = 10 * made["n_per_class"] * made["steps"] * 2  # [conditional; null]
            costs.append({"seconds": self.stages.took(f"replay_s{seed}"), "forward": drawn, "backward": 0})
            costs.append(load_tensors(start / "fisher_dict.safetensors")[1]["cost"])
        total = {key: sum(c[key] for c in costs) for key in ("seconds", "forward", "backward")}
        return {
            "steps": meta["step"],
            "minutes": total["seconds"] / 60,
            "passes": (total["forward"] + total["backward"]) / 1000,
        }


PREPARE: dict[str, Callable[[Pieces, int, int], list[object]]] = {
    "sfron": Pieces.fisher_mask,
    "salun": Pieces.saliency_mask,
    "sa": Pieces.replay,
}
TITLES = {
    "pretrain": "original",
    "retrain": "retrained without the class",
    "finetune": "fine-tuning",
    "ga": "gradient ascent",
    "sa": "Selective Amnesia",
    "salun": "SalUn",
    "sfron": "SFR-on",
}


def numbers_of(found: dict) -> dict[str, float]:
    """One row's numbers from what `judged` found."""
    guided, kept = found["guided"], found["guided"]["classifier_evaluation"]["kept"].values()
    forgotten = guided["classifier_evaluation"]["forgotten"]
    return {
        "ua": 100 * forgotten["ua"],
        "prob": forgotten["prob"],
        "entropy": forgotten["entropy"],
        "kept": 100 * sum(row["accuracy"] for row in kept) / len(kept),
        **{key: guided["evaluator"][key] for key in ("fid", "precision", "recall")},
        **({"fid_unguided": found["unguided"]["evaluator"]["fid"]} if "unguided" in found else {}),
    }


def compare(pieces: Pieces, cases: list[tuple[int, int]], methods: list[str]) -> list[tables.Row]:
    """All models, then all numbers; a row per class and method."""
    runs = {}
    for method in methods:
        for label, seed in cases:
            runs[method, label, seed] = pieces.model(method, label, seed)
    measured, contracts = {}, {}
    for (method, label, seed), run in runs.items():
        found = pieces.judged(f"{method}_c{label}_s{seed}", run, label, seed)
        for part in found:
            contracts.setdefault(f"{part}_c{label}", {})[str(run)] = found[part]["evaluator"]["contract"]
        cost = pieces.spent(method, run, label, seed) if method != "pretrain" else {}
        measured[method, label, seed] = {**numbers_of(found), **cost}
    for same in contracts.values():
        tables.require_one_protocol(same)
    rows = []
    for label in sorted({c for c, _ in cases}):
        seeds = [s for c, s in cases if c == label]
        for method in methods:
            repeats = [measured[method, label, s] for s in seeds]
            values = {c.key: [m[c.key] for m in repeats if c.key in m] for c in COLUMNS}
            rows.append(tables.Row((str(label), TITLES[method]), values))
    return rows


def tune(pieces: Pieces, methods: list[str]) -> list[tables.Row]:
    """Every trial of every method on the validation seed, all models before all numbers; a row each."""
    label, seed = VALIDATION
    tuned = [method for method in TRIALS if method in methods]
    trials = [(method, i, settings) for method in tuned for i, settings in enumerate(TRIALS[method])]
    runs = [pieces.unlearned(method, label, seed, f"_trial{i}", settings) for method, i, settings in trials]
    rows = []
    for (method, _, settings), run in zip(trials, runs):
        found = numbers_of(pieces.judged(pieces.name_of(run), run, label, seed))
        numbers = {**found, **pieces.spent(method, run, label, seed)}
        shown = ", ".join(f"{key.split('.')[1]} {value}" for key, value in settings.items())
        rows.append(tables.Row((TITLES[method], shown), {key: [value] for key, value in numbers.items()}))
    found = numbers_of(pieces.judged(f"pretrain_s{seed}", pieces.pretrained(seed), label, seed))
    values = {c.key: [found[c.key]] if c.key in found else [] for c in COLUMNS}
    rows.append(tables.Row((TITLES["pretrain"], ""), values))
    return rows


def main(argv: list[str] | None = None) -> None:
    p = Parser(description=__doc__)
    p.add_argument("--out", type=a_path, default="results/comparison", help="where everything goes")
    p.add_argument("--tune", action="store_true", help="run the trials of each method on the validation seed instead")
    p.add_argument(
        "--per_class", type=whole(1, 10**6), default=PER_CLASS, help=f"samples per class to judge ({PER_CLASS})"
    )
    p.add_argument(
        "--methods",
        nargs="+",
        choices=TITLES,
        default=list(TITLES),
        metavar="METHOD",
        help=f"only these rows, to run the list in pieces: {', '.join(TITLES)}",
    )
    p.add_argument(
        "--only_cases", type=whole(1, len(CASES)), metavar="N", help="the first N of the five (class, seed) cases"
    )
    args = p.parse_args(argv)
    check_folder_place(args.out, "--out")
    pieces = Pieces(Path(args.out), args.per_class)
    labels = ("method", "trial") if args.tune else ("class", "method")
    rows = tune(pieces, args.methods) if args.tune else compare(pieces, CASES[: args.only_cases], args.methods)
    name = pieces.out / ("tuning" if args.tune else "comparison")
    write_atomic(name.with_suffix(".md"), tables.markdown(labels, COLUMNS, rows))
    write_atomic(name.with_suffix(".tex"), tables.latex(labels, COLUMNS, rows))
    write_atomic(name.with_suffix(".csv"), tables.to_csv(labels, COLUMNS, rows))
    write_json(name.with_suffix(".json"), [{"labels": r.labels, "values": r.values} for r in rows])
    print(f"\n{tables.shown(labels, COLUMNS, rows)}\n{name}.md, .tex, .csv, .json")
    if not args.tune:
        plot.main([f"{name}.csv"])


if __name__ == "__main__":
    sys.exit(run_main(main))
